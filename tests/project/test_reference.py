"""docs/reference/ beside the code, both ways: settings, states, schema, metrics, log records; the glossary; the decisions.

What other pages say of the API and the commands is compared in `test_docs`, which also runs every page.
"""

import ast
import dataclasses
import inspect
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import fireforget
from fireforget import Inspector, Registry, SqliteQueue, State, Task, TaskInfo, Worker, errors, logs, patterns, testing
from fireforget._claims import Claimed, Claims, Settlement
from fireforget._pool.config import DEFAULT_QUEUES, Settings
from fireforget._schema import STATE_OF_NUMBER, VERSION
from fireforget.metrics import METRICS
from fireforget.testing import ManualClock
from tests.project.test_docs import ROOT, code, fences, table, worker_flags

REFERENCE = ROOT / "docs" / "reference"


def page(name: str) -> str:
    """Return the text of a page of the reference."""
    return (REFERENCE / name).read_text(encoding="utf-8")


# --- states -----------------------------------------------------------------------------------------------------------------

NEW, GONE = "new", "gone"


def headings(text: str, level: int) -> list[str]:
    """Return the headings of a level, without their marks."""
    return re.findall(rf"(?m)^{'#' * level} `?([^`\n]+)`?$", text)


def test_each_state_has_its_paragraph_in_order() -> None:
    """No state is left out, and none is there that no job can be in."""
    states = page("states.md")
    assert headings(states, 2)[: len(State)] == [state.value for state in State]
    drawing = next(fence.text for fence in fences(states) if fence.language == "text")
    assert set(re.findall(r"[a-z]+", drawing)) >= {state.value for state in State}


class Watched:
    """A queue whose file notes from which state to which its jobs go."""

    def __init__(self, path: Path) -> None:
        self.clock = ManualClock()
        self.queue = SqliteQueue(path, clock=self.clock)
        self.inspector = Inspector(self.queue)
        self._sql = sqlite3.connect(path, isolation_level=None)
        self._sql.executescript(
            """
            CREATE TABLE seen (old INTEGER, new INTEGER, UNIQUE (old, new));
            CREATE TRIGGER seen_insert AFTER INSERT ON fireforget_job BEGIN
                INSERT OR IGNORE INTO seen VALUES (0, NEW.state); END;
            CREATE TRIGGER seen_update AFTER UPDATE OF state ON fireforget_job WHEN OLD.state <> NEW.state BEGIN
                INSERT OR IGNORE INTO seen VALUES (OLD.state, NEW.state); END;
            CREATE TRIGGER seen_delete AFTER DELETE ON fireforget_job BEGIN
                INSERT OR IGNORE INTO seen VALUES (OLD.state, 0); END;
            """
        )
        self.registry = Registry(retry_delay=60)
        self.claims = Claims(self.queue._database, lambda type: self.registry.match(type) is not None, ["default"], self.clock)

    def close(self) -> None:
        self.claims.close()
        self._sql.close()
        self.queue.close()

    def enqueue(self, type: str = "ok", **options: Any) -> str:
        return self.queue.enqueue(Task(type, **options)).id

    def drain(self) -> None:
        testing.drain(self.queue, self.registry)

    def claim(self) -> Claimed:
        """Claim the next job of type ok, as a worker of its own."""
        self.claims.register(f"w{self.claims.worker}", "/nowhere.lock", {"default": 1}, 1, 1)
        with self.claims.transaction():
            (row,) = self.claims.claim("default", ["ok"], 1)
        return Claimed(*row)

    def transitions(self) -> set[tuple[str, str]]:
        def name(number: int, other: str) -> str:
            return STATE_OF_NUMBER[number].value if number else other

        return {(name(old, NEW), name(new, GONE)) for old, new in self._sql.execute("SELECT old, new FROM seen WHERE old <> new")}


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    made = Watched(tmp_path / "jobs.db")
    yield made
    made.close()


def by_hand(watched: Watched) -> None:
    """Do all that a person may do to a job to one of each state; what is refused is no transition."""
    inspector = watched.inspector

    def archived() -> str:
        job_id = watched.enqueue()
        inspector.archive(job_id)
        return job_id

    def cancelled() -> str:
        job_id = watched.enqueue()
        inspector.cancel(job_id)
        return job_id

    def completed() -> str:
        job_id = watched.enqueue(retention=60)
        watched.drain()
        return job_id

    def in_retry() -> str:
        job_id = watched.enqueue("fails")
        watched.drain()
        return job_id

    makers = {
        State.SCHEDULED: lambda: watched.enqueue(process_in=60),
        State.PENDING: watched.enqueue,
        State.RETRY: in_retry,
        State.COMPLETED: completed,
        State.ARCHIVED: archived,
        State.CANCELLED: cancelled,
        State.AGGREGATING: lambda: watched.enqueue(group="g"),
        State.BLOCKED: lambda: watched.enqueue(after=[watched.enqueue("nobody")]),
    }
    operations = [
        inspector.run,
        inspector.archive,
        inspector.cancel,
        inspector.delete,
        lambda job_id: inspector.update(job_id, process_in=60),
        lambda job_id: inspector.update(job_id, process_in=0),
    ]
    for make in makers.values():
        for operation in operations:
            job_id = make()
            try:
                operation(job_id)
            except errors.WrongState:
                inspector.delete(job_id)


