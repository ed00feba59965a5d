"""A durable job queue made of the standard library and one SQLite file.

The public names stand here and are loaded when they are first used, so that a producer pays for what it uses alone.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "Enqueuer": "enqueuer",
    "Inspector": "inspector",
    "Progress": "task",
    "Registry": "registry",
    "SqliteQueue": "queue_sqlite",
    "State": "task",
    "Task": "task",
    "TaskInfo": "task",
    "Worker": "_pool.control",
    "current_job": "registry",
    "fire_and_forget": "patterns",
    "flush": "patterns",
    "submission_counts": "patterns",
    "write_metrics": "metrics",
    "DuplicateTask": "errors",
    "FireforgetError": "errors",
    "InvalidOption": "errors",
    "InvalidPayload": "errors",
    "InvalidTask": "errors",
    "JobCancelled": "errors",
    "JobTimeout": "errors",
    "QueueClosed": "errors",
    "RegistrationError": "errors",
    "RetryLater": "errors",
    "RevokeTask": "errors",
    "SchemaTooNew": "errors",
    "SkipRetry": "errors",
    "StoreBusy": "errors",
    "StoreCorrupt": "errors",
    "StoreError": "errors",
    "StoreFull": "errors",
    "StoreReadOnly": "errors",
    "StoreReplaced": "errors",
    "StoreUnavailable": "errors",
    "TaskIDConflict": "errors",
    "UnknownJob": "errors",
    "UnknownOption": "errors",
    "WorkerError": "errors",
}

__all__ = ["__version__", *sorted(_HOME)]  # noqa: PLE0604

if TYPE_CHECKING:
    from fireforget._pool.control import Worker
    from fireforget.enqueuer import Enqueuer
    from fireforget.errors import (
        DuplicateTask,
        FireforgetError,
        InvalidOption,
        InvalidPayload,
        InvalidTask,
        JobCancelled,
        JobTimeout,
        QueueClosed,
        RegistrationError,
        RetryLater,
        RevokeTask,
        SchemaTooNew,
        SkipRetry,
        StoreBusy,
        StoreCorrupt,
        StoreError,
        StoreFull,
        StoreReadOnly,
        StoreReplaced,
        StoreUnavailable,
        TaskIDConflict,
        UnknownJob,
        UnknownOption,
        WorkerError,
    )
    from fireforget.inspector import Inspector
    from fireforget.metrics import write_metrics
    from fireforget.patterns import fire_and_forget, flush, submission_counts
    from fireforget.queue_sqlite import SqliteQueue
    from fireforget.registry import Registry, current_job
    from fireforget.task import Progress, State, Task, TaskInfo


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'fireforget' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"fireforget.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
