"""The supervisor's loop, and `Worker`, its public face.

One turn of the loop::

    wait for: messages of children, ends of children, the database's notice, signals, the next moment at which something is due
      │
      ├─ take in: outcomes, positions, deaths ──► what became of which job (Settlement)
      ├─ decide: how many jobs each child has room for (plan)
      ├─ one transaction: settle ─ make due jobs pending ─ claim          nothing to write: a read at most, or nothing at all
      └─ send the claimed jobs to the children as frames

Every job in the worker's hands is in exactly one child's `jobs`, until its outcome is in a Settlement; a Settlement is kept until
a transaction has committed it. So a store in trouble delays, and loses nothing.
"""

import logging
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from fireforget import _db, logs, metrics
from fireforget._claims import Claims, Settlement
from fireforget._pool.board import SETTLE_SECONDS, Board, Reason
from fireforget._pool.bookkeeper import Bookkeeper
from fireforget._pool.channel import Mailbox
from fireforget._pool.child import DEADLINE_PASSED, child_main, timed_out_after
from fireforget._pool.config import Settings
from fireforget._pool.enforcer import Enforcer, Watched
from fireforget._pool.helper import ForkHelper
from fireforget._pool.notice import LOOKS, POLL_SECONDS, Notice
from fireforget._pool.plan import Lanes, Pace, room
from fireforget._pool.recovery import CHECK_SECONDS, Recovery
from fireforget.clock import Seconds, to_seconds
from fireforget.errors import SchemaTooNew, StoreError, StoreReplaced, WorkerError
from fireforget.queue_sqlite import SqliteQueue, public_id
from fireforget.registry import Registry
from fireforget.retry import default_delay

TAKE_BACK_AFTER = 0.05
"""Seconds that a job may run before the jobs behind it in the same child are taken back."""
_TICK = 0.02
_ANSWER_SECONDS = 5.0
_TROUBLE_PAUSE = 0.5
_TROUBLE_LOG_SECONDS = 10.0
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.2, 30.0
_CHILD_EXIT_SECONDS = 5.0
_NEVER = float("inf")

_N, _CLAIM, _TYPE, _QUEUE, _RETRY_COUNT, _MAX_RETRY, _TIMEOUT, _NONCE, _TASK_ID, _DUE = 0, 1, 2, 3, 6, 7, 8, 10, 11, 12

Row = tuple[Any, ...]


class _Child:
    """What the supervisor knows of one child."""

    def __init__(self, slot_number: int, board: Board, mailbox: Mailbox) -> None:
        self.slot_number = slot_number
        self.slot = board.slot(slot_number)
        self.mailbox = mailbox
        self.pid = 0
        self.jobs: dict[int, Row] = {}
        """The jobs in its hands, by index, in order."""
        self.sent = 0
        """The index of the next job it will be given."""
        self.outcomes: dict[int, Row | None] = {}
        self.position = 0
        self.pace = Pace()
        self.watched: Watched | None = None
        self.ready = False
        self.retiring = False
        self.closing = False
        self.forbidden_since: float | None = None
        """When its limit was lowered to take jobs back; None when that is over."""
        self.frozen = False
        """Whether it has jobs that were taken back and must say that it has dropped them before it gets others."""

    @property
    def can_take(self) -> bool:
        """Its hello may come before the helper's word of its pid; both are needed."""
        return self.ready and self.pid > 0 and not self.retiring and not self.frozen and self.forbidden_since is None


