"""The worker's side of the store: claim jobs, settle them, take over those of dead workers, keep house.

One worker has one `Claims`, used by its supervisor's loop alone. Everything of a turn (what became of the jobs that ended, what
is due by now, the next jobs) is one transaction. Its commits are not synced to the disk: after a power cut a job may run again,
but what `enqueue` stored with "full" durability stays stored.
"""

import json
import os
import socket
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

from fireforget import _db, _dependencies, _schema, _sql, _sql_queues, _workers
from fireforget._claimed import (
    CLAIM,
    DEADLINE,
    DUE,
    MAX_RETRY,
    NONCE,
    PAYLOAD,
    PRIORITY,
    QUEUE,
    RETENTION,
    RETRY_COUNT,
    TIMEOUT,
    Claimed,
    N,
    Row,
)
from fireforget._handler_limits import RuleOf
from fireforget._history import Ended, History
from fireforget._limited import LimitedLanes
from fireforget._schema import STATE_NUMBER
from fireforget._settling import Fence, Settlement, settle_together
from fireforget.clock import Clock
from fireforget.errors import SchemaTooNew, StoreError, StoreReplaced
from fireforget.task import State

MOST_FORWARDED = 1000
"""Jobs that become pending in one transaction."""
MOST_EXPIRED = 500
"""Jobs removed after their retention in one transaction."""
MOST_CLAIMED_BYTES = 4 * 1024 * 1024
"""Bytes of payload after which one transaction claims no more."""
_SLICES = ((16 * 1024, 128), (64 * 1024, 32), (float("inf"), 4))
"""How many jobs one statement claims after one whose largest payload had up to so many bytes: sizes are known only afterwards."""
_FIRST_SLICE = 32
MOST_DEATHS = 3
"""A job under which a worker has died this often is archived."""
HOOK = "fireforget:hook"
"""The type of the jobs that call an application's `on_failure` or `on_archived`."""
HOOK_SECONDS = 5.0
"""How long such a call may take."""
_MOST_UNHANDLED = 20
_MOST_BRANCHES = 200  # of a compound SELECT; SQLite allows 500


_UNSTORABLE = (sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.InterfaceError, OverflowError, ValueError, TypeError)
"""What the binding of a value raises that SQLite cannot take; trouble with the file is none of them."""


_SOUND: Mapping[int, frozenset[type]] = {
    **dict.fromkeys((RETRY_COUNT, MAX_RETRY, NONCE, PRIORITY), frozenset((int,))),
    **dict.fromkeys((DUE, RETENTION), frozenset((int, float))),
    **dict.fromkeys((TIMEOUT, DEADLINE), frozenset((int, float, type(None)))),
}
"""The types of the columns that are numbers; a foreign program may have written something else."""

_Lane = tuple[str, list[str], int]
"""A queue, the types to claim from it, and how many jobs at most."""


