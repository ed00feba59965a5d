"""What the commands share: opening the queue, flags and the values they take, asking before much is changed."""

import argparse
import difflib
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from fireforget import _cli_output as output
from fireforget._cli_parser import DEFAULT_DB, a_duration, a_path, prog, suggestion
from fireforget._db import check_place, resolve_path, translated
from fireforget._schema import is_installed
from fireforget.errors import FireforgetError, StoreUnavailable
from fireforget.inspector import Inspector
from fireforget.queue_sqlite import SqliteQueue
from fireforget.task import State

_HINTS = {
    "failed": "archived",
    "dead": "archived",
    "done": "completed",
    "success": "completed",
    "succeeded": "completed",
    "running": "active",
    "delayed": "scheduled",
    "waiting": "pending",
    "ready": "pending",
    "retrying": "retry",
    "canceled": "cancelled",
}
"""States as other queues call them."""


Commands = Any
"""What `add_subparsers` returns; its class has no public name."""


class Refused(FireforgetError):
    """The command says no: exit code 1."""


class Misused(FireforgetError):
    """The command line makes no sense: exit code 2."""


# --- commands -------------------------------------------------------------------------------------------------------


def common_flags() -> argparse.ArgumentParser:
    """Return the flags that stand before or after every subcommand; what is not given is left out, so neither place wins."""
    flags = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = flags.add_argument_group("for every command")
    group.add_argument("--db", type=a_path, metavar="PATH", help=f"database; also FIREFORGET_DB (default: {DEFAULT_DB})")
    group.add_argument("--json", action="store_true", help="print JSON")
    return flags


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int] | None,
    help: str,
    examples: str = "",
    **settings: Any,
) -> argparse.ArgumentParser:
    """Add a subcommand with the common flags, and examples below its help."""
    lines = [f"  {prog()} {line}" for line in examples.strip().splitlines()]
    epilog = "\n".join(["examples:" if len(lines) > 1 else "example:", *lines]) if lines else None
    description = textwrap.fill(help[:1].upper() + help[1:] + ".", 79)
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=description, epilog=epilog, parents=[common_flags()], **settings
    )
    if run is not None:
        made.set_defaults(run=run, called=made.prog)
    return made


def add_group(commands: Commands, name: str, help: str) -> Commands:
    """Add a subcommand that has subcommands."""
    return add_command(commands, name, None, help).add_subparsers(title="commands", metavar="COMMAND", required=True)


# --- values -----------------------------------------------------------------------------------------------------------


def a_state(text: str) -> State:
    """Return a state by its name; suggests the right one for other queues' words."""
    try:
        return State(text)
    except ValueError:
        hint = f": did you mean {_HINTS[text]!r}?" if text in _HINTS else suggestion(text, list(State))
        raise argparse.ArgumentTypeError(f"there is no state {text!r}{hint}") from None


def an_instant(text: str) -> datetime:
    """Return an instant in ISO 8601, with its offset from UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no instant: give such as 2030-01-31T09:00:00+00:00") from None
    if moment.utcoffset() is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} names no instant: add the offset from UTC, such as {moment.isoformat()}+00:00"
        )
    return moment


def json_text(text: str) -> Any:
    """Return the value of JSON text; "-" reads it from standard input."""
    try:
        return json.loads(sys.stdin.read() if text == "-" else text)
    except (ValueError, RecursionError) as error:
        shown = "standard input" if text == "-" else repr(text if len(text) <= 60 else text[:57] + "...")
        raise argparse.ArgumentTypeError(f"{shown} is not JSON ({error}): quote it for the shell, as in '{{\"a\": 1}}'") from None


def a_member(text: str) -> tuple[str, Any]:
    """Return a member of a payload, KEY=VALUE; the value is JSON, or text where it is not JSON."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, such as user_id=7")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError):
        return key, value


