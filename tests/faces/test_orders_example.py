"""The example of orders and jobs that commit together does what its README says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from fireforget import Inspector, SqliteQueue

ROOT = Path(__file__).resolve().parents[2]


def test_the_commands_of_the_readme_run_and_leave_what_it_says(tmp_path):
    """The orders that were taken are confirmed, the paid one is shipped, and of the refused one nothing is left."""
    readme = (ROOT / "examples" / "orders" / "README.md").read_text(encoding="utf-8")
    (fence,) = re.findall(r"^```sh\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    printed = ""
    for command in fence.splitlines():
        words = [word.replace("/tmp/shop.db", str(tmp_path / "shop.db")) for word in shlex.split(command)]
        assert words[0] == "python"
        done = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        printed += done.stdout
    assert "order 1 of ada@example.com\nrefused: nobody is no address\norder 2 of bob@example.com" in printed
    with SqliteQueue(tmp_path / "shop.db") as queue:
        results = {info.id: (info.state.value, info.result) for info in Inspector(queue).tasks()}
    assert results == {
        "confirm-1": ("completed", "ada@example.com: order 1 has come in"),
        "confirm-2": ("completed", "bob@example.com: order 2 has come in"),
        "ship-1": ("completed", "order 1 is on its way, says job ship-1"),
    }
