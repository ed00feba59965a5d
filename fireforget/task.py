"""Tasks, their options, and what is known of a stored job.

A `Task` is what a program hands over: a type, a payload, options. A job is that task as stored, and `TaskInfo` is a snapshot
of one. Every option is checked here and nowhere else, so a mistake is reported where it was written.
"""

from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from fireforget import payload as json_payload
from fireforget.clock import to_seconds, to_unix
from fireforget.errors import InvalidOption, InvalidTask, UnknownOption, shortened
from fireforget.payload import storable

DEFAULT_QUEUE = "default"
DEFAULT_MAX_RETRY = 25
DEFAULT_TIMEOUT = 1800.0
"""Seconds of run time where neither a timeout nor a deadline is given (asynq's 30 minutes)."""

_LARGEST_INTEGER = 2**63 - 1  # SQLite's INTEGER
_LONGEST_NAME = 512


class State(StrEnum):
    """Where a job stands."""

    SCHEDULED = "scheduled"
    """Not due yet. `enqueue` with a delay puts it here; a worker moves it to pending when its time has come."""
    PENDING = "pending"
    """Due, waiting for a worker with a handler for its type. A worker claims it into active."""
    ACTIVE = "active"
    """Owned by a worker: running, or about to. It leaves by its outcome, or goes back to pending when it was interrupted."""
    RETRY = "retry"
    """Failed, and waiting for the next attempt. A worker moves it to pending when its time has come."""
    COMPLETED = "completed"
    """Succeeded and kept for its retention. Without retention a job that succeeds is removed."""
    ARCHIVED = "archived"
    """The dead letters: failed for good. Only a person takes it out, by running or deleting it."""
    AGGREGATING = "aggregating"
    """Waiting in a group for others, to be handed over as one task."""
    BLOCKED = "blocked"
    """Waiting for other jobs to complete."""
    CANCELLED = "cancelled"
    """Cancelled before or while it ran; it never runs again by itself."""


# --- options ----------------------------------------------------------------------------------------------------------


def is_name(value: object) -> bool:
    """Return whether this can name a type, a queue, a job or a key: text that is not blank, not too long, and fits into UTF-8."""
    if not isinstance(value, str) or not value.strip() or len(value) > _LONGEST_NAME or "\0" in value:
        return False
    return value.isascii() or storable(value) == value


def _name(option: str, value: object) -> str:
    if not is_name(value):
        raise InvalidOption(option, value, f"give text that is not blank, of at most {_LONGEST_NAME} characters")
    return str.__str__(value)


def _integer(minimum: int) -> Callable[[str, object], int]:
    def check(option: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidOption(option, value, "give a whole number")
        if value < minimum:
            raise InvalidOption(option, value, f"it must be at least {minimum}")
        if value > _LARGEST_INTEGER:
            raise InvalidOption(option, value, f"it must be at most {_LARGEST_INTEGER}")
        return value

    return check


def _duration(option: str, value: object) -> float:
    return to_seconds(option, value)


def _duration_above_0(option: str, value: object) -> float:
    return to_seconds(option, value, above_minimum=True)


def _headers(option: str, value: object) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()):
        raise InvalidOption(option, value, "give a mapping from text to text")
    return dict(value)


def _after(option: str, value: object) -> "tuple[str | Task, ...]":
    remedy = "give a list of ids or TaskInfos, or of tasks of the same enqueue_many"
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise InvalidOption(option, value, remedy)
    needs: list[str | Task] = []
    for need in value:
        if isinstance(need, Task):
            needs.append(need)
        elif isinstance(need, TaskInfo):
            needs.append(need.id)
        elif is_name(need):
            needs.append(str.__str__(need))
        else:
            raise InvalidOption(option, need, remedy)
    return tuple(needs)


def _after_failure(option: str, value: object) -> str:
    if value not in ("end", "run"):
        raise InvalidOption(option, value, 'choose "end", to end like the job that failed, or "run", to run all the same')
    return str(value)


_CHECKS: dict[str, Callable[[str, object], Any]] = {
    "queue": _name,
    "priority": _integer(-_LARGEST_INTEGER),
    "max_retry": _integer(0),
    "timeout": _duration_above_0,
    "deadline": to_unix,
    "process_in": _duration,
    "process_at": to_unix,
    "task_id": _name,
    "unique_for": _duration_above_0,
    "unique_key": _name,
    "retention": _duration,
    "group": _name,
    "after": _after,
    "after_failure": _after_failure,
    "headers": _headers,
}

CALL_OPTIONS = frozenset(_CHECKS) - {"timeout"} | {"run_timeout"}
"""Options of a call of `enqueue`, where `timeout` is how long the call may wait."""

