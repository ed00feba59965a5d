"""The notes example, driven as its README says: a server process, a worker process, and requests over HTTP."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from fireforget import SqliteQueue, State, TaskInfo

ROOT = Path(__file__).resolve().parents[2]
SERVER = ("-m", "examples.notes.app", "--port", "0")
WORKER = ("-m", "fireforget.worker", "examples.notes.jobs:registry", "--concurrency", "2")
THIRTY_DAYS = timedelta(days=30)
PATIENCE = 20.0
"""Seconds that anything may take on a busy machine."""


class Notes:
    """A running notes application, as its users and its operator see it."""

    def __init__(self, url: str, database: Path, queue: SqliteQueue) -> None:
        self.url = url
        self.database = database
        self.queue = queue

    def request(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Return the status and the decoded body of an answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def hand_over(self, path: str, body: object = None) -> str:
        """Post what is answered with 202, and return the id of the job."""
        status, answer = self.request("POST", path, body)
        assert status == 202, answer
        job_id: str = answer["job_id"]
        return job_id

    def ended(self, job_id: str) -> TaskInfo:
        """Wait for a job to end and return it."""
        return self.queue.wait(job_id, PATIENCE)

    def create(self, text: str = "milk") -> str:
        """Create a note and return its id."""
        status, note = self.request("POST", "/notes", {"text": text})
        assert status == 201, note
        note_id: str = note["id"]
        return note_id

    def events(self) -> set[tuple[str, str, int]]:
        """Return the analytics events that arrived."""
        with closing(sqlite3.connect(self.database)) as connection:
            return set(connection.execute("SELECT method, path, status FROM event"))


@contextmanager
def process(folder: Path, name: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program on the folder's database; stop it with TERM at the end, and expect a good end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FIREFORGET_DB": str(folder / "notes.db")}
    with (folder / f"{name}.log").open("a") as log:
        running = subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
        with running:
            try:
                yield running
                running.terminate()
                assert running.wait(PATIENCE) == 0, (folder / f"{name}.log").read_text()
            finally:
                running.kill()


@pytest.fixture
def notes(tmp_path: Path) -> Iterator[Notes]:
    """A server without a worker."""
    with process(tmp_path, "server", *SERVER) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith("notes: http://"), (tmp_path / "server.log").read_text()
        with SqliteQueue(tmp_path / "notes.db") as queue:
            yield Notes(line.split()[1], tmp_path / "notes.db", queue)


@pytest.fixture
def worker(notes: Notes) -> Iterator[None]:
    """A worker beside the server."""
    with process(notes.database.parent, "worker", *WORKER):
        yield


def eventually(holds: Callable[[], bool]) -> bool:
    """Return whether something becomes true within the patience."""
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not holds():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.02)
    return True


def test_the_two_commands_of_its_readme_are_the_ones_that_run_here() -> None:
    """Whoever copies them starts what these tests drive."""
    readme = (ROOT / "examples" / "notes" / "README.md").read_text(encoding="utf-8")
    for command in (SERVER, WORKER):
        flags = next(at for at, word in enumerate((*command, "--")) if word.startswith("--"))
        assert f"python {' '.join(command[:flags])}\n" in readme


@pytest.mark.usefixtures("worker")
def test_a_note_is_archived_by_the_worker(notes: Notes) -> None:
    """The answer is 202 with a job, the job completes, and the note is archived."""
    note_id = notes.create()
    job = notes.ended(notes.hand_over(f"/notes/{note_id}/archive"))
    assert (job.state, job.queue, job.max_retry) == (State.COMPLETED, "default", 3)

    status, note = notes.request("GET", f"/notes/{note_id}")
    assert (status, note["text"]) == (200, "milk")
    assert note["archived_at"] >= note["created_at"]


@pytest.mark.usefixtures("worker")
def test_archiving_twice_keeps_the_first_instant(notes: Notes) -> None:
    """A job that runs again, as after a crash, changes nothing."""
    note_id = notes.create()
    notes.ended(notes.hand_over(f"/notes/{note_id}/archive"))
    _, first = notes.request("GET", f"/notes/{note_id}")
    job = notes.ended(notes.hand_over(f"/notes/{note_id}/archive"))
    assert job.state is State.COMPLETED
    assert notes.request("GET", f"/notes/{note_id}") == (200, first)


@pytest.mark.usefixtures("worker")
def test_a_job_is_shown_with_its_result(notes: Notes) -> None:
    """Who got a 202 can ask what became of it."""
    note_id = notes.create()
    job_id = notes.hand_over(f"/notes/{note_id}/archive")
    notes.ended(job_id)
    assert notes.request("GET", f"/jobs/{job_id}") == (
        200,
        {
            "id": job_id,
            "type": "note:archive",
            "state": "completed",
            "retry_count": 0,
            "last_error": None,
            "result": {"archived": note_id},
        },
    )


@pytest.mark.parametrize(
    ("note_id", "reason"),
    [
        ("nonsense", "SkipRetry: note_id 'nonsense' is not a UUID"),
        ("00000000-0000-0000-0000-000000000000", "SkipRetry: note_id is the nil UUID: it names no note"),
    ],
)
@pytest.mark.usefixtures("worker")
def test_a_bad_note_id_is_archived_without_retry(notes: Notes, note_id: str, reason: str) -> None:
    """What no retry can mend goes to the dead letters at once, with the reason."""
    job = notes.ended(notes.hand_over(f"/notes/{note_id}/archive"))
    assert (job.state, job.retry_count, job.last_error) == (State.ARCHIVED, 0, reason)


@pytest.mark.usefixtures("worker")
def test_a_missing_note_is_archived_without_retry(notes: Notes) -> None:
    """A note that is not there will not be there in a minute either."""
    note_id = str(uuid4())
    job = notes.ended(notes.hand_over(f"/notes/{note_id}/archive"))
    assert (job.state, job.retry_count, job.last_error) == (State.ARCHIVED, 0, f"SkipRetry: there is no note {note_id}")


@pytest.mark.parametrize("payload", ["{", "{}", "[]", None])
@pytest.mark.usefixtures("worker")
def test_a_payload_that_another_program_got_wrong_is_archived_without_retry(notes: Notes, payload: str | None) -> None:
    """Payloads may come from anywhere, such as an INSERT: bad JSON or a missing note id never burns retries."""
    with closing(sqlite3.connect(notes.database, timeout=PATIENCE)) as connection, connection:
        connection.execute(
            "INSERT INTO fireforget_enqueue (type, payload, task_id, max_retry) VALUES ('note:archive', ?, 'foreign', 3)",
            (payload,),
        )
    job = notes.ended("foreign")
    assert (job.state, job.retry_count) == (State.ARCHIVED, 0)
    assert job.last_error


@pytest.mark.usefixtures("worker")
def test_every_request_becomes_an_event(notes: Notes) -> None:
    """Fired and forgotten by the server, stored by the worker, whatever the answer was."""
    note_id = notes.create()
    notes.request("GET", f"/notes/{note_id}")
    notes.request("GET", "/nowhere")
    expected = {("POST", "/notes", 201), ("GET", f"/notes/{note_id}", 200), ("GET", "/nowhere", 404)}
    assert eventually(lambda: notes.events() >= expected), notes.events()


@pytest.mark.usefixtures("worker")
def test_the_cleanup_counts_first_and_deletes_when_it_is_meant(notes: Notes) -> None:
    """A dry run says how many notes would go; the real one removes the archived ones and no others."""
    old, kept = notes.create("old"), notes.create("kept")
    notes.ended(notes.hand_over(f"/notes/{old}/archive"))
    everything = {"archived_before": "2999-01-01T00:00:00+00:00"}

    dry = notes.ended(notes.hand_over("/cleanup", {**everything, "dry_run": True}))
    assert (dry.queue, dry.result["notes"], dry.result["dry_run"]) == ("low", 1, True)
    assert notes.request("GET", f"/notes/{old}")[0] == 200

    real = notes.ended(notes.hand_over("/cleanup", everything))
    assert (real.result["notes"], real.result["dry_run"]) == (1, False)
    assert notes.request("GET", f"/notes/{old}")[0] == 404
    assert notes.request("GET", f"/notes/{kept}")[0] == 200


def test_the_cutoff_of_a_cleanup_is_computed_when_it_runs(notes: Notes) -> None:
    """A cleanup that waited for a worker looks back 30 days from its run, not from the request."""
    job_id = notes.hand_over("/cleanup")
    assert notes.queue.get(job_id).payload == {"archived_before": None, "dry_run": False}
    with process(notes.database.parent, "worker", *WORKER):
        job = notes.ended(job_id)
    assert job.started_at is not None
    assert job.result["archived_before"] > (job.started_at.replace(microsecond=0) - THIRTY_DAYS).isoformat()
    assert job.result["notes"] == 0


@pytest.mark.parametrize("instant", ["yesterday", "2026-01-31T00:00:00"])
@pytest.mark.usefixtures("worker")
def test_a_cutoff_that_names_no_instant_is_archived_without_retry(notes: Notes, instant: str) -> None:
    """Deleting by a guessed time zone would be worse than not deleting."""
    job = notes.ended(notes.hand_over("/cleanup", {"archived_before": instant}))
    assert (job.state, job.retry_count) == (State.ARCHIVED, 0)
    assert instant in str(job.last_error)


def test_requests_are_answered_while_no_worker_runs_and_their_jobs_run_afterwards(notes: Notes) -> None:
    """A worker may be stopped, for an upgrade say: nothing waits for it and nothing is lost."""
    folder = notes.database.parent
    note_id = notes.create()
    with process(folder, "worker", *WORKER):
        assert eventually(lambda: ("POST", "/notes", 201) in notes.events())

    job_id = notes.hand_over(f"/notes/{note_id}/archive")
    assert notes.request("GET", f"/jobs/{job_id}")[1]["state"] == "pending"
    assert notes.request("GET", f"/notes/{note_id}")[1]["archived_at"] is None

    with process(folder, "worker", *WORKER):
        assert notes.ended(job_id).state is State.COMPLETED
        assert eventually(lambda: ("POST", f"/notes/{note_id}/archive", 202) in notes.events())
    assert notes.request("GET", f"/notes/{note_id}")[1]["archived_at"] is not None


def test_events_that_still_wait_when_the_server_stops_are_kept(tmp_path: Path) -> None:
    """A server that is asked to stop sends what it has fired before it leaves."""
    with process(tmp_path, "server", *SERVER) as server:
        assert server.stdout is not None
        url = server.stdout.readline().split()[1]
        with SqliteQueue(tmp_path / "notes.db") as queue:
            notes = Notes(url, tmp_path / "notes.db", queue)
            for _ in range(20):
                notes.create()
    with closing(sqlite3.connect(tmp_path / "notes.db")) as connection:
        (events,) = connection.execute("SELECT count(*) FROM fireforget_jobs WHERE type = 'analytics:event'").fetchone()
    assert events == 20


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "word"),
    [
        ("POST", "/notes", {"text": " "}, 400, "blank"),
        ("POST", "/notes", ["text"], 400, "object"),
        ("POST", "/cleanup", {"older_than": 3}, 400, "archived_before"),
        ("GET", "/jobs/none", None, 404, "none"),
        ("GET", "/notes/none", None, 404, "none"),
        ("DELETE", "/notes/none", None, 404, "nothing"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_with_the_reason(
    notes: Notes, method: str, path: str, body: object, status: int, word: str
) -> None:
    """What is wrong with the request itself is said at once, and is no job."""
    code, answer = notes.request(method, path, body)
    assert code == status
    assert word in answer["error"]
