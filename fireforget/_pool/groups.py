"""Groups: jobs that were enqueued with `group` wait, and become one task together.

The supervisor closes a group that is complete: it gives the members a batch number and stores one job of our own type, in one
transaction. That job runs in a child like any other, with its retries: it calls the application's aggregator, then replaces the
members by the task in one transaction. Killed before, it runs again; killed after, it finds no members and is done. Where
somebody has run, archived or deleted a member meanwhile, it begins anew with the others. So each member is in exactly one task.
"""

import secrets
from collections.abc import Callable
from typing import Any

from fireforget._claims import Claims
from fireforget.queue_sqlite import Intake
from fireforget.registry import Definition, Registry
from fireforget.task import Task, check_task

AGGREGATE = "fireforget:aggregate"
"""The type of the jobs that make one task of a group's members."""

AGGREGATE_SECONDS = 5.0
"""How long that may take, the aggregator and the storing of its task together."""

_NEVER = float("inf")


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
            self.next_at = min((at for at, *_ in self._open()), default=_NEVER)

    def close_complete(self, now: float) -> None:
        """Close the groups that are complete by now, inside the open transaction."""
        for at, queue, group, most in self._open():
            if at <= now:
                batch = secrets.randbits(62)
                task = Task(AGGREGATE, {"group": group, "queue": queue, "batch": batch}, queue=queue, timeout=AGGREGATE_SECONDS)
                self._claims.close_batch(queue, group, most, batch, self._queue._row(task, {}, now))
        self.look()

    def _open(self) -> list[tuple[float, str, str, int]]:
        found = []
        for queue, group, size, oldest, newest in self._claims.open_groups():
            known = self._registry.aggregator_of(group)
            if known is not None and queue in self._served:
                rule = known[1]
                most = -1 if rule.max_size is None else rule.max_size
                found.append((rule.complete_at(size, oldest, newest), queue, group, most))
        return found


def definition(registry: Registry, store: Callable[[], Intake]) -> Definition[Any, Any]:
    """Return the handler that a child runs for `AGGREGATE`; `store` gives the queue in which the members wait."""
    return Definition(AGGREGATE, _handler(registry, store), {}, None)


def _handler(registry: Registry, store: Callable[[], Intake]) -> Callable[..., None]:
    def aggregate(group: str, queue: str, batch: int) -> None:
        known = registry.aggregator_of(group)
        if known is None:
            raise LookupError(f"no aggregator for the group {group!r} in this worker: register one")
        while members := store()._members(batch):
            task = check_task(known[0](group, members))
            if store()._replace_members(batch, len(members), task, queue):
                return

    return aggregate
