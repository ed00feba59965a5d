"""The small examples do what they say."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("transfers", ["10 transfers, 3 of them crashed once: ada has 750 cents, bob 250"]),
        (
            "signup",
            [
                "made an account for ada@example.com",
                "charged 900 cents to A-1",
                "sent a welcome to ada@example.com, with receipt R-1",
                "A-1 is signed up after 1 retry; steps: account, charge, welcome",
            ],
        ),
    ],
)
def test_an_example_runs(name, printed):
    """From the checkout, as its docstring says, and each line comes once."""
    done = subprocess.run(
        [sys.executable, "-m", f"examples.{name}"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    for line in printed:
        assert done.stdout.splitlines().count(line) == 1, done.stdout
