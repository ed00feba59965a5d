"""Change jobs: what may be done to one in which state; and to many, in transactions that hold nobody up."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import Enum
from typing import Any, Final

from fireforget import _dependencies, _sql, _sql_change, _sql_find
from fireforget import payload as json_payload
from fireforget._inserting import duplicate_of
from fireforget._inspect_access import DUE, PRIORITY, STATE, Access, Connection, state_of
from fireforget._inspect_find import Filter, Finder
from fireforget._rows import unique_key_of
from fireforget.errors import DuplicateTask, InvalidOption, InvalidPayload, WrongState
from fireforget.task import State, check_options

MOST_IN_A_TRANSACTION = 1000
"""Jobs that an operation over many changes in one transaction."""
_LONGEST_HOLD = 0.05  # seconds of the write lock for such a transaction, before the next one is made smaller

RUNNABLE = frozenset({State.SCHEDULED, State.RETRY, State.ARCHIVED, State.CANCELLED, State.COMPLETED, State.AGGREGATING})
ARCHIVABLE = frozenset(
    {State.PENDING, State.SCHEDULED, State.RETRY, State.COMPLETED, State.CANCELLED, State.AGGREGATING, State.BLOCKED}
)
CANCELLABLE = frozenset({State.PENDING, State.SCHEDULED, State.RETRY, State.ACTIVE, State.AGGREGATING, State.BLOCKED})
DELETABLE = frozenset(State) - {State.ACTIVE}
UPDATABLE = frozenset(State) - {State.ACTIVE, State.COMPLETED}
RESCHEDULABLE = frozenset({State.PENDING, State.SCHEDULED, State.RETRY})

Change = Callable[[Connection, Filter, list[dict[str, Any]]], int]
"""Changes the jobs of these rows that still match, inside the open transaction; returns how many that were."""

_CHANGES = ("payload", "queue", "priority", "process_at", "process_in", "deadline")

CANCEL_IT = "cancel it, or wait until it has ended"
RUN_REMEDIES = {
    State.ACTIVE: "it runs already",
    State.PENDING: "it will run as soon as a worker that has a handler for it is free; look whether its queue is paused",
    State.BLOCKED: "it waits for other jobs, and runs when they have completed",
}
UPDATE_REMEDIES = {State.ACTIVE: CANCEL_IT, State.COMPLETED: "there is nothing left to change; run it, or enqueue another"}


class Unchanged(Enum):
    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged.UNCHANGED
"""The default of arguments of `Inspector.update` for which None is a value."""


class Changer:
    """Changes the jobs of one queue's file."""

    def __init__(self, access: Access, finder: Finder) -> None:
        self._access = access
        self._finder = finder

    # --- one job, inside the open transaction -------------------------------------------------------------------------

    def run(self, connection: Connection, n: int, job_id: str, state: State) -> None:
        """Make a job pending inside the open transaction; raises `WrongState` or `DuplicateTask`, and then it is as it was."""
        now = self._access.now()
        key, until, _, deadline, *_ = connection.execute(_sql_change.LOCK_OF_JOB, {"n": n}).fetchone()
        if deadline is not None and deadline <= now:
            raise WrongState(job_id, state, "its deadline has passed, so it would not run; update its deadline first")
        held = None if key is None or until is None or until <= now else _inner_key(key)
        if held is not None:
            self._check_free(connection, held, n, now)
        parameters = {"n": n, "now": now, "unique_key": held, "unique_until": None if held is None else until}
        connection.execute(_sql_change.RUN_JOB, parameters)
        if state is State.COMPLETED:
            connection.execute(_sql.DELETE_STEPS, (n,))

    def _check_free(self, connection: Connection, key: str, n: int, now: float) -> None:
        connection.execute(_sql.RELEASE_EXPIRED_KEY, {"unique_key": key, "now": now})
        holder = connection.execute(_sql.HOLDER_OF_KEY, {"unique_key": key}).fetchone()
        if holder is not None and holder[0] != n:
            raise duplicate_of(connection, key)

    def encode(self, payload: Any) -> str | None:
        """Return a payload as it is stored; raises `InvalidPayload`."""
        if payload is None:
            return None
        text = json_payload.encode(payload)
        if json_payload.size_of(text) > self._access.max_payload:
            raise InvalidPayload(
                f"the payload has {json_payload.size_of(text)} bytes of JSON and max_payload is {self._access.max_payload}: "
                "store the data elsewhere and pass a reference, or raise max_payload"
            )
        return text

    def update(self, connection: Connection, row: tuple[Any, ...], job_id: str, changes: dict[str, Any]) -> None:
        """Change a job inside the open transaction; raises `WrongState` or `DuplicateTask`, and then it is as it was."""
        now = self._access.now()
        state = state_of(row)
        key, _, payload, deadline, queue, type = connection.execute(_sql_change.LOCK_OF_JOB, {"n": row[0]}).fetchone()
        values = {
            "n": row[0],
            "new_payload": "payload" in changes,
            "payload": changes.get("payload", payload),
            "queue": changes.get("queue", queue),
            "priority": changes.get("priority", row[PRIORITY]),
            "deadline": changes.get("deadline", deadline),
            "due": row[DUE],
            "state": row[STATE],
        }
        if "process_at" in changes or "process_in" in changes:
            if state not in RESCHEDULABLE:
                remedy = "it waits for other jobs" if state is State.BLOCKED else "it does not wait for a time; run it instead"
                raise WrongState(job_id, state, remedy)
            due = changes["process_at"] if "process_at" in changes else now + changes["process_in"]
            values["due"], values["state"] = due, _sql.number_of(_state_at(due, now, state))
        values["unique_key"] = self._following_key(connection, key, values, type, now)
        connection.execute(_sql_change.UPDATE_JOB, values)

    def _following_key(
        self, connection: Connection, key: str | None, values: dict[str, Any], type: str, now: float
    ) -> str | None:
        """Return the key that a job has once its queue or payload is another; raises `DuplicateTask` when it is taken."""
        inner = None if key is None else _inner_key(key)
        if key is None or inner is None or not inner.startswith("job:"):
            return key
        following = unique_key_of(None, values["queue"], type, values["payload"])
        if key != inner:
            return f"{_sql.RELEASED}{values['n']}:{following}"
        self._check_free(connection, following, values["n"], now)
        return following

    def checked(self, changes: Mapping[str, Any], about: str) -> dict[str, Any]:
        """Return the arguments of an update as `update` takes them; raises `InvalidOption`, `InvalidPayload`.

        `about` is what the error names when nothing is to change.
        """
        unknown = changes.keys() - _CHANGES
        if unknown:
            raise InvalidOption("update", sorted(unknown)[0], f"this cannot be changed; choose among {', '.join(_CHANGES)}")
        removable = ("payload", "deadline")
        given = {k: v for k, v in changes.items() if v is not UNCHANGED and (v is not None or k in removable)}
        if not given:
            raise InvalidOption("update", about, "give what is to change: payload, queue, priority, a time or a deadline")
        checked: dict[str, Any] = check_options({name: value for name, value in given.items() if name != "payload"})
        if "payload" in given:
            checked["payload"] = self.encode(given["payload"])
        return {**({"deadline": None} if "deadline" in given else {}), **checked}

    # --- many jobs ------------------------------------------------------------------------------------------------------

    def all(
        self,
        state: State | str,
        filters: Mapping[str, Any],
        allowed: frozenset[State],
        done: str,
        change: Change,
    ) -> int:
        """Do a change to all jobs of a state that match, in bounded transactions with pauses; return how many were changed."""
        wanted = self._finder.filter(state, **filters)
        if wanted.state not in allowed:
            choices = ", ".join(state for state in State if state in allowed)
            raise InvalidOption("state", str(state), f"jobs in this state cannot be {done}; choose among {choices}")
        changed, pace = 0, Pace()
        for rows in self._finder.matching(wanted):
            at = 0
            while batch := rows[at : at + pace.jobs]:
                at += len(batch)
                began = time.monotonic()
                with self._access.changing() as connection, _dependencies.noticing(connection, [row["n"] for row in batch]):
                    changed += change(connection, wanted, batch)
                pace.rest(time.monotonic() - began, more=at < len(rows))
        return changed

    @staticmethod
    def each(statement: Callable[..., str]) -> Change:
        """Return what runs a statement for each job, if it still matches."""

        def change(connection: Connection, wanted: Filter, rows: list[dict[str, Any]]) -> int:
            number = wanted.number
            assert number is not None
            changed: int = connection.executemany(statement(number, _fence(wanted)), rows).rowcount
            return changed

        return change

    def update_each(self, changes: dict[str, Any]) -> Change:
        """Return what updates the jobs that still match, but for those whose new unique key is taken."""

        def change(connection: Connection, wanted: Filter, rows: list[dict[str, Any]]) -> int:
            statement = _sql_find.still_matching(_sql.JOB_COLUMNS, wanted.number, _fence(wanted))
            changed = 0
            for row in rows:
                job = connection.execute(statement, row).fetchone()
                if job is not None:
                    with suppress(DuplicateTask):
                        self.update(connection, job, "", changes)
                        changed += 1
            return changed

        return change

    def run_if_possible(self, connection: Connection, wanted: Filter, rows: list[dict[str, Any]]) -> int:
        """Run the jobs that still match, but for those that `run` would refuse; return how many that were."""
        assert wanted.number is not None and wanted.state is not None
        changed: int = connection.executemany(_sql_change.run_plain(wanted.number, _fence(wanted)), rows).rowcount
        if wanted.state is State.COMPLETED:
            connection.executemany(_sql_change.DELETE_STEPS_OF_PENDING, [(row["n"],) for row in rows])
        statement = _sql_find.still_matching("n", wanted.number, _fence(wanted))
        for row in rows if changed < len(rows) else []:  # those with a unique key or a deadline, one by one
            if connection.execute(statement, row).fetchone() is not None:
                with suppress(DuplicateTask, WrongState):
                    self.run(connection, row["n"], "", wanted.state)
                    changed += 1
        return changed


