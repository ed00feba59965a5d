"""What wraps every job: recovery, tracing, metrics, logging, in this order, and whatever an application adds.

A middleware is a function of the job and of what it wraps::

    def middleware(job, call_next):
        ...                     # before
        result = call_next()    # the rest of the chain, and at last the handler; raises what they raise
        ...                     # after
        return result

It must let pass, or raise, for a failure to be a failure. Handlers that are `async` run to their end inside `call_next`.
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

from fireforget import logs
from fireforget.errors import (
    DEADLINE_PASSED,
    FireforgetError,
    Interruption,
    JobCancelled,
    JobTimeout,
    PayloadMismatch,
    RetryLater,
    RevokeTask,
    SkipRetry,
)
from fireforget.job import Job
from fireforget.metrics import Samples

CallNext = Callable[[], Any]
Middleware = Callable[[Job, CallNext], Any]
Handler = Callable[[Job], Any]
"""What a chain ends with, and what it is as a whole."""

samples = Samples()
"""What this process has counted; a child hands it to its supervisor with its results."""

_trace_id: ContextVar[str | None] = ContextVar("fireforget_trace_id", default=None)


class HandlerExit(FireforgetError):
    """A handler raised SystemExit, KeyboardInterrupt or another exception that would end the process; its job has failed."""


def recovery(job: Job, call_next: CallNext) -> Any:
    """Keep a handler that wants to end the process from ending it: that is a failed job like any other."""
    try:
        return call_next()
    except (Exception, Interruption):
        raise
    except BaseException as error:
        raise HandlerExit(f"the handler raised {describe(error)}") from error


def tracing(job: Job, call_next: CallNext) -> Any:
    """Carry the trace of the task's `traceparent` header (W3C Trace Context) into the log records of the run."""
    if not job._has_headers:
        return call_next()
    token = _trace_id.set(trace_id_of(job.headers.get("traceparent")))
    try:
        return call_next()
    finally:
        _trace_id.reset(token)


def metrics(job: Job, call_next: CallNext) -> Any:
    """Count the run and observe how long it took and how long the job had waited."""
    try:
        result = call_next()
    except BaseException as error:
        if is_failure(error, job):
            samples.count_run(job.pattern, job.queue, "failed", job.wait, job._took())
        else:
            samples.observe("job_wait_seconds", (job.queue,), job.wait)
            samples.count("fireforget_jobs_returned_total", (verb_of(error),))
        raise
    samples.count_run(job.pattern, job.queue, "success", job.wait, job._took())
    return result


def logging(job: Job, call_next: CallNext) -> Any:
    """Log one record a run: `task processed`, `task failed`, or what else became of it."""
    try:
        result = call_next()
    except BaseException as error:
        if is_failure(error, job):
            logs.task_failed(job.pattern, job.id, job.queue, job.retry_count, job._took(), describe(error), _trace_id.get())
        else:
            logs.task_not_counted(verb_of(error), job.pattern, job.id, job.queue, job.retry_count, job._took(), _why(error))
        raise
    if logs.wants_info():
        logs.task_processed(job.pattern, job.id, job.queue, job.retry_count, job._took(), _trace_id.get())
    return result


DEFAULT_CHAIN: tuple[Middleware, ...] = (recovery, tracing, metrics, logging)


def compose(chain: Sequence[Middleware], handler: Handler) -> Handler:
    """Return one function that runs a job through the whole chain, outermost first, and at last through the handler.

    It is for one thread and one job at a time: so the chain is built once, and not anew around each job.
    """
    job: Job

    def link(outer: Middleware, inner: CallNext) -> CallNext:
        return lambda: outer(job, inner)

    outermost: CallNext = lambda: handler(job)  # noqa: E731 - one of the functions that wrap it, and as short
    for middleware in reversed(chain):
        outermost = link(middleware, outermost)

    def run(next_job: Job) -> Any:
        nonlocal job
        job = next_job
        return outermost()

    return run


def is_failure(error: BaseException, job: Job | None = None) -> bool:
    """Return whether what a handler raised is a failed run, and not a wish of the handler's or a cancellation.

    With the job, its `is_failure` is asked too: what that says of an error holds for all that ask here.
    """
    if isinstance(error, RetryLater | RevokeTask | JobCancelled):
        return False
    return job is None or is_final(error) or job._fails_by(error)


def is_final(error: BaseException) -> bool:
    """Return whether no further attempt could end otherwise, so that the job is archived at once."""
    if isinstance(error, JobTimeout):
        return str(error) == DEADLINE_PASSED
    return isinstance(error, SkipRetry | PayloadMismatch)


def verb_of(error: BaseException) -> Any:
    """Return the word for a run that counts neither as success nor as failure."""
    if isinstance(error, RevokeTask | JobCancelled):
        return "revoked" if isinstance(error, RevokeTask) else "cancelled"
    return "postponed"


def _why(error: BaseException) -> str:
    return str(error) if isinstance(error, RetryLater | RevokeTask | JobCancelled) else describe(error)


def describe(error: BaseException) -> str:
    """Return an error as one line: its type and what it says."""
    try:
        text = str(error)
    except Exception as failed:  # an __str__ of the application's that raises must not hide the failure
        text = f"<its text raised {type(failed).__name__}>"
    if isinstance(error, Interruption) and text:
        return text
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def trace_id_of(traceparent: str | None) -> str | None:
    """Return the trace id of a W3C `traceparent` header, None when there is none or it is malformed."""
    parts = (traceparent or "").split("-")
    return parts[1] if len(parts) >= 4 and len(parts[1]) == 32 and parts[1].strip("0") else None
