"""How much history a queue keeps: limits by count and age for archived, completed and cancelled jobs, and trimming to them.

Limits stand in the database, so that they hold for every worker; without any nothing is trimmed. A worker trims in the background
(`_pool.trimmer`), a few jobs in a transaction, the oldest first. Several workers may do it at once: each picks the oldest of one
consistent view, so they pick the same jobs, and never more than are too many.
"""

from dataclasses import dataclass, fields
from typing import Any

from fireforget import _db, _dependencies, _sql, _sql_change
from fireforget._schema import STATE_NUMBER, STATE_OF_NUMBER
from fireforget.clock import Clock, to_seconds
from fireforget.errors import InvalidOption
from fireforget.task import State, check_options

MOST_TRIMMED = 100
"""Jobs that one transaction trims: well below a millisecond of the write lock."""

_NEVER = float("inf")
_LOOK_AGAIN = 60.0  # seconds; the oldest job is kept for others, so that it does not tell when the next one is too old


@dataclass(frozen=True)
class QueueLimits:
    """What a queue keeps of jobs that ended; None: all of them, for ever. Ages are in seconds since they ended.

    A completed job's own `retention` ends sooner or later than its queue's limit: whichever is first holds.
    """

    archived_max: int | None = None
    archived_age: float | None = None
    completed_max: int | None = None
    completed_age: float | None = None
    cancelled_max: int | None = None
    cancelled_age: float | None = None


LIMITS = tuple(field.name for field in fields(QueueLimits))
"""The names of the limits: a state and `max` or `age`."""

STATES = (State.ARCHIVED, State.COMPLETED, State.CANCELLED)


def check(name: str, given: dict[str, Any]) -> dict[str, int | float | None]:
    """Return the given limits in the store's terms; raises `InvalidOption` for a blank queue and for what is no limit."""
    check_options({"queue": name})
    if not given:
        raise InvalidOption("limits", name, f"give at least one of {', '.join(LIMITS)}")
    checked: dict[str, int | float | None] = {}
    for limit, value in given.items():
        if value is None or limit.endswith("_age"):
            checked[limit] = None if value is None else to_seconds(limit, value, above_minimum=True)
        elif isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
            raise InvalidOption(limit, value, "give how many jobs to keep, 0 or more, or None for all")
        else:
            checked[limit] = value
    return checked


ALL_LIMITS = "SELECT queue, state, most, age FROM fireforget_keep"
LIMITS_OF_QUEUE = "SELECT state, most, age FROM fireforget_keep WHERE queue = :queue"

SET_LIMIT = """
INSERT INTO fireforget_keep (queue, state, most, age)
VALUES (:queue, :state, :most, :age)
ON CONFLICT (queue, state) DO UPDATE SET most = :most, age = :age
"""

DELETE_LIMIT = "DELETE FROM fireforget_keep WHERE queue = :queue AND state = :state"
DELETE_LIMITS_OF_QUEUE = "DELETE FROM fireforget_keep WHERE queue = :queue"

# A queue with limits is known, like one that was paused.
KNOW_QUEUE = "INSERT INTO fireforget_queue (name, paused_at) VALUES (:queue, NULL) ON CONFLICT (name) DO NOTHING"

# `state > 4` is the index's own WHERE. Its order is that in which jobs ended.
_ENDED = "FROM fireforget_job INDEXED BY fireforget_resting WHERE state > 4 AND state = :state AND queue = :queue"

OLDEST_ENDED = f"SELECT min(completed_at) {_ENDED}"

# A completed job without an expiry is kept for others, and they may need it for longer than any limit.
_NOT_KEPT = f"NOT (state = {_sql.COMPLETED} AND expires_at IS NULL)"
ENDED_BEFORE = f"SELECT n {_ENDED} AND completed_at <= :before AND {_NOT_KEPT} ORDER BY completed_at, n LIMIT :batch"

# Counting walks the index of one queue and state: a read, on a thread that nobody waits for.
ENDED_BEYOND = f"""
SELECT n {_ENDED} AND {_NOT_KEPT}
ORDER BY completed_at, n
LIMIT max(0, min(:batch, (SELECT count(*) {_ENDED}) - :most))
"""


