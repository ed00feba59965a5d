"""The notes example, unchanged, on the file, on Celery, and on the file with a relay to Celery."""

import io
import json
from wsgiref.util import setup_testing_defaults

import pytest

pytest.importorskip("celery", reason="Celery is not installed: pip install 'fireforget[celery]' to test it")
pytest.importorskip("redis", reason="Celery's Redis client is not installed: pip install redis to test it")

from celery import Celery

from examples.notes import store
from examples.notes.app import NotesApplication
from fireforget import SqliteQueue, UnknownJob, flush
from fireforget.engines.celery import CeleryEnqueuer
from tests.engines.conftest import eventually

pytestmark = pytest.mark.filterwarnings("default")

OUTBOX = """
import os
from celery import Celery
from examples.notes.jobs import registry
from fireforget.engines.celery import CeleryEnqueuer, install

app = Celery("notes", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.update(broker_connection_retry_on_startup=True)
install(registry, app)
enqueuer = CeleryEnqueuer(app)
"""
WORKER = ("-m", "fireforget.worker", "examples.notes.jobs:registry", "--concurrency", "1")
RELAY = ("-m", "fireforget", "relay", "examples.notes.jobs:registry", "--to", "notes_outbox:enqueuer")
CELERY = ("-m", "celery", "-A", "notes_outbox", "worker", "-c", "1", "-Q", "critical,default,low", "--without-gossip",
          "--without-mingle", "--without-heartbeat")  # fmt: skip


def request(application, method, path, body=None):
    """Call the WSGI application; return the status and the decoded answer."""
    data = b"" if body is None else json.dumps(body).encode()
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "CONTENT_LENGTH": str(len(data)), "wsgi.input": io.BytesIO(data)}
    setup_testing_defaults(environ)
    statuses = []
    content = b"".join(application(environ, lambda status, headers: statuses.append(status)))
    return int(statuses[0].split()[0]), json.loads(content)


def known(queue, job_id):
    try:
        return queue.get(job_id)
    except UnknownJob:  # the relay is about to bring it
        return None


def events():
    with store.transaction() as connection:
        return connection.execute("SELECT count(*) FROM event").fetchone()[0]


@pytest.mark.parametrize("engine", ["file", "celery", "relay"])
def test_the_notes_example_runs_unchanged_on_each(engine, tmp_path, redis_port, run_program, monkeypatch):
    """Whoever grows out of one machine changes what the application is given, and not one handler."""
    import redis

    with redis.Redis(port=redis_port) as client:
        client.flushall()
    broker = f"redis://127.0.0.1:{redis_port}/0"
    monkeypatch.setenv("FIREFORGET_DB", str(tmp_path / "notes.db"))
    (tmp_path / "notes_outbox.py").write_text(OUTBOX)
    queue = SqliteQueue(store.database_path())  # which makes the file, for the application's own tables too
    store.create_tables()
    celery = Celery("notes", broker=broker, backend=broker, set_as_current=False)
    programs = {"file": [WORKER], "celery": [CELERY], "relay": [RELAY, CELERY]}[engine]
    logs = [run_program(f"program{number}", *command, BROKER=broker).log for number, command in enumerate(programs)]

    def said():
        return "\n".join(log.read_text() for log in logs)

    ends = CeleryEnqueuer(celery) if engine != "file" else queue
    application = NotesApplication(CeleryEnqueuer(celery) if engine == "celery" else queue)
    _, note = request(application, "POST", "/notes", {"text": "milk"})
    status, answer = request(application, "POST", f"/notes/{note['id']}/archive")
    assert status == 202
    _, missing = request(application, "POST", "/notes/8b7df143-d91c-4b1d-8d7c-7d7d7d7d7d7d/archive")
    eventually(lambda: request(application, "GET", f"/notes/{note['id']}")[1]["archived_at"] is not None, otherwise=said)

    def ended(job_id, state):
        return eventually(lambda: (info := known(ends, job_id)) and info.state == state and info, otherwise=said)

    assert ended(answer["job_id"], "completed").result == {"archived": note["id"]}
    assert "there is no note" in ended(missing["job_id"], "archived").last_error
    _, cleanup = request(application, "POST", "/cleanup", {"dry_run": True})
    assert ended(cleanup["job_id"], "completed").result["notes"] == 0
    if engine != "relay":  # there the application's own file has handed it on
        assert request(application, "GET", f"/jobs/{answer['job_id']}")[1]["state"] == "completed"
    assert flush(10) == 0
    eventually(lambda: events() >= 4, otherwise=said)
    celery.close()
    queue.close()
