"""The dashboard as programs meet it: its JSON, its actions, health and metrics, the server, and what an attacker sends."""

import hmac
import http.client
import io
import json
import logging
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import tomllib
from contextlib import closing, suppress
from datetime import UTC, datetime
from fnmatch import fnmatch
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote, urlencode
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from fireforget import Inspector, InvalidOption, Registry, SkipRetry, SqliteQueue, State, Task, cli, dashboard, testing
from fireforget._dashboard import guard, shown, views
from fireforget._dashboard.views import Shared
from fireforget.errors import StoreUnavailable
from fireforget.inspector import ChildDeath, ChildInfo, ChildJob, WorkerInfo
from fireforget.logs import TextFormatter
from fireforget.metrics import METRICS

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>"
TOKEN = "a token that nobody guesses"

registry = Registry()


@registry.task("fails", max_retry=0)
def fails(text):
    raise ValueError(text)


@registry.task("works", retention=3600)
def works(n):
    return {"n": n}


@registry.periodic("@daily")
@registry.task("daily")
def daily():
    raise SkipRetry("never")


@pytest.fixture
def queue(open_queue):
    """Real time: what is shown of a schedule is seen from now."""
    return open_queue(clock=time.time)


class Client:
    """Sends requests to the WSGI application itself, checked for what WSGI asks of both sides."""

    def __init__(self, queue, mount="", **settings):
        self.app = validator(dashboard.application(queue, **settings))
        self.mount = mount

    def ask(self, method, path, body=b"", **headers):
        """Return the status, the headers and the body; a header is named like `content_type`, None leaves one away."""
        path, _, query = path.partition("?")
        environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": self.mount,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "HTTP_HOST": "127.0.0.1:8787",
            "REMOTE_ADDR": "192.0.2.7",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": io.BytesIO(body),
        }
        for name, value in headers.items():
            key = name if name.isupper() else name.upper() if name == "content_type" else f"HTTP_{name.upper()}"
            environ[key] = value
        host = environ["HTTP_HOST"]
        setup_testing_defaults(environ)
        environ = {name: value for name, value in environ.items() if value is not None}
        if host is None:
            environ.pop("HTTP_HOST", None)
        said = []
        answer = self.app(environ, lambda status, headers, exc_info=None: said.extend((status, headers)))
        body = b"".join(answer)
        answer.close()
        return int(said[0].split()[0]), dict(said[1]), body

    def get(self, name, expected=200, **headers):
        status, _, body = self.ask("GET", f"/api/v1/{name}", **headers)
        assert status == expected, body
        return json.loads(body)

    def post(self, name, body, expected=200, **headers):
        sent = {"content_type": "application/json", "x_fireforget": "1", **headers}
        sent = {name: value for name, value in sent.items() if value is not None}
        status, _, answer = self.ask("POST", f"/api/v1/{name}", json.dumps(body).encode(), **sent)
        assert status == expected, answer
        return json.loads(answer)


@pytest.fixture
def client(queue):
    return Client(queue)


def drain(queue):
    testing.drain(queue, registry)


# --- the JSON -----------------------------------------------------------------------------------------------------------


def test_the_overview_says_what_is_there_and_what_is_wrong(queue, client):
    """Counts by state, queues with their depth, workers, what runs, problems."""
    queue.enqueue(Task("works", {"n": 1}))
    queue.enqueue(Task("other"), queue="low", process_in=60)
    seen = client.get("overview")
    assert (seen["states"]["pending"], seen["states"]["scheduled"]) == (1, 1)
    assert [(one["queue"], one["size"], one["paused"]) for one in seen["queues"]] == [("default", 1, False), ("low", 1, False)]
    assert seen["problems"] == [{"check": "worker", "message": "no worker is running"}]
    assert seen["file"] == queue.path and seen["read_only"] is False
    assert seen["states"].keys() == {state.value for state in State}


def test_pages_of_jobs_follow_each_other_without_a_gap(queue, client):
    """By the id of the last job of the page before."""
    ids = [info.id for info in queue.enqueue_many([Task("works", {"n": n}) for n in range(7)])]
    found, after = [], ""
    while after is not None:
        page = client.get(f"jobs?limit=3&{urlencode({'after': after} if after else {})}")
        found += [job["id"] for job in page["jobs"]]
        after = page["after"]
    assert found == ids
    assert len(client.get("jobs?limit=7")["jobs"]) == 7 and client.get("jobs?limit=7")["after"] is None


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("state=archived", 2),
        ("state=archived&error=two", 1),
        ("type=fai:", 0),
        ("type=fails", 2),
        ("queue=low", 1),
        ("payload=text%3Dtwo", 1),
        ("older_than=1h", 0),
        ("newer_than=1h", 3),
        ("state=archived&payload=text%3Done&payload=other%3D1", 0),
    ],
)
def test_jobs_are_chosen_by_the_filters_of_the_commands(queue, client, asked, found):
    """Each of them, and together; counted as they are listed."""
    queue.enqueue_many([fails.task(text="one"), fails.task(text="two")])
    drain(queue)
    queue.enqueue(Task("works", {"n": 1}), queue="low")
    assert len(client.get(f"jobs?{asked}")["jobs"]) == found
    assert client.get(f"jobs/count?{asked}")["count"] == found


def test_a_job_is_shown_with_all_that_is_known_of_it(queue, client):
    """Payload, options, each attempt with its traceback; a result."""
    failed = queue.enqueue(fails.task(text="no"), headers={"traceparent": "00-1"})
    done = queue.enqueue(Task("works", {"n": 12345678901234567890123}, retention=60))
    drain(queue)
    job = client.get(f"job?id={failed.id}")
    assert (job["state"], job["attempts_count"], job["headers"]) == ("archived", 1, {"traceparent": "00-1"})
    assert "raise ValueError(text)\nValueError: no" in job["attempts"][0]["traceback"]
    job = client.get(f"job?id={done.id}")
    assert '"n": 12345678901234567890123' in job["result"]  # as text: a browser would round the number


def test_an_id_of_any_text_leads_to_its_job(queue, client):
    """Slashes and question marks too."""
    job_id = "a/b?c=d&ä#%"
    queue.enqueue(Task("works", {"n": 1}), task_id=job_id)
    assert client.get(f"job?id={quote(job_id, safe='')}")["id"] == job_id


