"""`python -m fireforget relay APP --to module:enqueuer`: a worker whose only job is to hand stored jobs to another enqueuer.

It makes the file a transactional outbox for an engine: the application enqueues in its own transaction, the relay delivers, the
engine runs. A thin face: flags in, a `Relay` run, exit codes out, all as for a worker. The work is in `_pool/handover.py`.
"""

import argparse
import inspect
import os
from collections.abc import Callable
from typing import Any

from fireforget._pool.handover import Handover
from fireforget._worker_flags import settings_of
from fireforget.app import AppError, load, load_registry
from fireforget.enqueuer import Enqueuer
from fireforget.errors import WorkerError
from fireforget.queue_sqlite import SqliteQueue
from fireforget.registry import Registry
from fireforget.worker import work

__all__ = ["Relay", "run"]


class Relay(Handover):
    """Hands the jobs of a queue to another enqueuer, at least once each, in the order in which a worker would run them.

    `registry` says which jobs: those of the types that it has handlers for. Its schedules are ticked and its groups collected
    here, too. `queue` is a `SqliteQueue` or the path of its file. `to` is an `Enqueuer`, or a function that makes one, called
    once in each child. The job's id is the `task_id` there: where that is taken, the job was delivered before. A job leaves the
    file when it is taken. What the enqueuer refuses with `InvalidTask` is archived with the reason; after any other error the
    job is tried again, and no attempt is counted.

    The other arguments are those of `Worker`, and so are its methods; `concurrency` None is 1, which keeps the exact order.

    Raises `InvalidOption` for a setting that cannot be one, `WorkerError` for what is no registry or no enqueuer.
    """

    def __init__(
        self,
        registry: Registry,
        queue: SqliteQueue | str | os.PathLike[str],
        to: Enqueuer | Callable[[], Enqueuer],
        *,
        concurrency: int | None = None,
        **settings: Any,
    ) -> None:
        if not isinstance(registry, Registry):
            raise WorkerError(f"{registry!r} is not a Registry: give the one whose jobs are to be relayed")
        settings["concurrency"] = 1 if concurrency is None else concurrency
        super().__init__(registry, _maker_of(to), queue, **settings)


def _maker_of(to: Any) -> Callable[[], Enqueuer]:
    if isinstance(to, Enqueuer) and not inspect.isclass(to):
        return lambda: to
    if callable(to):
        return to  # type: ignore[no-any-return]  # what it makes is looked at when it is called
    raise WorkerError(f"{to!r} is no enqueuer: give what has a method enqueue, or a function that makes one")


def run(arguments: argparse.Namespace) -> int:
    """Run a relay as the command line says; return the exit code."""
    return work(arguments, _relay_of, speaker="relay")


def _relay_of(arguments: argparse.Namespace) -> Relay:
    registry = load_registry(arguments.app)
    to: Any = load(arguments.to, "--to", "enqueuer", "shop.outbox")
    if isinstance(to, SqliteQueue) and os.path.realpath(arguments.db) == to.path:
        raise AppError(f"--to {arguments.to!r} is the database that is relayed, {to.path}: name another one")
    return Relay(registry, arguments.db, to, **settings_of(arguments))