class Supervisor:
    """A worker at work. Everything but `request_stop` and the enforcer runs on one thread."""

    def __init__(self, registry: Registry, settings: Settings, queue: "SqliteQueue | str | os.PathLike[str]") -> None:
        self._registry = registry
        self._settings = settings
        self._patience = settings.shutdown_timeout
        self._given_queue = queue
        self._children: dict[int, _Child] = {}
        """By slot: forked, or asked for."""
        self._samples = metrics.Samples()
        self._lanes = Lanes(settings.queues, settings.strict_priority)
        self._pace = Pace()
        self._settlement = Settlement()
        self._requests: deque[str] = deque()
        self._questions: dict[int, tuple[float, Row, tuple[Any, ...]]] = {}
        self._next_token = 0
        self._claiming = True
        self._may_write = True
        self._stopping_since: float | None = None
        self._kill_at = _NEVER
        self._give_up_at = _NEVER
        self._killed_all = False
        self._looks: deque[float] = deque()
        self._look_now = True
        self._next_due: float | None = None
        self._next_expiry: float | None = None
        self._trouble_until = 0.0
        self._trouble_logged = -_NEVER
        self._backoff = 0.0
        self._fork_at = 0.0
        self._peers_at = 0.0
        self._known: dict[str, bool] = {}

    # --- start and end ------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Fork the helper, then open the database and enter the worker into it. Raises `StoreError` and `WorkerError`."""
        given = self._given_queue
        path = given.path if isinstance(given, SqliteQueue) else _db.resolve_path(given)
        _db.check_library()
        _db.check_place(path)
        if isinstance(given, SqliteQueue):
            given._database.close_thread()  # no handle of SQLite's crosses a fork
        settings = self._settings
        try:
            self._board = Board.create(path, settings.concurrency * 2, settings.threads)
        except OSError as error:
            raise WorkerError(f"{path}: the worker's lock file cannot be created beside it ({error.strerror})") from error
        self._helper = ForkHelper.start(child_main(self._registry, settings, self._board))
        try:
            self._queue = given if isinstance(given, SqliteQueue) else SqliteQueue(path)
            self._open_store(self._queue)
        except BaseException:
            self._helper.close()
            self._board.remove()
            raise

    def _open_store(self, queue: SqliteQueue) -> None:
        settings = self._settings
        self._clock = queue._clock
        self._tag = queue._tag
        self._claims = Claims(queue._database, self._handles, list(settings.queues), self._clock)
        self.name = f"{socket.gethostname()}:{os.getpid()}:{self._board.path[-8:]}"
        self._claims.register(self.name, self._board.path, dict(settings.queues), settings.concurrency, settings.threads)
        self._recovery = Recovery(self._claims)
        self._recovery.look()
        self._recovery.check()
        self._recovery.adopt_ownerless()
        self._notice = Notice(queue.path)
        self._enforcer = Enforcer(self._helper.signal_child)
        self._enforcer.start()
        self._bookkeeper: Bookkeeper | None = None
        if settings.metrics_file is not None:
            self._bookkeeper = Bookkeeper(
                settings.metrics_file, settings.metrics_interval, queue._database, self._samples, list(settings.queues),
                self._count_children, self._clock,
            )  # fmt: skip
            self._bookkeeper.start()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._poll = select.poll()
        for descriptor in (self._wake_read, self._helper.mailbox.fileno()):
            self._poll.register(descriptor, select.POLLIN)
        if self._notice.works:
            self._poll.register(self._notice.fileno(), select.POLLIN)

    def run(self) -> None:
        """Work until a stop was asked for and is done. Raises `WorkerError` or `StoreError` when it cannot go on."""
        logs.event(
            logging.INFO,
            f"worker started: {self._settings.concurrency} children, queues "
            + ", ".join(f"{name}={weight}" for name, weight in self._settings.queues.items()),
            worker=self.name,
            pid=os.getpid(),
        )
        try:
            while not self._is_done():
                self._poll_once()
                self._obey_requests()
                self._turn()
        except (SchemaTooNew, StoreReplaced):
            self._may_write = False  # it is another program's file now, or none
            raise
        finally:
            self._close()
        logs.event(logging.INFO, "worker stopped", worker=self.name, pid=os.getpid())

    def set_patience(self, timeout: Seconds) -> None:
        """Set how many seconds running jobs have at the stop; raises `InvalidOption`."""
        self._patience = to_seconds("timeout", timeout)

    def request(self, what: str) -> None:
        """Ask the loop to "stop", or to "pause" or "resume" claiming; from any thread, or a signal handler."""
        self._requests.append(what)
        with suppress(BlockingIOError, AttributeError, OSError):  # it is awake, or not open yet, or over
            os.write(self._wake_write, b"!")

    def _is_done(self) -> bool:
        if self._stopping_since is None:
            return False
        nothing_left = not self._children and not self._questions and not self._settlement
        return nothing_left or time.monotonic() >= self._give_up_at

    def _close(self) -> None:
        self._helper.close()
        if self._may_write:
            self._write_last_settlement()
        self._enforcer.stop()
        if self._bookkeeper is not None:
            self._bookkeeper.stop()
        self._notice.close()
        for descriptor in (self._wake_read, self._wake_write):
            os.close(descriptor)
        self._sign_off()
        self._claims.close()
        if self._queue is not self._given_queue:
            self._queue.close()

    def _write_last_settlement(self) -> None:
        for child in self._children.values():
            self._collect(child)
            self._settlement.put_back += [self._fence(row) for row in child.jobs.values()]
            child.jobs.clear()
        if not self._settlement:
            return
        try:
            with self._claims.transaction():
                self._claims.settle(self._settlement)
        except StoreError as error:
            self._may_write = False
            logs.event(logging.ERROR, "the last results could not be stored; their jobs will run again", error=str(error))

    def _sign_off(self) -> None:
        """Leave the database; a worker that cannot is found dead by the next one, which takes over what is left."""
        try:
            if self._may_write:
                self._claims.unregister()
                self._board.remove()
                return
        except StoreError as error:
            logs.event(logging.ERROR, "the worker could not sign off", error=str(error))
        os.close(self._board.descriptor)

    # --- waiting ------------------------------------------------------------------------------------------------------

    def _poll_once(self) -> None:
        pause = self._pause()
        ready = {descriptor for descriptor, _ in self._poll.poll(None if pause == _NEVER else max(0, -int(-pause * 1000 // 1)))}
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
        if self._helper.mailbox.fileno() in ready:
            self._hear_helper()
        if self._notice.works and self._notice.fileno() in ready:
            self._notice.clear()
            now = time.monotonic()
            self._looks = deque(_sums(now, LOOKS))
        for child in list(self._children.values()):
            if child.mailbox.fileno() in ready:
                child.mailbox.flush()
                self._hear(child)

    def _pause(self) -> float:
        """Return how long the loop may sleep, in seconds."""
        now = time.monotonic()
        moments = [self._kill_at, self._give_up_at]
        if self._trouble_until > now:
            moments.append(self._trouble_until)
        elif self._settlement or (self._look_now and self._has_room()):
            return 0.0
        if self._looks:
            moments.append(self._looks[0])
        if not self._notice.works:
            moments.append(now + POLL_SECONDS)
        wall_moments = [m for m in (self._next_due if self._claiming_now() else None, self._next_expiry) if m is not None]
        if wall_moments:
            moments.append(now + max(0.0, min(wall_moments) - self._clock()))
        if self._recovery.has_others:
            moments.append(self._peers_at)
        if self._stopping_since is None and self._count_children() < self._settings.concurrency:
            moments.append(self._fork_at)
        moments += [deadline for deadline, _, _ in self._questions.values()]
        for child in self._children.values():
            if child.forbidden_since is not None:
                moments.append(child.forbidden_since + SETTLE_SECONDS)
            elif len(child.jobs) > self._settings.threads:
                moments.append(now + _TICK)
        return max(0.0, min(moments) - now) if moments and min(moments) != _NEVER else _NEVER

    def _obey_requests(self) -> None:
        while self._requests:
            what = self._requests.popleft()
            if what == "pause":
                self._claiming = False
                logs.event(logging.INFO, "claiming is paused: running jobs go on")
            elif what == "resume":
                self._claiming = True
                self._look_now = True
                logs.event(logging.INFO, "claiming goes on")
            elif self._stopping_since is None:
                self._begin_stop(self._patience)
            else:
                self._kill_at = min(self._kill_at, time.monotonic())

    def _begin_stop(self, patience: float) -> None:
        now = time.monotonic()
        self._stopping_since = now
        self._kill_at = now + patience
        self._give_up_at = self._kill_at + _CHILD_EXIT_SECONDS
        running = sum(len(child.slot.running()) for child in self._children.values() if child.pid)
        logs.event(logging.INFO, f"stopping: {running} jobs are running and have {patience:g} s")
        for child in self._children.values():
            self._forbid(child)

    def _claiming_now(self) -> bool:
        return self._claiming and self._stopping_since is None

    # --- children -----------------------------------------------------------------------------------------------------

    def _count_children(self) -> int:
        return sum(not child.retiring for child in list(self._children.values()))

    def _fork_missing(self) -> None:
        now = time.monotonic()
        while self._stopping_since is None and self._count_children() < self._settings.concurrency and now >= self._fork_at:
            slot_number = next(n for n in range(self._board.slots) if n not in self._children)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            child = _Child(slot_number, self._board, Mailbox(ours))
            child.slot.clear()
            child.mailbox.send(self._tag)
            self._children[slot_number] = child
            self._poll.register(ours, select.POLLIN)
            self._helper.fork_child(slot_number, theirs)

    def _hear_helper(self) -> None:
        for kind, *content in self._helper.mailbox.receive():
            if kind == "forked":
                self._forked(*content)
            elif kind == "not forked":
                slot_number, why = content
                self._drop(self._children[slot_number])
                self._back_off(f"a child could not be forked: {why}")
            else:
                self._died(*content)
        if self._helper.mailbox.ended:
            raise WorkerError("the fork helper has died, so no child can be started any more: restart the worker")

    def _forked(self, slot_number: int, pid: int) -> None:
        child = self._children[slot_number]
        child.pid = pid
        child.watched = Watched(pid, child.slot, child.jobs)
        self._enforcer.watch(child.watched)
        self._look_now = True

    def _died(self, pid: int, status: int) -> None:
        child = next(child for child in self._children.values() if child.pid == pid)
        self._hear(child)
        self._collect(child)
        code = os.waitstatus_to_exitcode(status)
        expected = code == 0 and (child.retiring or self._stopping_since is not None)
        if not expected and not self._killed_all:
            self._lament(child, pid, code)
        self._settle_dead(child, pid, code)
        self._drop(child)
        self._look_now = True

    def _lament(self, child: _Child, pid: int, code: int) -> None:
        reason = _exit_word(code)
        self._samples.count("fireforget_child_deaths_total", (reason,))
        if child.watched is not None and child.watched.killed_for is not None:
            return  # a timeout that the job did not heed: told with the job
        logs.event(logging.ERROR, f"child {pid} died: {reason}", pid=pid, reason=reason)
        if not child.ready:
            self._back_off(f"child {pid} could not start ({reason})")

    def _back_off(self, why: str) -> None:
        self._backoff = min(_LONGEST_BACKOFF, max(_FIRST_BACKOFF, self._backoff * 2))
        self._fork_at = time.monotonic() + self._backoff
        logs.event(logging.ERROR, f"{why}: trying again in {self._backoff:g} s")

    def _drop(self, child: _Child) -> None:
        if not child.mailbox.ended:
            self._poll.unregister(child.mailbox.socket)
        child.mailbox.close()
        self._enforcer.forget(child.pid)
        del self._children[child.slot_number]

    def _retire(self, child: _Child) -> None:
        """Let a child end that has had its share; another one takes its place at once."""
        child.retiring = True
        nothing_left = not child.jobs and not child.mailbox.unsent and child.position == child.sent
        if nothing_left and not child.closing and not child.mailbox.ended:
            child.closing = True
            child.mailbox.socket.shutdown(socket.SHUT_WR)

    # --- what children say --------------------------------------------------------------------------------------------

    def _hear(self, child: _Child) -> None:
        had_ended = child.mailbox.ended
        messages = child.mailbox.receive()
        if child.mailbox.ended and not had_ended:  # else its end would wake the loop until the helper tells of its death
            self._poll.unregister(child.mailbox.socket)
        for message in messages:
            kind = message[0]
            if kind == "position":
                self._hear_position(child, *message[1:])
            elif kind == "outcome":
                child.outcomes[message[1]] = message[2]
            elif kind == "report":
                self._hear_report(child, *message[1:])
            elif kind == "answer":
                self._hear_answer(*message[1:])
            else:
                child.ready = True
                self._backoff = 0.0
                self._look_now = True

    def _hear_position(
        self, child: _Child, position: int, kept: int, runs: int, seconds: float, delta: metrics.Delta | None, rss: int
    ) -> None:
        """A child has taken in all jobs below `position`; those from `kept` on it has dropped."""
        child.position = position
        if kept < position:
            self._put_back_dropped(child, kept)
        child.pace.observe(runs, seconds)
        if delta is not None:
            self._samples.merge(delta)
        if child.frozen and position == child.sent:
            child.frozen = False
            child.slot.allow_all()
            self._look_now = True
        limit = self._settings.max_rss_mb
        if limit and rss > limit * 1024 * 1024 and not child.retiring:
            logs.event(logging.INFO, f"child {child.pid} uses {rss >> 20} MiB: replacing it", pid=child.pid)
            self._retire(child)

    def _put_back_dropped(self, child: _Child, kept: int) -> None:
        """Put back what the child dropped and was not taken from it before: one whose start it had just announced."""
        with self._enforcer.lock:
            dropped = [child.jobs.pop(index) for index in list(child.jobs) if index >= kept]
        self._settlement.put_back += [self._fence(row) for row in dropped]

    def _hear_report(self, child: _Child, index: int, kind: str, value: Any) -> None:
        row = child.jobs.get(index)
        if row is None:
            return
        if kind == "result":
            self._settlement.results.append((value, *self._fence(row)))
        else:
            self._settlement.progress.append((*value, *self._fence(row)))

    # --- what became of jobs ------------------------------------------------------------------------------------------

    def _fence(self, row: Row) -> tuple[int, int, int]:
        return row[0], self._claims.worker, row[1]

    def _collect(self, child: _Child) -> None:
        """Move the jobs of a child that have ended into the settlement.

        With one thread the board says which have ended, and it is read before the mailbox: whatever there is to tell of a job
        was sent before the board said "done". The other way round, a failure could be taken for a success.
        """
        jobs, outcomes = child.jobs, child.outcomes
        done = child.slot.done if self._settings.threads == 1 and child.pid else 0
        if not outcomes and (not jobs or done <= next(iter(jobs))):
            return
        self._hear(child)
        worker = self._claims.worker
        removed = self._settlement.removed
        with self._enforcer.lock:
            ended = [index for index in jobs if index < done or index in outcomes]
            if not outcomes:
                for index in ended:
                    row = jobs.pop(index)
                    removed.append((row[0], worker, row[1]))
                return
            for index in ended:
                self._settle(jobs.pop(index), outcomes.pop(index, None))

    def _settle(self, row: Row, outcome: Row | None) -> None:
        if outcome is None:
            self._settlement.removed.append(self._fence(row))
            return
        kind, *details = outcome
        getattr(self, f"_settle_{kind}")(row, *details)

    def _settle_completed(self, row: Row, began: float, duration: float, result: str | None, note: str | None) -> None:
        retention = row[14]
        if retention > 0:
            now = self._clock()
            self._settlement.completed.append((began, now, now + retention, result, note, *self._fence(row)))
            self._next_expiry = min(self._next_expiry or _NEVER, now + retention)
        else:
            self._settlement.removed.append(self._fence(row))
            self._settlement.forgotten.append((row[_N],))

    def _settle_retry(self, row: Row, began: float, duration: float, delay: float, error: str, trace: str | None) -> None:
        now = self._clock()
        self._settlement.attempts.append((began, duration, error, trace, *self._fence(row)))
        self._settlement.retried.append((now + delay, 1, error, now, *self._fence(row)))
        self._next_due = min(self._next_due or _NEVER, now + delay)

    def _settle_archived(self, row: Row, began: float, duration: float, error: str, trace: str | None) -> None:
        self._settlement.attempts.append((began, duration, error, trace, *self._fence(row)))
        self._settlement.archived.append((self._clock(), error, *self._fence(row)))

    def _settle_expired(self, row: Row, error: str) -> None:
        self._settlement.archived.append((self._clock(), error, *self._fence(row)))

    def _settle_later(self, row: Row, delay: float, why: str) -> None:
        now = self._clock()
        self._settlement.retried.append((now + delay, 0, None, now, *self._fence(row)))
        self._next_due = min(self._next_due or _NEVER, now + delay)

    def _settle_revoked(self, row: Row) -> None:
        self._settlement.removed.append(self._fence(row))
        self._settlement.forgotten.append((row[_N],))

    def _settle_cancelled(self, row: Row, error: str) -> None:
        self._settlement.cancelled.append((self._clock(), error, *self._fence(row)))

    # --- jobs whose child died ----------------------------------------------------------------------------------------

    def _settle_dead(self, child: _Child, pid: int, code: int) -> None:
        """Charge a child's death to the job that caused it; the others go back as they were."""
        running = {index: began for index, _, began in child.slot.running()}
        killed_for = child.watched.killed_for if child.watched is not None else None
        for index, row in list(child.jobs.items()):
            guilty = index in running and not self._killed_all and (killed_for is None or killed_for[0] == index)
            if not guilty:
                self._put_back(row, "shutdown" if self._killed_all else "child died", log=index in running)
            elif killed_for is None:
                self._fail_killed(row, f"child process {pid} died: {_exit_sentence(code)}", running[index])
            elif killed_for[1] == Reason.CANCELLED:
                self._cancel_killed(row, running[index])
            elif killed_for[1] == Reason.DEADLINE:
                self._archive_killed(row, DEADLINE_PASSED, running[index])
            else:
                self._fail_killed(row, timed_out_after(row[_TIMEOUT]), running[index], timed_out=True)
        with self._enforcer.lock:
            child.jobs.clear()

    def _put_back(self, row: Row, reason: str, *, log: bool) -> None:
        self._settlement.put_back.append(self._fence(row))
        if log:
            self._samples.count("fireforget_jobs_returned_total", (reason,))
            logs.task_not_counted("returned", *self._names(row), 0.0, reason)

    def _names(self, row: Row) -> tuple[str, str, str, int]:
        """Return what log records and metrics call a job: pattern, id, queue, retry count."""
        job_id = row[_TASK_ID] or public_id(self._tag, row[_N], row[_NONCE])
        return self._pattern(row), job_id, row[_QUEUE], row[_RETRY_COUNT]

    def _pattern(self, row: Row) -> str:
        definition = self._registry.match(row[_TYPE])
        return definition.pattern if definition is not None else row[_TYPE]

    def _count_killed(self, row: Row, error: str, began: float) -> tuple[float, float]:
        """Log and count a run that could not do so itself; return when it began, in Unix seconds, and its duration."""
        duration = max(0.0, time.monotonic() - began)
        pattern, job_id, queue, retry_count = self._names(row)
        logs.task_failed(pattern, job_id, queue, retry_count, duration, error)
        self._samples.count("job_processed_total", (pattern, queue, "failed"))
        self._samples.observe("job_duration_seconds", (pattern, queue), duration)
        started_at = self._clock() - duration
        self._samples.observe("job_wait_seconds", (queue,), max(0.0, started_at - row[_DUE]))
        return started_at, duration

    def _fail_killed(self, row: Row, error: str, began: float, *, timed_out: bool = False) -> None:
        if row[_RETRY_COUNT] >= row[_MAX_RETRY]:
            self._archive_killed(row, error, began)
            return
        started_at, duration = self._count_killed(row, error, began)
        self._samples.count("fireforget_jobs_retried_total", (self._pattern(row), row[_QUEUE]))
        definition = self._registry.match(row[_TYPE])
        policy = self._registry.retry_delay
        if definition is not None and definition.retry_delay is not None:
            policy = definition.retry_delay
        if callable(policy):
            self._ask(row, (started_at, duration, error, None), timed_out)
        else:
            delay = default_delay(row[_RETRY_COUNT]) if policy is None else float(policy)  # type: ignore[arg-type]
            self._settle_retry(row, started_at, duration, delay, error, None)

    def _archive_killed(self, row: Row, error: str, began: float) -> None:
        started_at, duration = self._count_killed(row, error, began)
        self._samples.count("fireforget_jobs_archived_total", (self._pattern(row), row[_QUEUE]))
        self._settle_archived(row, started_at, duration, error, None)

    def _cancel_killed(self, row: Row, began: float) -> None:
        logs.task_not_counted("cancelled", *self._names(row), time.monotonic() - began, "killed after it was cancelled")
        self._samples.count("fireforget_jobs_returned_total", ("cancelled",))
        self._settle_cancelled(row, "cancelled while it ran")

    def _ask(self, row: Row, attempt: tuple[Any, ...], timed_out: bool) -> None:
        """Have a child compute the delay, since the application's functions run in children alone."""
        self._next_token += 1
        self._questions[self._next_token] = (time.monotonic() + _ANSWER_SECONDS, row, attempt)
        child = next((c for c in self._children.values() if c.ready and not c.retiring and not c.mailbox.ended), None)
        if child is not None:
            child.mailbox.send(("question", self._next_token, row[_TYPE], row[_RETRY_COUNT], attempt[2], timed_out))

    def _hear_answer(self, token: int, delay: float) -> None:
        question = self._questions.pop(token, None)
        if question is not None:
            _, row, (began, duration, error, trace) = question
            self._settle_retry(row, began, duration, delay, error, trace)

    def _give_up_questions(self) -> None:
        now = time.monotonic()
        for token, (deadline, row, _) in list(self._questions.items()):
            if now >= deadline or self._stopping_since is not None:
                logs.retry_delay_failed(row[_TYPE], "", "no answer in time")
                self._hear_answer(token, default_delay(row[_RETRY_COUNT]))

    # --- taking back --------------------------------------------------------------------------------------------------

    def _take_back(self) -> None:
        """Take unstarted jobs back from children in which a job takes long; the next transaction hands them out again."""
        now = time.monotonic()
        for child in self._children.values():
            if child.forbidden_since is not None:
                if now >= child.forbidden_since + SETTLE_SECONDS:
                    self._take_unstarted(child)
            elif child.pid and len(child.jobs) > self._settings.threads and not child.frozen:
                began = [began for _, _, began in child.slot.running()]
                if len(began) >= self._settings.threads and now - max(began) > TAKE_BACK_AFTER:
                    self._forbid(child)

    def _forbid(self, child: _Child) -> None:
        if child.pid and child.forbidden_since is None and not child.frozen:
            child.slot.forbid_further_starts()
            child.forbidden_since = time.monotonic()

    def _take_unstarted(self, child: _Child) -> None:
        limit = child.slot.settle_limit()
        child.forbidden_since = None
        taken = [index for index in child.jobs if index >= limit]
        with self._enforcer.lock:
            self._settlement.put_back += [self._fence(child.jobs.pop(index)) for index in taken]
        child.frozen = child.position != child.sent
        if not child.frozen:
            child.slot.allow_all()

    # --- the turn -----------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        for child in list(self._children.values()):
            self._collect(child)
        self._take_back()
        self._give_up_questions()
        self._fork_missing()
        self._end_children()
        now = time.monotonic()
        if now < self._trouble_until:
            return
        try:
            self._look_around(now)
            self._transact()
        except (SchemaTooNew, StoreReplaced):
            raise
        except StoreError as error:
            self._note_trouble(error)
        if self._bookkeeper is not None and (self._settlement or self._has_jobs()):
            self._bookkeeper.something_happened()

    def _has_jobs(self) -> bool:
        return any(child.jobs for child in self._children.values())

    def _look_around(self, now: float) -> None:
        """Take in the database's notices, other workers' deaths, and burst's end."""
        while self._looks and self._looks[0] <= now:
            self._looks.popleft()
            self._look_now = True
        if not self._notice.works:
            self._look_now = True
        if self._recovery.has_others and now >= self._peers_at:
            self._peers_at = now + CHECK_SECONDS
            if self._recovery.check():
                self._look_now = True

    def _note_trouble(self, error: StoreError) -> None:
        """The store cannot be written: keep what is to be settled, and try again soon."""
        now = time.monotonic()
        self._trouble_until = now + _TROUBLE_PAUSE
        if now - self._trouble_logged >= _TROUBLE_LOG_SECONDS:
            self._trouble_logged = now
            logs.event(logging.ERROR, "the store is in trouble, nothing is lost, trying again", error=str(error))

    def _rooms(self) -> dict[int, int]:
        """Return how many jobs each child should be given, by slot."""
        if not self._claiming_now():
            return {}
        rooms = {}
        for slot_number, child in self._children.items():
            if not child.can_take:
                continue
            wanted = room(len(child.jobs), child.pace.frame(), self._settings.threads)
            share = self._settings.max_tasks_per_child
            if share is not None:
                wanted = min(wanted, share - child.sent)
            if wanted > 0:
                rooms[slot_number] = wanted
        return rooms

    def _has_room(self) -> bool:
        return bool(self._rooms())

    def _transact(self) -> None:
        """Settle, make due jobs pending and claim, in one transaction; none when there is nothing to write."""
        claims, now = self._claims, self._clock()
        rooms = self._rooms()
        due = self._claiming_now() and self._next_due is not None and self._next_due <= now
        expired = self._next_expiry is not None and self._next_expiry <= now
        lanes: dict[str, list[str]] = {}
        if self._look_now:
            lanes = self._read_state()
            due = due or (self._claiming_now() and self._next_due is not None and self._next_due <= now)
        if not (self._settlement or due or expired or (rooms and lanes)):
            self._after_look(rooms, lanes)
            return
        wanted = sum(rooms.values())
        with claims.transaction():
            claims.check_schema()
            late = claims.settle(self._settlement) if self._settlement else 0
            if due:
                claims.forward_due()
            if expired:
                claims.remove_expired()
            if due or self._settlement.put_back or (wanted and not lanes and self._settlement):
                lanes = claims.lanes()
            rows = self._claim(lanes, wanted) if wanted else []
            if due:
                self._next_due = claims.next_due()
            if expired:
                self._next_expiry = claims.next_expiry()
        self._settlement = Settlement()
        self._trouble_logged = -_NEVER
        if late:
            self._samples.count("fireforget_results_discarded_total", (), late)
        self._hand_out(rows, rooms)
        self._look_now = (bool(rows) and len(rows) == wanted) or self._settings.burst
        claims.check_identity()
        claims.keep_wal_small()

    def _read_state(self) -> dict[str, list[str]]:
        """Read what is pending and due next, who else is there, and what is to be cancelled."""
        with _db.translated(self._claims.path):
            self._claims.check_identity()
            lanes = self._claims.lanes()
            self._next_due = self._claims.next_due()
            self._next_expiry = self._claims.next_expiry()
            self._recovery.look()
            if self._has_jobs():
                self._cancel_requested()
        return lanes

    def _after_look(self, rooms: dict[int, int], lanes: dict[str, list[str]]) -> None:
        if not lanes or not rooms:
            self._look_now = False
        busy = self._has_jobs() or self._questions or self._stopping_since is not None
        if self._settings.burst and not lanes and not busy:
            with _db.translated(self._claims.path):
                nothing_due = self._next_due is None or self._next_due > self._clock()
                if nothing_due and not self._claims.lanes() and not self._claims.active_elsewhere():
                    self._begin_stop(0.0)

    def _cancel_requested(self) -> None:
        wanted = set(self._claims.cancel_requests())
        if not wanted:
            return
        for child in self._children.values():
            running = {index for index, _, _ in child.slot.running()}
            for index, row in child.jobs.items():
                if (row[_N], row[_CLAIM]) in wanted and index in running and child.watched is not None:
                    self._enforcer.cancel(child.watched, index)

    def _claim(self, lanes: Mapping[str, list[str]], wanted: int) -> list[Row]:
        """Claim up to `wanted` jobs, shared between the queues by weight, in the order in which they are to run."""
        filled = dict(lanes)
        claimed: list[Row] = []
        while filled and len(claimed) < wanted:
            picks = self._lanes.picks(filled, wanted - len(claimed))
            rows_of: dict[str, deque[Row]] = {}
            for queue in dict.fromkeys(picks):
                most = picks.count(queue)
                rows_of[queue] = deque(self._claims.claim(queue, filled[queue], most))
                if len(rows_of[queue]) < most:
                    del filled[queue]
                    self._lanes.found_empty(queue)
            claimed += [rows_of[queue].popleft() for queue in picks if rows_of[queue]]
        return claimed

    def _hand_out(self, rows: list[Row], rooms: dict[int, int]) -> None:
        """Send claimed jobs to the children that have room for them."""
        at = 0
        for slot_number, most in rooms.items():
            share = rows[at : at + most]
            if not share:
                return
            at += len(share)
            child = self._children[slot_number]
            assert child.watched is not None
            self._enforcer.expect(child.watched, dict(enumerate(share, child.sent)))
            child.mailbox.send(("frame", child.sent, share))
            child.sent += len(share)

    # --- ending children ----------------------------------------------------------------------------------------------

    def _end_children(self) -> None:
        share = self._settings.max_tasks_per_child
        for child in self._children.values():
            if child.retiring or (share is not None and child.sent >= share):
                self._retire(child)
            self._write_on(child)
        if self._stopping_since is None:
            return
        if time.monotonic() >= self._kill_at:
            self._kill_all()
        for child in self._children.values():
            if child.forbidden_since is None and not child.jobs:
                self._retire(child)

    def _write_on(self, child: _Child) -> None:
        wanted = select.POLLIN | (select.POLLOUT if child.mailbox.unsent else 0)
        if not child.mailbox.ended:
            self._poll.modify(child.mailbox.socket, wanted)

    def _kill_all(self) -> None:
        """The time that running jobs had is over: end them, and put them back as they were."""
        self._killed_all = True
        self._kill_at = _NEVER
        self._give_up_at = time.monotonic() + _CHILD_EXIT_SECONDS
        for child in self._children.values():
            if child.pid and child.jobs:
                self._helper.signal_child(child.pid, signal.SIGKILL)

    def _handles(self, type: str) -> bool:
        known = self._known.get(type)
        if known is None:
            known = self._known[type] = self._registry.match(type) is not None
        return known


def _sums(start: float, pauses: Iterable[float]) -> Iterable[float]:
    for pause in pauses:
        start += pause
        yield start


def _exit_word(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _exit_sentence(code: int) -> str:
    word = _exit_word(code)
    return f"ended itself with {word}" if code >= 0 else f"killed by signal {-code} ({word})"