def test_schedules_workers_and_groups_are_listed(queue, client):
    """As the Inspector has them."""
    testing.tick(queue, registry)
    queue.enqueue(Task("news", 1), group="reader")
    (schedule,) = client.get("schedules?times=2")["schedules"]
    assert schedule["name"] == "daily" and len(schedule["next_times"]) == 2
    assert client.get("schedule?name=daily")["events"] == []
    assert [group["name"] for group in client.get("groups")["groups"]] == ["reader"]
    assert client.get("workers")["workers"] == []


def test_the_history_and_what_was_seen_can_be_drawn(queue, client):
    """Days with zeros, the oldest first; samples only of when somebody looked."""
    history = client.get("history?days=3")
    assert history["unit"] == "day" and [point["processed"] for point in history["points"]] == [0, 0, 0]
    for unit in ("minutes", "hours"):
        assert len(client.get(f"history?{unit}=7&queue=low&type=works")["points"]) == 7
    samples = client.get("samples")
    assert len(samples["samples"]) == 1 and len(samples["samples"][0]) == len(samples["columns"])
    assert client.get(f"samples?since={samples['samples'][0][0]}")["samples"] == []


def test_large_texts_are_cut_and_can_be_saved_whole(queue, client):
    """In lists to a line, on a job's page to 64 KiB."""
    info = queue.enqueue(fails.task(text="x" * 200_000))
    drain(queue)
    (line,) = client.get("jobs")["jobs"]
    assert len(line["payload"]) == shown.LINE and len(line["last_error"]) == shown.LINE
    job = client.get(f"job?id={info.id}")
    assert len(job["payload"]) == shown.WHOLE < job["payload_length"]
    assert len(json.dumps(job)) < 6 * shown.WHOLE
    status, headers, body = client.ask("GET", f"/api/v1/job/text?id={info.id}&part=payload")
    assert status == 200 and json.loads(body) == {"text": "x" * 200_000}
    assert headers["Content-Disposition"].startswith("attachment")


def test_what_foreign_programs_stored_is_shown_all_the_same(queue, client, sql):
    """Payloads that are no JSON, text that is no UTF-8, nesting without end."""
    for payload in ("no json", "[" * 5000 + "]" * 5000):
        sql("INSERT INTO fireforget_enqueue (type, payload) VALUES ('t', ?)", (payload,))
    sql("INSERT INTO fireforget_enqueue (type, payload) VALUES ('t', CAST(x'ff22' AS TEXT))")
    found = client.get("jobs")["jobs"]
    assert len(found) == 3
    for job in found:
        client.get(f"job?id={job['id']}")


@pytest.mark.parametrize(
    "asked",
    ["jobs?limit=0", "jobs?limit=201", "jobs?limit=x", "jobs?state=nope", "jobs?colour=red", "jobs?older_than=soon", "job",
     "jobs?payload=x", "history?days=91",
     "history?days=1&hours=1", "history?minutes=181", "samples?since=x", "job/text?id=1&part=headers", "jobs?limit=1&limit=2",
     "jobs?" + "&".join(f"a{n}=1" for n in range(60))],
)  # fmt: skip
def test_a_request_that_makes_no_sense_is_told_so(client, asked):
    """In one line, with 400."""
    error = client.get(asked, 400)["error"]
    assert error["code"] == "invalid" and error["message"]


def test_what_is_not_there_is_not_found(client):
    """Jobs, queues, schedules, paths; and no file but those of the page."""
    assert client.get("job?id=nobody", 404)["error"]["code"] == "unknown_job"
    assert client.get("schedule?name=nobody", 404)["error"]["code"] == "unknown_schedule"
    assert client.get("nothing", 404)["error"]["code"] == "not_found"
    for path in (
        "/nothing",
        "/static/",
        "/static/../wsgi.py",
        "/static/..%2fwsgi.py",
        "/static//etc/passwd",
        "/etc/passwd",
        "/..",
    ):
        assert client.ask("GET", path)[0] == 404, path
    assert client.ask("PUT", "/api/v1/jobs")[0] == 405
    assert client.ask("POST", "/")[0] == 405
    assert client.post("overview", {}, 405)


# --- actions ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["run", "archive", "cancel", "delete"])
def test_jobs_are_changed_by_their_ids_and_what_was_refused_is_said(queue, client, action):
    """Those that can be changed are."""
    waiting = queue.enqueue(Task("works", {"n": 1}), process_in=60)
    answer = client.post("jobs", {"action": action, "ids": [waiting.id, "nobody"]})
    state = {"run": "pending", "archive": "archived", "cancel": "cancelled", "delete": None}[action]
    assert answer["changed"] == [{"id": waiting.id, "state": state}]
    assert [(one["id"], one["code"]) for one in answer["refused"]] == [("nobody", "unknown_job")]


def test_all_that_match_are_changed_once_that_is_confirmed(queue, client):
    """What destroys many is not done by a slip."""
    queue.enqueue_many([Task("works", {"n": n}) for n in range(5)])
    queue.enqueue(Task("other"))
    asked = {"action": "delete", "filter": {"state": "pending", "type": "works"}}
    assert "confirm" in client.post("jobs", asked, 400)["error"]["message"]
    assert client.post("jobs", {**asked, "confirm": "true"}, 400)
    assert client.post("jobs", {**asked, "confirm": True}) == {"count": 5}
    assert Inspector(queue).count() == 1
    assert client.post("jobs", {"action": "run", "filter": {"state": "pending"}}, 400)  # no pending job can be run
    assert client.post("jobs", {"action": "archive", "filter": {"state": "pending"}, "confirm": True}) == {"count": 1}
    assert client.post("jobs", {"action": "run", "filter": {"state": "archived"}}) == {"count": 1}