class Pace:
    """How many jobs to change in one transaction, so that it holds the write lock for a twentieth of a second or so."""

    def __init__(self) -> None:
        self.jobs = MOST_IN_A_TRANSACTION // 4

    def rest(self, seconds: float, *, more: bool) -> None:
        """Take in how long a transaction took; where more follow, leave the lock to others for as long as it was held."""
        if seconds > _LONGEST_HOLD:
            self.jobs = max(MOST_IN_A_TRANSACTION // 20, self.jobs // 2)
        elif seconds < _LONGEST_HOLD / 3:
            self.jobs = min(MOST_IN_A_TRANSACTION, self.jobs * 2)
        if more:
            time.sleep(min(_LONGEST_HOLD, max(0.002, seconds)))


def _state_at(due: float, now: float, state: State) -> State:
    """Return the state of a waiting job once it is due at another time."""
    if due <= now:
        return State.PENDING
    return State.RETRY if state is State.RETRY else State.SCHEDULED


def _fence(wanted: Filter) -> list[str]:
    """Return the filters that a change repeats: a job that was changed since it was read may match no more."""
    return [*wanted.parameters, *([] if wanted.payload is None else ["as_read"])]


def _inner_key(key: str) -> str:
    """Return a unique key as it is while it is held."""
    return key.split(":", 2)[2] if key.startswith(_sql.RELEASED) else key
