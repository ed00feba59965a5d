"""The running job as its handler sees it: `current_job()`."""

from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from fireforget import logs
from fireforget import payload as json_payload
from fireforget.clock import to_datetime
from fireforget.errors import FireforgetError, InvalidOption

MOST_NOTE = 4096
"""Characters of a progress note; what is longer is cut."""

Report = Callable[[str, Any], None]
"""Takes what a handler says while it runs: ("result", JSON text) or ("progress", (fraction, note))."""


class Job:
    """The job that a handler is running. Made by the worker; valid until the handler returns."""

    __slots__ = (
        "_cancelled",
        "_headers",
        "_headers_json",
        "_report",
        "_store",
        "_unix_deadline",
        "id",
        "max_retry",
        "pattern",
        "payload",
        "queue",
        "retry_count",
        "started_at",
        "timeout",
        "type",
        "wait",
    )

    id: str
    type: str
    queue: str
    payload: Any
    """The decoded payload."""
    retry_count: int
    """How many attempts have failed before this one; 0 in the first run."""
    max_retry: int
    timeout: float | None
    """Seconds of run time; None with a deadline alone."""
    pattern: str
    """The registered type or prefix that this job's type matched."""
    wait: float
    """Seconds from when it was due to when it started."""
    started_at: float
    """When this run began, in Unix seconds."""

    def __init__(
        self,
        id: str,
        type: str,
        queue: str,
        payload: Any,
        headers_json: str | None,
        retry_count: int,
        max_retry: int,
        timeout: float | None,
        unix_deadline: float | None,
        pattern: str,
        started_at: float,
        wait: float,
        report: Report,
        store: Callable[[], Any] | None = None,
    ) -> None:
        self.id = id
        self.type = type
        self.queue = queue
        self.payload = payload
        self._headers_json = headers_json
        self._headers: dict[str, str] | None = None
        self.retry_count = retry_count
        self.max_retry = max_retry
        self.timeout = timeout
        self._unix_deadline = unix_deadline
        self.pattern = pattern
        self.started_at = started_at
        self.wait = wait
        self._report = report
        self._store = store  # gives the queue that the job is stored in, opened when it is first asked for
        self._cancelled = False

    @property
    def headers(self) -> dict[str, str]:
        """The task's headers; what a foreign program stored that is not an object of text is empty here."""
        if self._headers is None:
            self._headers = _decode_headers(self._headers_json)
        return self._headers

    @property
    def deadline(self) -> datetime | None:
        """The instant after which the job must not run, in UTC; None without one."""
        return to_datetime(self._unix_deadline)

    @property
    def cancelled(self) -> bool:
        """Whether somebody has asked to cancel this job; a handler that works in pieces looks between them and stops."""
        return self._cancelled

    def write_result(self, value: Any) -> None:
        """Store a result while the job runs; a value that the handler returns replaces it.

        What is not JSON or above 1 MiB is stored as null, with a WARNING. It is written within a moment, and lost if the process
        is killed before.
        """
        text, note = json_payload.result_of(value)
        if note is not None:
            logs.result_not_kept(self.pattern, self.id, self.queue, note)
        self._report("result", text)

    def progress(self, fraction: float, note: str | None = None) -> None:
        """Say how far the job is: `fraction` from 0 to 1, and an optional note. Seen in `TaskInfo.progress`."""
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
            raise InvalidOption("fraction", fraction, "give a number from 0 to 1")
        if note is not None and not isinstance(note, str):
            raise InvalidOption("note", note, "give text")
        self._report("progress", (float(fraction), None if note is None else json_payload.storable(str(note)[:MOST_NOTE])))

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.type} in {self.queue}, attempt {self.retry_count + 1}>"


running: ContextVar[Job] = ContextVar("fireforget_job")
"""The job of this thread or coroutine; set by whoever runs handlers."""


def current_job() -> Job:
    """Return the job whose handler is running in this thread or coroutine; raises `FireforgetError` outside of one."""
    try:
        return running.get()
    except LookupError:
        raise FireforgetError(
            "current_job() works inside a handler that a worker runs: outside of one, pass what you need as arguments"
        ) from None


def _decode_headers(text: str | None) -> dict[str, str]:
    if text is None:
        return {}
    try:
        value = json_payload.decode(text)
    except (ValueError, TypeError, RecursionError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {key: member for key, member in value.items() if isinstance(member, str)}