HANDLER_OPTIONS = frozenset(_CHECKS) - {"task_id", "deadline", "process_at", "after"}
"""Options that make sense as a handler's defaults: those that do not name one job or one instant."""


def check_options(options: Mapping[str, Any], allowed: frozenset[str] | None = None) -> dict[str, Any]:
    """Return the options in the store's terms: durations in seconds, instants in Unix seconds.

    None as a value means "as if not given". Raises `UnknownOption` and `InvalidOption`.
    """
    checked = {}
    for option, value in options.items():
        check = _CHECKS.get(option)
        if check is None or (allowed is not None and option not in allowed):
            raise _unknown(option, frozenset(_CHECKS) if allowed is None else allowed, "the options")
        if value is not None:
            checked[option] = check(option, value)
    if "process_in" in checked and "process_at" in checked:
        raise InvalidOption("process_at", options["process_at"], "give either process_in or process_at, not both")
    return checked


_FOREIGN = {"retries": "max_retry", "delay": "process_in", "countdown": "process_in", "eta": "process_at", "depends_on": "after"}
"""Options as other queues call them."""


def _unknown(option: str, allowed: frozenset[str], what: str) -> UnknownOption:
    """Return the error for an option that is not among those allowed, with the one that was most likely meant."""
    run_time = "run_timeout" if "run_timeout" in allowed else "timeout"
    if option in ("timeout", "run_timeout"):
        hint = f"here it is called {run_time}"
    else:
        meant = run_time if option == "time_limit" else _FOREIGN.get(option, option)
        if meant in _CHECKS and meant not in allowed:
            hint = f"give {meant} with each task, as it is not the same for all"
        else:
            from difflib import get_close_matches

            near = [meant] if meant in allowed else get_close_matches(meant, sorted(allowed), n=1)
            hint = f"did you mean {near[0]}?" if near else ""
    listed = f"{what} are {', '.join(sorted(allowed))}"
    return UnknownOption(option, f"{hint} ({listed})" if hint else listed)


def check_unique(options: Mapping[str, Any]) -> None:
    """Raise `InvalidOption` for a unique_key without a unique_for; asked when all options of a job are together."""
    if "unique_key" in options and "unique_for" not in options:
        raise InvalidOption("unique_key", options["unique_key"], "say for how long with unique_for")