def test_a_job_is_changed_as_the_command_does_it(queue, client):
    """Payload as JSON text, durations as people write them; or all of a filter."""
    info = queue.enqueue(Task("works", {"n": 1}))
    changes = {"payload": '{"n": 12345678901234567890123}', "queue": "low", "priority": 5, "process_in": "1h"}
    answer = client.post("jobs", {"action": "update", "ids": [info.id], "changes": changes})
    assert answer["changed"] == [{"id": info.id, "state": "scheduled"}]
    changed = queue.get(info.id)
    assert (changed.payload, changed.queue, changed.priority) == ({"n": 12345678901234567890123}, "low", 5)
    changes = {"deadline": "2090-01-01T00:00:00+00:00"}
    assert client.post("jobs", {"action": "update", "ids": [info.id], "changes": changes})
    assert client.post("jobs", {"action": "update", "ids": [info.id], "changes": {"deadline": None}})
    assert queue.get(info.id).deadline is None
    asked = {"action": "update", "filter": {"state": "scheduled"}, "changes": {"priority": 9}}
    assert client.post("jobs", asked, 400)
    assert client.post("jobs", {**asked, "confirm": True}) == {"count": 1}
    for wrong in ({"state": "active"}, {"process_in": "soon"}, {"payload": "{"}, {"deadline": "2090-01-01"}, []):
        assert client.post("jobs", {"action": "update", "ids": [info.id], "changes": wrong}, 400)
    for wrong in ({}, {"priority": "5"}):  # which Inspector refuses, for each job
        assert client.post("jobs", {"action": "update", "ids": [info.id], "changes": wrong})["refused"]


def test_queues_are_paused_resumed_and_deleted(queue, client):
    """One with jobs only by force, which has to be confirmed."""
    queue.enqueue(Task("works", {"n": 1}))
    assert client.post("queues", {"action": "pause", "queue": "default"}) == {"changed": True}
    assert client.get("overview")["queues"][0]["paused"] is True  # at once, whatever was kept
    assert client.post("queues", {"action": "resume", "queue": "default"}) == {"changed": True}
    delete = {"action": "delete", "queue": "default"}
    assert client.post("queues", delete, 409)["error"]["code"] == "queue_not_empty"
    assert client.post("queues", {**delete, "force": True}, 400)
    assert client.post("queues", {**delete, "force": True, "confirm": True}) == {"count": 1}
    assert client.post("queues", delete, 404)["error"]["code"] == "unknown_queue"


def test_schedules_are_paused_resumed_and_deleted(queue, client):
    """As `cron` does it."""
    testing.tick(queue, registry)
    assert client.post("schedules", {"action": "pause", "schedule": "daily"}) == {"changed": True}
    assert client.post("schedules", {"action": "resume", "schedule": "daily"}) == {"changed": True}
    assert client.post("schedules", {"action": "delete", "schedule": "daily"}) == {"changed": True}
    assert client.post("schedules", {"action": "delete", "schedule": "daily"}, 404)


@pytest.mark.parametrize(
    ("name", "body"),
    [("jobs", {}), ("jobs", {"action": "drop", "ids": ["x"]}), ("jobs", {"action": "run"}),
     ("jobs", {"action": "run", "ids": []}), ("jobs", {"action": "run", "filter": []}),
     ("jobs", {"action": "run", "ids": [1]}), ("jobs", {"action": "run", "ids": ["x"], "filter": {}}),
     ("jobs", {"action": "run", "ids": ["x"] * 1001}), ("jobs", {"action": "run", "filter": {}}),
     ("jobs", {"action": "run", "filter": {"state": "archived", "or": "1"}}), ("jobs", {"action": "__class__", "ids": ["x"]}),
     ("jobs", {"action": "run", "filter": {"state": "archived", "payload": 1}}), ("queues", {"action": "pause", "queue": 7}),
     ("queues", {"action": "pause", "queue": " "}), ("schedules", {"action": "run", "schedule": "x"}), ("jobs", [])],
)  # fmt: skip
def test_an_action_that_makes_no_sense_does_nothing(queue, client, name, body):
    """And is told so with 400, whatever is in it."""
    queue.enqueue(Task("works", {"n": 1}))
    assert client.post(name, body, 400)["error"]["message"]
    assert Inspector(queue).counts()[State.PENDING] == 1


def test_each_action_is_in_the_log_with_who_and_what(queue, caplog):
    """Also those that were refused; what a payload was changed to is not."""
    client = Client(queue)
    info = queue.enqueue(Task("works", {"n": 1}), process_in=60)
    caplog.set_level(logging.INFO, "fireforget.dashboard")
    client.post("jobs", {"action": "run", "ids": [info.id, "nobody"]})
    client.post("jobs", {"action": "archive", "filter": {"state": "pending"}, "confirm": True})
    client.post("jobs", {"action": "update", "ids": [info.id], "changes": {"payload": '"secret"'}})
    client.post("queues", {"action": "pause", "queue": "low"})
    records = [
        {
            name: value
            for name, value in vars(record).items()
            if name in ("action", "remote", "task_id", "queue", "changed", "filter", "change")
        }
        for record in caplog.records
    ]
    assert {record.pop("remote") for record in records} == {"192.0.2.7"}
    assert records == [
        {"action": "run", "task_id": info.id},
        {"action": "run", "task_id": "nobody"},
        {"action": "archive all", "filter": '{"state": "pending"}', "changed": 1},
        {"action": "update", "task_id": info.id, "change": "payload"},
        {"action": "pause queue", "queue": "low"},
    ]
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "INFO", "INFO", "INFO"]
    assert "secret" not in caplog.text


# --- what an attacker sends ---------------------------------------------------------------------------------------------

PAUSE = {"action": "pause", "queue": "default"}


def is_paused(queue):
    return any(stats.paused for stats in Inspector(queue).queues())


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "http://127.0.0.1:8787.evil.example"},
        {"origin": "http://127.0.0.1:8787@evil.example"},
        {"origin": "http://[evil"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"x_fireforget": None},
        {"content_type": "text/plain"},
        {"content_type": "application/x-www-form-urlencoded"},
        {"content_type": "multipart/form-data; boundary=application/json"},
        {"content_type": None},
    ],
    ids=str,
)
def test_a_page_of_another_site_cannot_act(queue, client, headers):
    """Neither with a form, nor with a script, nor from another port of this machine."""
    queue.enqueue(Task("works", {"n": 1}))
    sent = {"content_type": "application/json", "x_fireforget": "1", **headers}
    sent = {name: value for name, value in sent.items() if value is not None}
    status, answered, _ = client.ask("POST", "/api/v1/queues", json.dumps(PAUSE).encode(), **sent)
    assert status in (403, 415) and not is_paused(queue)
    assert not any(name.lower().startswith("access-control") for name in answered)


