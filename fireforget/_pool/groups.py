"""Groups: jobs that were enqueued with `group` wait, and become one task together.

The supervisor closes a group that is complete: it stores one job of our own type, and makes the members its batch, in one
transaction. That job runs in a child like any other, with its retries: it calls the application's aggregator, then replaces the
members by the task in one transaction. Killed before, it runs again; killed after, it finds no members and is done. Where
somebody has run, archived or deleted a member meanwhile, it begins anew with the others. So each member is in exactly one task.

Nothing has to tell the members what became of that job: each look of a worker finds those that are not as it is, and the next
transaction lets them follow. They are archived and cancelled with it, and an open group again once it is deleted.
"""

from collections.abc import Callable
from typing import Any

from fireforget import _groups
from fireforget._claims import Claims
from fireforget.job import current_job
from fireforget.queue_sqlite import Intake
from fireforget.registry import Definition, Registry
from fireforget.task import Task, check_task

AGGREGATE = "fireforget:aggregate:"
"""What the types of the jobs begin with that make one task of a group's members; the aggregator's group or prefix follows, so
that a worker claims those of its own aggregators."""

AGGREGATE_SECONDS = 5.0
"""How long that may take, the aggregator and the storing of its task together."""

_NEVER = float("inf")
_NOW = -_NEVER


def aggregates(registry: Registry, type: str) -> bool:
    """Return whether this is the type of a job that calls an aggregator of the registry."""
    return type.startswith(AGGREGATE) and type[len(AGGREGATE) :] in registry._aggregators


class Groups:
    """Closes the groups that a worker has aggregators for; used by its supervisor's loop alone."""

    def __init__(self, registry: Registry, claims: Claims, queue: Intake, served: frozenset[str]) -> None:
        self._registry = registry
        self._claims = claims
        self._queue = queue
        self._served = served
        self.next_at = _NEVER
        """When the next group is complete, in Unix seconds, as far as is known."""

    def look(self) -> None:
        """Read which groups there are and when the first of them is complete; a read alone."""
        if self._registry.has_aggregators:
            self.next_at = (
                _NOW if _groups.has_strays(self._claims.connection) else min((at for at, *_ in self._open()), default=_NEVER)
            )

    def look_soon(self) -> None:
        """Have the next transaction look: a job that ends badly in it may be one that aggregates, and its members end with it."""
        if self._registry.has_aggregators:
            self.next_at = _NOW

    def close_complete(self, now: float) -> None:
        """Close the groups that are complete by now, inside the open transaction."""
        if not self._registry.has_aggregators:
            return
        _groups.follow_aggregates(self._claims.connection)
        for at, queue, group, pattern, most in self._open():
            if at <= now:
                task = Task(AGGREGATE + pattern, {"group": group, "queue": queue}, queue=queue, timeout=AGGREGATE_SECONDS)
                row = self._queue._row(task, {}, now)
                _groups.close_batch(self._claims.connection, queue, group, most, row)
        self.look()

    def _open(self) -> list[tuple[float, str, str, str, int]]:
        found = []
        for queue, group, size, oldest, newest in _groups.open_groups(self._claims.connection):
            if not (isinstance(queue, str) and isinstance(group, str)):  # not UTF-8: no queue or group that anybody could name
                continue
            pattern = self._registry._aggregator_pattern(group)
            if pattern is not None and queue in self._served:
                _, rule = self._registry._aggregators[pattern]
                most = -1 if rule.max_size is None else rule.max_size
                found.append((rule.complete_at(size, oldest, newest), queue, group, pattern, most))
        return found


def definition(registry: Registry, store: Callable[[], Intake]) -> Definition[Any, Any]:
    """Return the handler that a child runs for types that begin with `AGGREGATE`; `store` gives the queue of the members."""
    return Definition(AGGREGATE.rstrip(":"), _handler(registry, store), {}, None)


def _handler(registry: Registry, store: Callable[[], Intake]) -> Callable[..., None]:
    def aggregate(group: str, queue: str) -> None:
        known = registry.aggregator_of(group)
        if known is None:
            raise LookupError(f"no aggregator for the group {group!r} in this worker: register one")
        job = current_job().id
        while members := store()._members(job):
            task = check_task(known[0](group, members))
            if store()._replace_members(job, len(members), task, queue):
                return

    return aggregate
