"""Ways of enqueuing that go beyond one call: fire and forget.

A pattern takes an `Enqueuer`, never a database, so it works with `SqliteQueue`, with the recording enqueuer of
`fireforget.testing`, and with any object that has an `enqueue` method.

Here is the face: arguments are checked in the caller's thread, where a mistake can be reported. What happens to a
submission afterwards, with the map of threads and locks, is in `fireforget/_submissions.py`:

    fire_and_forget --> the process's buffer --> a daemon thread --> enqueuer
    flush           --> waits until what was in the buffer is settled
"""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from fireforget import _submissions
from fireforget.clock import Seconds, to_seconds
from fireforget.enqueuer import Enqueuer
from fireforget.errors import InvalidOption
from fireforget.task import Task, check_call_options, check_task

DEFAULT_QUEUE = "low"
"""Where `fire_and_forget` sends what the call names no queue for."""
DEFAULT_WAIT = 5.0
"""Seconds that an enqueuer has to take a submission."""

_NO_OPTIONS: Mapping[str, Any] = {"queue": DEFAULT_QUEUE}


class SubmissionCounts(NamedTuple):
    """What became of this process's submissions since it started, or since it was forked.

    `submitted` is the sum of the others and of those that are on their way.
    """

    submitted: int
    """Calls of `fire_and_forget` that returned."""
    enqueued: int
    """Taken by the enqueuer in time."""
    failed: int
    """Refused by the enqueuer, or not answered in time."""
    dropped: int
    """Refused at once because the buffer was full."""


def fire_and_forget(
    enqueuer: Enqueuer,
    task: Task,
    *,
    logger: logging.Logger | None = None,
    timeout: Seconds | None = DEFAULT_WAIT,
    **options: Any,
) -> None:
    """Enqueue a task some time soon, without waiting for it and without hearing of failures.

    Returns at once, whatever the enqueuer does: locked, slow, full, closed or broken. Threads of this process call the
    enqueuer: `enqueue_many`, with up to 2,000 submissions of equal options that wait together, where it has that
    method; else one `enqueue` each, from up to 8 threads at once.

    * `logger` gets an ERROR record `fire-and-forget enqueue failed` (task_type, queue, error) or a DEBUG record
      `fire-and-forget task enqueued` (task_id, task_type, queue); None: the logger `fireforget.patterns`.
    * `timeout` is how long the enqueuer may take, in seconds from this call; None: 5 s. Then the submission counts as
      failed, though it may still arrive.
    * `options` are those of `enqueue`. The queue is `low` unless it is given here, whatever the task's own options say.

    A buffer that is full (see `configure`) drops the submission, logs that at most once a second, and counts it.

    Raises `InvalidTask`, `UnknownOption` or `InvalidOption` for what is wrong whatever the enqueuer says, and nothing
    else.

    Thread-safe. Leaving the interpreter waits for what is on its way, no longer than its timeouts, and logs what is
    lost (under Python 3.12, a first submission that comes as late as that finds no thread, and fails). A forked child
    starts with an empty buffer of its own. A process that ends by `os._exit` or is killed loses what it had not yet
    sent: where a task must not be lost, call `enqueue`, or `flush` before the end.
    """
    if type(task) is not Task:
        check_task(task)
    seconds = DEFAULT_WAIT if timeout is DEFAULT_WAIT else _to_wait(timeout)
    given = _to_options(options) if options else _NO_OPTIONS
    _submissions.buffer.submit(enqueuer, task, given, logger, seconds)


def _to_wait(timeout: Seconds | None) -> float:
    return DEFAULT_WAIT if timeout is None else to_seconds("timeout", timeout, above_minimum=True)


def _to_options(options: dict[str, Any]) -> dict[str, Any]:
    """Check the options of a call; return them as they were given, since the enqueuer converts them itself."""
    check_call_options(options)
    if options.get("queue") is None:
        options["queue"] = DEFAULT_QUEUE
    if options.get("headers") is not None:
        options["headers"] = dict(options["headers"])  # as with a payload, later changes are not seen
    return options


def flush(timeout: Seconds | None = None) -> int:
    """Wait for all that this process has submitted up to now and return how many did not arrive.

    `timeout` is how long to wait, in seconds, 0 for not at all; None: until each submission has arrived or its own
    timeout has passed. Counted are the submissions that failed or were dropped since the last flush, whether before
    or during this one, and those still on their way when `timeout` has passed. A failure is reported by one flush
    only; what was still on its way is reported again if it fails later. So 0 means: everything has arrived but for
    what earlier flushes have reported.

    Raises `InvalidOption` for a negative timeout. Thread-safe: what other threads submit meanwhile is not waited for. A
    forked child flushes what it has submitted itself.
    """
    return _submissions.buffer.flush(None if timeout is None else to_seconds("timeout", timeout))


def has_pending() -> bool:
    """Return whether any submission is on its way, so that a flush would have to wait. Costs an attribute read."""
    return _submissions.buffer.open > 0


def submission_counts() -> SubmissionCounts:
    """Return what became of this process's submissions. Thread-safe; a forked child counts from 0."""
    return SubmissionCounts(*_submissions.buffer.counts())


def configure(*, max_submissions: int | None = None, max_bytes: int | None = None) -> None:
    """Set how much this process may have on its way before further submissions are dropped.

    * `max_submissions`: 262,144 from the start; None leaves it as it is.
    * `max_bytes` of payload, as JSON text: 64 MiB from the start; None leaves it as it is.

    What waits already stays. Raises `InvalidOption` for what is not a whole number of 1 or more. Thread-safe; a child
    that is forked later has the same settings.
    """
    limits = {"max_submissions": max_submissions, "max_bytes": max_bytes}
    for name, value in limits.items():
        if value is not None and (type(value) is not int or value < 1):
            raise InvalidOption(name, value, "give a whole number of 1 or more")
    _submissions.buffer.limit(max_submissions, max_bytes)