def test_no_other_site_is_ever_allowed_to_ask(client):
    """A preflight gets no leave, and a GET of another site no data."""
    status, headers, _ = client.ask(
        "OPTIONS", "/api/v1/queues", origin="http://evil.example", access_control_request_method="POST"
    )
    assert status == 405 and not any(name.lower().startswith("access-control") for name in headers)
    assert client.get("overview", 403, sec_fetch_site="cross-site")["error"]["code"] == "cross_site"


def test_nothing_is_changed_by_a_get(queue, client):
    """A link or a picture does nothing."""
    queue.enqueue(Task("works", {"n": 1}))
    client.get("overview")

    def written():
        return [(found.st_size, found.st_mtime_ns) for found in map(os.stat, (queue.path, f"{queue.path}-wal"))]

    before = written()
    for name in ("overview", "jobs", "jobs/count", "workers", "schedules", "groups", "samples", "history", "queues"):
        client.get(name)
    assert client.get("jobs?action=delete", 400)
    client.ask("GET", "/metrics")
    client.ask("GET", "/healthz")
    assert written() == before


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:8787", 200), ("localhost", 200), ("LOCALHOST:8787", 200), ("[::1]:8787", 200), ("10.0.0.7:80", 200),
        ("shop.localhost:8787", 200), ("evil.example", 421), ("evil.example:8787", 421), ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421), ("", 421), ("[evil.example]", 421), ("evil.example:127.0.0.1", 421), (None, 400),
    ],
)  # fmt: skip
def test_a_name_that_was_made_to_point_here_is_refused(client, host, expected):
    """DNS rebinding: the browser takes us for evil.example, and lets its script read what we answer."""
    for path in ("/", "/api/v1/overview", "/metrics"):
        assert client.ask("GET", path, host=host)[0] == expected
    assert client.ask("GET", "/healthz", host=host)[0] in (expected, 503 if expected == 200 else expected)


def test_names_that_were_given_are_allowed(queue):
    """As behind a proxy; the star leaves it to the application around."""
    assert Client(queue, hosts=["Jobs.example"]).ask("GET", "/", host="jobs.example:443")[0] == 200
    assert Client(queue, hosts=["jobs.example"]).ask("GET", "/", host="other.example")[0] == 421
    assert Client(queue, hosts=["*"]).ask("GET", "/", host="any.example")[0] == 200
    with pytest.raises(InvalidOption):
        dashboard.application(queue, hosts="jobs.example")


@pytest.mark.parametrize(
    "asked",
    [
        "/static/../wsgi.py", "/static/../../../../etc/passwd", "/static//etc/passwd", "//etc/passwd", "/etc/passwd", "/static/",
        "/static", "/static/app.js/", "/static/app.js\0", "/static/__init__.py", "/static/..\\wsgi.py", "/index.html", "/api/v1/",
        "/api/v1/../../static/app.js", "/api/v1/jobs/", "/\r\nSet-Cookie: x=1",
    ],
)  # fmt: skip
def test_no_path_leads_to_another_file(client, asked):
    """Only the listed files of the page are ever served; what was asked for is in no header of the answer."""
    status, headers, body = client.ask("GET", asked)
    assert status == 404 and b"root:" not in body and b"import" not in body
    assert not any(control in f"{name}{value}" for name, value in headers.items() for control in "\r\n")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE", "OPTIONS"])
def test_other_methods_are_refused_everywhere(client, method):
    """TRACE would repeat the cookie; nothing here is put or deleted by its path."""
    for path in ("/", "/static/app.js", "/api/v1/jobs", "/api/v1/overview", "/healthz", "/metrics"):
        status, headers, _ = client.ask(method, path, cookie="secret=1")
        assert status == 405 and "secret" not in str(headers)


NASTY = (
    "0", "-1", "1e999", "nan", "9" * 30, "\0", "x" * 20_000, "' OR 1=1 --", "%", "*", "[", "\\", "\u0663", "99999999999d", "-5m",
    "a-99999999999999999999-00000000", "=", "a=[1", f"a={'9' * 5000}", "\r\nX: y", "null", "\U0001f600" * 100, "::",
)  # fmt: skip


def test_no_value_of_a_query_is_a_mistake_of_the_dashboard(queue, client):
    """Whatever it is, it is answered, or refused with a reason."""
    queue.enqueue(Task("works", {"n": 1}), group="g")
    names = {
        "samples": ["since"], "history": ["minutes", "days", "queue", "type"], "job": ["id"], "job/text": ["id", "part"],
        "jobs": ["state", "queue", "type", "error", "group", "older_than", "newer_than", "payload", "limit", "after", "junk"],
        "schedules": ["times"], "schedule": ["name", "limit"], "groups": ["queue"],
    }  # fmt: skip
    for read, members in names.items():
        for member in members:
            for value in NASTY:
                status, _, body = client.ask("GET", f"/api/v1/{read}?{urlencode({member: value})}")
                assert status in (200, 400, 404), (read, member, value[:50], body)
        for raw in ("%ff%fe", "%", "id=%00", "&".join(f"a{n}=1" for n in range(60)), "state=pending&state=active"):
            assert client.ask("GET", f"/api/v1/{read}?{raw}")[0] in (200, 400, 404)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"action": "run", "ids": ["\\ud800"]}',
        "{}".encode("utf-16"),
    ],
    ids=lambda body: str(body[:20]),
)  # fmt: skip
def test_a_body_that_is_no_json_object_is_refused(client, body):
    """Nested without end, cut short, half of a character."""
    status, _, answer = client.ask("POST", "/api/v1/jobs", body, content_type="application/json", x_fireforget="1")
    assert (status, json.loads(answer)["error"]["code"]) == (400, "invalid")


def test_a_huge_body_is_refused_before_it_is_read(client):
    """By the application too, where another server reads for it."""
    sent = {"content_type": "application/json", "x_fireforget": "1", "CONTENT_LENGTH": str(2**40)}
    status, _, answer = client.ask("POST", "/api/v1/jobs", b"{}", **sent)
    assert (status, json.loads(answer)["error"]["code"]) == (413, "too_large")


