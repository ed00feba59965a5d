"""Jobs that come in by the commits of other programs: the worker notices each at once, and none before it."""

import json
import shutil
import sqlite3
import subprocess
from contextlib import closing
from time import monotonic

import pytest

from fireforget import Task

APP = """
@registry.task("say")
def say_it(word):
    say(word)
"""
WITHIN = 0.1
"""Seconds after a commit in which the job is to be started."""


@pytest.fixture(scope="module")
def site(make_site):
    """One worker for all tests here."""
    site = make_site()
    site.app(APP)
    site.worker("--concurrency", 1)
    site.result("say", {"word": "ready"})
    site.hear("ready")
    with closing(sqlite3.connect(site.db)) as connection, connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, word TEXT)")
        connection.execute(
            """
            CREATE TRIGGER order_said AFTER INSERT ON orders
            WHEN NEW.word IS NOT NULL
            BEGIN
                INSERT INTO fireforget_enqueue (type, payload) VALUES ('say', json_object('word', NEW.word));
            END
            """
        )
    return site


def heard_in_time(site, word, commit):
    """Commit, and hear the word in time; one try of three will do, since the machine may be busy with something else."""
    began = monotonic()
    commit()
    site.hear(word)
    return monotonic() - began < WITHIN


@pytest.mark.parametrize("mode", [{}, {"isolation_level": "IMMEDIATE"}, {"isolation_level": None}], ids=str)
def test_a_job_of_an_applications_transaction_starts_when_it_commits(site, mode):
    """Within 100 ms of the commit, never before it; and never at all after a rollback."""
    in_time = []
    with closing(sqlite3.connect(site.db, timeout=5, **mode)) as connection:
        for n in range(3):
            for word, end in ((f"lost-{n}", "ROLLBACK"), (f"kept-{n}", "COMMIT")):
                if mode == {"isolation_level": None}:
                    connection.execute("BEGIN")
                connection.execute("INSERT INTO orders (id) VALUES (NULL)")
                site.queue.enqueue(Task("say", {"word": word}), connection=connection)
                if n == 0:
                    assert site.silent(within=2 * WITHIN), "it was not committed yet"
                if end == "COMMIT":
                    in_time.append(heard_in_time(site, word, lambda: connection.execute("COMMIT")))
                else:
                    connection.execute(end)
    assert site.silent()
    assert any(in_time)


def test_a_row_with_a_trigger_starts_a_job(site):
    """An outbox without a program: whoever writes the row need not know of the queue."""
    with closing(sqlite3.connect(site.db, isolation_level=None)) as connection:
        assert any(
            heard_in_time(site, f"row-{n}", lambda n=n: connection.execute("INSERT INTO orders (word) VALUES (?)", (f"row-{n}",)))
            for n in range(3)
        )


# --- other languages ------------------------------------------------------------------------------------------------------

STATEMENT = "INSERT INTO fireforget_enqueue (type, payload, priority, timeout) VALUES (?, ?, ?, ?)"

PERL = """
use DBI;
my $db = DBI->connect("dbi:SQLite:dbname=$ARGV[0]", "", "", {RaiseError => 1, AutoCommit => 1});
$db->do("PRAGMA busy_timeout = 5000");
$db->do("%s", undef, "say", $ARGV[1], 5, 30);
"""

NODE = """
const { DatabaseSync } = require("node:sqlite");
const db = new DatabaseSync(process.argv[1]);
db.exec("PRAGMA busy_timeout = 5000");
db.prepare("%s").run("say", process.argv[2], 5, 30);
"""


def shell(path, payload):
    statement = f"INSERT INTO fireforget_enqueue (type, payload, priority, timeout) VALUES ('say', '{payload}', 5, 30);"
    return ["sqlite3", "-cmd", ".timeout 5000", path, statement]


LANGUAGES = {
    "sqlite3": (["sqlite3", "-version"], shell),
    "perl": (["perl", "-MDBD::SQLite", "-e", "1"], lambda *arguments: ["perl", "-e", PERL % STATEMENT, *arguments]),
    "node": (["node", "-e", "require('node:sqlite')"], lambda *arguments: ["node", "-e", NODE % STATEMENT, *arguments]),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_job_enqueued_from_another_language_runs(site, language):
    """With whatever SQLite that brings, and however it binds numbers."""
    check, command = LANGUAGES[language]
    if shutil.which(check[0]) is None or subprocess.run(check, capture_output=True, check=False).returncode:
        pytest.skip(f"{' '.join(check)} does not work here")
    done = subprocess.run(
        command(str(site.db), json.dumps({"word": f"from-{language}"})), capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr
    site.hear(f"from-{language}")
