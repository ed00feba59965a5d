"""Jobs whose handlers have limits, as a worker claims them: which keys have room, whose turn it is, and what has started.

Such a job has a limit key in its row (`_handler_limits`), and the claim index has the jobs of a lane (queue and type) key by key.
A walk goes from key to key in a circle and begins after the last one served, so every key has its turn; a key that is full costs
one step, however many jobs wait behind it. What is full:

* concurrency: as many active rows with that key as the handler allows. They are counted in each transaction and kept nowhere,
  so whatever kills a job or a worker, its slot is free as soon as its row is no longer active;
* rate: as many starts in the window as it allows. Each claim notes one, and a job that is taken back unstarted takes it away.

Keys that wait for their window are remembered with the moment at which it opens, and looked at again then. Nothing polls: a lane
in which a whole walk has found no room is left alone until a commit has changed something, and long walks are rationed.
"""

import heapq
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, zip_longest
from math import ceil
from typing import NamedTuple

from fireforget import _db, _sql
from fireforget._handler_limits import UNFIT, Limits, RuleOf
from fireforget.clock import Clock

MOST_STEPS = 512
"""Full keys that one walk steps over: less than a millisecond. The next one goes on where it ended."""
_FIRST_STEPS, _STEPS_TOGETHER = 8, 64
_LONG_WALK = 64  # steps above which the next walk is rationed
_WALK_SHARE = 20  # they take a twentieth of the time at most
_MOST_REMEMBERED = 20_000
"""Keys whose windows are remembered; of others, only when the first of them opens."""
_MOST_KEYED, _MOST_KEYED_BYTES = 500, 4 * 1024 * 1024
"""Jobs that get their keys in one transaction, and bytes of payload that are read for it."""
_MOST_NEW = 2000
"""Numbers of new jobs that are looked through for their keys at once."""
_LEAST_OFFERED = 8
"""Jobs that a claim of fewer chooses from, by priority."""
_MOST_SLACK_FACTOR = 16.0
_NEVER = float("inf")
_BEFORE_ALL = ""


# What runs is counted in the rows themselves, inside the transaction that claims: whatever kills a worker, no slot is lost.

_OF_LANE = f"state = {_sql.PENDING} AND queue = :queue AND type = :type"

# The keys of a lane after one of them, by skipping from key to key: as many steps as there are keys, however many jobs they have.
KEYS_AFTER = f"""
WITH RECURSIVE step(key) AS (
    SELECT min(limit_key)
    FROM fireforget_job INDEXED BY fireforget_claim
    WHERE {_OF_LANE} AND limit_key > :after
    UNION ALL
    SELECT (
        SELECT min(limit_key)
        FROM fireforget_job INDEXED BY fireforget_claim
        WHERE {_OF_LANE} AND limit_key > step.key
    )
    FROM step
    WHERE step.key IS NOT NULL
    LIMIT :most
)
SELECT key
FROM step
WHERE key IS NOT NULL
"""

# Where a walk is long: the keys of the jobs that were stored lately, by their numbers.
NEW_KEYS = f"""
SELECT DISTINCT queue, type, limit_key
FROM fireforget_job NOT INDEXED
WHERE n > :seen
  AND n <= :last
  AND state = {_sql.PENDING}
  AND limit_key IS NOT NULL
"""

FIRST_OF_KEY = f"""
SELECT n, priority, due
FROM fireforget_job INDEXED BY fireforget_claim
WHERE {_OF_LANE} AND limit_key = :limit_key
ORDER BY priority DESC, due, n
LIMIT :most
"""

# Active jobs are as few as workers have in their hands.
RUNNING_OF_KEYS = f"""
SELECT limit_key, count(*)
FROM fireforget_job INDEXED BY fireforget_limited
WHERE state = {_sql.ACTIVE} AND limit_key IS NOT NULL
GROUP BY limit_key
"""
RUNNING_OF_KEY = f"""
SELECT count(*)
FROM fireforget_job INDEXED BY fireforget_limited
WHERE state = {_sql.ACTIVE} AND limit_key IS NOT NULL AND limit_key = :limit_key
"""

# `:latest` is there for a clock that was ahead once: what it noted is not to hold anything up for longer than a window.
_COUNTED = "limit_key = :limit_key AND at > :after AND at <= :latest"
STARTS_OF_KEY = f"SELECT count(*) FROM fireforget_start INDEXED BY fireforget_start_key WHERE {_COUNTED}"
STARTED_BEFORE = f"""
SELECT at
FROM fireforget_start INDEXED BY fireforget_start_key
WHERE {_COUNTED}
ORDER BY at DESC
LIMIT 1 OFFSET :newer
"""
NOTE_START = "INSERT INTO fireforget_start (limit_key, at, until, job) VALUES (?, ?, ?, ?)"

