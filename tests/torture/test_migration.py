"""A program that dies while it makes or migrates the tables leaves the old version behind, whole."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from fireforget import SqliteQueue, Task
from fireforget._schema import VERSION

ROOT = Path(__file__).parents[2]
DIES_AT = """
import os, signal, sqlite3, sys
from fireforget import SqliteQueue, _schema

left = int(sys.argv[2])

class Connection(sqlite3.Connection):
    def execute(self, sql, *parameters):
        global left
        if self.in_transaction:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().execute(sql, *parameters)

connect = sqlite3.connect
sqlite3.connect = lambda *args, **options: connect(*args, **{**options, "factory": Connection})
SqliteQueue(sys.argv[1]).close()
"""


def open_and_die(path, statement):
    """Open the file in a process that kills itself before the given statement of the migration; return its exit code."""
    command = [sys.executable, "-c", DIES_AT, str(path), str(statement)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False).returncode


def test_a_kill_at_any_statement_of_a_migration_leaves_all_or_nothing(tmp_path):
    """The Nth statement for N = 0, 1, 2, ... until it gets through: each time the next program finds no table or all of them."""
    path = tmp_path / "jobs.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
        connection.execute("INSERT INTO notes VALUES ('mine')")
        connection.commit()
    for statement in range(200):
        code = open_and_die(path, statement)
        if code == 0:
            break
        assert code == -9
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name LIKE 'fireforget%'").fetchone() == (0,)
            assert connection.execute("SELECT text FROM notes").fetchall() == [("mine",)]
    else:
        pytest.fail("it never got through")
    assert statement > 15
    with SqliteQueue(path) as queue:
        assert queue.enqueue(Task("t")).state == "pending"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT value FROM fireforget_meta WHERE key = 'schema_version'").fetchone() == (str(VERSION),)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