def check_call_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a call of `enqueue`, where the run time is called `run_timeout`.

    `timeout` at a call is how long the call may wait; a Task and a handler call the run time `timeout`. Raises as
    `check_options` does.
    """
    if not options:
        return {}
    renamed = dict(options)
    unknown = next((option for option in options if option not in CALL_OPTIONS), None)
    if unknown is not None:
        raise _unknown(unknown, CALL_OPTIONS, "the options of a call")
    if "run_timeout" in renamed:
        value = renamed.pop("run_timeout")
        if value is not None:
            renamed["timeout"] = to_seconds("run_timeout", value, above_minimum=True)
    return check_options(renamed)


def merge_options(defaults: Mapping[str, Any], overriding: Mapping[str, Any]) -> dict[str, Any]:
    """Return checked options where `overriding` wins; an overriding delay replaces the other kind of delay too."""
    merged = {**defaults, **overriding}
    if "process_in" in overriding:
        merged.pop("process_at", None)
    elif "process_at" in overriding:
        merged.pop("process_in", None)
    return merged


# --- task -------------------------------------------------------------------------------------------------------------


class Task:
    """One piece of work to hand over: a type, a JSON payload, and options.

    `type` names the handler, by convention `domain:action`. `payload` is any JSON value; an object's members become the
    handler's keyword arguments, None means no arguments, anything else is its single positional argument. It is encoded at
    once: later changes to the object are not seen. `options` are those of the table in the README; here `timeout` is the job's
    run time in seconds.

    A task is immutable and may be enqueued more than once and from any thread. Raises `InvalidTask` for a blank type,
    `InvalidPayload` for what is not JSON, `UnknownOption` and `InvalidOption` for the options.
    """

    __slots__ = ("options", "payload_json", "type")

    type: str
    payload_json: str | None
    """The payload as JSON text; None is null."""
    options: Mapping[str, Any]
    """The checked options: durations in seconds, instants in Unix seconds."""

    def __init__(self, type: str, payload: Any = None, **options: Any) -> None:
        set_attribute = object.__setattr__
        set_attribute(self, "type", check_type(type))
        set_attribute(self, "payload_json", None if payload is None else json_payload.encode(payload))
        set_attribute(self, "options", check_options(options) if options else {})
        check_unique(self.options)

    @classmethod
    def _from_checked(cls, type: str, payload_json: str | None, options: Mapping[str, Any]) -> "Task":
        """Make a task of parts that were checked before; for definitions, which check once and make many."""
        task = cls.__new__(cls)
        set_attribute = object.__setattr__
        set_attribute(task, "type", type)
        set_attribute(task, "payload_json", payload_json)
        set_attribute(task, "options", options)
        return task

    def with_options(self, **options: Any) -> "Task":
        """Return the same task with other options: those given here override its own.

        For what is not the same for all tasks of a handler, where several are enqueued together: `after`, say. Raises
        `UnknownOption` and `InvalidOption`.
        """
        merged = merge_options(self.options, check_options(options))
        check_unique(merged)
        return Task._from_checked(self.type, self.payload_json, merged)

    @property
    def payload(self) -> Any:
        """A fresh copy of the payload."""
        return json_payload.decode(self.payload_json)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Task is immutable: make a new one, with another {name}")

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Task):
            return NotImplemented
        return (self.type, self.payload_json, self.options) == (other.type, other.payload_json, other.options)

    def __hash__(self) -> int:
        return hash((self.type, self.payload_json))

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"Task({self.type!r}, {self.payload!r}{options})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Task._from_checked, (self.type, self.payload_json, self.options)


def check_tasks(tasks: Iterable[Task]) -> list[Task]:
    """Return several tasks as a list; raises `InvalidTask` for a single one, and for what has no members."""
    if isinstance(tasks, Iterable):
        return list(tasks)
    raise InvalidTask(f"{shortened(tasks)} is no list of tasks: give several, such as [task], or enqueue it by itself")


def check_type(type: object) -> str:
    """Return a task type that may be stored; raises `InvalidTask` for a blank one or what is not text."""
    if not is_name(type):
        raise InvalidTask(
            f"the task type {shortened(type)} cannot be used: give text such as 'email:send', not blank, of at most "
            f"{_LONGEST_NAME} characters"
        )
    return str.__str__(type)  # a plain str, also of a StrEnum: it travels between processes


def check_task(task: object) -> Task:
    """Return `task` if it is one; raises `InvalidTask` with the likely mistake otherwise."""
    if isinstance(task, Task):
        return task
    if callable(getattr(task, "task", None)):
        raise InvalidTask(f"{task!r} is a handler, not a task: call its .task(...) with the arguments")
    if getattr(task, "__name__", None) == "task" and hasattr(task, "__self__"):
        raise InvalidTask(f"{task!r} is the method that makes a task, not a task: call it with the arguments, handler.task(...)")
    if task is None or isinstance(task, Coroutine):
        raise InvalidTask(f"{task!r} is not a Task: did you call the handler itself? Use handler.task(...)")
    raise InvalidTask(f"{task!r} is not a Task: make one with Task(type, payload) or handler.task(...)")


# --- what is known of a job ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Progress:
    """What a running handler last said of itself."""

    fraction: float
    """From 0 to 1."""
    note: str | None = None


@dataclass(frozen=True)
class TaskInfo:
    """A snapshot of one job; it does not follow the job. Instants are aware datetimes in UTC."""

    id: str
    type: str
    queue: str
    state: State
    payload: Any
    """The decoded payload; what a foreign program stored that is not JSON is here as its text."""
    headers: Mapping[str, str]
    priority: int
    """Higher runs first inside a queue."""
    retry_count: int
    """How many times it was given another attempt after a failed one; 0 in its first run."""
    max_retry: int
    timeout: float | None
    """Seconds of run time; None with a deadline alone."""
    deadline: datetime | None
    last_error: str | None
    enqueued_at: datetime
    next_process_at: datetime | None
    """When it is due: set while scheduled, pending or in retry."""
    started_at: datetime | None
    """When the last run began."""
    completed_at: datetime | None
    """When it completed, was archived or cancelled."""
    result: Any
    """What the handler returned, or wrote while running."""
    progress: Progress | None
    group: str | None
    worker: str | None
    """The id of the worker that owns it while active."""

    @classmethod
    def _when_read(cls, fields: Callable[..., dict[str, Any]], *arguments: Any) -> "TaskInfo":
        """Make one whose fields are put together when the first of them is read.

        Every enqueue returns one and few callers read more than its id: decoding payloads and instants for nobody would be half
        of the cost of `enqueue_many`.
        """
        info = object.__new__(cls)
        info.__dict__["_unread"] = (fields, arguments)
        return info

    def __getattr__(self, name: str) -> Any:
        """Put the fields together; called for what is not there yet, so once."""
        unread = self.__dict__.pop("_unread", None)
        if unread is None:
            raise AttributeError(f"TaskInfo has no {name!r}")
        fields, arguments = unread
        self.__dict__.update(fields(*arguments))
        return getattr(self, name)

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields, for `copy` and `pickle`."""
        return {"id": self.id, **self.__dict__}