def test_what_is_asked_for_makes_no_line_of_the_log(client):
    """A queue named after a log record stays a value of the record that names it."""
    client.post("queues", {"action": "pause", "queue": "x\n2030-01-01T00:00:00Z INFO dashboard action action=none"})
    record = logging.makeLogRecord({"msg": "dashboard action", "queue": "x\ny", "action": "pause queue", "remote": "\r\nz"})
    assert "\n" not in TextFormatter().format(record) and "\r" not in TextFormatter().format(record)


def test_what_a_job_carries_is_never_markup(queue, client):
    """No answer with a job's data is HTML, and the page's policy lets no script in."""
    info = queue.enqueue(Task(f"fails{SCRIPT}", {SCRIPT: SCRIPT}), queue=SCRIPT, task_id=f"id{SCRIPT}")
    for path in ("jobs", f"job?id={quote(info.id)}", f"job/text?id={quote(info.id)}", "overview", f"job?id={quote(SCRIPT)}"):
        _, headers, _ = client.ask("GET", f"/api/v1/{path}")
        assert headers["Content-Type"] == "application/json" and headers["X-Content-Type-Options"] == "nosniff"
    for path in ("/", "/static/app.js", "/api/v1/overview", "/nothing", f"/{quote(SCRIPT)}"):
        _, headers, body = client.ask("GET", path)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy
        assert headers["X-Frame-Options"] == "DENY" and "frame-ancestors 'none'" in policy
        assert b"alert(1)" not in body or headers["Content-Type"] == "application/json"
    assert client.ask("GET", "/metrics")[1]["Content-Type"].startswith("text/plain")


def test_the_page_asks_no_other_host_for_anything(client):
    """Everything comes from the package; nothing is inline; nothing makes markup of text."""
    for file in (ROOT / "fireforget" / "_dashboard" / "static").iterdir():
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), file.name
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|style=|onclick=\"", text
        ), file
        assert client.ask("GET", f"/static/{file.name}")[0] == 200


