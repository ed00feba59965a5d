"""One job: through middleware and handler, to its outcome. It knows no process and no channel; what does is its `Host`.

::

    row ─► Job ─► ours: metrics, logs ─► the application's middleware ─► handler
                                                                            │
    outcome ◄─ fired and forgotten is stored ◄─ its transaction commits ◄───┤ returns
    outcome ◄─ the application's policies say what follows ◄────────────────┘ raises

`child` has one on each of its threads; `fireforget.testing` and the engines have one in a process of the application's.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from fireforget import logs, middleware
from fireforget import payload as json_payload
from fireforget._claimed import DEADLINE, HAS_STEPS, LINKED, RETENTION, RETRY_COUNT, TYPE, Row
from fireforget._db import Database
from fireforget._effects import Effects, Mark, Unmarked
from fireforget._pool.board import Reason
from fireforget._pool.error_texts import shorten, text_of, traceback_of
from fireforget._pool.verdicts import (
    CANCELLED,
    DECIDED_FOR_TOO_LONG,
    LEAST_UNCOUNTED_DELAY,
    open_for_too_long,
    timed_out_after,
)
from fireforget._shield import Window
from fireforget.clock import Clock, to_seconds
from fireforget.errors import (
    DEADLINE_PASSED,
    ClaimLost,
    FireforgetError,
    Interruption,
    JobCancelled,
    JobTimeout,
    RetryLater,
    RevokeTask,
)
from fireforget.job import Job, running
from fireforget.queue_sqlite import Intake, transaction
from fireforget.registry import Definition, Registry
from fireforget.retry import default_delay, delay_after, is_ours

Outcome = tuple[Any, ...]
"""What became of a job: a word, then what belongs to it. None stands for a success that leaves nothing behind.

    "completed", began, result, note                    it succeeded, and there is something to keep or to forget
    "returned", began, result, note                     it succeeded, and only its result is left
    "settled",                                          its own transaction has settled it
    "retry", began, duration, delay, error, traceback   it failed, and is tried again
    "archived", began, duration, error, traceback       it failed for good
    "expired", error                                    its deadline passed before it began
    "excused", delay, error                             it raised what is no failure: again, and no attempt is counted
    "later", delay, why                                 its handler wants to run again later
    "late",                                             it came too late for its rate and has not run (`child.LATE`)
    "revoked",                                          its handler wants it removed
    "cancelled", error                                  it was cancelled while it ran
    "lost",                                             it was given to another worker while it ran

`began` is in Unix seconds, duration and delay in seconds; result is JSON text or None, note says why a result was not kept.
`Verdicts.told` takes it in.
"""


class Host(Protocol):
    """Where a `Runner` runs: a child of a worker, or a test's own process (`fireforget.testing`)."""

    registry: Registry
    tag: str

    worker: int
    """The number of the worker that claims the jobs."""

    def definition(self, type: str) -> Definition[Any, Any] | None:
        """Return the handler of a type."""

    def database(self) -> Database:
        """Return the queue's file as handlers use it."""

    def send(self, message: Any) -> None:
        """Take what a running handler says of itself: ("report", index, kind, value), or what becomes of a run should the process
        end while the application decides on it: ("fallback", index, outcome, samples).
        """

    def store(self) -> Intake:
        """Return the queue that the jobs are stored in, for what handlers do there."""