class Claims:
    """The jobs of one worker in the database."""

    def __init__(
        self,
        database: _db.Database,
        handles: Callable[[str], bool],
        queues: Sequence[str],
        clock: Clock,
        rule_of: RuleOf = lambda _: None,
    ) -> None:
        self.path = database.path
        self._database = database
        self._handles = handles
        self._queues = frozenset(queues)
        self._clock = clock
        self._own = database.sibling("normal")
        self._wal = _db.WalKeeper(database.path, _db.WORKER_WAL_BYTES)
        self.worker = 0
        self.patience = _db.DEFAULT_PATIENCE
        """Seconds that a transaction waits for the write lock; more where handlers of ours may hold it for long."""
        self._tag = ""
        self._data_version = 0
        self._planned: tuple[sqlite3.Connection, int] | None = None
        """The connection, and the version of the schema, that have no statistics of our tables."""
        self._claimed_bytes = 0
        self._slice = _FIRST_SLICE
        self.hooks_of_archived: Callable[[str], Sequence[str]] = lambda _: ()
        """Returns whose `on_archived` is to be called for a job of a type."""
        self.limited = LimitedLanes(rule_of, clock)
        self._history = History()
        self.unhandled: list[tuple[str, str]] = []
        """Pairs of a served queue and a type without a handler that `lanes` has found; the first few."""

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection of the calling thread; inside `transaction` or `reading` alone."""
        return self._own.connection(patience=0)

    def close(self) -> None:
        """Close the connection."""
        self._own.close()

    def close_thread(self) -> None:
        """Close the calling thread's connection; another thread goes on with one of its own."""
        self._own.close_thread()

    # --- this worker's row --------------------------------------------------------------------------------------------

    def register(
        self,
        name: str,
        lock_file: str,
        weights: dict[str, int],
        concurrency: int,
        threads: int,
        schedules: Mapping[str, str] | None = None,
        limits: Mapping[str, Any] | None = None,
    ) -> None:
        """Enter this worker into the database; from now on jobs can be its own. `schedules` are digests by name, `limits` the
        numbers of handlers by pattern.
        """
        parameters = {
            "name": name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "boot_id": _workers.boot_id(),
            "lock_file": os.path.basename(lock_file),
            "queues": json.dumps(weights),
            "concurrency": concurrency,
            "threads": threads,
            "started_at": self._clock(),
            "schedules": json.dumps(dict(schedules or {})),
            "limits": json.dumps(dict(limits or {})),
        }
        with self.transaction():
            self.worker = self.connection.execute(_sql.INSERT_WORKER, parameters).lastrowid or 0
            self._tag = self.connection.execute(_sql.TAG).fetchone()[0]

    def unregister(self) -> None:
        """Remove this worker from the database; it must not own jobs any more."""
        with self.transaction():
            self.connection.execute(_sql.DELETE_WORKER, {"worker": self.worker})

    # --- transactions -------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run a block in one write transaction; raises `StoreError`s, and then nothing of it happened."""
        with self._translated(), _db.begun(self._own, self.patience) as connection:
            connection.text_factory = str  # see `_db.lenient`
            self.limited.forget_counts()
            try:
                yield
                connection.execute("COMMIT")
            except BaseException:
                _db.rollback(connection)
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Run a block that reads; raises `StoreError`s. May be nested."""
        with self._translated(), self._own.use(patience=0) as connection:
            connection.text_factory = str  # see `_db.lenient`
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn SQLite's errors into ours; what was our database when this worker signed in, and is none now, was replaced."""
        try:
            with _db.translated(self.path):
                yield
        except StoreError as error:
            if _db.is_not_ours(error.__cause__):
                raise self._written_over() from error
            raise

    def _written_over(self) -> StoreReplaced:
        return StoreReplaced(
            self.path, "another file was written over it while it was open: put it back, or start the program anew"
        )

    def check_schema(self) -> None:
        """Raise unless the file still is what this worker signed in to; called in each transaction.

        `SchemaTooNew` when a newer program has migrated it, `StoreReplaced` when another database was written over it.
        """
        meta = dict(self.connection.execute(_sql.META))
        version = meta.get("schema_version")
        if version != str(_schema.VERSION):
            raise SchemaTooNew(self.path, f"another program migrated it to schema version {version}: upgrade this worker")
        if meta.get("tag") != self._tag:
            raise self._written_over()
        self._forget_statistics()

    def _forget_statistics(self) -> None:
        """Remove what somebody's ANALYZE or PRAGMA optimize has noted of our tables, whenever there may be some.

        A queue is empty now and long in a moment, and SQLite would make its plans for what it was: where there was one job, newer
        versions walk through all of them to find one. Statistics are read with the schema.
        """
        connection = self.connection
        plans_by = connection, connection.execute("PRAGMA schema_version").fetchone()[0]
        if plans_by == self._planned:
            return
        if connection.execute(_sql.STATISTICS).fetchone() and connection.execute(_sql.FORGET_STATISTICS).rowcount:
            connection.execute("ANALYZE sqlite_schema")  # reads what is left, and analyzes nothing
        self._planned = plans_by

    def has_changed(self) -> bool:
        """Return whether another connection has committed since this was last asked; it costs a hundredth of a look at the jobs.

        Who was told by the kernel that the WAL was written asks it until the commit can be seen. Raises `StoreError`s.
        """
        with self.reading() as connection:
            version: int = connection.execute("PRAGMA data_version").fetchone()[0]
        before, self._data_version = self._data_version, version
        return version != before

    def check_identity(self) -> None:
        """Raise `StoreReplaced` when the file at the path is another one by now."""
        self._database.check_identity()

    # --- settling -----------------------------------------------------------------------------------------------------

    def settle(self, settlement: Settlement) -> int:
        """Write down what became of jobs, inside the open transaction; return how many results came too late."""
        self.connection.execute("SAVEPOINT settling")
        try:
            late = self._settle_together(settlement)
        except _UNSTORABLE:
            self.connection.execute("ROLLBACK TO settling")
            late = self._settle_each(settlement)
        self.connection.execute("RELEASE settling")
        return late

    def _settle_each(self, settlement: Settlement) -> int:
        """Settle one by one, and archive the jobs whose outcome SQLite cannot store: one must not hold up the others."""
        late = 0
        for name, rows in vars(settlement).items():
            for row in rows:
                one = Settlement(**{name: [row]})
                if name == "removed":
                    one.kept = [each for each in settlement.kept if each[-3:] == row]
                self.connection.execute("SAVEPOINT one")
                try:
                    late += self._settle_together(one)
                except _UNSTORABLE as error:
                    self.connection.execute("ROLLBACK TO one")
                    text = f"its outcome cannot be stored: {type(error).__name__}: {error}"[:1000]
                    self.connection.execute(_sql.ARCHIVE, (self._clock(), text, *row[-3:]))
                    _dependencies.ended(self.connection, [row[-3]])
                self.connection.execute("RELEASE one")
        return late

    def _settle_together(self, settlement: Settlement) -> int:
        self.limited.forget_counts()
        if settlement.late:
            self.limited.was_late()
        if settlement.given_back:  # before they are put back, while they can be told by their fences
            self.limited.give_back(self.connection, settlement.given_back)
        late = settle_together(self.connection, settlement, self._clock())
        for hook, owner, error, n, _, claim in settlement.hooks:
            self._insert_hook(hook, owner, error, n, claim)
        return late

    def add_to_history(self, rows: Iterable[Ended]) -> None:
        """Add runs that ended to the history of now, inside the open transaction."""
        self._history.add(self.connection, rows, self._clock())

    def spread(self) -> _dependencies.Spread:
        """Tell jobs what has become of those that they wait for, or fewer if they are many, inside the open transaction."""
        return _dependencies.spread(self.connection, self._clock())

    def has_news(self) -> bool:
        """Return whether jobs are still to be told what has become of others; a read alone."""
        return _dependencies.has_news(self.connection)

    def is_ours(self, fence: Fence) -> bool:
        """Return whether a job is still in this worker's hands by that claim; raises `StoreError`s."""
        with self.reading() as connection:
            return connection.execute(_sql.IS_OURS, fence).fetchone() is not None

    def _insert_hook(self, hook: str, owner: str, error: str, n: int, claim: int) -> None:
        """Store the call of a hook about a job that has just been settled, unless that came too late; in a transaction."""
        with _db.lenient(self.connection):
            row = self.connection.execute(_sql.SUBJECT_OF_HOOK, (n, claim)).fetchone()
        if row is None or (hook == "on_archived" and row[5] != STATE_NUMBER[State.ARCHIVED]):
            return
        columns = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in row]
        parameters = {
            "type": HOOK,
            "queue": row[4],
            "now": self._clock(),
            "payload": json.dumps({"hook": hook, "owner": owner, "error": error, "row": columns}),
            "headers": columns[7],
            "timeout": HOOK_SECONDS,
        }
        self.connection.execute(_sql.INSERT_HOOK, parameters)

    # --- claiming -----------------------------------------------------------------------------------------------------

    def forward_due(self) -> int:
        """Make what is due by now pending, inside the open transaction; return how many jobs that were."""
        due = [n for (n,) in self.connection.execute(_sql.DUE, {"now": self._clock(), "most": MOST_FORWARDED})]
        parts = _sql.in_parts_by_number(self.connection, due)
        return sum(self.connection.execute(_sql.make_pending(len(part)), part).rowcount for part in parts)

    def next_due(self) -> float:
        """Return when the next scheduled or failed job is due, in Unix seconds; infinity when there is none."""
        return self._first_instant(_sql.NEXT_DUE)

    def next_expiry(self) -> float:
        """Return when the next completed job's retention ends, in Unix seconds; infinity when there is none."""
        return self._first_instant(_sql.NEXT_EXPIRY)

    def _first_instant(self, statement: str) -> float:
        instant = self.connection.execute(statement).fetchone()[0]
        return instant if isinstance(instant, float | int) else float("inf")

    def lanes(self) -> dict[str, list[str]]:
        """Return the served queues that have jobs this worker can claim, and the types of those; a read alone.

        A type whose jobs all wait for their limits is left out.
        """
        with _db.lenient(self.connection, _db.decode_exactly):
            paused = {name for (name,) in self.connection.execute(_sql_queues.PAUSED_QUEUES)}
            pending = self.connection.execute(_sql.PENDING_LANES).fetchall()
        found: dict[str, list[str]] = {}
        self.unhandled = []
        limited = self.limited
        limited.forget_lanes(self.connection)
        for queue, type, lowest_key, highest_key in pending:
            if isinstance(queue, str) and queue in self._queues and queue not in paused:
                if isinstance(type, str) and self._handles(type):  # what is not UTF-8, or a BLOB, is no type of any handler
                    is_plain = highest_key is None and limited.rule_of(type) is None
                    if is_plain or limited.is_open(self.connection, queue, type, without_keys=lowest_key is None):
                        found.setdefault(queue, []).append(type)
                elif len(self.unhandled) < _MOST_UNHANDLED:
                    self.unhandled.append((queue, type if isinstance(type, str) else _db.decode_leniently(type)))
        return found

    def claim(self, queue: str, types: list[str], most: int) -> list[Row]:
        """Claim up to `most` pending jobs of a queue, inside the open transaction, and return them in the order to run them."""
        rows: list[Row] = []
        while len(rows) < most and not self.claimed_enough:
            wanted = min(most - len(rows), self._slice)
            part = self._claim_slice(queue, types, wanted)
            rows += part
            self._count_bytes(part)
            if len(part) < wanted:
                break
        return rows

    def claim_from(self, wanted: Mapping[str, tuple[list[str], int]]) -> dict[str, list[Row]]:
        """Claim from several queues, (types, jobs) of each, inside the open transaction; return jobs in the order to run them."""
        rows_of: dict[str, list[Row]] = {queue: [] for queue in wanted}
        together: list[_Lane] = []
        branches = jobs = 0
        for queue, (types, most) in wanted.items():
            if self._has_limited(queue, types):
                rows_of[queue] = self.claim(queue, types, most)
                continue
            branches, jobs = branches + len(types), jobs + most
            if together and (branches > _MOST_BRANCHES or jobs > self._slice):
                self._claim_together(together, rows_of)
                together, branches, jobs = [], len(types), most
            together.append((queue, types, most))
        self._claim_together(together, rows_of)
        return rows_of

    def _claim_together(self, lanes: list[_Lane], rows_of: dict[str, list[Row]]) -> None:
        if self.claimed_enough or not lanes:
            return
        if len(lanes) == 1:
            ((queue, types, most),) = lanes
            rows_of[queue] = self.claim(queue, types, most)
            return
        parameters: dict[str, Any] = {}
        for lane, (queue, types, most) in enumerate(lanes):
            parameters[f"queue_{lane}"], parameters[f"most_{lane}"] = queue, most
            parameters.update({f"type_{lane}_{i}": type for i, type in enumerate(types)})
        rows = self._mark(self._read(_sql.first_jobs_of_lanes(tuple(len(types) for _, types, _ in lanes)), parameters))
        _put_in_order(rows)
        self._count_bytes(rows)
        for row in rows:
            rows_of[row[QUEUE]].append(row)

    def begin_claiming(self) -> None:
        """Begin to count what one transaction claims."""
        self._claimed_bytes = 0
        self.limited.start_by = {}

    @property
    def claimed_enough(self) -> bool:
        """Whether this transaction has claimed as many bytes of payload as one may: a claim writes each of them to the WAL."""
        return self._claimed_bytes >= MOST_CLAIMED_BYTES

    def _count_bytes(self, rows: list[Row]) -> None:
        sizes = [len(row[PAYLOAD]) if type(row[PAYLOAD]) is str else _size_of(row[PAYLOAD]) for row in rows]
        self._claimed_bytes += sum(sizes)
        largest = max(sizes, default=0)
        self._slice = next(jobs for up_to, jobs in _SLICES if largest <= up_to)

    def _claim_slice(self, queue: str, types: list[str], most: int) -> list[Row]:
        if self._has_limited(queue, types):
            return self._claim_with_limits(queue, types, most)
        if len(types) > _MOST_BRANCHES:
            return self._claim_among_many(queue, types, most)
        parameters: dict[str, Any] = {f"type_{i}": type for i, type in enumerate(types)}
        parameters.update(queue=queue, most=most)
        return self._mark(self._read(_sql.first_jobs(len(types)), parameters))

    def _claim_among_many(self, queue: str, types: list[str], most: int) -> list[Row]:
        """Claim among more types than one statement can name: find the first jobs of each part, then claim the first of all."""
        return self._claim_numbers([n for n, _, _ in self._first_plain(queue, types, most)[:most]])

    def _has_limited(self, queue: str, types: list[str]) -> bool:
        known = self.limited.known
        return bool(known) and any((queue, type) in known for type in types)

    def _claim_with_limits(self, queue: str, types: list[str], most: int) -> list[Row]:
        """Claim where some of the types have limits.

        Limited jobs get as many of the places as are due to them by priority and age; which of them get those is for priority and
        their keys' turns to say. So neither do they hold up others, nor others them.
        """
        known = self.limited.known
        limited_types = [type for type in types if (queue, type) in known]
        offered = self.limited.candidates(self.connection, queue, limited_types, most)
        of_limited = {job.n for job in offered}
        plain_types = [type for type in types if (queue, type) not in known or self.limited.rule_of(type) is None]
        plain = self._first_plain(queue, plain_types, most)
        first = sorted([*(job[:3] for job in offered), *plain], key=_by_place)[:most]
        places = sum(n in of_limited for n, _, _ in first)
        chosen = sorted(offered, key=lambda job: -_rank(job.priority))[:places]  # stable: by turns among equals
        rows = self._claim_numbers([job.n for job in chosen] + [n for n, _, _ in plain[: len(first) - places]])
        self.limited.note_claimed(self.connection, queue, offered, chosen)
        return rows

    def _first_plain(self, queue: str, types: list[str], most: int) -> list[tuple[int, int, float]]:
        """Return (number, priority, due) of the first jobs without limits, at least `most` where there are as many, in order."""
        candidates: list[tuple[int, int, float]] = []
        for at in range(0, len(types), _MOST_BRANCHES):
            part = types[at : at + _MOST_BRANCHES]
            parameters: dict[str, Any] = {f"type_{i}": type for i, type in enumerate(part)}
            candidates += self.connection.execute(_sql.places_of_first(len(part)), {**parameters, "queue": queue, "most": most})
        candidates.sort(key=_by_place)
        return candidates

    def _claim_numbers(self, numbers: list[int]) -> list[Row]:
        rows: list[Row] = []
        for part in _sql.in_parts_by_number(self.connection, numbers):
            rows += self._read(_sql.jobs_by_number(len(part)), part)
        rows = self._mark(rows)
        _put_in_order(rows)  # not before: what is no number cannot be compared with one
        return rows

    def _read(self, statement: str, parameters: dict[str, Any] | Sequence[int]) -> list[Row]:
        """Read jobs; text that is not UTF-8, which a foreign program may have stored, is read with replacement characters."""
        try:
            return self.connection.execute(statement, parameters).fetchall()
        except sqlite3.OperationalError as error:
            if "decode" not in str(error):
                raise
            with _db.lenient(self.connection):
                return self.connection.execute(statement, parameters).fetchall()

    def _mark(self, rows: list[Row]) -> list[Row]:
        """Make jobs that were just read this worker's own; return those of them that can be run."""
        now, marked = self._clock(), 0
        for part in _sql.in_parts_by_number(self.connection, [row[N] for row in rows]):
            marked += self.connection.execute(_sql.mark_claimed(len(part)), (self.worker, now, *part)).rowcount
        if marked != len(rows):  # a trigger of the application's has kept some: they would run, and run again
            rows = [row for row in rows if self.connection.execute(_sql.IS_OURS, (row[N], self.worker, row[CLAIM])).fetchone()]
        return rows if _are_sound(rows) else [row for row in rows if self._is_sound(row)]

    def _is_sound(self, row: Row) -> bool:
        """Return whether a job's numbers are numbers, and archive it otherwise: nobody could run it."""
        if _are_sound([row]):
            return True
        job = Claimed(*row)
        wrong = [place for place, kinds in _SOUND.items() if type(row[place]) not in kinds]
        told = ", ".join(f"{Claimed._fields[place]} {row[place]!r:.100}" for place in wrong)
        error = f"another program wrote into the table what is no number: {told}"
        self.connection.execute(_sql.MAKE_NUMBERS, {"n": job.n})
        self.connection.execute(_sql.ARCHIVE, (self._clock(), error, job.n, self.worker, job.claim))
        return False

    def active_elsewhere(self) -> bool:
        """Return whether any worker runs a job that this one could run; for `--burst`."""
        with _db.lenient(self.connection):
            active = self.connection.execute(_sql.ACTIVE_LANES).fetchall()
        return any(queue in self._queues and isinstance(type, str) and self._handles(type) for queue, type in active)

    def cancel_requests(self) -> set[tuple[int, int]]:
        """Return (job number, claim) of this worker's jobs that somebody wants cancelled."""
        return set(self.connection.execute(_sql.CANCEL_REQUESTED, {"worker": self.worker}).fetchall())

    # --- housekeeping -------------------------------------------------------------------------------------------------

    def remove_expired(self) -> int:
        """Remove completed jobs whose retention has passed, inside the open transaction; return how many."""
        numbers = self.connection.execute(_sql.EXPIRED, {"now": self._clock(), "most": MOST_EXPIRED}).fetchall()
        each = [(n,) for n, _ in numbers]
        self.connection.executemany(_sql.DELETE_JOB, each)
        self.connection.executemany(_sql.DELETE_ATTEMPTS, each)
        self.connection.executemany(_sql.DELETE_STEPS, [(n,) for n, has_steps in numbers if has_steps])
        return len(numbers)

    def keep_wal_small(self) -> None:
        """Fold the WAL back into the database when it has grown large."""
        with self.reading() as connection:
            self._wal.after_commit(connection)

    @property
    def wal_retry_at(self) -> float:
        """When to call `keep_wal_small` again though nothing was committed, in monotonic seconds; infinity: not at all."""
        return self._wal.retry_at

    # --- dead workers -------------------------------------------------------------------------------------------------

    def other_workers(self) -> list[_workers.WorkerRow]:
        """Return all workers that stand in the database but this one."""
        return [row for row in _workers.read_workers(self.connection) if row.n != self.worker]

    def ownerless(self) -> list[int]:
        """Return numbers of workers that own jobs and do not stand in the database; a restored copy may have some."""
        return [n for (n,) in self.connection.execute(_sql.OWNERLESS_JOBS)]

    def take_over(self, worker: int, started: frozenset[int], counts: bool) -> tuple[int, int]:
        """Make a dead worker's jobs pending again and remove its row; return how many went back and how many were archived.

        `started` are the numbers of the jobs that were running; with `counts` their death counts, and the third archives.
        """
        returned = archived = 0
        with self.transaction():
            jobs = self.connection.execute(_sql.JOBS_OF_WORKER, {"worker": worker}).fetchall()
            for n, claim, deaths, type in jobs:
                died = int(counts and n in started)
                if deaths + died >= MOST_DEATHS:
                    error = f"its worker died under it {MOST_DEATHS} times"
                    self.connection.execute(
                        _sql.ARCHIVE_AFTER_DEATHS, {"n": n, "worker": worker, "now": self._clock(), "error": error}
                    )
                    for owner in self.hooks_of_archived(type):
                        self._insert_hook("on_archived", owner, error, n, claim + 1)
                    archived += 1
                else:
                    self.connection.execute(_sql.RETURN_JOB, {"n": n, "worker": worker, "died": died})
                    returned += 1
            self.connection.execute(_sql.DELETE_WORKER, {"worker": worker})
            _dependencies.ended(self.connection, [n for n, *_ in jobs])
            _dependencies.spread(self.connection, self._clock())
        return returned, archived


def _by_place(job: tuple[int, Any, Any]) -> tuple[float, float, int]:
    n, priority, due = job
    return -_rank(priority), _rank(due), n


def _rank(value: Any) -> float:
    """Return a number to sort by; what is none, and a foreign program has written, is above all, as in SQLite's order."""
    return value if isinstance(value, int | float) else float("inf")


_due_and_number = itemgetter(DUE, N)
_priority = itemgetter(PRIORITY)


def _put_in_order(rows: list[Row]) -> None:
    """Sort claimed jobs into the order to run them: by priority, highest first, then due time, then number."""
    rows.sort(key=_due_and_number)
    rows.sort(key=_priority, reverse=True)  # keeps the order of equals


def _size_of(payload: Any) -> int:
    return len(payload) if isinstance(payload, bytes) else 8


def _are_sound(rows: list[Row]) -> bool:
    """Return whether all numbers of claimed jobs are numbers; each claim comes here, so it looks at columns and not at rows."""
    columns = list(zip(*rows, strict=True))
    return not rows or all(_kinds_of(columns[place]) <= kinds for place, kinds in _SOUND.items())


def _kinds_of(values: Iterable[Any]) -> set[type]:
    return set(map(type, values))
