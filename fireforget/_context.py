"""What runs at this moment, as producers must know it: a job that is enqueued inside a handler takes over that job's headers.

It stands below everything, since the store asks it at each enqueue, and a producer outside of handlers must pay next to nothing.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Protocol


class Running(Protocol):
    """As much of `job.Job` as enqueuing needs."""

    def _passed_headers(self) -> Mapping[str, str]:
        """Return the headers that jobs enqueued by this one take over; empty for none."""


running: "ContextVar[Running | None]" = ContextVar("fireforget_job", default=None)
"""The job of this thread or coroutine; set by whoever runs handlers."""


def with_passed_headers(own: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """Return a new job's headers: those that the running job passes on, and over them its own; `own` outside of handlers."""
    job = running.get()
    if job is None or not (passed := job._passed_headers()):
        return own
    return {**passed, **own} if own else passed
