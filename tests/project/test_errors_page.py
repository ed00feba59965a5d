"""docs/reference/errors.md has every message of the package, and no other: what `messages` reads out of the source, both ways."""

import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests.project.messages import Source

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")

KINDS = {
    "What its last error says": "last_error",
    "The log": "log",
    "The dashboard": "dashboard",
    "doctor": "doctor",
}
"""Sections whose tables are about one kind of message; elsewhere the first column says which."""

IN_CODE = re.compile(r"(`+) ?(.+?) ?\1(?!`)")


def documented() -> dict[str, set[str]]:
    """Return the messages of the page by kind."""
    found: dict[str, set[str]] = defaultdict(set)
    section, header = "", []
    for line in PAGE.splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if line.startswith("#"):
            section = line.lstrip("# ")
        if not cells or not header:
            header = cells
        elif "message" in header and not set(cells[0]) <= {"-"}:
            kind = KINDS[section] if header[0] == "message" else IN_CODE.findall(cells[0])[0][1].rpartition(".")[2]
            messages = [text for _, text in IN_CODE.findall(cells[header.index("message")])]
            assert not found[kind] & set(messages), f"{kind}: {messages} stand there twice"
            found[kind] |= set(messages)
    return found


MESSAGES = Source(ROOT / "fireforget").messages()


@pytest.mark.parametrize("kind", sorted(MESSAGES.keys() | documented().keys()))
def test_the_page_has_every_message_and_no_others(kind: str) -> None:
    """Whoever searches it for what a program said finds the cause and what to do."""
    on_page, in_code = documented()[kind], MESSAGES.get(kind, set())
    assert not in_code - on_page, f"errors.md lacks of {kind}: {sorted(in_code - on_page)}"
    assert not on_page - in_code, f"errors.md has too many of {kind}: {sorted(on_page - in_code)}"


def test_every_row_says_what_to_do() -> None:
    """A message alone is known to the reader already."""
    rows = [line for line in PAGE.splitlines() if line.startswith("| `") and "|" in line[2:]]
    assert rows
    assert [row for row in rows if not row.rstrip("| ").strip() or row.endswith("|  |")] == []


# --- that they are read rightly -------------------------------------------------------------------------------------------

READ = """
from fireforget.errors import InvalidOption, UnknownJob

_REMEDIES = {"a": "run it", "b": "delete " + "it"}

def check(option, value, hint, state):
    raise InvalidOption("limit", value, f"it must be at least {value}{hint}")
    raise InvalidOption(option, value, _REMEDIES[state])
    raise UnknownJob(value)
    raise InvalidOption(option, value, hint)
    raise InvalidOption(option, value, "yes" if state else "no")
    raise (TypeError if state else ValueError)(f"{value} is nothing" + ", really")

check("name", 3, "give a name", "a")
"""


def test_messages_are_read_as_they_will_be_said(tmp_path: Path) -> None:
    """With a sign for each value, and followed to where they are written."""
    (tmp_path / "errors.py").write_text((ROOT / "fireforget" / "errors.py").read_text(encoding="utf-8"))
    (tmp_path / "some.py").write_text(READ)
    found = Source(tmp_path).messages()
    assert found["InvalidOption"] == {
        "limit=…: it must be at least …", "…=…: run it", "…=…: delete it", "…=…: give a name", "…=…: yes", "…=…: no",
        "seconds=…: give the delay in seconds, 0 or more",
    }  # fmt: skip
    assert found["UnknownJob"] == {
        "no job … is stored: it completed and was not kept (give it a retention), was deleted, or never existed"
    }
    assert found["TypeError"] == found["ValueError"] == {"… is nothing, really"}
