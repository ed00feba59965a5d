"""The running job as its handler sees it: `current_job()`."""

from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime
from typing import Any, cast

from fireforget import _context, logs
from fireforget import payload as json_payload
from fireforget.clock import to_datetime
from fireforget.errors import FireforgetError, Interruption, InvalidOption

MOST_NOTE = 4096
"""Characters of a progress note; what is longer is cut."""

PassHeaders = bool | frozenset[str]
"""Which of its headers a job passes on to the jobs that it enqueues: all, none, or those with these names."""

Report = Callable[[str, Any], None]
"""Takes what a handler says while it runs: ("result", JSON text) or ("progress", (fraction, note))."""


class Job:
    """The job that a handler is running. Made by the worker; valid until the handler returns."""

    __slots__ = (
        "_cancelled",
        "_definition",
        "_headers",
        "_headers_json",
        "_judged",
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

    _definition: object
    """Its handler's definition; whoever runs it sets this, unless there is none."""
    _judged: tuple[BaseException, bool]
    """What `is_failure` said of which error, once it was asked."""

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

    def _passed_headers(self) -> dict[str, str]:
        """Return the headers that jobs take over which this one enqueues; see `pass_headers` of the registry."""
        if self._headers_json is None:
            return {}
        passes: PassHeaders | None = getattr(getattr(self, "_definition", None), "pass_headers", None)
        if passes is None or passes is True:
            return self.headers
        return {name: text for name, text in self.headers.items() if passes and name in passes}

    def _fails_by(self, error: BaseException) -> bool:
        """Return whether the run has failed with this error, as the application's `is_failure` says; it is asked once."""
        hook = getattr(getattr(self, "_definition", None), "is_failure", None)
        if hook is None:
            return True
        judged: tuple[BaseException, bool] | None = getattr(self, "_judged", None)
        if judged is None or judged[0] is not error:
            judged = self._judged = (error, says_failure(hook, error, self.pattern, self.id))
        return judged[1]

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


running = cast("ContextVar[Job | None]", _context.running)
"""The job of this thread or coroutine; set by whoever runs handlers."""


def current_job() -> Job:
    """Return the job whose handler is running in this thread or coroutine; raises `FireforgetError` outside of one."""
    job = running.get()
    if job is None:
        raise FireforgetError(
            "current_job() works inside a handler that a worker runs: outside of one, pass what you need as arguments"
        )
    return job


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


def says_failure(hook: Callable[[BaseException], object], error: BaseException, task_type: str, task_id: str) -> bool:
    """Return whether an `is_failure` takes the error for a failure: anything but False does, and a hook that raises as well."""
    try:
        return hook(error) is not False
    except Interruption:
        raise
    except BaseException as failed:
        logs.hook_failed("is_failure", task_type, task_id, f"{type(failed).__name__}: {failed}")
        return True
