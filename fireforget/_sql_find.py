"""Finding jobs: the conditions that a job is to meet, and the walks over those that meet them (`_inspect_find` goes them).

What is then done with them is in `_sql_change`; which queues there are, and how many jobs each has, in `_sql_queues`.

Jobs are listed by row number. Of those that rest, the index has each queue's in this order. For the others there are two ways:
by the index of the state, sorting its numbers, which costs what the jobs in the state cost; or through the table, a window of
row numbers at a time, which is cheap where the state is common. `_inspect_find` takes the first where few are in the state.
"""

from collections.abc import Iterable
from functools import cache

from fireforget import _sql
from fireforget._schema import STATE_NUMBER

DUE_TERM = f"state IN ({_sql.SCHEDULED}, {_sql.RETRY})"
ENDED_TERM = f"state IN ({_sql.COMPLETED}, {_sql.ARCHIVED}, {_sql.CANCELLED})"
FIRST_RESTING = 5

# The term repeats the index's own WHERE, word for word: SQLite uses a partial index only where the query implies it.
INDEX_OF_STATE = {
    _sql.PENDING: ("fireforget_claim", f"state = {_sql.PENDING}"),
    _sql.ACTIVE: ("fireforget_active", f"state = {_sql.ACTIVE}"),
    **dict.fromkeys((_sql.SCHEDULED, _sql.RETRY), ("fireforget_due", DUE_TERM)),
    **{number: ("fireforget_listed", "state > 4") for number in STATE_NUMBER.values() if number >= FIRST_RESTING},
}

_AGE = f"CASE WHEN {ENDED_TERM} THEN coalesce(completed_at, enqueued_at) ELSE enqueued_at END"

FILTERS = {
    "queue": "queue = :queue",
    "type": "type = :type",
    "type_prefix": "substr(type, 1, length(:type_prefix)) = :type_prefix",
    "before": f"{_AGE} <= :before",
    "since": f"{_AGE} > :since",
    "error": "instr(last_error, :error) > 0",
    "as_read": "payload IS :as_read",
    "group": "group_name = :group",
}
"""What jobs can be narrowed by: the name of the parameter, and its condition."""


# Text that a payload must have to match, so that most are passed over without decoding them. It may be written otherwise with a
# backslash, and a number with an exponent: whoever reads the payload decides.
def _hint(name: str) -> str:
    exponent = " OR payload GLOB '*[0-9][eE]*'" if name.startswith("number_") else ""
    return f"(instr(payload, :{name}) > 0 OR instr(payload, '\\') > 0{exponent})"


def where(state: int | None, filters: Iterable[str]) -> str:
    """Return the end of a WHERE clause: what a job must meet to be in the state and to pass these filters and hints."""
    terms = [f"state = {state}"] * (state is not None) + [FILTERS.get(name) or _hint(name) for name in filters]
    return "".join(f"\n  AND {term}" for term in terms)


def matching(state: int | None, filters: Iterable[str], *, by_index: bool) -> str:
    """Return the statement for the numbers of up to `:most` jobs, above `:after` and up to `:last`, in order."""
    index, term = INDEX_OF_STATE[state] if by_index and state is not None else ("", "")
    return f"""
SELECT n
FROM fireforget_job {f"INDEXED BY {index}" if index else "NOT INDEXED"}
WHERE n > :after
  AND n <= :last{term and f" AND {term}"}{where(state, filters)}
ORDER BY n
LIMIT :most
"""


def count_up_to(state: int, filters: Iterable[str]) -> str:
    """Return the statement that counts the jobs of a state, no further than to `:most`, in the index of the state."""
    index, term = INDEX_OF_STATE[state]
    return f"""
SELECT count(*)
FROM (
    SELECT 1
    FROM fireforget_job INDEXED BY {index}
    WHERE {term}{where(state, filters)}
    LIMIT :most
)
"""


@cache
def next_resting(state: int) -> str:
    """Return the statement for the number of the next job of a resting state and a queue above `:after`."""
    index, term = INDEX_OF_STATE[state]
    return (
        f"SELECT min(n) FROM fireforget_job INDEXED BY {index} WHERE {term} AND state = {state} AND queue = :queue AND n > :after"
    )


def still_matching(columns: str, state: int | None, filters: Iterable[str]) -> str:
    """Return the statement for columns of job `:n` if it still is in the state, and still matches."""
    return f"SELECT {columns} FROM fireforget_job WHERE n = :n" + where(state, filters)


# Where the next window begins: numbers of jobs that are gone are not walked through one window after another.
NEXT_NUMBER = "SELECT min(n) FROM fireforget_job WHERE n > :after"