# A few at a time, in passing, and more than are added.
OLD_STARTS = "SELECT rowid FROM fireforget_start INDEXED BY fireforget_start_until WHERE until <= :now LIMIT :most"
REMOVE_START = "DELETE FROM fireforget_start WHERE rowid = ?"

# Before the job is put back, which ends the fence: its last start did not happen.
GIVE_START_BACK = """
DELETE FROM fireforget_start
WHERE rowid = (
    SELECT max(fireforget_start.rowid)
    FROM fireforget_job AS job
    JOIN fireforget_start INDEXED BY fireforget_start_key
        ON fireforget_start.limit_key = job.limit_key AND fireforget_start.job = job.n
    WHERE job.n = ? AND job.worker = ? AND job.claim = ?
)
RETURNING limit_key
"""

# Jobs that a program stored that knows no handlers: what their keys are made of is their payload.
WITHOUT_KEY = f"""
SELECT n, CASE WHEN :reads THEN CAST(payload AS TEXT) END
FROM fireforget_job INDEXED BY fireforget_claim
WHERE {_OF_LANE} AND limit_key IS NULL
ORDER BY priority DESC, due, n
LIMIT :most
"""
SET_KEY = f"UPDATE fireforget_job SET limit_key = :limit_key WHERE n = :n AND state = {_sql.PENDING} AND limit_key IS NULL"

# For those who look at a job that waits for room (`Inspector.limit_of`), beside `RUNNING_OF_KEY` and the starts.
LIMIT_KEY_OF = "SELECT limit_key FROM fireforget_job WHERE n = :n"
LIMITS_OF_WORKERS = "SELECT limits FROM fireforget_worker WHERE limits <> '{}' ORDER BY n"


class Candidate(NamedTuple):
    """A pending job whose turn it is."""

    n: int
    priority: int
    due: float
    type: str
    limit_key: str


class _Lane:
    """Where the walk of a queue and a type stands."""

    def __init__(self, queue: str, type: str) -> None:
        self.queue = queue
        self.type = type
        self.cursor = _BEFORE_ALL
        """The last key that had its turn, or had no room."""
        self.ready: dict[str, None] = {}
        """Keys whose window has opened."""
        self.version: tuple[int, int] | None = None
        """Of the database when this circle began."""
        self.is_long = False
        """Whether a circle is more than one walk."""
        self.begin()

    def begin(self) -> None:
        """Begin a new circle."""
        self.start = self.cursor
        self.wrapped = False
        self.done = False