def test_the_page_is_in_the_package():
    """Whoever installs it gets it."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert {"fireforget", "fireforget._dashboard"} <= set(setuptools["packages"])
    patterns = setuptools["package-data"]["fireforget._dashboard"]
    files = [f"static/{file.name}" for file in (ROOT / "fireforget" / "_dashboard" / "static").iterdir()]
    assert "static/index.html" in files and all(any(fnmatch(file, pattern) for pattern in patterns) for file in files)


def test_a_read_only_dashboard_refuses_on_the_server(queue):
    """Every action, whatever the page shows."""
    info = queue.enqueue(Task("works", {"n": 1}))
    client = Client(queue, read_only=True)
    for name, body in (
        ("queues", PAUSE),
        ("jobs", {"action": "delete", "ids": [info.id]}),
        ("jobs", {"action": "delete", "filter": {"state": "pending"}, "confirm": True}),
        ("schedules", {"action": "pause", "schedule": "daily"}),
    ):
        assert client.post(name, body, 403)["error"]["code"] == "read_only"
    assert queue.get(info.id).state == "pending" and client.get("overview")["read_only"] is True


# --- the token ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(queue):
    return Client(queue, token=TOKEN)


def test_without_the_token_there_is_only_the_empty_page(queue, guarded):
    """No data, no metrics, no action; health says which check fails and nothing of it."""
    queue.enqueue(Task("secret:type"))
    for path in ("overview", "jobs", "workers", "job?id=x", "samples"):
        assert guarded.get(path, 401)["error"]["code"] == "no_token"
    assert guarded.ask("GET", "/metrics")[0] == 401
    assert guarded.post("queues", PAUSE, 401) and not is_paused(queue)
    assert guarded.ask("GET", "/")[0] == 200
    status, _, body = guarded.ask("GET", "/healthz")
    assert status == 503 and json.loads(body) == {"status": "failing", "problems": [{"check": "worker"}]}


@pytest.mark.parametrize(
    "shown",
    ["", "Bearer", "Bearer ", "Bearer x", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer é"],
)
def test_a_wrong_token_opens_nothing(guarded, shown):
    """Nor half of it."""
    guarded.get("overview", 401, authorization=shown)


def test_the_token_is_no_part_of_an_address(guarded):
    """Addresses are in logs and histories."""
    guarded.get(f"overview?token={quote(TOKEN)}", 401)
    guarded.get("overview", 401, cookie=f"token={TOKEN}")


def test_comparing_tells_nothing_of_the_token(guarded, monkeypatch):
    """Whatever is shown, digests of one length are compared, in constant time."""
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(guard.hmac, "compare_digest", lambda a, b: compared.append((len(a), len(b))) or real(a, b))
    for token in ("x", "x" * 5000, TOKEN, TOKEN[:-1]):
        guarded.ask("GET", "/api/v1/overview", authorization=f"Bearer {token}")
    assert compared == [(32, 32)] * 4


def test_the_token_opens_it_to_programs_and_a_session_to_browsers(queue, guarded):
    """The cookie is no token: it is signed, it expires, no script reads it, and no other site sends it."""
    assert guarded.get("overview", authorization=f"Bearer {TOKEN}")["protected"] is True
    assert guarded.post("session", {"token": "wrong"}, 401)
    assert guarded.post("session", {"token": 7}, 401)
    assert guarded.post("session", {"token": TOKEN}, 403, origin="http://evil.example")
    body = json.dumps({"token": TOKEN}).encode()
    _, headers, _ = guarded.ask("POST", "/api/v1/session", body, content_type="application/json", x_fireforget="1")
    cookie, *attributes = headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes) and TOKEN not in cookie
    assert guarded.get("overview", cookie=f"other=1; {cookie}")
    assert guarded.post("queues", PAUSE, cookie=cookie) == {"changed": True}
    name, _, value = cookie.partition("=")
    expires, _, signature = value.partition(".")
    for forged in (
        f"{int(expires) + 1}.{signature}",
        f"{expires}.{'0' * 64}",
        f"{expires}.",
        "",
        ".",
        "x.y",
        f"{expires}.{signature}é",
    ):
        guarded.get("overview", 401, cookie=f"{name}={forged}")
    assert Client(queue, token="another token").get("overview", 401, cookie=cookie)


def test_guessing_the_token_is_slow(guarded):
    """Twenty wrong ones a minute of one address; others are not held up."""
    for _ in range(20):
        guarded.get("overview", 401, authorization="Bearer guess")
    assert guarded.get("overview", 429, authorization="Bearer guess")["error"]["code"] == "too_many"
    assert guarded.get("overview", 429, authorization=f"Bearer {TOKEN}")  # or trying would go on
    assert guarded.get("overview", authorization=f"Bearer {TOKEN}", REMOTE_ADDR="192.0.2.8")


def test_a_blank_token_is_a_mistake(queue):
    """Not the wish for none."""
    for token in ("", "  ", 7):
        with pytest.raises(InvalidOption):
            dashboard.application(queue, token=token)


# --- mounted under a path -----------------------------------------------------------------------------------------------


def test_it_lives_under_a_path_of_another_application(queue):
    """Nothing of the page or its cookie leaves the path."""
    client = Client(queue, mount="/admin/jobs", token=TOKEN)
    status, headers, _ = client.ask("GET", "")
    assert (status, headers["Location"]) == (308, "/admin/jobs/")
    page = client.ask("GET", "/")[2].decode()
    assert not re.search(r'(?:href|src)="/', page)
    body = json.dumps({"token": TOKEN}).encode()
    _, headers, _ = client.ask("POST", "/api/v1/session", body, content_type="application/json", x_fireforget="1")
    assert "Path=/admin/jobs;" in headers["Set-Cookie"]


# --- health and metrics -------------------------------------------------------------------------------------------------


def test_health_is_200_while_a_worker_lives_and_503_with_the_reason_otherwise(queue, client, monkeypatch):
    """No worker; a queue that nobody serves; a file that cannot be read."""
    old = queue.enqueue(Task("works", {"n": 1}))
    status, _, body = client.ask("GET", "/healthz")
    assert status == 503 and json.loads(body)["problems"] == [{"check": "worker", "message": "no worker is running"}]
    with closing(SqliteQueue(queue.path, clock=lambda: time.time() + 3600)) as later:
        _, _, body = Client(later).ask("GET", "/healthz")
        assert "no running worker serves queue 'default'" in json.loads(body)["problems"][1]["message"]
        Inspector(later).pause_queue("default")
        assert len(json.loads(Client(later).ask("GET", "/healthz")[2])["problems"]) == 1
        Inspector(later).resume_queue("default")
    Inspector(queue).delete(old.id)
    with closing(SqliteQueue(queue.path)) as other, worker_of(other):
        assert Client(queue).ask("GET", "/healthz")[0] == 200
        assert [worker["alive"] for worker in Client(queue).get("workers")["workers"]] == [True]


def worker_of(queue):
    from fireforget import Worker

    return Worker(registry, queue, concurrency=1)


def test_a_file_that_cannot_be_read_is_said_to_be(queue, client):
    """By health, and by every view; it is looked at again."""
    reads = ("overview", "jobs", "jobs/count", "job?id=x", "workers", "schedules", "groups", "history", "samples", "queues")
    for read in reads[1:]:
        client.get(read, 404 if "id=" in read else 200)  # it is open by now
    os.rename(queue.path, queue.path + ".away")
    for read in reads:
        assert client.get(read, 503)["error"]["code"] == "store", read
    status, _, body = client.ask("GET", "/healthz")
    assert status == 503 and json.loads(body)["problems"][0]["check"] == "file"
    os.rename(queue.path + ".away", queue.path)
    assert Client(queue).get("overview")


def test_no_read_is_left_open(queue, client):
    """After each view the log can be written back as a whole: it keeps shrinking while somebody looks."""
    info = queue.enqueue(Task("works", {"n": 1}))
    with closing(sqlite3.connect(queue.path)) as worker:
        for read in ("overview", "jobs", "jobs/count?type=w", f"job?id={info.id}", "workers", "schedules", "groups", "history"):
            client.get(read)
            queue.enqueue(Task("works", {"n": 2}))
            assert worker.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0, read
            assert os.path.getsize(f"{queue.path}-wal") == 0


def test_metrics_have_the_queues_and_what_a_worker_has_counted(queue, tmp_path):
    """One exposition, each metric once; a file that is not there yet is no error."""
    queue.enqueue(Task("works", {"n": 1}), queue='lo"w')
    file = tmp_path / "worker.prom"
    client = Client(queue, metrics_file=file)
    text = client.ask("GET", "/metrics")[2].decode()
    assert 'fireforget_queue_size{queue="lo\\"w",state="pending"} 1' in text
    file.write_text(
        "# HELP job_processed_total Runs.\n# TYPE job_processed_total counter\n"
        'job_processed_total{task_type="works",queue="low",status="success"} 7\n'
        "# HELP fireforget_queue_size Old.\n# TYPE fireforget_queue_size gauge\n"
        'fireforget_queue_size{queue="low",state="pending"} 99\n'
    )
    text = client.ask("GET", "/metrics")[2].decode()
    assert 'status="success"} 7' in text and "99" not in text
    assert all(text.count(f"# TYPE {name} ") == 1 for name in re.findall(r"# TYPE (\S+)", text))


# --- one reading for all ------------------------------------------------------------------------------------------------


def test_many_who_look_cost_one_reading():
    """A hundred tabs read the file no more often than one; an error is kept for a moment too."""
    reads = []
    shared = Shared(lambda: reads.append(1) or len(reads))
    assert [shared.get() for _ in range(100)] == [1] * 100
    shared.spoil()
    assert shared.get() == 2

    def broken():
        reads.append(1)
        raise StoreUnavailable("x", "gone")

    failing = Shared(broken)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            failing.get()
    assert len(reads) == 3


def test_searches_through_all_jobs_leave_the_other_views_live(queue, client, monkeypatch):
    """Two at once; a third is told to try again."""
    running, go_on = threading.Barrier(3), threading.Event()

    def slow(*_, **__):
        running.wait(10)
        go_on.wait(10)
        return []

    monkeypatch.setattr(Inspector, "tasks", slow)
    monkeypatch.setattr(views, "_SEARCH_WAIT", 0.01)
    threads = [threading.Thread(target=client.get, args=("jobs?error=x",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    running.wait(10)
    assert client.get("jobs?error=y", 503)["error"]["code"] == "busy"
    go_on.set()
    for thread in threads:
        thread.join()


# --- the server ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(queue):
    with dashboard.Server(dashboard.application(queue), request_seconds=1.0, most_connections=40) as server:
        yield server


def send(server, raw):
    """Send bytes, and return all that comes until the connection ends."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(raw)
        found = b""
        while part := connection.recv(65536):
            found += part
    return found