def a_header(text: str) -> tuple[str, str]:
    """Return a header, KEY=VALUE."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, such as traceparent=00-...")
    return key, value


# --- the queue --------------------------------------------------------------------------------------------------------


def database_of(arguments: argparse.Namespace) -> str:
    """Return the path of the database that the command is about."""
    return getattr(arguments, "db", None) or os.environ.get("FIREFORGET_DB") or DEFAULT_DB


def wants_json(arguments: argparse.Namespace) -> bool:
    """Return whether JSON was asked for."""
    return getattr(arguments, "json", False)


@contextmanager
def opened(arguments: argparse.Namespace) -> Iterator[tuple[SqliteQueue, Inspector]]:
    """Open the queue; unless `--create` is given, what is not there is not created, and what is no queue is left as it is."""
    path = database_of(arguments)
    if not getattr(arguments, "create", False):
        _check_queue_file(path, ", or --create to make one there" if hasattr(arguments, "create") else "")
    with SqliteQueue(path) as queue:
        yield queue, Inspector(queue)


def _check_queue_file(path: str, remedy: str) -> None:
    if not os.path.exists(path):
        raise StoreUnavailable(path, f"there is no such file: give the path of a queue with --db or FIREFORGET_DB{remedy}")
    file = resolve_path(path)
    check_place(file)
    with translated(file):
        installed = is_installed(file)
    if not installed:
        raise StoreUnavailable(
            file,
            f"this is no fireforget database, and was left as it is: give the path of one with --db or FIREFORGET_DB{remedy}",
        )


def check_queue(inspector: Inspector, name: str) -> None:
    """Raise `Refused` with the nearest name when there is no such queue; those of a worker's default are known."""
    from fireforget._pool.config import DEFAULT_QUEUES

    if name not in DEFAULT_QUEUES and not inspector.knows_queue(name):
        known = sorted({*DEFAULT_QUEUES, *inspector.queue_names()})
        raise Refused(f"there is no queue {name!r}{suggestion(name, known)}")


# --- choosing jobs ----------------------------------------------------------------------------------------------------


def add_filters(parser: argparse.ArgumentParser, *, queue: str = "--queue", payload: str = "--payload") -> None:
    """Add the flags that choose jobs; where a command has other uses for `--queue` and `--payload`, under other names."""
    group = parser.add_argument_group("which jobs")
    add = group.add_argument
    states = ", ".join(State)
    add("--state", type=a_state, metavar="STATE", help=states)
    add(queue, dest="in_queue", metavar="NAME", help="in this queue")
    add("--type", metavar="TYPE", help="of this type; one that ends in ':' stands for all that begin so")
    ended = "ended, or else enqueued,"
    add("--older-than", type=a_duration, metavar="AGE", help=f"{ended} longer ago than this: seconds, or such as 10m, 12h, 7d")
    add("--newer-than", type=a_duration, metavar="AGE", help=f"{ended} no longer ago than this")
    add("--error", metavar="TEXT", help="whose last error contains this")
    add("--group", metavar="NAME", help="enqueued with this group; aggregating ones still wait in it")
    add(
        payload,
        dest="with_payload",
        type=a_member,
        action="append",
        metavar="KEY=VALUE",
        help="whose payload has this member (JSON, or text; user.id=7 is the id in user); may be repeated",
    )


def filters_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the chosen filters, the state apart, as `Inspector` takes them."""
    named = {name: getattr(arguments, name) for name in ("type", "older_than", "newer_than", "error", "group")}
    members = {"queue": arguments.in_queue, **named, "payload": dict(arguments.with_payload or ()) or None}
    return {name: value for name, value in members.items() if value is not None}


def check_filters(inspector: Inspector, arguments: argparse.Namespace) -> None:
    """Raise `Refused` with the nearest name when jobs are chosen by a queue that there is not."""
    if arguments.in_queue is not None:
        check_queue(inspector, arguments.in_queue)


def confirm(question: str, arguments: argparse.Namespace) -> None:
    """Ask on a terminal; raises `Refused` when the answer is no, and where there is nobody to ask. `--yes` answers."""
    if arguments.yes:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Refused(f"{question[:1].upper() + question[1:]}? Give --yes to do it without a question")
    try:
        answer = input(f"{question[:1].upper() + question[1:]}? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise Refused("nothing was changed")


def report_changes(arguments: argparse.Namespace, what: str, changed: dict[str, bool], done: str, not_done: str) -> int:
    """Print of each name whether a command has changed anything; return the exit code."""
    if wants_json(arguments):
        output.print_json([{what: name, "changed": was} for name, was in changed.items()])
    else:
        for name, was in changed.items():
            print(f"{output.printable(name)}: {done if was else not_done}")
    return 0


def did_you_mean_id(inspector: Inspector, job_id: str) -> str:
    """Return a hint with the stored id that is nearest to a mistyped one; "" when none is near."""
    candidates: Sequence[str] = inspector.similar_ids(job_id)
    near = difflib.get_close_matches(job_id, candidates, n=1, cutoff=0.4)
    return f"; did you mean {output.printable(near[0])}?" if near else ""
