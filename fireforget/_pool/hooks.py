"""Hooks: `on_failure` and `on_archived`, which an application gives its registry or a handler.

A verdict that calls for one stores a job of our own type in the same transaction, with the job as it is by then. That runs in a
child like any other, so it survives the worker's death, and what it enqueues is enqueued as in a handler. It is no job of the
application's: no middleware, no count, no retry. What a hook raises is logged, and the verdict stands.
"""

import json
from typing import Any

from fireforget import logs
from fireforget._claims import HOOK
from fireforget._rows import info_of
from fireforget.job import current_job
from fireforget.middleware import describe
from fireforget.registry import Definition, HookName, Registry


def owners_of(registry: Registry, type: str, name: HookName) -> list[str]:
    """Return whose hooks of a name there are for jobs of a type: "handler", "registry"."""
    return [owner for each, owner, _ in registry._hooks_of(type) if each == name]


def definition(registry: Registry, tag: str) -> Definition[Any, Any]:
    """Return the handler that a child runs for `HOOK`."""

    def call(hook: str, owner: str, error: str, row: list[Any]) -> None:
        info = info_of(tuple(row), tag)
        own = registry.match(info.type)
        if own is not None:  # what it enqueues takes over what the job itself would have passed on
            current_job()._definition = own
        for name, whose, function in registry._hooks_of(info.type):
            if (name, whose) == (hook, owner):
                try:
                    function(info, error)
                except BaseException as failed:
                    logs.hook_failed(hook, own.pattern if own is not None else info.type, info.id, describe(failed))

    found: Definition[Any, Any] = Definition(HOOK, call, {}, None)
    found._bare = True
    return found


def log_killed(payload: str, tag: str, error: str) -> None:
    """Log a call whose process ended under it: it did not end within its time, or was killed from outside."""
    call = json.loads(payload)
    info = info_of(tuple(call["row"]), tag)
    logs.hook_failed(call["hook"], info.type, info.id, error)