def test_requests_follow_each_other_on_one_connection(server):
    """As browsers send them."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    with closing(connection):
        for _ in range(3):
            connection.request("GET", "/api/v1/overview")
            assert json.loads(connection.getresponse().read())["states"]
        connection.request("HEAD", "/")
        answer = connection.getresponse()
        assert answer.read() == b"" and int(answer.headers["Content-Length"]) > 100
        tag = answer.headers["ETag"]
        connection.request("GET", "/", headers={"If-None-Match": tag})
        assert connection.getresponse().status == 304


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nContent-Length: 9\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: +5\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n folded: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4, 4\r\n\r\nabcd", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0x4\r\n\r\nabcd", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: identity\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\x00.evil.example\r\n\r\n", 400),
        (b"GET /\x0b HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n: localhost\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: localhost\n\n\r\n\r\n", 400),
        (b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/2\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(server, raw, status):
    """Or is no request at all; and the connection ends."""
    assert send(server, raw).startswith(f"HTTP/1.1 {status} ".encode())


def test_what_follows_a_body_is_the_next_request_and_never_part_of_it(server):
    """Nor is a body a request: three answers to three, in their order."""
    inner = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    raw = b"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(inner), inner)
    last = b"GET /static/icon.svg HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert re.findall(rb"HTTP/1.1 (\d+) ", send(server, raw + raw + last)) == [b"403", b"403", b"200"]


def test_a_header_with_an_underscore_does_not_pass_for_one_with_a_hyphen(server, queue):
    """In WSGI both would be the same."""
    body = json.dumps(PAUSE)
    raw = (
        f"POST /api/v1/queues HTTP/1.1\r\nHost: localhost\r\nX_Fireforget: 1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    )
    assert b"no_action_header" in send(server, raw.encode()) and not is_paused(queue)


def test_connections_that_say_nothing_or_little_keep_nobody_out(server):
    """Nor do those that send a byte now and then, or never read: more than there may be, and it still answers at once."""
    silent = []
    try:
        for number in range(150):
            silent.append(socket.create_connection(("127.0.0.1", server.port), timeout=10))
            if number % 3:
                silent[-1].sendall(
                    b"GET / HTTP/1.1\r\nHost: loc"
                    if number % 3 == 1
                    else b"GET /static/app.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20
                )
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        with closing(connection):
            connection.request("GET", "/api/v1/overview")
            assert connection.getresponse().status == 200
        assert time.monotonic() - began < 5
        assert sum(thread.name.startswith("fireforget-dashboard") for thread in threading.enumerate()) <= 7
    finally:
        for connection in silent:
            connection.close()


def test_a_connection_that_is_too_slow_is_ended(queue):
    """After the time that a request may take."""
    with dashboard.Server(dashboard.application(queue), request_seconds=0.1) as server:
        assert send(server, b"POST /api/v1/queues HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{") == b""


def test_a_long_action_leaves_the_views_live(queue, monkeypatch):
    """It has threads of its own."""
    asked, go_on = threading.Event(), threading.Event()

    def slow(self, state, **_):
        asked.set()
        go_on.wait(10)
        return 0

    monkeypatch.setattr(Inspector, "delete_all", slow)
    with dashboard.Server(dashboard.application(queue)) as server:
        headers = {"X-Fireforget": "1", "Content-Type": "application/json"}
        body = json.dumps({"action": "delete", "filter": {"state": "pending"}, "confirm": True})
        acting = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=10) for _ in range(5)]
        for one in acting:
            one.request("POST", "/api/v1/jobs", body, headers)
        assert asked.wait(10)
        with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as looking:
            looking.request("GET", "/api/v1/overview")
            assert looking.getresponse().status == 200
        go_on.set()
        for one in acting:
            assert one.getresponse().status == 200
            one.close()


# --- the reference ------------------------------------------------------------------------------------------------------

REFERENCE = (ROOT / "docs" / "reference" / "dashboard.md").read_text(encoding="utf-8")


def rows(first_header):
    """Return the cells of the reference's table whose first column has this header."""
    text = REFERENCE.partition(f"\n| {first_header} |")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.split(" | ")] for line in text.splitlines()[2:]]


def words(cell):
    return set(re.findall(r"`(\w+)`", cell))


def test_the_reference_has_every_path_and_no_others(queue):
    """Both ways."""
    app = dashboard.application(queue)
    assert {row[0].strip("|` ") for row in rows("read")} == app._reads.keys()
    assert {row[0].strip("|` ") for row in rows("act")} == app._actions.keys()


def test_the_reference_has_every_member_and_no_others(queue, client):
    """Whoever reads the JSON with a program finds what the table names."""
    members = {row[0].strip("| "): words(row[1]) for row in rows("value")}
    failed = queue.enqueue(fails.task(text="no"))
    first = queue.enqueue(Task("first"))
    second = queue.enqueue(Task("second"), after=[first.id])
    drain(queue)
    queue.enqueue(Task("news", 1), group="reader")
    testing.tick(queue, registry)
    with worker_of(queue):
        overview = client.get("overview")
        (worker,) = client.get("workers")["workers"]
    now = datetime.now(UTC)
    children, death = [ChildInfo(7, now, None, [ChildJob("a", "t", "q", now)])], ChildDeath(now, 7, "SIGKILL")
    info = WorkerInfo("host:1:a", "host", 1, {}, 1, 1, now, 1, True, children, 1, death)
    (child,), death = shown.children(info), shown.worker(info)["last_child_death"]
    assert (child.keys(), death.keys()) == (members["child"], members["death"])
    assert child["jobs"][0].keys() == members["job of a child"]
    job, page = client.get("jobs?state=archived")["jobs"][0], client.get(f"job?id={failed.id}")
    (schedule,) = client.get("schedules")["schedules"]
    assert overview.keys() == members["overview"] | {"seconds"}
    assert overview["queues"][0].keys() == members["queue"] and overview["workers"][0].keys() == members["worker"]
    assert job.keys() == members["job"]
    assert client.get("history?hours=1")["points"][0].keys() == members["point"]
    assert page.keys() == members["job"] | members["more of a job"] | {"seconds"}
    assert page["attempts"][0].keys() == members["attempt"]
    (need,), (dependant,) = client.get(f"job?id={second.id}")["needs"], client.get(f"job?id={first.id}")["dependants"]
    assert (need["id"], need["state"], dependant["id"]) == (first.id, "pending", second.id)
    assert need.keys() == members["need"] and dependant.keys() == members["dependant"]
    assert worker.keys() == members["worker"] | members["more of a worker"]
    assert schedule.keys() == members["schedule"]
    assert client.get("groups")["groups"][0].keys() == members["group"]