def by_workers(watched: Watched) -> None:
    """Let runs end in each way there is, and workers stop and die."""
    registry, clock, claims = watched.registry, watched.clock, watched.claims
    for type in ("skips", "later", "revoked", "cancels"):
        watched.enqueue(type)
    watched.enqueue(process_in=1)
    watched.enqueue("fails", max_retry=1)
    watched.enqueue(retention=1)
    watched.drain()
    clock.advance(120)
    watched.drain()  # what was due, failed again or has expired
    for ends in ("put_back", "take_over", "asked"):
        job_id = watched.enqueue()
        job = watched.claim()
        fence = (job.n, claims.worker, job.claim)
        if ends == "asked":
            watched.inspector.cancel(job_id)
        if ends == "take_over":
            claims.take_over(claims.worker, frozenset({job.n}), True)
        else:
            with claims.transaction():
                claims.settle(Settlement(put_back=[fence]))
            claims.unregister()
        watched.drain()


def by_others(watched: Watched) -> None:
    """Let jobs follow those that they wait for, and members of a group the job that aggregates them."""
    inspector, clock = watched.inspector, watched.clock
    for end in (inspector.archive, inspector.cancel):
        first = watched.enqueue()
        watched.enqueue(after=[first])
        end(first)
        watched.enqueue(after=[first])  # ends at once
        inspector.run(first)
        watched.enqueue(after=[first], process_in=600)
        watched.drain()

    answers: list[Any] = [Task("ok"), OSError("not yet"), errors.SkipRetry("never")]

    @watched.registry.aggregator("g", group_grace=1)
    def together(group: str, jobs: list[TaskInfo]) -> Task:
        answer = answers.pop(0)
        if isinstance(answer, Task):
            return answer
        raise answer

    for became in ("completed", "cancelled", "archived"):
        watched.enqueue(group="g")
        clock.advance(2)
        watched.drain()
        if became != "completed":
            (maker,) = (job.id for job in inspector.tasks(type="fireforget:aggregate:"))
            if became == "cancelled":
                inspector.cancel(maker)
                watched.drain()  # its members follow
            answers.insert(0, Task("ok"))
            inspector.run(maker)
            watched.drain()


def test_the_states_and_their_changes_are_those_of_the_code(watched: Watched) -> None:
    """Every change of the table happens, and no other does, whatever people, workers and other jobs do."""
    raised = {
        "ok": None,
        "fails": OSError("no"),
        "skips": errors.SkipRetry("no"),
        "later": errors.RetryLater(1),
        "revoked": errors.RevokeTask("no"),
        "cancels": errors.JobCancelled("no"),
    }

    def handler_that(ends: BaseException | None) -> Callable[[], None]:
        def handler() -> None:
            if ends is not None:
                raise ends

        return handler

    for type, ends in raised.items():
        watched.registry.task(type)(handler_that(ends))
    by_hand(watched)
    by_workers(watched)
    by_others(watched)
    documented = {(row[0].strip("`"), row[1].strip("`")) for row in table(page("states.md"), "from")}
    assert documented == watched.transitions()


# --- the schema -------------------------------------------------------------------------------------------------------------


def objects(connection: sqlite3.Connection, kind: str) -> dict[str, str]:
    """Return what the file has of a kind that was made by name, with the table that each belongs to."""
    statement = "SELECT name, tbl_name FROM sqlite_master WHERE type = ? AND name LIKE 'fireforget%'"
    return dict(connection.execute(statement, (kind,)))


def test_the_page_of_the_schema_is_that_of_a_new_file(tmp_path: Path) -> None:
    """Tables with their columns in order and their types, indexes, views and the trigger: all of them, and no others."""
    schema = page("schema.md")
    SqliteQueue(tmp_path / "new.db").close()
    with closing(sqlite3.connect(tmp_path / "new.db")) as connection:
        tables = objects(connection, "table")
        assert headings(schema, 3) == list(tables)
        for name in tables:
            columns = [(row[1], row[2]) for row in connection.execute(f"PRAGMA table_info({name})")]
            assert [(code(row[0]), row[1]) for row in table(schema, f"column of {name}")] == columns, name
        for kind in ("index", "trigger"):
            assert {code(row[0]): code(row[1]) for row in table(schema, kind)} == objects(connection, kind), kind
        assert {code(row[0]) for row in table(schema, "view")} == objects(connection, "view").keys()


def test_the_page_of_the_schema_has_the_numbers_of_the_states_and_its_version() -> None:
    """Who looks into the table itself reads the same states as we do."""
    schema = page("schema.md")
    (row,) = (row for row in table(schema, "column of fireforget_job") if code(row[0]) == "state")
    assert row[2] == ", ".join(f"{number} {state}" for number, state in STATE_OF_NUMBER.items())
    assert f"and it is {VERSION}." in schema
