"""The WSGI application: which path leads where, and what every answer says to the browser."""

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Iterable
from functools import cache
from http import HTTPStatus
from importlib import resources
from typing import TYPE_CHECKING, Any

from fireforget._dashboard import health
from fireforget._dashboard.actions import Actions
from fireforget._dashboard.guard import Guard
from fireforget._dashboard.views import Views
from fireforget._dashboard.web import Answer, Refusal, Request, json_answer, refusal_of
from fireforget.queue_sqlite import SqliteQueue

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

_log = logging.getLogger("fireforget.dashboard")

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

# Scripts and styles come from here alone, nothing from elsewhere, nothing inline, and no text ever becomes markup in a browser
# that knows trusted types. Nobody may frame the page: a click would be somebody else's.
_SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'none'; "
        "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Application:
    """The dashboard as a WSGI application; arguments as in `fireforget.dashboard.application`."""

    def __init__(
        self,
        queue: SqliteQueue,
        *,
        read_only: bool = False,
        token: str | None = None,
        hosts: Collection[str] = (),
        metrics_file: str | None = None,
    ) -> None:
        self._guard = Guard(token, hosts, read_only)
        self._views = views = Views(queue, read_only=read_only, protected=token is not None)
        self._metrics_file = metrics_file
        actions = Actions(views)
        self._reads: dict[str, Callable[[Request], Any]] = {
            "overview": views.overview,
            "samples": views.samples,
            "history": views.history,
            "queues": views.queues,
            "jobs": views.jobs,
            "jobs/count": views.count,
            "job": views.job,
            "job/text": views.text,
            "workers": views.workers,
            "schedules": views.schedules,
            "schedule": views.schedule,
            "groups": views.groups,
        }
        self._actions: dict[str, Callable[[Request], Any]] = {
            "jobs": actions.jobs,
            "queues": actions.queues,
            "schedules": actions.schedules,
        }
        self._sessions = {"POST": self._guard.begin_session, "DELETE": self._guard.end_session}

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer one request."""
        request = Request(environ)
        answer = self._answer(request)
        headers = {
            "Content-Type": answer.content_type,
            "Content-Length": str(len(answer.body)),
            "Cache-Control": "no-store",
            **_SECURITY,
            **answer.headers,
        }
        start_response(f"{answer.status.value} {answer.status.phrase}", list(headers.items()))
        return [b"" if request.method == "HEAD" else answer.body]

    def _answer(self, request: Request) -> Answer:
        try:
            self._guard.check_host(request)
            return self._route(request)
        except Exception as error:
            refusal = refusal_of(error)
            if refusal is None:
                _log.exception("dashboard request failed")
                refusal = Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "a mistake of the dashboard: see its log")
        return json_answer({"error": {"code": refusal.code, "message": refusal.message}}, refusal.status, refusal.headers)

    def _route(self, request: Request) -> Answer:
        path = request.path
        if path == "":
            _check_method(request, "GET", "HEAD")
            return Answer(b"", "text/plain", HTTPStatus.PERMANENT_REDIRECT, {"Location": f"{request.mount}/"})
        if path.startswith("/api/v1/"):
            return self._api(request, path.removeprefix("/api/v1/"))
        _check_method(request, "GET", "HEAD")
        if path == "/healthz":
            return health.healthz(self._views, known=self._guard.is_known(request))
        if path == "/metrics":
            self._guard.check_token(request)
            return health.metrics(self._views, self._metrics_file)
        return _file(request, "index.html" if path == "/" else path.removeprefix("/static/"))

    def _api(self, request: Request, name: str) -> Answer:
        if name == "session":
            _check_method(request, *self._sessions)
            self._guard.check_action(request)
            return self._sessions[request.method](request)
        if name not in self._reads and name not in self._actions:
            raise _not_found(request)
        _check_method(request, *(["GET", "HEAD"] if name in self._reads else []), *(["POST"] if name in self._actions else []))
        if request.method != "POST":
            self._guard.check_site(request)
            self._guard.check_token(request)
            self._views.check_file()
            began = time.thread_time()
            value = self._reads[name](request)
            return value if isinstance(value, Answer) else json_answer({"seconds": round(time.thread_time() - began, 4), **value})
        self._guard.check_action(request)
        self._guard.check_token(request)
        self._guard.check_writable()
        return json_answer(self._actions[name](request))


def _check_method(request: Request, *allowed: str) -> None:
    if request.method not in allowed:
        raise Refusal(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "wrong_method",
            f"{request.method[:20]} is not for this path",
            {"Allow": ", ".join(allowed)},
        )


def _not_found(request: Request) -> Refusal:
    return Refusal(HTTPStatus.NOT_FOUND, "not_found", f"there is nothing at {request.path[:200]!r}")


# --- the page -----------------------------------------------------------------------------------------------------------


@cache
def _files() -> dict[str, tuple[bytes, str, str]]:
    """Return the content, type and tag of each file of the page. Only what is listed here is ever served."""
    found = {}
    for file in (resources.files("fireforget._dashboard") / "static").iterdir():
        kind = _TYPES.get(file.name.rpartition(".")[2])
        if kind is not None:
            content = file.read_bytes()
            found[file.name] = content, kind, f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    return found


def _file(request: Request, name: str) -> Answer:
    if name not in _files():
        raise _not_found(request)
    content, kind, tag = _files()[name]
    headers = {"Cache-Control": "no-cache", "ETag": tag}
    if request.header("If-None-Match") == tag:
        return Answer(b"", kind, HTTPStatus.NOT_MODIFIED, headers)
    return Answer(content, kind, headers=headers)
