"""What a registry says of a schedule, and which ticks are to be enqueued at a given moment.

Nothing here knows of databases: `_pool.schedules` asks, inside a worker's transaction, and `testing.tick` in a test.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf, nextafter
from typing import Any, NamedTuple

from fireforget import cron
from fireforget import payload as json_payload
from fireforget._signatures import signature_of
from fireforget.errors import InvalidOption, InvalidPayload, InvalidTask, RegistrationError
from fireforget.task import DEFAULT_QUEUE, Task, is_name, merge_options

MISSED = ("run_once", "skip", "catch_up")
"""What may become of ticks that were missed."""
GRACE_SECONDS = 60.0
"""A tick that is enqueued later than this was missed."""
MOST_CAUGHT_UP = 1000
"""Missed ticks that are enqueued together, the last ones, where all are to be caught up."""
MOST_NAME = 200
NAME_HEADER = "fireforget-schedule"
TICK_HEADER = "fireforget-tick"


@dataclass(frozen=True)
class Periodic:
    """One schedule of a registry."""

    name: str
    schedule: cron.Schedule
    missed: str
    definition: Any
    """The handler (`registry.Definition`)."""
    payload: Any
    """A JSON value, or a function that returns one."""
    options: Mapping[str, Any]
    """Those of the handler, and of the schedule over them; checked."""
    takes_tick: bool
    """Whether the payload is a function that takes the tick."""
    digest: str = field(init=False)
    """Stands for all of this, for workers to compare."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", self._digest())

    @property
    def builds_payload(self) -> bool:
        """Whether the payload is a function; application code, which no supervisor runs."""
        return callable(self.payload)

    @property
    def type(self) -> str:
        """The type of the tasks."""
        pattern: str = self.definition.pattern
        return pattern

    @property
    def queue(self) -> str:
        """The queue that the tasks go to."""
        queue: str = self.options.get("queue", DEFAULT_QUEUE)
        return queue

    def task(self, tick: float) -> Task:
        """Return the task of a tick (Unix seconds). Raises `InvalidTask` for a payload that does not fit the handler, and
        whatever a payload function raises.
        """
        payload = self._build(tick) if self.builds_payload else self.payload
        task = _fitting(self.definition, payload)
        marks = {NAME_HEADER: json_payload.storable(self.name), TICK_HEADER: datetime.fromtimestamp(tick, UTC).isoformat()}
        headers = {**self.options.get("headers", {}), **marks}
        limited = {name: value for name, value in task.options.items() if name == "limit_key"}
        return Task._from_checked(self.type, task.payload_json, {**self.options, **limited, "headers": headers})

    def _build(self, tick: float) -> Any:
        return self.payload(self.schedule.local(tick)) if self.takes_tick else self.payload()

    def _digest(self) -> str:
        from hashlib import blake2b  # here, since importing it takes a producer 3 ms

        payload = f"function {getattr(self.payload, '__qualname__', '')}" if self.builds_payload else self.payload
        said = (self.schedule.expression, self.schedule.timezone, self.missed, self.type, payload, sorted(self.options.items()))
        return blake2b(repr(said).encode("utf-8", "backslashreplace"), digest_size=8).hexdigest()


def periodic_for(
    definition: Any,
    schedule: cron.Schedule,
    name: str,
    missed: str,
    payload: Any,
    overriding: Mapping[str, Any],
) -> Periodic:
    """Return a schedule whose every part was checked; raises `RegistrationError`, `InvalidOption` and `InvalidPayload`."""
    if missed not in MISSED:
        raise InvalidOption("missed", missed, "choose 'run_once', 'skip' or 'catch_up'")
    if not is_name(name) or len(name) > MOST_NAME:
        raise RegistrationError(f"schedule name {name!r}: give text that is not blank, of at most {MOST_NAME} characters, name=")
    if definition.pattern.endswith(":"):
        raise RegistrationError(f"schedule {name!r}: {definition.pattern!r} is a prefix, and a tick needs a full type")
    made = Periodic(
        name, schedule, missed, definition, payload, merge_options(definition.options, overriding), _takes_tick(name, payload)
    )
    if not made.builds_payload:
        try:
            made.task(0.0)
        except InvalidPayload:
            raise
        except InvalidTask as error:
            raise RegistrationError(f"schedule {name!r}: {error}; give what fits, payload=") from None
    return made


def _takes_tick(name: str, payload: Any) -> bool:
    if not callable(payload):
        return False
    if inspect.iscoroutinefunction(payload):
        raise RegistrationError(f"schedule {name!r}: payload={payload!r} is async, and must be a plain function or a JSON value")
    try:
        signature = signature_of(payload)
    except (TypeError, ValueError):  # some functions of C have none
        return False
    for arguments in ((None,), ()):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return bool(arguments)
    raise RegistrationError(f"schedule {name!r}: payload={payload!r} must take nothing, or the tick, and takes {signature}")


def _fitting(definition: Any, payload: Any) -> Task:
    """Return the handler's task with a payload; raises `InvalidTask` where it does not fit the handler."""
    if payload is None or isinstance(payload, dict):
        try:
            task: Task = definition.task(**(payload or {}))
        except InvalidTask:
            raise
        except TypeError as error:
            raise InvalidTask(str(error)) from None
        return task
    with_position: Task = definition._task_with(payload)
    return with_position


# --- which ticks ----------------------------------------------------------------------------------------------------------


class Due(NamedTuple):
    """What is to be done of a schedule at a moment; instants in Unix seconds."""

    ticks: list[float]
    """To be enqueued, in order."""
    next_at: float
    """The tick to wait for."""
    dropped: tuple[float, float] | None
    """The first and last of the missed ticks that are not enqueued."""


def due_ticks(schedule: cron.Schedule, missed: str, expected: float, now: float) -> Due:
    """Return which of the ticks from `expected` to `now` are to be enqueued.

    The last one, if it is not later than `GRACE_SECONDS`: those before it were missed, even if only just. Of the missed ones, by
    policy: none ("skip"), the last `MOST_CAUGHT_UP` ("catch_up"), or the last one, unless one that is in time runs anyway
    ("run_once"). So a schedule of short intervals does not make a burst of jobs of a short gap.
    """
    tick = schedule.last_until(now)
    ticks = []
    if tick >= expected and now - tick <= GRACE_SECONDS:
        ticks.append(tick)
        tick = schedule.last_until(nextafter(tick, -inf))
    most = {"skip": 0, "run_once": 0 if ticks else 1, "catch_up": MOST_CAUGHT_UP}[missed]
    while tick >= expected and most:
        ticks.append(tick)
        most -= 1
        tick = schedule.last_until(nextafter(tick, -inf))
    dropped = (schedule.next_after(nextafter(expected, -inf)), tick) if tick >= expected else None
    return Due(ticks[::-1], schedule.next_after(now), dropped)