class LimitedLanes:
    """The lanes of one worker whose jobs have limit keys. Every method works on a connection in a transaction of the caller's."""

    def __init__(self, rule_of: RuleOf, clock: Clock) -> None:
        self._ask = rule_of
        self._clock = clock
        self._rules: dict[str, Limits | None] = {}
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._without_keys: set[tuple[str, str]] = set()
        self._turn = 0
        self._running: Counter[str] | None = None
        self._opens: dict[str, float] = {}
        self._openings: list[tuple[float, str, str, str]] = []
        self._others_open_at = _NEVER
        self._looked_at = -_NEVER
        self._seen = 0
        self._walk_at = -_NEVER
        self._steps = 0
        self._again_at = _NEVER
        self._slack_factor = 1.0
        self.known: set[tuple[str, str]] = set()
        """The lanes that have been found with limited jobs, or jobs whose handler has limits, since `forget`."""
        self.any_full = False
        """Whether a lane was found without room since `forget`."""
        self.start_by: dict[int, float] = {}
        """Until when the jobs that this transaction has claimed must have started, in monotonic seconds, by number."""

    def rule_of(self, type: str) -> Limits | None:
        """Return the limits of a type's handler, asked once."""
        try:
            return self._rules[type]
        except KeyError:
            rule = self._rules[type] = self._ask(type)
            return rule

    def look_at(self, now: float) -> float:
        """Return when there may be room that no commit tells of, in monotonic seconds like `now`; infinity: not at all."""
        opens = min(self._openings[0][0] if self._openings else _NEVER, self._others_open_at)
        return min(self._again_at, _NEVER if opens == _NEVER else now + opens - self._clock())

    # --- looking --------------------------------------------------------------------------------------------------------

    def forget_counts(self) -> None:
        """What was counted belongs to an earlier transaction."""
        self._running = None

    def forget_lanes(self, connection: sqlite3.Connection) -> None:
        """Begin to find out which lanes there are."""
        self._running = None
        self._again_at = _NEVER
        self.known = set()
        self._without_keys = set()
        self.any_full = False
        self._let_open()
        if any(lane.is_long for lane in self._lanes.values()):
            self._find_new(connection)

    def is_open(self, connection: sqlite3.Connection, queue: str, type: str, *, without_keys: bool) -> bool:
        """Return whether a lane with limited jobs has one that can be claimed, or `without_keys` that are to be given."""
        self.known.add((queue, type))
        if without_keys:
            self._without_keys.add((queue, type))
        if without_keys or self.rule_of(type) is None:
            return True
        lane = self._lane(queue, type)
        for key, _ in self._open_ready(connection, lane):
            if self._jobs(connection, lane, key, 1):
                return True
            del lane.ready[key]
        version = (connection.execute("PRAGMA data_version").fetchone()[0], connection.total_changes)
        if lane.version != version:
            lane.version = version
            lane.begin()
        found = False
        if not lane.done:
            began = time.monotonic()
            if began >= self._walk_at:
                found = any(True for _ in self._walk(connection, lane, MOST_STEPS))
                self._ration(began)
            if not found and not lane.done:
                self._again_at = min(self._again_at, self._walk_at)
        self.any_full |= not found
        return found

    def _lane(self, queue: str, type: str) -> _Lane:
        lane = self._lanes.get((queue, type))
        if lane is None:
            lane = self._lanes[queue, type] = _Lane(queue, type)
        return lane

    def _ration(self, began: float) -> None:
        """After a long walk the next one waits: with many keys, commits that have to do with none of them must not cost much."""
        now = time.monotonic()
        if self._steps > _LONG_WALK:
            self._walk_at = now + _WALK_SHARE * (now - began)

    def _let_open(self) -> None:
        """Move the keys whose window has opened by now to those that are looked at first."""
        now = self._clock()
        if now < self._looked_at - 1.0:  # the clock was ahead, and so is what is remembered
            self._opens, self._openings, self._others_open_at = {}, [], now
        self._looked_at = now
        while self._openings and self._openings[0][0] <= now:
            at, queue, type, key = heapq.heappop(self._openings)
            if self._opens.get(key) == at:
                del self._opens[key]
                self._make_ready(queue, type, key)
        if self._others_open_at <= now:
            self._others_open_at = _NEVER
            for lane in self._lanes.values():
                lane.version = None

    def _find_new(self, connection: sqlite3.Connection) -> None:
        """Where it takes long to meet every key, those of new jobs are looked at first."""
        last = connection.execute(_sql.LAST_NUMBER).fetchone()[0] or 0
        if last - self._seen <= _MOST_NEW:  # otherwise the walk will meet them
            for queue, type, key in connection.execute(NEW_KEYS, {"seen": self._seen, "last": last}):
                lane = self._lanes.get((queue, type))
                if lane is not None and key not in self._opens:
                    lane.ready[key] = None
        self._seen = max(self._seen, last)

    def _make_ready(self, queue: str, type: str, key: str) -> None:
        """Look at a key first, in every lane of the handler that it belongs to."""
        rule = self.rule_of(type)
        for lane in {self._lane(queue, type), *self._lanes.values()}:
            if (lane.queue, lane.type) == (queue, type) or self.rule_of(lane.type) is rule is not None:
                lane.ready[key] = None

    # --- keys with room ---------------------------------------------------------------------------------------------------

    def _open_ready(self, connection: sqlite3.Connection, lane: _Lane) -> Iterator[tuple[str, int]]:
        for key in list(lane.ready):
            room = self._room(connection, lane, key)
            if room > 0:
                yield key, room
            else:
                lane.ready.pop(key, None)

    def _walk(self, connection: sqlite3.Connection, lane: _Lane, most_steps: int) -> Iterator[tuple[str, int]]:
        """Yield keys with room and how many jobs each has room for, from the one after the cursor on, once round at most.

        The cursor follows as long as keys are full: the first that has room is found again.
        """
        begins = lane.cursor == lane.start and not lane.wrapped
        at, follows, together = lane.cursor, True, _FIRST_STEPS
        self._steps = 0
        while not lane.done and self._steps < most_steps:
            parameters = {"queue": lane.queue, "type": lane.type, "after": at, "most": together}
            keys = [key for (key,) in connection.execute(KEYS_AFTER, parameters)]
            for key in keys:
                if lane.wrapped and key > lane.start:
                    lane.done = True
                    break
                room = self._room(connection, lane, key)
                if room > 0:
                    follows = False
                    yield key, room
                    continue
                self._steps += 1
                if follows:
                    lane.cursor = key
            if lane.done:
                break
            if len(keys) == together:
                at, together = keys[-1], _STEPS_TOGETHER
            elif lane.wrapped or lane.start == _BEFORE_ALL:
                lane.done = True
            else:
                lane.wrapped, at = True, _BEFORE_ALL
                if follows:
                    lane.cursor = at
        if not lane.done:
            lane.is_long = True
        elif begins:
            lane.is_long = False

    def _room(self, connection: sqlite3.Connection, lane: _Lane, key: str) -> int:
        """Return how many more jobs of a key may start now."""
        rule = self.rule_of(lane.type)
        if rule is None or key == UNFIT:
            return MOST_STEPS
        room = MOST_STEPS
        if rule.concurrency is not None:
            room = rule.concurrency - self._running_now(connection)[key]
        if room > 0 and rule.rate is not None:
            room = 0 if key in self._opens else min(room, self._starts_left(connection, lane, key, rule))
        return room

    def _running_now(self, connection: sqlite3.Connection) -> Counter[str]:
        if self._running is None:
            self._running = Counter(dict(connection.execute(RUNNING_OF_KEYS).fetchall()))
        return self._running

    def _starts_left(self, connection: sqlite3.Connection, lane: _Lane, key: str, rule: Limits) -> int:
        """Return how many starts the window of a key still has; where it has none, remember when it opens."""
        assert rule.rate is not None
        starts, seconds = rule.rate
        now = self._clock()
        counted = {"limit_key": key, "after": now - seconds, "latest": now + seconds + self._slack(rule)}
        left: int = starts - connection.execute(STARTS_OF_KEY, counted).fetchone()[0]
        if left <= 0:
            earliest = connection.execute(STARTED_BEFORE, {**counted, "newer": starts - 1}).fetchone()[0]
            self._remember(lane, key, earliest + seconds)
        return left

    def _remember(self, lane: _Lane, key: str, opens_at: float) -> None:
        if len(self._opens) < _MOST_REMEMBERED:
            self._opens[key] = opens_at
            heapq.heappush(self._openings, (opens_at, lane.queue, lane.type, key))
        else:
            self._others_open_at = min(self._others_open_at, opens_at)

    # --- claiming ---------------------------------------------------------------------------------------------------------

    def candidates(self, connection: sqlite3.Connection, queue: str, types: Sequence[str], most: int) -> list[Candidate]:
        """Return at least `most` jobs that may start, where there are as many, in the order of their keys' turns: one of each
        key, then the next of each.
        """
        most = max(most, _LEAST_OFFERED)
        self._turn += 1
        turn = self._turn % max(1, len(types))
        of_types = [self._of_lane(connection, self._lane(queue, type), most) for type in (*types[turn:], *types[:turn])]
        of_keys = [keys[at] for at in range(max(map(len, of_types), default=0)) for keys in of_types if at < len(keys)]
        taken: Counter[str] = Counter()
        chosen: list[Candidate] = []
        for round in range(max((len(jobs) for _, _, jobs in of_keys), default=0)):
            for room, key, jobs in of_keys:
                if round < len(jobs) and taken[key] < room:  # several types may have the same key
                    taken[key] += 1
                    chosen.append(jobs[round])
                    if len(chosen) == most:
                        return chosen
        return chosen

    def _of_lane(self, connection: sqlite3.Connection, lane: _Lane, most: int) -> list[tuple[int, str, list[Candidate]]]:
        """Return (room, key, jobs) of up to `most` keys of a lane, and no fewer jobs than `most` where there are as many."""
        if (lane.queue, lane.type) in self._without_keys:
            self._give_keys(connection, lane)
        lane.begin()
        lane.version = None
        began = time.monotonic()
        walk = self._walk(connection, lane, MOST_STEPS if began >= self._walk_at else _LONG_WALK)
        opened, met = list(islice(self._open_ready(connection, lane), most)), list(islice(walk, most))
        self._ration(began)
        if not lane.done and len(opened) + len(met) < most:
            self._again_at = min(self._again_at, self._walk_at)
        # By turns, so that neither those whose window has just opened starve the others nor the other way round.
        pairs = zip_longest(opened, met) if self._turn % 2 else zip_longest(met, opened)
        rooms = dict(islice(filter(None, chain.from_iterable(pairs)), most))
        each = ceil(most / max(1, len(rooms)))
        found = {key: self._jobs(connection, lane, key, min(room, each)) for key, room in rooms.items()}
        if sum(map(len, found.values())) < most:
            for key, jobs in found.items():
                if each == len(jobs) < rooms[key]:
                    found[key] = self._jobs(connection, lane, key, min(rooms[key], most))
        for key in [key for key, jobs in found.items() if not jobs]:
            lane.ready.pop(key, None)
            del found[key]
        return [(rooms[key], key, jobs) for key, jobs in found.items()]

    def _jobs(self, connection: sqlite3.Connection, lane: _Lane, key: str, most: int) -> list[Candidate]:
        parameters = {"queue": lane.queue, "type": lane.type, "limit_key": key, "most": most}
        rows = connection.execute(FIRST_OF_KEY, parameters).fetchall()
        return [Candidate(n, priority, due, lane.type, key) for n, priority, due in rows]

    def note_claimed(
        self, connection: sqlite3.Connection, queue: str, offered: Sequence[Candidate], claimed: Sequence[Candidate]
    ) -> None:
        """Count what has been claimed of the jobs that were `offered`: those that now are active, and starts."""
        self._move_on(queue, offered, {job.n for job in claimed})
        starts: list[tuple[str, float, float, int]] = []
        now, began = self._clock(), time.monotonic()
        rated: dict[str, tuple[_Lane, Limits]] = {}
        for job in claimed:
            lane = self._lane(queue, job.type)
            if self._running is not None:
                self._running[job.limit_key] += 1
            rule = self.rule_of(job.type)
            if rule is not None and rule.rate is not None and job.limit_key != UNFIT:
                slack = self._slack(rule)
                starts.append((job.limit_key, now + slack, now + slack + rule.rate.seconds, job.n))
                self.start_by[job.n] = began + slack
                rated[job.limit_key] = lane, rule
        if starts:
            connection.executemany(NOTE_START, starts)
            old = connection.execute(OLD_STARTS, {"now": now, "most": 2 * len(starts) + 8}).fetchall()
            connection.executemany(REMOVE_START, old)
            self._slack_factor = max(1.0, self._slack_factor * 0.98)
        for key, (lane, rule) in rated.items():
            self._starts_left(connection, lane, key, rule)

    def _move_on(self, queue: str, offered: Sequence[Candidate], claimed: set[int]) -> None:
        """Move the cursors past the keys that had their turn, up to the first that was passed over for a higher priority."""
        waiting: set[str] = set()
        served: list[tuple[_Lane, str]] = []
        for job in offered:
            lane = self._lane(queue, job.type)
            if job.n not in claimed:
                waiting.add(job.type)
            elif job.limit_key in lane.ready:
                served.append((lane, job.limit_key))
            elif job.type not in waiting:
                lane.cursor = job.limit_key
        for lane, key in served:
            lane.ready.pop(key, None)

    def give_back(self, connection: sqlite3.Connection, fences: Iterable[tuple[int, int, int]]) -> None:
        """Take the starts of jobs away that did not start after all; they must still be active."""
        for fence in fences:
            for (key,) in connection.execute(GIVE_START_BACK, fence).fetchall():
                self._opens.pop(key, None)

    # --- on the way to a child ----------------------------------------------------------------------------------------------

    def _slack(self, rule: Limits) -> float:
        assert rule.rate is not None
        return min(rule.rate.slack * self._slack_factor, rule.rate.seconds / 2)

    def was_late(self) -> None:
        """A job was not started by its moment: the machine is busy, so give the next ones longer."""
        self._slack_factor = min(_MOST_SLACK_FACTOR, self._slack_factor * 2)

    # --- keys for jobs that have none -----------------------------------------------------------------------------------------

    def _give_keys(self, connection: sqlite3.Connection, lane: _Lane) -> None:
        """Give jobs their keys that were stored by programs that know no handlers; some at a time."""
        rule = self.rule_of(lane.type)
        if rule is None:
            return
        parameters = {"queue": lane.queue, "type": lane.type, "most": _MOST_KEYED, "reads": rule.template is not None}
        read, keys = 0, []
        with _db.lenient(connection):  # what is not UTF-8 is no JSON either
            for n, payload in connection.execute(WITHOUT_KEY, parameters):
                keys.append({"n": n, "limit_key": rule.key_of_text(payload)})
                read += len(payload or "")
                if read > _MOST_KEYED_BYTES:
                    break
        connection.executemany(SET_KEY, keys)
        if len(keys) == _MOST_KEYED or read > _MOST_KEYED_BYTES:
            self._again_at = -_NEVER
