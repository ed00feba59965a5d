"""The supervisor's loop: the one process of a worker that owns the queue.

One turn::

    wait for: messages of children, ends of children, the database's notice, signals, the next moment at which something is due
      │
      ├─ take in: outcomes, positions, deaths ──► what became of which job (verdicts)
      ├─ decide: how many jobs each child has room for (plan)
      ├─ one transaction: settle ─ make due jobs pending ─ claim          nothing to write: a read at most, or nothing at all
      └─ send the claimed jobs to the children as frames (crew)

The verdicts are kept until a transaction has committed them. So a store in trouble delays, and loses nothing.
"""

import logging
import os
import select
import socket
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field

from fireforget import _db, logs, metrics
from fireforget._claimed import Row
from fireforget._claims import HOOK, Claims
from fireforget._dependencies import Spread
from fireforget._pool import hooks
from fireforget._pool.board import Board
from fireforget._pool.bookkeeper import Bookkeeper
from fireforget._pool.child import child_main
from fireforget._pool.config import Settings
from fireforget._pool.crew import EXIT_SECONDS, Crew
from fireforget._pool.enforcer import Enforcer
from fireforget._pool.groups import Groups, aggregates
from fireforget._pool.helper import ForkHelper
from fireforget._pool.notice import GLANCE_SECONDS, LOOKS, POLL_SECONDS, Notice
from fireforget._pool.plan import Lanes
from fireforget._pool.recovery import CHECK_SECONDS, Recovery
from fireforget._pool.schedules import Schedules
from fireforget._pool.trimmer import Trimmer
from fireforget._pool.verdicts import Verdicts
from fireforget.clock import Seconds, to_seconds
from fireforget.errors import HelperDied, SchemaTooNew, StoreCorrupt, StoreError, StoreReplaced, WorkerError
from fireforget.queue_sqlite import SqliteQueue
from fireforget.registry import Registry

TROUBLE_PAUSE = 0.5
"""Seconds between tries while the store cannot be written."""
_TROUBLE_LOG_SECONDS = 10.0
_WARN_SECONDS = 60.0
_FATAL = (SchemaTooNew, StoreReplaced, StoreCorrupt)
"""It is another program's file now, or none, or damaged: a worker must not write any more, and ends."""
_FINEST_POLL = 0.001  # poll waits in whole milliseconds, and a commit is often seen after a part of one
_LOOK_SECONDS = 0.005  # between two looks at everything while every turn is a transaction anyway
_LANES_SHARE, _LONGEST_LANES_SECONDS = 20, 0.05  # reading the queues takes a worker that is busy a twentieth of its time at most
_LONGEST_PAUSE = 3600.0  # poll takes milliseconds in 32 bits
_LOOK_AT_CLOCK = 1.0  # what is due is due by wall time, which jumps and goes on in a suspend; looking takes some microseconds
_NEVER = float("inf")
_NOTHING_TOLD = Spread(0, False)


@dataclass(slots=True)
class _Turn:
    """One transaction of the loop: what it is to do, and then what came of it."""

    now: float
    """Unix seconds."""
    began: float
    """Monotonic seconds."""
    looks: bool
    """Whether all was read that a look is for; `lanes` are what is pending by it."""
    lanes: dict[str, list[str]]
    rooms: dict[int, int]
    wanted: int
    """Jobs that the children have room for."""
    settles: bool
    due: bool
    expired: bool
    complete: bool
    """Whether groups or ticks are to be enqueued."""
    tells: bool
    """Whether the history is to be told of runs."""

    late: int = 0
    """Results that came too late."""
    told: Spread = _NOTHING_TOLD
    rows: list[Row] = field(default_factory=list)
    """The jobs that were claimed."""
    next_due: float = _NEVER
    next_expiry: float = _NEVER


