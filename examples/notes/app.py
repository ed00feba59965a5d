"""The HTTP side of the notes application: `python -m examples.notes.app`.

    POST /notes                {"text": ...}                          201, the note
    GET  /notes/ID                                                    200, the note
    POST /notes/ID/archive                                            202, the job's id
    GET  /jobs/ID                                                     200, what became of the job
    POST /cleanup              {"archived_before": ..., "dry_run": ...}    202, the job's id

Two ways to hand work over stand side by side. A promise to the caller (202) is an `enqueue`: the job is on disk before the answer
leaves, and trouble with the store is the caller's to hear. An analytics event is a `fire_and_forget`: it must never slow down or
spoil the answer, and losing one is no harm.
"""

import argparse
import json
import signal
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import Any
from uuid import uuid4
from wsgiref.simple_server import WSGIServer, make_server

from examples.notes import store
from examples.notes.jobs import archive_note, clean_up_old_notes, record_event
from fireforget import SqliteQueue, StoreError, TaskInfo, UnknownJob, fire_and_forget, flush

Environ = dict[str, Any]
Answer = tuple[HTTPStatus, dict[str, object]]

MOST_BYTES = 64 * 1024
"""The longest body of a request."""


class Refused(Exception):
    """A request is answered with an error: a status and a sentence."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class NotesApplication:
    """The WSGI application; safe to call from many threads."""

    def __init__(self, queue: SqliteQueue) -> None:
        self._queue = queue

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request and note that it was there."""
        status, body = self._answer(environ)
        self._note_request(environ, status)
        content = json.dumps(body).encode() + b"\n"
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
        start_response(f"{status.value} {status.phrase}", headers)
        return [content]

    def _note_request(self, environ: Environ, status: HTTPStatus) -> None:
        event = record_event.task(
            event_id=str(uuid4()),
            at=time.time(),
            method=environ["REQUEST_METHOD"],
            path=environ["PATH_INFO"],
            status=status.value,
        )
        fire_and_forget(self._queue, event)

    def _answer(self, environ: Environ) -> Answer:
        try:
            return self._route(environ)
        except Refused as refused:
            return refused.status, {"error": str(refused)}
        except (StoreError, sqlite3.OperationalError) as error:  # locked, full, read-only: nothing was stored
            return HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error)}

    def _route(self, environ: Environ) -> Answer:
        match environ["REQUEST_METHOD"], environ["PATH_INFO"].strip("/").split("/"):
            case "POST", ["notes"]:
                return self._create_note(**_body(environ, allowed={"text"}))
            case "GET", ["notes", note_id]:
                return self._show_note(note_id)
            case "POST", ["notes", note_id, "archive"]:
                return self._archive_note(note_id)
            case "GET", ["jobs", job_id]:
                return self._show_job(job_id)
            case "POST", ["cleanup"]:
                return self._clean_up(**_body(environ, allowed={"archived_before", "dry_run"}))
        raise Refused(HTTPStatus.NOT_FOUND, "there is nothing here")

    def _create_note(self, text: object = None) -> Answer:
        if not isinstance(text, str) or not text.strip():
            raise Refused(HTTPStatus.BAD_REQUEST, "text is missing or blank")
        note_id = str(uuid4())
        store.add_note(note_id, text, time.time())
        return HTTPStatus.CREATED, {"id": note_id, "text": text}

    def _show_note(self, note_id: str) -> Answer:
        note = store.find_note(note_id)
        if note is None:
            raise Refused(HTTPStatus.NOT_FOUND, f"there is no note {note_id}")
        return HTTPStatus.OK, note

    def _archive_note(self, note_id: str) -> Answer:
        """Hand it over without a look: the note may go away before the job runs, so the handler has to look anyway."""
        return _accepted(self._queue.enqueue(archive_note.task(note_id=note_id)))

    def _clean_up(self, archived_before: str | None = None, dry_run: bool = False) -> Answer:
        task = clean_up_old_notes.task(archived_before=archived_before, dry_run=dry_run)
        return _accepted(self._queue.enqueue(task))

    def _show_job(self, job_id: str) -> Answer:
        try:
            info = self._queue.get(job_id)
        except UnknownJob as error:
            raise Refused(HTTPStatus.NOT_FOUND, str(error)) from None
        return HTTPStatus.OK, {
            "id": info.id,
            "type": info.type,
            "state": info.state,
            "retry_count": info.retry_count,
            "last_error": info.last_error,
            "result": info.result,
        }


def _accepted(info: TaskInfo) -> Answer:
    return HTTPStatus.ACCEPTED, {"job_id": info.id, "location": f"/jobs/{info.id}"}


def _body(environ: Environ, *, allowed: set[str]) -> dict[str, Any]:
    """Return the members of the request's JSON object; none for an empty body."""
    try:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if not 0 <= length <= MOST_BYTES:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body may have {MOST_BYTES} bytes")
        content = json.loads(environ["wsgi.input"].read(length) or b"{}")
    except ValueError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}") from None
    if not isinstance(content, dict) or not content.keys() <= allowed:
        raise Refused(HTTPStatus.BAD_REQUEST, f"the body must be an object of {', '.join(sorted(allowed))}")
    return content


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each request. `server_close` waits for those that are being answered."""


def main() -> None:
    """Serve until TERM or INT, then answer what has come in and send the events that still wait."""
    parser = argparse.ArgumentParser(prog="python -m examples.notes.app", description="Notes over HTTP.")
    parser.add_argument("--host", default="127.0.0.1", metavar="NAME")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="0 takes a free one")
    arguments = parser.parse_args()
    with SqliteQueue(store.database_path()) as queue:  # first: it creates the file for its owner alone, in WAL mode
        store.create_tables()
        with make_server(arguments.host, arguments.port, NotesApplication(queue), server_class=_Server) as server:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            with suppress(KeyboardInterrupt):
                print(f"notes: http://{arguments.host}:{server.server_port}", flush=True)
                server.serve_forever()
        flush(timeout=5)  # requests have been answered; their events go out before the queue closes


if __name__ == "__main__":
    main()