def read(connection: Any, name: str) -> QueueLimits:
    """Return the limits of a queue."""
    values: dict[str, Any] = {}
    for number, most, age in connection.execute(LIMITS_OF_QUEUE, {"queue": name}):
        state = STATE_OF_NUMBER[number]
        values |= {f"{state}_max": most, f"{state}_age": age}
    return QueueLimits(**values)


def write(connection: Any, name: str, changes: dict[str, int | float | None]) -> QueueLimits:
    """Change limits of a queue inside the open transaction, and return all that it has then."""
    values = {**vars(read(connection, name)), **changes}
    connection.execute(KNOW_QUEUE, {"queue": name})
    for state in STATES:
        most, age = values[f"{state}_max"], values[f"{state}_age"]
        parameters = {"queue": name, "state": STATE_NUMBER[state], "most": most, "age": age}
        connection.execute(DELETE_LIMIT if most is None and age is None else SET_LIMIT, parameters)
    return QueueLimits(**values)


def forget(connection: Any, name: str) -> None:
    """Remove the limits of a queue inside the open transaction."""
    connection.execute(DELETE_LIMITS_OF_QUEUE, {"queue": name})


class Trimming:
    """Trims one database to its limits, a few jobs at a time; for one thread. What it trims is not synced to the disk."""

    def __init__(self, database: _db.Database, clock: Clock) -> None:
        self._own = database.sibling("normal")
        self._wal = _db.WalKeeper(database.path, _db.WORKER_WAL_BYTES)
        self._clock = clock
        self.next_at = _NEVER
        """When the next job is too old, in Unix seconds, as of the last `step`; infinity: none will be."""

    def step(self) -> tuple[str, State, int] | None:
        """Trim up to `MOST_TRIMMED` jobs of one queue and state; return queue, state and number, None when nothing was too many.

        Only a read where there is nothing to trim. Raises `StoreError`s, and then nothing was trimmed.
        """
        now = self._clock()
        self.next_at = _NEVER
        with self._own.use() as connection:
            for queue, number, most, age in connection.execute(ALL_LIMITS).fetchall():
                numbers = self._surplus(connection, {"queue": queue, "state": number}, most, age, now)
                if numbers:
                    break
            else:
                return None
        return queue, STATE_OF_NUMBER[number], self._delete(number, numbers)

    def _surplus(self, connection: Any, of: dict[str, Any], most: int | None, age: float | None, now: float) -> list[int]:
        """Return the numbers of the oldest jobs that are too old or too many; each statement sees one consistent view."""
        if age is not None:
            oldest = connection.execute(OLDEST_ENDED, of).fetchone()[0]
            if oldest is not None and oldest + age <= now:
                parameters = {**of, "before": now - age, "batch": MOST_TRIMMED}
                numbers = [n for (n,) in connection.execute(ENDED_BEFORE, parameters)]
                if numbers:
                    return numbers
                self.next_at = min(self.next_at, now + _LOOK_AGAIN)
            elif oldest is not None:
                self.next_at = min(self.next_at, oldest + age)
        if most is None:
            return []
        return [n for (n,) in connection.execute(ENDED_BEYOND, {**of, "most": most, "batch": MOST_TRIMMED})]

    def _delete(self, state: int, numbers: list[int]) -> int:
        with _db.changing(self._own, _db.DEFAULT_PATIENCE, self._wal.after_commit) as connection:
            with _dependencies.noticing(connection, numbers):
                deleted: int = connection.executemany(_sql_change.remove(state), [{"n": n} for n in numbers]).rowcount
            connection.executemany(_sql.DELETE_ATTEMPTS_OF_GONE, [(n,) for n in numbers])
            connection.executemany(_sql.DELETE_STEPS_OF_GONE, [(n,) for n in numbers])
            _dependencies.spread(connection, self._clock())
        return deleted

    def close(self) -> None:
        """Close the connection."""
        self._own.close()