class Supervisor:
    """A worker at work. Everything but `request`, the enforcer and the bookkeeper runs on one thread."""

    _blames = True
    """Whether a death of this worker counts against the jobs that were running."""

    def __init__(self, registry: Registry, settings: Settings, queue: "SqliteQueue | str | os.PathLike[str]") -> None:
        self._registry = registry
        self._settings = settings
        self._given_queue = queue
        self._patience = settings.shutdown_timeout
        """Seconds that running jobs have from the beginning of a stop."""
        self._samples = metrics.Samples()
        self._lanes = Lanes(settings.queues, settings.strict_priority)
        self._known_types: dict[str, bool] = {}
        """Whether there is a handler for a type, as far as it was asked."""
        self._warned: dict[tuple[str, str], float] = {}
        """When it was last warned of jobs in a queue, of a type, that nobody here runs; in monotonic seconds, as all below."""
        self._requests: deque[str] = deque()
        """What `request` was asked for and the loop has not done yet."""
        self._waking = threading.RLock()  # a signal handler may come in the middle of it
        self._wake_write: int | None = None
        """The end of a pipe that wakes the loop; None while there is no loop."""
        self._claiming = True
        """Whether it takes new jobs; signals turn it off and on."""
        self._signed_off = False
        """Whether the worker has begun to leave the database, and its lock."""
        self._may_write = True
        """Whether the file is still ours to write to (`_FATAL`)."""
        self._knows_children = True
        """Whether it is known which children are dead, as the helper tells while it lives."""
        self._stopping = False
        self._kill_at = _NEVER
        """When jobs that still run in a stop are killed."""
        self._give_up_at = _NEVER
        """When the worker ends though children are left."""
        self._looks: deque[float] = deque()
        """When to look again after the database's notice: a commit may show a moment later than it is noticed."""
        self._look_now = True
        """Whether the next turn reads what is pending."""
        self._looked_at = self._glances_until = -_NEVER
        """When one last did, and until when a look after a notice only asks whether anything has been committed yet."""
        self._filled: dict[str, list[str]] = {}
        """The types that are pending, by queue, as last read."""
        self._filled_at = self._read_lanes_at = -_NEVER
        """When that was, and from when on it is read again."""
        self._has_news = False
        """Whether ends of jobs are yet to be told to those that wait for them."""
        self._next_due = _NEVER
        """In Unix seconds, and the next."""
        self._next_expiry = _NEVER
        self._trouble_until = 0.0
        """Until when the store is left alone after an error."""
        self._trouble_since: float | None = None
        self._trouble_logged_at = -_NEVER
        self._peers_at = 0.0
        """When to look for other workers that have died."""

    # --- start --------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Fork the helper, then open the database and enter the worker into it. Raises `StoreError` and `WorkerError`."""
        given, settings = self._given_queue, self._settings
        path = given.path if isinstance(given, SqliteQueue) else _db.resolve_path(given)
        _db.check_library()
        _db.check_place(path)
        with _opening:
            try:
                self._board = Board.create(path, settings.concurrency * 2, settings.threads, blames=self._blames)
            except OSError as error:
                raise WorkerError(
                    f"{path}: the worker's lock file cannot be created beside it ({error.strerror}): "
                    "its folder has to be writable by this user, and its disk to have room"
                ) from error
            self._helper = ForkHelper.start(child_main(self._registry, settings, self._board))
            _embedding.add(self)
        try:
            self._queue = given if isinstance(given, SqliteQueue) else SqliteQueue(path)
            self._sign_in()
        except BaseException:
            _embedding.discard(self)
            self._helper.close()
            self._board.remove()
            raise
        self._assemble()
        self._claims.close_thread()  # the loop may run on another thread than this
        if self._queue is not given:
            self._queue._database.close_thread()

    def _sign_in(self) -> None:
        queue, settings = self._queue, self._settings
        self.name = f"{socket.gethostname()}:{os.getpid()}:{self._board.path[-8:]}"
        self._claims = Claims(queue._database, self._handles, list(settings.queues), queue._clock, self._registry.limits_of)
        self._claims.hooks_of_archived = lambda of: hooks.owners_of(self._registry, of, "on_archived")
        digests = {name: schedule.digest for name, schedule in self._registry.schedules.items()}
        limits = {name: known.limits.numbers() for name, known in self._registry.definitions.items() if known.limits is not None}
        self._claims.register(
            self.name, self._board.path, dict(settings.queues), settings.concurrency, settings.threads, digests, limits
        )
        self._recovery = Recovery(self._claims)
        with self._claims.reading():
            self._recovery.look()
            self._recovery.check()
            self._recovery.adopt_ownerless()

    def _assemble(self) -> None:
        """Put the parts together that need neither fork nor transaction."""
        queue, settings = self._queue, self._settings
        self._clock = queue._clock
        self._poll = select.poll()
        self._notice = Notice(queue.path)
        limits = [d.transaction_timeout for d in self._registry.definitions.values() if d.transaction_timeout is not None]
        self._giving_way = self._board.wanting_the_lock if limits else nullcontext
        self._claims.patience += max(limits, default=0.0)
        self._enforcer = Enforcer(self._helper.signal_child, self._transaction_limit if limits else None)
        self._enforcer.start()
        self._crew = Crew(
            settings,
            self._board,
            self._helper,
            self._enforcer,
            self._samples,
            self._poll,
            (queue._tag, queue.path, queue._database.identity, self._claims.worker),
        )
        worker = self._claims.worker
        self._verdicts = Verdicts(self._registry, self._samples, worker, queue._tag, self._clock, self._crew.ask)
        self._verdicts.is_ours = self._claims.is_ours
        self._crew.verdicts = self._verdicts
        self._groups = Groups(self._registry, self._claims, queue, frozenset(settings.queues))
        self._schedules = Schedules(self._registry, self._claims, queue)
        self._bookkeeper: Bookkeeper | None = None
        if settings.metrics_file is not None:
            self._bookkeeper = Bookkeeper(settings, queue._database, self._samples, self._crew.count, self._clock)
            self._bookkeeper.start()
        self._trimmer = Trimmer(queue._database, self._samples, self._clock)
        self._trimmer.start()
        self._wake_read, wake_write = os.pipe()
        for descriptor in (self._wake_read, wake_write):
            os.set_blocking(descriptor, False)
        self._wake_write = wake_write
        for descriptor in (self._wake_read, self._helper.mailbox.fileno()):
            self._poll.register(descriptor, select.POLLIN)
        if self._notice.works:
            self._poll.register(self._notice.fileno(), select.POLLIN)

    # --- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until a stop was asked for and is done. Raises `WorkerError` or `StoreError` when it cannot go on."""
        queues = ", ".join(f"{name}={weight}" for name, weight in self._settings.queues.items())
        self._log(
            logging.INFO,
            f"worker started: {self._settings.concurrency} children, queues {queues}, database {self._claims.path}",
        )
        try:
            while not self._is_done():
                self._wait()
                self._obey_requests()
                self._turn()
        except _FATAL:
            self._may_write = False
            raise
        except HelperDied:
            self._knows_children = False
            raise
        finally:
            self._close()
        self._log(logging.INFO, "worker stopped")

    def _log(self, level: int, message: str) -> None:
        logs.event(level, message, worker=self.name, pid=os.getpid())

    def _is_done(self) -> bool:
        if not self._stopping:
            return False
        nothing_left = not self._crew and not self._verdicts.waits_for_answers and not self._verdicts.settlement
        return nothing_left or time.monotonic() >= self._give_up_at

    def _wait(self) -> None:
        """Sleep until something is to be done, and take in what was said."""
        pause = self._pause()
        if 0 < pause < _FINEST_POLL:
            time.sleep(pause)
            pause = 0.0
        milliseconds = max(0, -int(-min(pause, _LONGEST_PAUSE) * 1000 // 1)) if pause < _NEVER else None
        ready = {descriptor for descriptor, _ in self._poll.poll(milliseconds)}
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
        if self._helper.mailbox.fileno() in ready:
            self._crew.hear_helper()
        if self._notice.works and self._notice.fileno() in ready:
            self._notice.clear()
            now = time.monotonic()
            self._looks = deque(_moments(now, LOOKS))
            self._glances_until = now + GLANCE_SECONDS
        self._crew.hear(ready)

    def _pause(self) -> float:
        """Return how long the loop may sleep, in seconds."""
        now = time.monotonic()
        moments = [self._kill_at, self._give_up_at, self._verdicts.answers_due, self._claims.wal_retry_at]
        moments += self._crew.moments(now)
        if self._trouble_until > now:
            moments.append(self._trouble_until)
        elif self._verdicts.settlement or self._has_news or ((self._look_now or self._crew.freed) and self._rooms()):
            return 0.0
        else:
            moments.append(self._verdicts.tally.due_at)
            if self._claims_now():
                moments.append(self._claims.limited.look_at(now))
        if self._looks:
            moments.append(self._looks[0])
        if not self._notice.works:
            moments.append(now + POLL_SECONDS)
        due = min(self._next_due, self._groups.next_at, self._schedules.next_at) if self._claims_now() else _NEVER
        wall_moment = min(due, self._next_expiry)
        if wall_moment < _NEVER:
            moments.append(now + min(_LOOK_AT_CLOCK, max(0.0, wall_moment - self._clock())))
        if self._recovery.has_others:
            moments.append(self._peers_at)
        return max(0.0, min(moments) - now)

    def _turn(self) -> None:
        self._crew.collect()
        self._crew.take_back()
        self._verdicts.give_up_waiting(all=self._stopping)
        self._crew.fork_missing()
        self._crew.let_go()
        now = time.monotonic()
        if now >= self._kill_at:
            self._kill_at = _NEVER
            self._give_up_at = now + EXIT_SECONDS
            self._crew.kill_all()
        if now < self._trouble_until:
            return
        if self._bookkeeper is not None and (self._verdicts.settlement or self._crew.has_jobs or self._crew.freed or self._looks):
            self._bookkeeper.something_happened()
        if self._verdicts.settlement or self._crew.freed or self._looks:
            self._trimmer.something_happened()
        try:
            self._look_around(now)
            self._transact()
        except _FATAL:
            raise
        except StoreError as error:
            self._note_trouble(error)

    def _look_around(self, now: float) -> None:
        """Take in the database's notices and the deaths of other workers."""
        while self._looks and self._looks[0] <= now:
            glances = self._looks.popleft() < self._glances_until
            if not glances or self._claims.has_changed():
                self._look_now = True
        if not self._notice.works or self._crew.freed or (self._claims_now() and self._claims.limited.look_at(now) <= now):
            self._look_now = True
        self._crew.freed = False
        if now >= self._claims.wal_retry_at:
            self._claims.keep_wal_small()
        if self._recovery.has_others and now >= self._peers_at:
            self._peers_at = now + CHECK_SECONDS
            if self._recovery.check():
                self._look_now = True

    def _note_trouble(self, error: StoreError) -> None:
        """The store cannot be written: keep what is to be settled, and try again soon."""
        now = time.monotonic()
        self._trouble_until = now + TROUBLE_PAUSE
        if self._trouble_since is None:
            self._trouble_since = now
        self._look_now = True
        self._filled = {}
        if now - self._trouble_logged_at >= _TROUBLE_LOG_SECONDS:
            self._trouble_logged_at = now
            logs.event(logging.ERROR, "the store is in trouble, nothing is lost, trying again", error=str(error))

    def _note_end_of_trouble(self) -> None:
        """Something was committed again: say so once, with how long nothing could be.

        That is until the retry of the last failure, and not until now: where nothing is left to write, the next commit may come
        hours later.
        """
        if self._trouble_since is not None:
            seconds = round(self._trouble_until - self._trouble_since, 1)
            self._trouble_since = None
            self._trouble_logged_at = -_NEVER
            logs.event(logging.INFO, "the store can be written again", seconds=seconds)

    # --- the transaction ----------------------------------------------------------------------------------------------

    def _transact(self) -> None:
        """Settle, make due jobs pending and claim, in one transaction; none when there is nothing to write."""
        turn = self._plan_turn()
        if turn is None:
            self._look_now = False
            self._end_burst()
            return
        with self._giving_way(), self._claims.transaction():
            self._write(turn)
        self._note_committed(turn)
        self._crew.hand_out(turn.rows, turn.rooms, self._claims.limited.start_by)
        self._look_now = self._wants_another(turn)
        self._note_end_of_trouble()
        self._claims.check_identity()
        self._claims.keep_wal_small()

    def _plan_turn(self) -> "_Turn | None":
        """Decide what the next transaction is to do; None: there is nothing to write."""
        settlement, rooms = self._verdicts.settlement, self._rooms()
        # A turn that settles reads inside its transaction what is pending. The rest of what a look is for can wait a little.
        began = time.monotonic()
        looks = self._look_now and not (settlement and began < self._looked_at + _LOOK_SECONDS)
        lanes = self._read_state() if looks else {}
        now = self._clock()
        due = self._claims_now() and min(self._next_due, self._verdicts.next_due) <= now
        expired = min(self._next_expiry, self._verdicts.next_expiry) <= now
        if settlement.archived or settlement.cancelled:
            self._groups.look_soon()
        complete = self._claims_now() and min(self._groups.next_at, self._schedules.next_at) <= now
        tells = self._verdicts.tally.due_at <= time.monotonic()
        if not (settlement or due or expired or complete or tells or self._has_news or (rooms and lanes)):
            return None
        wanted = sum(rooms.values())
        return _Turn(now, began, looks, lanes, rooms, wanted, bool(settlement), due, expired, complete, tells)

    def _write(self, turn: "_Turn") -> None:
        """Do what was planned, inside the open transaction."""
        claims = self._claims
        claims.check_schema()
        claims.begin_claiming()
        if turn.settles:
            turn.late = claims.settle(self._verdicts.settlement)
        if turn.tells:
            claims.add_to_history(self._verdicts.tally.rows())
        turn.told = told = claims.spread()
        if turn.due:
            claims.forward_due()
        if turn.expired:
            claims.remove_expired()
        if turn.complete:
            self._groups.close_complete(turn.now)
            self._schedules.enqueue_due(turn.now)
        lanes, anew = turn.lanes, bool(turn.due or turn.complete or told.unblocked)
        if turn.wanted and (anew or turn.settles):  # what was seen before may be more by now
            lanes = self._current_lanes(anew=anew)
        turn.rows = self._claim(lanes, turn.wanted)
        turn.next_due = claims.next_due() if turn.due else self._next_due
        turn.next_expiry = claims.next_expiry() if turn.expired else self._next_expiry

    def _note_committed(self, turn: "_Turn") -> None:
        """Take over what holds from the commit on."""
        self._next_due = min(turn.next_due, self._verdicts.next_due)
        self._next_expiry = min(turn.next_expiry, self._verdicts.next_expiry)
        self._verdicts.committed()
        if turn.tells:
            self._verdicts.tally.committed()
        if turn.late:
            self._samples.count("fireforget_results_discarded_total", (), turn.late)
        self._has_news = turn.told.more

    def _wants_another(self, turn: "_Turn") -> bool:
        """Return whether to look again at once: something was put off, or there may be jobs to claim still."""
        if (self._look_now and not turn.looks) or turn.told.unblocked > 0 or self._settings.burst:
            return True
        if len(turn.rows) >= turn.wanted:
            return turn.wanted > 0
        # A job that ended may have made room for another one of its key, where the look before saw none.
        made_room = turn.settles and bool(self._claims.limited.known)
        fresh = turn.looks or self._filled_at >= turn.began
        return self._claims.claimed_enough or not fresh or made_room

    def _rooms(self) -> dict[int, int]:
        return self._crew.rooms() if self._claims_now() else {}

    def _claims_now(self) -> bool:
        return self._claiming and not self._stopping

    def _read_state(self) -> dict[str, list[str]]:
        """Read what is pending and due next, who else is there, and what is to be cancelled."""
        self._looked_at = time.monotonic()
        with self._claims.reading():
            self._claims.check_identity()
            self._next_due = self._claims.next_due()
            self._next_expiry = self._claims.next_expiry()
            self._has_news = self._claims.has_news()
            self._recovery.look()
            self._groups.look()
            self._schedules.look(self._clock())
            if self._crew.has_jobs:
                self._crew.cancel(self._claims.cancel_requests())
            lanes = self._claims.lanes()
        self._warn_of_unhandled()
        return lanes

    def _current_lanes(self, *, anew: bool) -> dict[str, list[str]]:
        """Return which queues have which types pending; read again after a while only, the longer the more queues there are."""
        began = time.monotonic()
        if anew or not self._filled or began >= self._read_lanes_at:
            self._filled, self._filled_at = self._claims.lanes(), began
            took = time.monotonic() - began
            self._read_lanes_at = began + min(_LONGEST_LANES_SECONDS, max(_LOOK_SECONDS, _LANES_SHARE * took))
        return self._filled

    def _warn_of_unhandled(self) -> None:
        """Say which types wait in the served queues that no handler here is for; each at most once in `_WARN_SECONDS`."""
        now = time.monotonic()
        for queue, type in self._claims.unhandled:
            if now - self._warned.get((queue, type), -_NEVER) >= _WARN_SECONDS:
                self._warned[queue, type] = now
                logs.event(
                    logging.WARNING,
                    "jobs wait that this worker has no handler for: register one, or run a worker that has",
                    task_type=type,
                    queue=queue,
                )

    def _end_burst(self) -> None:
        """With `burst`: stop when nothing is left that this worker can run now."""
        busy = self._crew.has_jobs or self._verdicts.waits_for_answers or self._stopping
        if not self._settings.burst or busy:
            return
        with self._claims.reading():
            nothing_due = self._claims.next_due() > self._clock()
            nothing_waits = not self._claims.lanes() and not self._claims.limited.any_full
            if nothing_due and nothing_waits and not self._claims.active_elsewhere():
                self._begin_stop(0.0)

    def _claim(self, lanes: Mapping[str, list[str]], wanted: int) -> list[Row]:
        """Claim up to `wanted` jobs, shared between the queues by weight, in the order in which they are to run."""
        self._filled = filled = dict(lanes)
        claimed: list[Row] = []
        while filled and len(claimed) < wanted and not self._claims.claimed_enough:
            picks = self._lanes.picks(filled, wanted - len(claimed))
            shares = Counter(picks)
            found = self._claims.claim_from({queue: (filled[queue], most) for queue, most in shares.items()})
            for queue, most in shares.items():
                if len(found[queue]) < most and not self._claims.claimed_enough:
                    del filled[queue]
                    self._lanes.found_empty(queue)
            claimed += _in_order_of(picks, found)
        return claimed

    def _handles(self, type: str) -> bool:
        known = self._known_types.get(type)
        if known is None:
            own = aggregates(self._registry, type) or (type == HOOK and self._registry._has_hooks)
            own = own or self._schedules.builds(type)
            known = self._known_types[type] = own or self._registry.match(type) is not None
        return known

    def _transaction_limit(self, type: str) -> float | None:
        definition = self._registry.match(type)
        return None if definition is None else definition.transaction_timeout

    # --- requests, and the end ----------------------------------------------------------------------------------------

    def set_patience(self, timeout: Seconds) -> None:
        """Set how many seconds running jobs have at the stop; raises `InvalidOption`."""
        self._patience = to_seconds("timeout", timeout)

    def request(self, what: str) -> None:
        """Ask the loop to "stop", to "pause" or "resume" claiming, or to "reap"; from any thread, or a signal handler."""
        self._requests.append(what)
        with self._waking:
            if self._wake_write is not None:  # else it is not open yet, or over: its number may be another file's by now
                with suppress(BlockingIOError):  # it is awake
                    os.write(self._wake_write, b"!")

    def _obey_requests(self) -> None:
        while self._requests:
            what = self._requests.popleft()
            if what in ("pause", "resume") and self._stopping:
                continue  # init systems send CONT after TERM
            if what == "pause":
                self._claiming = False
                self._log(logging.INFO, "claiming is paused: running jobs go on")
            elif what == "reap":
                self._helper.reap_strangers()
            elif what == "resume":
                self._claiming = True
                self._look_now = True
                self._log(logging.INFO, "claiming goes on")
            elif not self._stopping:
                self._begin_stop(self._patience)
            else:
                self._kill_at = min(self._kill_at, time.monotonic())

    def _begin_stop(self, patience: float) -> None:
        self._stopping = True
        self._kill_at = time.monotonic() + patience
        self._give_up_at = self._kill_at + EXIT_SECONDS
        jobs = self._crew.running()
        have = f"{jobs} jobs are running and have" if jobs > 1 else "1 job is running and has"
        self._log(logging.INFO, f"stopping: {have} {patience:g} s" if jobs else "stopping: no job is running")
        self._crew.begin_stop()

    def _let_go(self) -> None:
        """In a process that the application forks: it must hold neither the worker's lock nor its helper."""
        self._helper.close_in_forked_child()
        if not self._signed_off:
            os.close(self._board.descriptor)

    def _close(self) -> None:
        self._helper.close()
        self._crew.collect()
        if not self._knows_children:
            with suppress(OSError):
                self._knows_children = self._board.outlive_children(EXIT_SECONDS)
        if self._knows_children:  # all are dead: the helper, or else the kernel, has killed them
            self._crew.abandon()
        if self._may_write and (self._verdicts.settlement or self._verdicts.tally):
            self._write_last_settlement()
        self._enforcer.stop()
        self._trimmer.stop()
        if self._bookkeeper is not None:
            self._bookkeeper.stop()
        self._notice.close()
        self._crew.close()
        self._close_wake()
        self._sign_off()
        self._claims.close()
        if self._queue is not self._given_queue:
            self._queue.close()

    def _close_wake(self) -> None:
        with self._waking:
            wake_write, self._wake_write = self._wake_write, None
        for descriptor in (self._wake_read, wake_write):
            if descriptor is not None:
                os.close(descriptor)

    def _write_last_settlement(self) -> None:
        try:
            with self._claims.transaction():
                self._claims.settle(self._verdicts.settlement)
                self._claims.add_to_history(self._verdicts.tally.rows())
                self._claims.spread()
        except StoreError as error:
            self._may_write = False
            logs.event(logging.ERROR, "the last results could not be stored; their jobs will run again", error=str(error))

    def _sign_off(self) -> None:
        """Leave the database. A worker that cannot is found dead by the next one, which takes over what is left, but not before
        the kernel has freed the lock: when the last child is gone.
        """
        try:
            self._signed_off = True
            if self._may_write and self._knows_children:
                self._claims.unregister()
                self._board.remove()
                return
        except StoreError as error:
            logs.event(logging.ERROR, "the worker could not sign off", error=str(error))
        os.close(self._board.descriptor)


_embedding: "weakref.WeakSet[Supervisor]" = weakref.WeakSet()
"""The supervisors that this process has opened."""


_opening = threading.RLock()
"""Held while a worker makes its lock and its helper, and by every fork: no other process may inherit what is half made."""


def _hold_opening() -> None:
    _opening.acquire()


def _release_opening() -> None:
    _opening.release()


def _after_fork_in_child() -> None:
    global _opening  # noqa: PLW0603 - the parent's may be held by a thread that does not exist here
    _opening = threading.RLock()
    for supervisor in list(_embedding):
        supervisor._let_go()
    _embedding.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_opening, after_in_parent=_release_opening, after_in_child=_after_fork_in_child)


def _in_order_of(picks: list[str], found: Mapping[str, list[Row]]) -> list[Row]:
    """Return the claimed jobs of several queues in the order in which the queues were picked, as far as there are any."""
    if len(found) == 1:
        return next(iter(found.values()))
    rows_of = {queue: iter(rows) for queue, rows in found.items()}
    return [row for queue in picks if (row := next(rows_of[queue], None)) is not None]


def _moments(start: float, pauses: Iterable[float]) -> Iterable[float]:
    for pause in pauses:
        start += pause
        yield start