class Runner:
    """Runs one job at a time on one thread, and turns whatever happens into an outcome.

    `run_async` runs a coroutine to its end; `clock` returns Unix seconds; `mark` is where the supervisor sees that the job holds
    the database's write lock, `mark_deciding` says there that the application decides on its failure, or has ended.
    """

    def __init__(
        self,
        host: Host,
        run_async: Callable[[Any, "Runner"], Any],
        clock: Clock = time.time,
        mark: Mark | None = None,
        mark_deciding: Callable[[bool], None] = lambda decides: None,
    ) -> None:
        self._host = host
        self._run_async = run_async
        self._clock = clock
        self._mark = mark
        self._chain = middleware.compose(self._whole(host.registry.middleware), self._call_handler)
        self._no_chain = middleware.compose((), self._call_handler)
        self._transactional_chain = middleware.compose(self._whole(host.registry.middleware, self._commit), self._call_handler)
        self.tag = host.tag
        self.store = host.store
        self._effects: Effects | None = None
        self.thread_id = threading.get_ident()
        self._window = Window()
        self._cancel_async: Callable[[], object] | None = None
        self._mark_deciding = mark_deciding
        self._decides = False
        self.index = -1
        self.job: Job | None = None

    def run(self, index: int, row: Row) -> Outcome | None:
        """Run a job; return what became of it, None when it succeeded and leaves nothing behind."""
        now = self._clock()
        definition = self._host.definition(row[TYPE])
        if definition is None:  # it was there when the job was claimed
            return ("archived", now, 0.0, f"no handler for {row[TYPE]!r} in this child", None)
        job = Job(row, definition, self, now)
        deadline = row[DEADLINE]
        if deadline is not None and deadline <= now:
            return self._expire(job)
        self.index = index
        self.job = job
        token = running.set(job)
        try:
            result = self._chain_of(definition)(job)
        except BaseException as error:
            return ("settled",) if self._is_committed(job, error) else self._failed(job, definition, error)
        finally:
            with self._window.lock:
                self.job = self._window.waiting = None  # what waits has come too late
            running.reset(token)
            if self._effects is not None:
                self._effects.close()
        has_steps = row[HAS_STEPS]
        if self._effects is not None:
            effects, self._effects = self._effects, None
            has_steps = effects.has_steps
            if effects.is_settled:
                return ("settled",)
        if row[RETENTION] == 0 and row[RETRY_COUNT] == 0 and not has_steps:  # neither to keep, nor attempts or steps to forget
            return None if result is None else self._returned(job, result, row)
        return ("completed", now, *self._encode(job, result))

    def _chain_of(self, definition: Definition[Any, Any]) -> middleware.Handler:
        if definition._bare:
            return self._no_chain
        return self._chain if definition.transaction_timeout is None else self._transactional_chain

    def _call_handler(self, job: Job) -> Any:
        """Call the job's handler: the innermost of the chain."""
        definition: Any = job._definition
        job._seconds = None  # middleware may call it again
        payload = job.payload
        try:
            try:
                self._window.open()
                result = definition.call(payload)
            finally:
                self._window.shut()
            if definition.is_async:
                result = self._run_async(result, self)
        except JobCancelled:
            raise
        except BaseException as error:
            if job._cancelled:
                raise JobCancelled(CANCELLED) from error
            raise
        if job._cancelled:  # it swallowed the interruption: whoever cancelled the job wants no success of it either
            raise JobCancelled(CANCELLED)
        return result

    # --- interruptions ------------------------------------------------------------------------------------------------

    def interrupt(self, index: int, reason: int, throw: Callable[[BaseException], None]) -> None:
        """Interrupt the job with this index if it is the one that runs here; `throw` raises an error in the thread of the runner.

        The window is open while the application's code runs, and for coroutines, which are cancelled, shut. What comes when the
        handler has ended changes nothing any more: what is logged and counted then is what became of the run.
        """
        with self._window.lock:  # the job does not end meanwhile, and the next one does not begin
            if self.job is None or self.index != index or self._decides != (reason == Reason.DECISION):
                return
            error = interruption_of(reason, self.job)
            if self._cancel_async is not None:
                self._cancel_async()
            else:
                self._window.interrupt(error, throw)

    @contextmanager
    def cancelled_by(self, cancel: Callable[[], object]) -> Iterator[None]:
        """While a coroutine runs, have an interruption cancel it, which unwinds it properly."""
        with self._window.lock:
            self._cancel_async = cancel
            if self._window.take() is not None:
                cancel()
        try:
            yield
        finally:
            self._cancel_async = None

    def _whole(self, chain: Sequence[middleware.Middleware], *more: middleware.Middleware) -> list[middleware.Middleware]:
        """Return a registry's middleware with what we add: inside of what is ours and outside of the application's.

        So a commit that fails is logged and counted as the failure that it is. What was fired and forgotten is stored after it,
        and before anything is logged: should that take too long, the process is killed, and the run has timed out.
        """
        at = max((place for place, each in enumerate(chain, 1) if each in middleware.DEFAULT_CHAIN), default=0)
        whole = [each if each in middleware.DEFAULT_CHAIN else self._letting_in(each) for each in chain]
        return [*whole[:at], self._conclude, *more, *whole[at:]]

    def _conclude(self, job: Job, call_next: middleware.CallNext) -> Any:
        """Middleware of our own: have done what is to be done before anything is told of the run."""
        try:
            return call_next()
        except BaseException as error:
            self._judge(job, error)
            raise
        finally:
            flush_submissions()

    def _letting_in(self, application: middleware.Middleware) -> middleware.Middleware:
        """Return an application's middleware with the window open for its own code, and shut for what it calls."""

        def let_in(job: Job, call_next: middleware.CallNext) -> Any:
            def shut_out() -> Any:
                self._check_runs(job)  # else the chain would run the job that runs by now once more
                self._window.shut()
                try:
                    return call_next()
                finally:
                    self._window.open()

            try:
                self._window.open()
                return application(job, shut_out)
            finally:
                self._window.shut()

        return let_in

    def _check_runs(self, job: Job) -> None:
        if job is not self.job:
            raise FireforgetError(
                f"the run of job {job.id} is over: its call_next, result, progress, steps and connection are for that run alone"
            )

    def report(self, job: Job, kind: str, value: Any) -> None:
        """Take what the handler says while it runs; see `job.Run`."""
        self._check_runs(job)
        if self._effects is not None:  # the job's own transaction may be what completes it
            setattr(self._effects, kind, value)
        self._host.send(("report", self.index, kind, value))

    def _returned(self, job: Job, result: Any, row: Row) -> Outcome | None:
        """Return the outcome of a job whose result is of use to those alone that wait for it. Whether there are any is known when
        it is settled, and not before: they may have come while it ran.
        """
        if row[LINKED] is None:  # most likely none ever come, so nobody is told that it cannot be kept
            text, note = json_payload.result_of(result)
        else:
            text, note = self._encode(job, result)
        return None if text is None and note is None else ("returned", job.started_at, text, note)

    @staticmethod
    def _encode(job: Job, result: Any) -> tuple[str | None, str | None]:
        """Return a result as JSON text and a note on it; a result that cannot be kept never fails a job that succeeded."""
        text, note = json_payload.result_of(result)
        if note is not None:
            logs.result_not_kept(job.pattern, job.id, job.queue, note)
        return text, note

    # --- what a job writes to the queue's own file --------------------------------------------------------------------

    def effects(self, job: Job) -> Effects:
        """Return what stores the running job's steps and holds its transaction; made for the few jobs that ask for it."""
        self._check_runs(job)
        if self._effects is None:
            definition = self._host.definition(job.type)
            limit = None if definition is None else definition.transaction_timeout
            mark = Unmarked() if self._mark is None else self._mark
            self._effects = Effects(self._host.database(), job._row, self._host.worker, self._clock, limit, mark)
        return self._effects

    def _commit(self, job: Job, call_next: middleware.CallNext) -> Any:
        """Middleware of our own: commit what a transactional handler has written, together with its job's completion. Outside of
        the window, so it is done or not done by the commit alone, and not timed out in between.

        One that has not used its connection has nothing to commit, and is settled like any other.
        """
        effects = self.effects(job)
        token = transaction.set(effects)
        try:
            result = call_next()
            if effects.has_begun:
                text, note = self._encode(job, result)
                effects.complete(job.started_at, text, note)
        except BaseException:
            effects.rollback()
            raise
        finally:
            transaction.reset(token)
        return result

    def _is_committed(self, job: Job, error: BaseException) -> bool:
        """Return whether a run that raises is settled all the same, since its transaction was committed before; else undo it."""
        effects, self._effects = self._effects, None
        if effects is None:
            return False
        effects.close()
        if effects.is_settled:
            fields = {"task_type": job.pattern, "task_id": job.id, "queue": job.queue, "error": middleware.describe(error)}
            logs.event(logging.ERROR, "an error came after the transaction was committed: the job is done", **fields)
        return effects.is_settled

    # --- failures -----------------------------------------------------------------------------------------------------

    def _failed(self, job: Job, definition: Definition[Any, Any], error: BaseException) -> Outcome:
        if isinstance(error, RetryLater):
            return ("later", _seconds_of(error, job.retry_count), text_of(error))
        if isinstance(error, RevokeTask | ClaimLost):
            return ("revoked",) if isinstance(error, RevokeTask) else ("lost",)
        if isinstance(error, JobCancelled):
            return ("cancelled", shorten(middleware.describe(error)))
        text, trace = shorten(text_of(error)), traceback_of(error)
        if not middleware.is_failure(error, job):
            return self._again(job, definition, error, lambda delay: ("excused", max(LEAST_UNCOUNTED_DELAY, delay), text))
        if job.retry_count >= job.max_retry or middleware.is_final(error):
            return self._archive(job, text, trace)
        middleware.samples.count("fireforget_jobs_retried_total", (job.pattern, job.queue))
        return self._again(job, definition, error, lambda delay: ("retry", job.started_at, job._took(), delay, text, trace))

    def _archive(self, job: Job, text: str, trace: str | None) -> Outcome:
        middleware.samples.count("fireforget_jobs_archived_total", (job.pattern, job.queue))
        return ("archived", job.started_at, job._took(), text, trace)

    def _expire(self, job: Job) -> Outcome:
        """The deadline passed before the job could start: it is not run, so middleware never sees it."""
        middleware.samples.count("fireforget_jobs_archived_total", (job.pattern, job.queue))
        logs.task_failed(job.pattern, job.id, job.queue, job.retry_count, 0.0, DEADLINE_PASSED)
        return ("expired", DEADLINE_PASSED)

    # --- what the application decides on failures ---------------------------------------------------------------------

    def _again(
        self, job: Job, definition: Definition[Any, Any], error: BaseException, outcome: Callable[[float], Outcome]
    ) -> Outcome:
        """Return the outcome of a run that another one follows, after the seconds that the job's policy says.

        Where that is the application's, it may hang, or end the process: the supervisor is told before what holds then.
        """
        policy = self._host.registry.retry_delay if definition.retry_delay is None else definition.retry_delay
        fallback = outcome(default_delay(job.retry_count))
        try:
            if is_ours(policy):
                return outcome(delay_after(policy, job.retry_count, error))
            self._host.send(("fallback", self.index, fallback, middleware.samples.drain()))
            with self._deciding():
                return outcome(delay_after(policy, job.retry_count, error))
        except BaseException as failed:
            logs.retry_delay_failed(job.pattern, job.id, middleware.describe(failed))
            return fallback

    def _judge(self, job: Job, error: BaseException) -> None:
        """Have the application's `is_failure` say whether the run has failed, before our middleware asks; it is asked once."""
        if self._host.registry._is_failure_of(job.type) is not None:
            with suppress(Interruption), self._deciding():
                middleware.is_failure(error, job)

    @contextmanager
    def _deciding(self) -> Iterator[None]:
        """Run a function of the application's that has `DECISION_SECONDS`; the job's own limits hold no more."""
        with self._window.lock:
            self._decides = True
            self._window.waiting = None
        self._mark_deciding(True)
        try:
            try:
                self._window.open()
                yield
            finally:
                self._window.shut()
        finally:
            self._mark_deciding(False)
            with self._window.lock:
                self._decides = False
                self._window.waiting = None


def interruption_of(reason: int, job: Job | None) -> Interruption:
    """Return what to raise in a handler for a reason on the board; a job that is cancelled knows it from now on."""
    if reason == Reason.CANCELLED:
        if job is not None:
            job._cancelled = True
        return JobCancelled(CANCELLED)
    if reason == Reason.DECISION:
        return JobTimeout(DECIDED_FOR_TOO_LONG)
    if reason == Reason.DEADLINE:
        return JobTimeout(DEADLINE_PASSED)
    if reason == Reason.TRANSACTION:
        return JobTimeout(open_for_too_long(None if job is None else job._effects().limit))
    return JobTimeout(timed_out_after(job.timeout if job else None))


def flush_submissions() -> None:
    """Wait for what the job has fired and forgotten: it must be stored before the job counts as done."""
    patterns = sys.modules.get("fireforget.patterns")
    if patterns is not None and patterns.has_pending():
        patterns.flush()


def _seconds_of(error: RetryLater, retry_count: int) -> float:
    """Return the delay of a RetryLater; a subclass of the application's may have made it something else."""
    try:
        return to_seconds("seconds", error.seconds)
    except Exception:
        return default_delay(retry_count)