def test_the_reference_says_which_metrics_need_the_file_of_a_worker(queue, client):
    """All others are there without one."""
    queue.enqueue(Task("works", {"n": 1}))
    always, with_file = [words(cells[1]) for cells in rows("where from")]
    assert set(re.findall(r"# TYPE (\S+)", client.ask("GET", "/metrics")[2].decode())) == always
    assert with_file == METRICS.keys() - always


def test_the_reference_has_every_code_of_an_error_and_no_others():
    """With its status."""
    documented = {(row[0].strip("| "), code) for row in rows("status") for code in words(row[1])}
    source = "".join(file.read_text() for file in (ROOT / "fireforget" / "_dashboard").glob("*.py"))
    found = re.findall(r'HTTPStatus\.([A-Z_]+),\s*"(\w+)"', source)
    assert documented == {(str(int(HTTPStatus[name])), code) for name, code in found}


# --- the command --------------------------------------------------------------------------------------------------------


def command(*words, **environment):
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    if "FIREFORGET_TOKEN" not in environment:
        surroundings.pop("FIREFORGET_TOKEN", None)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "fireforget", "dashboard", *words],
        env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_the_command_serves_until_it_is_told_to_stop(queue):
    """And says where, and that it misses the metrics file; an action is in its log."""
    process = command("--db", queue.path, "--port", "0", "--json", "--metrics-file", "nope.prom")
    try:
        url = json.loads(process.stdout.readline())["url"]
        port = int(url.rstrip("/").rpartition(":")[2])
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request(
                "POST", "/api/v1/queues", json.dumps(PAUSE), {"X-Fireforget": "1", "Content-Type": "application/json"}
            )
            assert connection.getresponse().status == 200
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=10)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert err.count("nope.prom: there is no such file yet") == err.count("nope.prom") == 1
    assert re.search(r'INFO dashboard action queue=default action="pause queue" remote=127\.0\.0\.1', err), err


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit of files to lower")
def test_a_thousand_connections_do_not_stop_it(queue):
    """Silent or slow, and four times as many as the process may have files: it answers, and has nothing to say in its log."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard < 4096 else max(soft, 4096), hard))
    program = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)); from fireforget.cli import main; main()"
    words = ["dashboard", "--db", queue.path, "--port", "0", "--json"]
    process = subprocess.Popen([sys.executable, "-c", program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    crowd = []
    try:
        port = int(json.loads(process.stdout.readline())["url"].rstrip("/").rpartition(":")[2])
        for number in range(1000):
            crowd.append(socket.create_connection(("127.0.0.1", port), timeout=10))
            crowd[-1].setblocking(False)
            if number % 2:
                crowd[-1].send(b"GET /healthz HTTP/1.1\r\nX: ")
        for path in ("/healthz", "/", "/static/app.js", "/api/v1/overview") * 3:
            for slow in crowd[1::2]:
                with suppress(OSError):
                    slow.send(b"x")
            began = time.monotonic()
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as asking:
                asking.request("GET", path)
                assert asking.getresponse().status == (503 if path == "/healthz" else 200)
            assert time.monotonic() - began < 3
    finally:
        process.terminate()
        _, err = process.communicate(timeout=10)
        for connection in crowd:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert err == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_beyond_loopback_it_refuses_to_start_without_a_token(queue, monkeypatch, capsys, host):
    """Whoever reaches the port could delete every job."""
    monkeypatch.delenv("FIREFORGET_TOKEN", raising=False)
    assert cli.main(["dashboard", "--db", queue.path, "--host", host, "--port", "0"]) == 2
    assert "FIREFORGET_TOKEN" in capsys.readouterr().err


def test_a_token_lets_it_listen_beyond_loopback_and_guards_it(queue):
    """Also on loopback, once it is set."""
    for host in ("0.0.0.0", "127.0.0.1"):
        process = command("--db", queue.path, "--host", host, "--port", "0", "--json", FIREFORGET_TOKEN=TOKEN)
        try:
            said = json.loads(process.stdout.readline())
            assert said["protected"] is True
            with closing(
                http.client.HTTPConnection("127.0.0.1", int(said["url"].rstrip("/").rpartition(":")[2]), timeout=10)
            ) as asking:
                asking.request("GET", "/api/v1/overview")
                answer = asking.getresponse()
                answer.read()
                assert answer.status == 401
                asking.request("GET", "/api/v1/overview", headers={"Authorization": f"Bearer {TOKEN}"})
                assert asking.getresponse().status == 200
        finally:
            process.terminate()
            process.communicate(timeout=10)


def test_what_cannot_be_served_is_said_in_one_line(queue, capsys, tmp_path):
    """No file, no such host, a port that is taken, a port that is none."""
    assert cli.main(["dashboard", "--db", str(tmp_path / "none.db")]) == 2
    assert cli.main(["dashboard", "--db", queue.path, "--host", "no.such.host.invalid"]) == 2
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = dashboard.Server(dashboard.application(queue), port=taken.getsockname()[1])
        with pytest.raises(OSError):
            server.start()
        server.close()
    with pytest.raises(SystemExit):
        cli.main(["dashboard", "--db", queue.path, "--port", "70000"])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith("fireforget: ") for line in lines)
