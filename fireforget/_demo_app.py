"""The application that the demo runs: two handlers and the full-text index that one of them fills.

This is what an application of yours looks like to the worker, which imports it by its name, `fireforget._demo_app:registry`.
What enqueues the jobs and shows what becomes of them is in `demo`.

    file:index {number, path}  ->  read the file, put its text into index.db     a job: must happen, is tried again
    file:seen  {path, size}    ->  append a line to seen.log                     an event: fired and forgotten, queue low

Everything is written into one folder, which an environment variable names, as a deployment would configure it.

Handlers run at least once: a job whose worker died under it runs again. So both are written to bear that: the index replaces
what it has under the same number, and whoever reads the events counts paths, not lines.
"""

import os
import sqlite3
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fireforget import Registry, SkipRetry

FOLDER_VARIABLE = "FIREFORGET_DEMO_FOLDER"
"""The environment variable that tells the worker which folder to write to."""
INDEX_NAME = "index.db"
EVENTS_NAME = "seen.log"

registry = Registry()


@registry.task("file:index", max_retry=3, retry_delay=1, timeout=30)
def index_file(number: int, path: str) -> None:
    """Put the text of a file into the index; archived at once where no retry would help, tried again otherwise."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise SkipRetry(f"not UTF-8: byte 0x{byte:02x} at offset {error.start} ({error.reason})") from error
    except (FileNotFoundError, PermissionError) as error:
        raise SkipRetry(f"cannot be read: {error.strerror}") from error
    index_of_this_process().put(number, path, text)


@registry.task("file:seen", queue="low")
def note_file(path: str, size: int) -> None:
    """Append a file's size in bytes and its path to the events; one write, so that lines of several processes stay whole."""
    with open(_folder() / EVENTS_NAME, "a", encoding="utf-8") as events:
        events.write(f"{size}\t{path}\n")


@cache
def index_of_this_process() -> "Index":
    """Return the index, opened when the first job needs it.

    Not while this module is imported: the worker forks its children after that, and no SQLite handle may cross a fork.
    """
    return Index(_folder() / INDEX_NAME)


def _folder() -> Path:
    return Path(os.environ[FOLDER_VARIABLE])


# --- the index ----------------------------------------------------------------------------------------------------------


class Hit(NamedTuple):
    """A file that a search found."""

    path: str
    excerpt: str
    """The text around the word."""


class Index:
    """Texts by path in a database file of their own, with full-text search where this SQLite is built with FTS5.

    An index belongs to one thread of one process; several processes may have the same file open.
    """

    def __init__(self, path: Path) -> None:
        # Autocommit: a file is one statement and so one short transaction. Children take turns at the write lock and a busy one
        # waits in SQLite, for longer than all the others together can need it.
        self._connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        # An index that is lost in a power cut is built again from the files, so nobody waits for the disk. The queue itself does.
        self._connection.execute("PRAGMA synchronous = OFF")

    @classmethod
    def create(cls, path: Path, *, full_text: bool = True) -> "Index":
        """Make a new index at `path`; `full_text=False`, or an SQLite without FTS5, makes a plain table searched with LIKE."""
        index = cls(path)
        index._connection.execute("PRAGMA journal_mode = WAL")  # it needs the lock to itself, so before there are children
        try:
            index._connection.execute(_CREATE_FULL_TEXT if full_text else _CREATE_PLAIN)
        except sqlite3.OperationalError:  # no such module: fts5
            index._connection.execute(_CREATE_PLAIN)
        return index

    @property
    def full_text(self) -> bool:
        """Whether searches use FTS5."""
        (statement,) = self._connection.execute("SELECT sql FROM sqlite_master WHERE name = 'file'").fetchone()
        return "fts5" in statement

    @property
    def method(self) -> str:
        """How searches are done, in words."""
        return "FTS5" if self.full_text else "LIKE, as this SQLite has no FTS5"

    def put(self, number: int, path: str, text: str) -> None:
        """Store a file's text in place of what was stored under its number."""
        self._connection.execute(_PUT, {"number": number, "path": path, "text": text})

    def count(self, word: str | None = None) -> int:
        """Return in how many files a word occurs; None: how many files there are."""
        statement = _COUNT if word is None else (_COUNT_MATCHES if self.full_text else _COUNT_LIKE)
        number: int = self._connection.execute(statement, _to_parameters(word)).fetchone()[0]
        return number

    def search(self, word: str, limit: int) -> list[Hit]:
        """Return at most `limit` files in which a word occurs, with full-text search the best ones first."""
        statement = _MATCH if self.full_text else _LIKE
        return [Hit(*row) for row in self._connection.execute(statement, {**_to_parameters(word), "limit": limit})]

    def texts(self, limit: int) -> list[str]:
        """Return the texts of the first files, at most `limit`."""
        return [text for (text,) in self._connection.execute(_TEXTS, {"limit": limit})]

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


_BUSY_SECONDS = 20.0


def _to_parameters(word: str | None) -> dict[str, str]:
    return {} if word is None else {"word": word, "quoted": f'"{word}"'}


_CREATE_FULL_TEXT = "CREATE VIRTUAL TABLE file USING fts5(path UNINDEXED, text)"
_CREATE_PLAIN = "CREATE TABLE file (path TEXT, text TEXT)"

# With FTS5 and without it, a row has a rowid: the file's number.
_PUT = """
INSERT OR REPLACE INTO file (rowid, path, text)
VALUES (:number, :path, :text)
"""
_COUNT = "SELECT count(*) FROM file"
_TEXTS = "SELECT text FROM file ORDER BY rowid LIMIT :limit"

_COUNT_MATCHES = "SELECT count(*) FROM file WHERE text MATCH :quoted"
_MATCH = """
SELECT path, snippet(file, 1, '', '', ' ... ', 10)
FROM file
WHERE text MATCH :quoted
ORDER BY rank
LIMIT :limit
"""

# A word is letters alone, so it has none of LIKE's wildcards.
_COUNT_LIKE = "SELECT count(*) FROM file WHERE text LIKE '%' || :word || '%'"
_LIKE = """
SELECT path, substr(text, max(1, instr(lower(text), lower(:word)) - 30), 80)
FROM file
WHERE text LIKE '%' || :word || '%'
ORDER BY rowid
LIMIT :limit
"""
