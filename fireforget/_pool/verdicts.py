"""What became of jobs, as statements for the store: outcomes that children told, and the deaths of children.

A `Verdicts` collects into one `Settlement` until a transaction has committed it. It decides and writes nothing by itself, except
for log records and counts of runs whose own process could not make them any more.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from fireforget import logs, metrics
from fireforget._board_layout import exit_word
from fireforget._claimed import CLAIM, DUE, MAX_RETRY, PAYLOAD, QUEUE, RETENTION, RETRY_COUNT, TIMEOUT, TYPE, N, Row, id_of
from fireforget._claims import HOOK
from fireforget._pool import hooks
from fireforget._pool.board import Reason
from fireforget._pool.config import DECISION_SECONDS
from fireforget._pool.tally import Tally
from fireforget._settling import Fence, Settlement
from fireforget.clock import Clock
from fireforget.errors import DEADLINE_PASSED, ChildDied, JobTimeout, StoreError
from fireforget.registry import Registry
from fireforget.retry import default_delay, delay_after, is_ours

CANCELLED = "cancelled while it ran"
KilledRun = tuple[float, float]
"""When a run began whose process was killed, in Unix seconds, and how many seconds it took."""
_MOST_HOOK_DEATHS = 3
DECIDED_FOR_TOO_LONG = f"did not end within {DECISION_SECONDS:g} s"
ANSWER_SECONDS = 5.0
"""How long a child may take to say what the application wants done about a job whose own process was killed."""
LEAST_UNCOUNTED_DELAY = 1.0
"""Seconds before a run that counted as no failure is repeated: no attempt is used up, so nothing else would end a storm."""

_NEVER = float("inf")


def open_for_too_long(limit: float | None) -> str:
    """Return the error of a job whose transaction was open for longer than it may."""
    seconds = "" if limit is None else f" than {limit:g} s"
    return (
        f"its transaction was open for longer{seconds}, and nobody else can write meanwhile: do the slow part before the first "
        "use of current_job().connection, or raise transaction_timeout"
    )


def error_of_killed(text: str, at_limit: bool) -> JobTimeout | ChildDied:
    """Return the error of a job whose process was killed: because the job had reached a limit of its own, or with its child."""
    return JobTimeout(text) if at_limit else ChildDied(text)


def timed_out_after(seconds: float | None) -> str:
    """Return the error of a job that ran into its timeout."""
    return f"timed out after {seconds:g} s" if seconds is not None else "timed out"


@dataclass
class Question:
    """What children are asked about a job whose process was killed."""

    message: Any
    give_up_at: float
    """In monotonic seconds."""
    row: Row
    error: str
    run: KilledRun
    counted: bool
    """Whether the run is in the log and the metrics already, and only the delay is asked for."""
    asked: set[int | None] = field(default_factory=set)
    """The slots of the children that have the question."""


class Verdicts:
    """Collects what became of one worker's jobs. `ask_children` sends a message to who can answer it: `Crew.ask`."""

    def __init__(
        self,
        registry: Registry,
        samples: metrics.Samples,
        worker: int,
        tag: str,
        clock: Clock,
        ask_children: Callable[[Any, set[int | None]], None],
    ) -> None:
        self._registry = registry
        self._samples = samples
        self._worker = worker
        self._tag = tag
        self._clock = clock
        self._ask_children = ask_children
        self._questions: dict[int, Question] = {}
        self._next_token = 0
        self.is_ours: Callable[[Fence], bool] = lambda _: True
        """Returns whether a job is still in the worker's hands, from the database; raises `StoreError`s."""
        self.settlement = Settlement()
        self.tally = Tally(self._pattern_of)
        self.next_due = _NEVER
        """When the earliest of the jobs that will be tried again is due, in Unix seconds."""
        self.next_expiry = _NEVER
        """When the first retention of the completed jobs ends, in Unix seconds."""

    @property
    def waits_for_answers(self) -> bool:
        """Whether a child is asked something at this moment."""
        return bool(self._questions)

    @property
    def answers_due(self) -> float:
        """When to give up waiting for the first answer, in monotonic seconds."""
        return min((question.give_up_at for question in self._questions.values()), default=_NEVER)

    def committed(self) -> None:
        """Start anew: the settlement is in the database."""
        self.settlement = Settlement()
        self.next_due = self.next_expiry = _NEVER

    def fence(self, row: Row) -> tuple[int, int, int]:
        """Return what a settling statement must find to settle anything."""
        return row[N], self._worker, row[CLAIM]

    # --- what children told -------------------------------------------------------------------------------------------

    def succeeded(self, rows: Sequence[Row]) -> None:
        """These jobs succeeded and leave nothing behind."""
        worker = self._worker
        self.settlement.removed += [(row[N], worker, row[CLAIM]) for row in rows]
        self.tally.count(rows)

    def count_success(self, row: Row) -> None:
        """Count a run whose own process was killed before it could; how long it took is not known."""
        self._samples.count("job_processed_total", (self._pattern(row), row[QUEUE], "success"))

    def told(self, row: Row, outcome: Row | None) -> None:
        """Take in an outcome as a child sends it (`runner.Outcome`)."""
        if outcome is None:
            self.succeeded([row])
            return
        kind, *details = outcome
        self._TAKING_IN[kind](self, row, *details)

    def unintelligible(self, row: Row, error: Exception) -> None:
        """Archive a job whose outcome makes no sense: no retry would change that."""
        self._archived(row, self._clock(), 0.0, f"its outcome cannot be stored: {type(error).__name__}: {error}", None)

    def reported(self, row: Row, kind: str, value: Any) -> None:
        """Take in what a running handler said of itself."""
        if kind == "result":
            self.settlement.results.append((value, *self.fence(row)))
        else:
            self.settlement.progress.append((*value, *self.fence(row)))

    def _completed(self, row: Row, began: float, result: str | None, note: str | None) -> None:
        retention = row[RETENTION]
        if retention > 0:
            self.tally.count((row,))
            now = self._clock()
            self.settlement.completed.append((began, now, now + retention, result, note, *self.fence(row)))
            self.next_expiry = min(self.next_expiry, now + retention)
        else:
            self._returned(row, began, result, note)
            self.settlement.forgotten.append((row[N],))

    def _returned(self, row: Row, began: float, result: str | None, note: str | None) -> None:
        """The job succeeded, and leaves nothing behind but its result, should others wait for it."""
        self.tally.count((row,))
        self.settlement.removed.append(self.fence(row))
        self.settlement.kept.append((began, result, note, *self.fence(row)))

    def _settled(self, row: Row) -> None:
        """The job's own transaction has settled it."""
        self.tally.count((row,))

    def _lost(self, row: Row) -> None:
        """The job was given to another worker while it ran: what it has written is undone, and its outcome means nothing."""
        self._samples.count("fireforget_results_discarded_total", ())

    def _retry(self, row: Row, began: float, duration: float, delay: float, error: str, trace: str | None) -> None:
        self.tally.count_failed(row, "retried")
        self.settlement.attempts.append((began, duration, error, trace, *self.fence(row)))
        self._again(row, delay, error, costs_attempt=True)
        self._call_hooks(row, error, "on_failure")

    def _archived(self, row: Row, began: float, duration: float, error: str, trace: str | None) -> None:
        self.tally.count_failed(row, "archived")
        self.settlement.attempts.append((began, duration, error, trace, *self.fence(row)))
        self.settlement.archived.append((self._clock(), error, *self.fence(row)))
        self._call_hooks(row, error, "on_failure", "on_archived")

    def _expired(self, row: Row, error: str) -> None:
        self.tally.count_expired(row)
        self.settlement.archived.append((self._clock(), error, *self.fence(row)))
        self._call_hooks(row, error, "on_archived")

    def _call_hooks(self, row: Row, error: str, *names: str) -> None:
        """Have the application's hooks called; they run in a child, as jobs that are stored together with the verdict."""
        if row[TYPE] != HOOK:
            fence = self.fence(row)
            wanted = [(name, owner) for name, owner, _ in self._registry._hooks_of(row[TYPE]) if name in names]
            self.settlement.hooks += [(name, owner, error, *fence) for name, owner in wanted]

    def _excused(self, row: Row, delay: float, error: str) -> None:
        """The run ended with an error that is no failure: again later, and nothing is counted."""
        self._again(row, delay, error, costs_attempt=False)

    def _later(self, row: Row, delay: float, why: str) -> None:
        """The handler wants to run again later; why, is in the log alone."""
        self._again(row, delay, None, costs_attempt=False)

    def _again(self, row: Row, delay: float, error: str | None, *, costs_attempt: bool) -> None:
        """The job is tried again in `delay` seconds; with `error` None, its last error stays what it was."""
        now = self._clock()
        self.settlement.retried.append((now + delay, int(costs_attempt), error, now, *self.fence(row)))
        self.next_due = min(self.next_due, now + delay)

    def _late(self, row: Row) -> None:
        self.settlement.late.append(self.fence(row))
        self.put_back(row)

    def _revoked(self, row: Row) -> None:
        self.settlement.revoked.append(self.fence(row))
        self.settlement.forgotten.append((row[N],))

    def _cancelled(self, row: Row, error: str) -> None:
        self.settlement.cancelled.append((self._clock(), error, *self.fence(row)))

    _TAKING_IN: ClassVar[dict[str, Callable[..., None]]] = {
        "completed": _completed,
        "returned": _returned,
        "settled": _settled,
        "lost": _lost,
        "retry": _retry,
        "archived": _archived,
        "expired": _expired,
        "excused": _excused,
        "later": _later,
        "late": _late,
        "revoked": _revoked,
        "cancelled": _cancelled,
    }
    """By the first word of an outcome."""

    # --- what only the supervisor knows ---------------------------------------------------------------------------------

    def put_back(self, row: Row, *, started: bool = False) -> None:
        """The job goes back as it was; unless it had `started`, that was no start in the sense of its handler's rate."""
        self.settlement.put_back.append(self.fence(row))
        limits = self._registry.limits_of(row[TYPE])
        if not started and limits is not None and limits.rate is not None:
            self.settlement.given_back.append(self.fence(row))

    def interrupted(self, row: Row, reason: str, began: float) -> None:
        """The job goes back as it was, no attempt counted, though it was running; `began` in monotonic seconds."""
        self.put_back(row, started=True)
        self._samples.count("fireforget_jobs_returned_total", (reason,))
        logs.task_not_counted("returned", *self._names(row), time.monotonic() - began, reason)

    def killed_at_limit(self, row: Row, reason: Reason, began: float) -> None:
        """The job's process was killed because the job would not end; `began` in monotonic seconds."""
        if reason == Reason.CANCELLED:
            logs.task_not_counted("cancelled", *self._names(row), time.monotonic() - began, "killed after it was cancelled")
            self._samples.count("fireforget_jobs_returned_total", ("cancelled",))
            self._cancelled(row, CANCELLED)
        elif reason == Reason.DECISION:
            self._fail_killed(row, f"its is_failure {DECIDED_FOR_TOO_LONG}", began, at_limit=True)
        elif reason == Reason.DEADLINE:
            self._archive_killed(row, DEADLINE_PASSED, self._run_since(began))
        elif reason == Reason.TRANSACTION:
            definition = self._registry.match(row[TYPE])
            limit = None if definition is None else definition.transaction_timeout
            self._fail_killed(row, open_for_too_long(limit), began, at_limit=True)
        else:
            self._fail_killed(row, timed_out_after(row[TIMEOUT]), began, at_limit=True)

    def settled_before_death(self, row: Row) -> bool:
        """Return whether a job whose process has died while it ran is settled already; its own transaction may have done that.

        Then it is counted here as the success that it is. Where the store cannot tell, the job is put back with no attempt
        charged; should it be settled after all, that finds no row.
        """
        definition = self._registry.match(row[TYPE])
        if definition is None or definition.transaction_timeout is None:
            return False
        try:
            if self.is_ours(self.fence(row)):
                return False
        except StoreError:
            self.put_back(row)
            return True
        self.tally.count((row,))
        self.count_success(row)
        pattern, job_id, queue, retry_count = self._names(row)
        logs.event(
            logging.INFO,
            "the transaction of a job whose process has died was committed: it is done",
            task_type=pattern,
            task_id=job_id,
            queue=queue,
            retry_count=retry_count,
        )
        return True

    def died_undecided(self, row: Row, outcome: Row) -> None:
        """The job's process ended while the application's policy computed a delay; `outcome` is what holds then."""
        pattern, job_id, _, _ = self._names(row)
        logs.retry_delay_failed(pattern, job_id, "its process ended meanwhile")
        self.told(row, outcome)

    def died_with_its_child(self, row: Row, pid: int, code: int, began: float) -> None:
        """The job's process ended under it; `code` as `os.waitstatus_to_exitcode` gives it."""
        self._fail_killed(row, f"child process {pid} died: {_exit_sentence(code)}", began, at_limit=False)

    def _fail_killed(self, row: Row, error: str, began: float, *, at_limit: bool) -> None:
        run = self._run_since(began)
        if row[TYPE] == HOOK:
            self._hook_killed(row, error, repeats=not at_limit and row[RETRY_COUNT] < _MOST_HOOK_DEATHS - 1)
            return
        policy = self._registry._retry_delay_of(row[TYPE])
        if self._registry._is_failure_of(row[TYPE]) is not None:
            self._ask(row, error, run, at_limit, counted=False)
        elif row[RETRY_COUNT] >= row[MAX_RETRY]:
            self._archive_killed(row, error, run)
        else:
            self._count_killed(row, error, run)
            if is_ours(policy):
                self._retry_killed(row, error, run, delay_after(policy, row[RETRY_COUNT], error_of_killed(error, at_limit)))
            else:
                self._ask(row, error, run, at_limit, counted=True)

    def _hook_killed(self, row: Row, error: str, *, repeats: bool) -> None:
        """Call a hook again whose process was killed, by a neighbour perhaps, or from outside; not one that has used its time."""
        if repeats:
            self._again(row, 0.0, error, costs_attempt=True)
        else:
            hooks.log_killed(row[PAYLOAD], self._tag, error)
            self.settlement.removed.append(self.fence(row))

    def _run_since(self, began: float) -> KilledRun:
        """Return a run that has just ended: when it began, in Unix seconds, and its duration; `began` is monotonic."""
        duration = max(0.0, time.monotonic() - began)
        return self._clock() - duration, duration

    def _retry_killed(self, row: Row, error: str, run: KilledRun, delay: float) -> None:
        self._samples.count("fireforget_jobs_retried_total", (self._pattern(row), row[QUEUE]))
        self._retry(row, *run, delay, error, None)

    def _excuse_killed(self, row: Row, error: str, run: KilledRun, delay: float) -> None:
        logs.task_not_counted("postponed", *self._names(row), run[1], error)
        self._samples.count("fireforget_jobs_returned_total", ("postponed",))
        self._excused(row, max(LEAST_UNCOUNTED_DELAY, delay), error)

    def _archive_killed(self, row: Row, error: str, run: KilledRun) -> None:
        self._count_killed(row, error, run)
        self._samples.count("fireforget_jobs_archived_total", (self._pattern(row), row[QUEUE]))
        self._archived(row, *run, error, None)

    def _count_killed(self, row: Row, error: str, run: KilledRun) -> None:
        """Log and count a run that could not do so itself."""
        started_at, duration = run
        pattern, job_id, queue, retry_count = self._names(row)
        logs.task_failed(pattern, job_id, queue, retry_count, duration, error)
        self._samples.count_run(pattern, queue, "failed", max(0.0, started_at - row[DUE]), duration)
        self.tally.time_run(queue, pattern, duration)

    def _names(self, row: Row) -> tuple[str, str, str, int]:
        """Return what log records and metrics call a job: pattern, id, queue, retry count."""
        job_id = id_of(row, self._tag)
        return self._pattern(row), job_id, row[QUEUE], row[RETRY_COUNT]

    def _pattern(self, row: Row) -> str:
        return self._pattern_of(row[TYPE])

    def _pattern_of(self, type: str) -> str:
        definition = self._registry.match(type)
        return definition.pattern if definition is not None else type

    # --- what the application wants done about killed jobs ---------------------------------------------------------------

    def _ask(self, row: Row, error: str, run: KilledRun, at_limit: bool, *, counted: bool) -> None:
        """Have a child say whether the run counts, and compute the delay: the application's functions run in children alone.

        `counted` says that it counts, is in the log and the metrics, and only the delay is asked for.
        """
        self._next_token += 1
        message = ("question", self._next_token, row[TYPE], self._names(row)[1], row[RETRY_COUNT], error, at_limit)
        self._questions[self._next_token] = Question(message, time.monotonic() + ANSWER_SECONDS, row, error, run, counted)
        self.ask_again(None)

    def ask_again(self, dead: int | None) -> None:
        """Ask what is not answered yet: there is a new child, or the one in slot `dead` has died."""
        for question in self._questions.values():
            question.asked.discard(dead)
            self._ask_children(question.message, question.asked)

    def answered(self, token: int, delay: float, counts: bool) -> None:
        """A child has said after how many seconds to try again, and whether the run counts; too late, it is ignored."""
        question = self._questions.pop(token, None)
        if question is None:
            return
        row, error, run = question.row, question.error, question.run
        if not counts:
            self._excuse_killed(row, error, run, delay)
        elif row[RETRY_COUNT] >= row[MAX_RETRY]:
            self._archive_killed(row, error, run)
        else:
            if not question.counted:
                self._count_killed(row, error, run)
            self._retry_killed(row, error, run, delay)

    def give_up_waiting(self, *, all: bool) -> None:
        """Use the default delay where no answer came in time; with `all`, for every question."""
        now = time.monotonic()
        for token, question in list(self._questions.items()):
            if all or now >= question.give_up_at:
                pattern, job_id, _, retry_count = self._names(question.row)
                why = "the worker stops" if all else f"no child has answered within {ANSWER_SECONDS:g} s"
                logs.retry_delay_failed(pattern, job_id, why)
                self.answered(token, default_delay(retry_count), True)


def _exit_sentence(code: int) -> str:
    word = exit_word(code)
    return f"ended itself with {word}" if code >= 0 else f"killed by signal {-code} ({word})"
