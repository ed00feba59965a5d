"""docs/reference/inspector.md: each of asynq's operations has a method, a command and a test here, all of which exist."""

import ast
import re
from pathlib import Path

import pytest

from fireforget import Inspector, SqliteQueue, cli

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "inspector.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if re.match(r"\| `[A-Z]\w+\(.*\)` \|", line)
]
TESTS = {
    node.name
    for path in (ROOT / "tests").rglob("test_*.py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.FunctionDef)
}


def test_the_page_has_all_forty_operations():
    """Each once."""
    assert len({row[0] for row in ROWS}) == len(ROWS) == 40


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("`"))
def test_an_operation_has_what_the_page_says(row):
    """Its methods, its command, its test; or it says that there is none."""
    operation, methods, command, test = row
    found = re.findall(r"`(queue|inspector)\.(\w+)\(", methods)
    assert found or methods.startswith("none"), operation
    assert all(hasattr({"queue": SqliteQueue, "inspector": Inspector}[owner], name) for owner, name in found)
    if command:
        words = command.strip("`").split()
        takes_a_name = words[1] != "list"
        cli.parser().parse_args([*words, "x"] if takes_a_name else words)
    assert bool(test) == bool(found)
    assert not test or test.strip("`") in TESTS, f"there is no {test}"
