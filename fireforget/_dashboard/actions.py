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
from fireforget._dashboard.views import AGES, FILTERS, Views, filters_of, state_of
from fireforget._dashboard.web import Request, bad, refusal_of
from fireforget.errors import FireforgetError

_log = logging.getLogger("fireforget.dashboard")
_MOST_IDS = 1000
_JOB_ACTIONS = ("run", "archive", "cancel", "delete", "update")
_CONFIRMED = ("archive", "cancel", "delete", "update")


class Actions:
    """Answers requests that change something. Safe to share between threads."""

    def __init__(self, views: Views) -> None:
        self._views = views
        self._inspector = views.inspector

    def jobs(self, request: Request) -> dict[str, Any]:
        """Run, archive, cancel, delete or change: the jobs of `ids`, or all that match `filter`."""
        asked = request.json()
        action = _choice(asked, "action", _JOB_ACTIONS)
        if ("ids" in asked) == ("filter" in asked):
            raise bad("give either ids or filter")
        changes = _changes_of(asked.get("changes")) if action == "update" else {}
        if "ids" in asked:
            return self._each(request, action, _ids_of(asked), changes)
        return self._all(request, action, asked, changes)

    def _each(self, request: Request, action: str, ids: list[str], changes: dict[str, Any]) -> dict[str, Any]:
        operation: Callable[..., Any] = getattr(self._inspector, action)
        about = _about(changes)
        changed, refused = [], []
        with self._changing():
            for job_id in ids:
                try:
                    info = operation(job_id, **changes)
                except FireforgetError as error:
                    refusal = refusal_of(error)
                    assert refusal is not None
                    refused.append({"id": job_id, "code": refusal.code, "message": refusal.message})
                    self._note(request, action, task_id=job_id, **about, error=str(error))
                else:
                    changed.append({"id": job_id, "state": None if info is None else info.state.value})
                    self._note(request, action, task_id=job_id, **about)
        return {"changed": changed, "refused": refused}

    def _all(self, request: Request, action: str, asked: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
        wanted = asked["filter"]
        if not isinstance(wanted, dict):
            raise bad('filter is an object, such as {"state": "archived"}')
        unknown = wanted.keys() - {"state", "payload", *FILTERS, *AGES}
        if unknown:
            raise bad(f"there is no filter {min(unknown)!r}")
        state = state_of(wanted.get("state"))
        filters = filters_of(wanted)
        if action in _CONFIRMED and asked.get("confirm") is not True:
            raise bad('this changes many: say "confirm": true')
        about = {"filter": json.dumps(wanted, ensure_ascii=False), **_about(changes)}
        operation: Callable[..., int] = getattr(self._inspector, f"{action}_all")
        arguments = (state, changes) if action == "update" else (state,)
        count = self._do(request, f"{action} all", lambda: operation(*arguments, **filters), counted=True, **about)
        return {"count": count}

    def queues(self, request: Request) -> dict[str, Any]:
        """Pause, resume or delete a queue."""
        asked = request.json()
        action = _choice(asked, "action", ("pause", "resume", "delete"))
        name = _text(asked, "queue")
        if action == "delete":
            force = asked.get("force") is True
            if force and asked.get("confirm") is not True:
                raise bad('its jobs are deleted too: say "confirm": true')
            return {
                "count": self._do(
                    request, "delete queue", lambda: self._inspector.delete_queue(name, force=force), counted=True, queue=name
                )
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

    def _do(self, request: Request, action: str, operation: Callable[[], Any], *, counted: bool = False, **about: str) -> Any:
        with self._changing():
            try:
                done = operation()
            except FireforgetError as error:
                self._note(request, action, **about, error=str(error))
                raise
        self._note(request, action, **about, **({"changed": done} if counted else {}))
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


def _about(changes: dict[str, Any]) -> dict[str, str]:
    """Return for the log what is changed; not to what, since a payload may be private."""
    return {"change": ", ".join(sorted(changes))} if changes else {}


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
