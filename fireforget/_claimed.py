"""A claimed job as it travels from the store through the supervisor to a child: a plain tuple, whose places have names here.

Plain, because `marshal` carries nothing else; and a claim of hundreds of jobs makes no other objects of them.
"""

from typing import Any, NamedTuple

Row = tuple[Any, ...]
"""A claimed job; the columns of `_sql.CLAIMED_COLUMNS`, which are the fields of `Claimed`."""


class Claimed(NamedTuple):
    """A row with its names, for where speed is no matter: `Claimed(*row)`."""

    n: int
    claim: int
    type: str
    queue: str
    payload: Any
    headers: Any
    retry_count: int
    max_retry: int
    timeout: float | None
    deadline: float | None
    nonce: int
    task_id: str | None
    due: float
    priority: int
    retention: float
    has_steps: int
    linked: int | None


(
    N,
    CLAIM,
    TYPE,
    QUEUE,
    PAYLOAD,
    HEADERS,
    RETRY_COUNT,
    MAX_RETRY,
    TIMEOUT,
    DEADLINE,
    NONCE,
    TASK_ID,
    DUE,
    PRIORITY,
    RETENTION,
    HAS_STEPS,
    LINKED,
) = range(len(Claimed._fields))


def public_id(tag: str, n: int, nonce: int) -> str:
    """Return the id that people see for a job without a task_id: the file's tag, the row's number, and its nonce."""
    return f"{tag}-{n}-{nonce:08x}"


def id_of(row: Row, tag: str) -> str:
    """Return the id that people see for a job."""
    return row[TASK_ID] or public_id(tag, row[N], row[NONCE])
