"""What the dashboard does to a queue: the operations of `Inspector`, each written to the log with who asked and what for.

An operation on one job, on several by their ids, or on all that a filter finds. What destroys many is done only where the request
says `"confirm": true`: the page has asked before it sends that, and a slip of a script does nothing.
"""

import json
import logging
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from fireforget._cli_common import an_instant
from fireforget._cli_parser import a_duration
from fireforget._dashboard.views import Views, filters_of, state_of
from fireforget._dashboard.web import Request, bad, refusal_of
from fireforget.errors import FireforgetError

_log = logging.getLogger("fireforget.dashboard")
_MOST_IDS = 1000
_JOB_ACTIONS = ("run", "archive", "cancel", "delete")
_CONFIRMED = ("archive", "cancel", "delete")


class Actions:
    """Answers requests that change something. Safe to share between threads."""

    def __init__(self, views: Views) -> None:
        self._views = views
        self._inspector = views.inspector

    def jobs(self, request: Request) -> dict[str, Any]:
        """Run, archive, cancel or delete: the jobs of `ids`, or all that match `filter`."""
        asked = request.json()
        action = _choice(asked, "action", _JOB_ACTIONS)
        if ("ids" in asked) == ("filter" in asked):
            raise bad("give either ids or filter")
        if "ids" in asked:
            return self._each(request, action, _ids_of(asked))
        return self._all(request, action, asked)

    def _each(self, request: Request, action: str, ids: list[str]) -> dict[str, Any]:
        operation: Callable[[str], Any] = getattr(self._inspector, action)
        changed, refused = [], []
        with self._changing():
            for job_id in ids:
                try:
                    info = operation(job_id)
                except FireforgetError as error:
                    refusal = refusal_of(error)
                    assert refusal is not None
                    refused.append({"id": job_id, "code": refusal.code, "message": refusal.message})
                    self._note(request, action, task_id=job_id, error=str(error))
                else:
                    changed.append({"id": job_id, "state": None if info is None else info.state.value})
                    self._note(request, action, task_id=job_id)
        return {"changed": changed, "refused": refused}

    def _all(self, request: Request, action: str, asked: dict[str, Any]) -> dict[str, Any]:
        wanted = asked["filter"]
        if not isinstance(wanted, dict):
            raise bad('filter is an object, such as {"state": "archived"}')
        unknown = wanted.keys() - {"state", "queue", "type", "error", "group", "older_than", "payload"}
        if unknown:
            raise bad(f"there is no filter {min(unknown)!r}")
        state = state_of(wanted.get("state"))
        filters = filters_of(wanted)
        if action in _CONFIRMED:
            _check_confirmed(asked)
        shown = json.dumps(wanted, ensure_ascii=False)
        with self._changing():
            try:
                count = getattr(self._inspector, f"{action}_all")(state, **filters)
            except FireforgetError as error:
                self._note(request, f"{action} all", filter=shown, error=str(error))
                raise
        self._note(request, f"{action} all", filter=shown, changed=count)
        return {"count": count}

    def update(self, request: Request) -> dict[str, Any]:
        """Change a job: payload, queue, priority, when it is due, deadline."""
        asked = request.json()
        job_id = _text(asked, "id")
        changes = _changes_of(asked.get("changes"))
        with self._changing():
            try:
                info = self._inspector.update(job_id, **changes)
            except FireforgetError as error:
                self._note(request, "update", task_id=job_id, error=str(error))
                raise
        self._note(request, "update", task_id=job_id, filter=", ".join(sorted(changes)))
        return {"id": info.id, "state": info.state.value}

    def queues(self, request: Request) -> dict[str, Any]:
        """Pause, resume or delete a queue."""
        asked = request.json()
        action = _choice(asked, "action", ("pause", "resume", "delete"))
        name = _text(asked, "queue")
        if action == "delete":
            force = asked.get("force") is True
            if force:
                _check_confirmed(asked)
            return {
                "count": self._do(request, "delete queue", lambda: self._inspector.delete_queue(name, force=force), queue=name)
            }
        operation = self._inspector.pause_queue if action == "pause" else self._inspector.resume_queue
        return {"changed": self._do(request, f"{action} queue", lambda: operation(name), queue=name)}

    def schedules(self, request: Request) -> dict[str, Any]:
        """Pause, resume or delete a schedule."""
        asked = request.json()
        action = _choice(asked, "action", ("pause", "resume", "delete"))
        name = _text(asked, "schedule")
        operation: Callable[[str], bool | None] = getattr(self._inspector, f"{action}_schedule")
        changed = self._do(request, f"{action} schedule", lambda: operation(name), schedule=name)
        return {"changed": changed is not False}

    def _do(self, request: Request, action: str, operation: Callable[[], Any], **about: str) -> Any:
        with self._changing():
            try:
                done = operation()
            except FireforgetError as error:
                self._note(request, action, **about, error=str(error))
                raise
        self._note(request, action, **about)
        return done

    @contextmanager
    def _changing(self) -> Any:
        """Have the views read anew, whether all of it succeeded or not."""
        try:
            yield
        finally:
            self._views.shared.spoil()

    @staticmethod
    def _note(request: Request, action: str, **fields: Any) -> None:
        """Write to the log who has asked for what, and what became of it."""
        level = logging.WARNING if "error" in fields else logging.INFO
        message = "dashboard action refused" if "error" in fields else "dashboard action"
        _log.log(level, message, extra={"action": action, "remote": request.remote, **fields})


def _choice(asked: dict[str, Any], name: str, choices: tuple[str, ...]) -> str:
    value = asked.get(name)
    if value not in choices:
        raise bad(f"{name} is one of {', '.join(choices)}")
    return str(value)


def _text(asked: dict[str, Any], name: str) -> str:
    value = asked.get(name)
    if not isinstance(value, str) or not value:
        raise bad(f"{name} is text that is not empty")
    return value


def _ids_of(asked: dict[str, Any]) -> list[str]:
    ids = asked["ids"]
    if not isinstance(ids, list) or not ids or len(ids) > _MOST_IDS or not all(isinstance(one, str) and one for one in ids):
        raise bad(f"ids is an array of 1 to {_MOST_IDS} ids")
    return list(dict.fromkeys(ids))


def _check_confirmed(asked: dict[str, Any]) -> None:
    if asked.get("confirm") is not True:
        raise bad('this destroys many: say "confirm": true')


def _changes_of(asked: Any) -> dict[str, Any]:
    """Return the arguments of `Inspector.update`; durations, instants and the payload are text, as on the command line."""
    if not isinstance(asked, dict):
        raise bad('changes is an object, such as {"priority": 5}')
    unknown = asked.keys() - {"payload", "queue", "priority", "process_in", "process_at", "deadline"}
    if unknown:
        raise bad(f"{min(unknown)!r} cannot be changed")
    changes = dict(asked)
    for name, read in (("process_in", a_duration), ("process_at", an_instant), ("deadline", an_instant), ("payload", _json_text)):
        if name not in changes or (name == "deadline" and changes[name] is None):
            continue
        changes[name] = read(_text(changes, name))
    return changes


def _json_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise bad(f"payload is JSON text: {error}") from None
