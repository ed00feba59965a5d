"""The small programs of `examples/`, one a pattern: each is run as its first lines say, and prints what its page says."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def printed(name):
    command = [sys.executable, "-m", f"examples.{name}"]
    assert f"python -m examples.{name}\n" in (ROOT / "examples" / f"{name}.py").read_text()
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "fan_out",
            [
                "cache: user 3 after deleted",
                "cache: user 7 after created",
                "search: user 7 at the second try",
                "told 3 handlers",
                "welcome: to ada@example.com",
            ],
        ),
        (
            "idempotent",
            [
                "7: receipt of order 7",
                "7: receipt of order 7",
                "7: receipt of order 7",
                "8: receipt of order 8",
                "charged order 7 with 1999",
                "charged order 8 with 500",
            ],
        ),
        (
            "limits",
            [
                "8 messages, never more than 5 in a second: True",
                "8 reports for acme, never more than 2 at once: True",
                "8 reports for bert, never more than 2 at once: True",
            ],
        ),
        (
            "groups",
            [
                "3 jobs wait in news:bert",
                "6 jobs wait in news:ada",
                "to ada: message 1, message 2, message 3, message 4",
                "to ada: message 5, message 6",
                "to bert: message 1, message 2, message 3",
            ],
        ),
        (
            "workflow",
            [
                "lenient is completed: 8 words on 2 pages, 1 failed",
                "strict is archived: needed job strict/c was archived: SkipRetry: /c is not there",
                "strict is completed: 12 words on 3 pages, 0 failed",
            ],
        ),
    ],
)
def test_an_example_does_what_it_says(name, lines):
    """Each line once, in whatever order the jobs ran."""
    assert sorted(printed(name)) == lines
