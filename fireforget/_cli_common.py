"""What the commands share: opening the queue, flags and the values they take, asking before much is changed, near misses."""

import argparse
import difflib
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NoReturn

from fireforget import _cli_output as output
from fireforget.errors import FireforgetError, StoreUnavailable
from fireforget.inspector import Inspector
from fireforget.queue_sqlite import SqliteQueue
from fireforget.task import State

DEFAULT_DB = "fireforget.db"
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
_UNITS = {"ms": 0.001, "s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class Refused(FireforgetError):
    """The command says no: exit code 1."""


class Misused(FireforgetError):
    """The command line makes no sense: exit code 2."""


# --- the parser -------------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """A parser that reports a mistake in one line, with the nearest right word."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**settings)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        self.exit(2, f"fireforget: {message} (see {self.prog} --help)\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            what = "command" if isinstance(action, argparse._SubParsersAction) else "value"
            raise argparse.ArgumentError(None, f"there is no {what} {value!r}{suggestion(str(value), choices)}")


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return what to add to a message about an unknown word: the nearest known one, or all of a few."""
    known = [str(name) for name in known]
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f": did you mean {near[0]!r}?"
    return f": choose among {', '.join(known)}" if 0 < len(known) <= 12 else ""


def prog() -> str:
    """Return how this program was called."""
    name = os.path.basename(sys.argv[0] or "")
    return name if name == "fireforget" else "python -m fireforget"


def common_flags() -> argparse.ArgumentParser:
    """Return the flags that stand before or after every subcommand; what is not given is left out, so neither place wins."""
    flags = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = flags.add_argument_group("for every command")
    group.add_argument("--db", metavar="PATH", help=f"database; also FIREFORGET_DB (default: {DEFAULT_DB})")
    group.add_argument("--json", action="store_true", help="print JSON")
    return flags


def add_command(
    commands: "argparse._SubParsersAction[Any]",
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
        made.set_defaults(run=run)
    return made


def add_group(commands: "argparse._SubParsersAction[Any]", name: str, help: str) -> "argparse._SubParsersAction[Any]":
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


def a_duration(text: str) -> float:
    """Return seconds: "90", "1.5h", "2d", "1h30m"."""
    parts = re.fullmatch(r"(?:\d+(?:\.\d+)? ?(?:ms|s|min|m|h|d|w) ?)+", text.strip())
    if parts:
        return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?) ?(ms|min|[smhdw])", text))
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration: give seconds, or such as 10m, 1.5h, 7d") from None


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


def a_count(text: str) -> int:
    """Return a whole number above 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


# --- the queue --------------------------------------------------------------------------------------------------------


def database_of(arguments: argparse.Namespace) -> str:
    """Return the path of the database that the command is about."""
    return getattr(arguments, "db", None) or os.environ.get("FIREFORGET_DB") or DEFAULT_DB


def wants_json(arguments: argparse.Namespace) -> bool:
    """Return whether JSON was asked for."""
    return getattr(arguments, "json", False)


@contextmanager
def opened(arguments: argparse.Namespace, *, create: bool = False) -> Iterator[tuple[SqliteQueue, Inspector]]:
    """Open the queue; unless `create` is set, looking must not create what is not there."""
    path = database_of(arguments)
    if not create and not os.path.exists(path):
        raise StoreUnavailable(path, "there is no such file: give the path of a queue with --db or FIREFORGET_DB")
    with SqliteQueue(path) as queue:
        yield queue, Inspector(queue)


def check_queue(inspector: Inspector, name: str) -> None:
    """Raise `Refused` with the nearest name when there is no such queue; those of a worker's default are known."""
    from fireforget._pool.config import DEFAULT_QUEUES

    if name not in DEFAULT_QUEUES and not inspector.knows_queue(name):
        known = sorted({*DEFAULT_QUEUES, *inspector.queue_names()})
        raise Refused(f"there is no queue {name!r}{suggestion(name, known)}")


# --- choosing jobs ----------------------------------------------------------------------------------------------------


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose jobs."""
    group = parser.add_argument_group("which jobs")
    add = group.add_argument
    states = ", ".join(State)
    add("--state", type=a_state, metavar="STATE", help=states)
    add("--queue", metavar="NAME", help="in this queue")
    add("--type", metavar="TYPE", help="of this type; one that ends in ':' stands for all that begin so")
    add(
        "--older-than",
        type=a_duration,
        metavar="AGE",
        help="ended, or else enqueued, longer ago than this: seconds, or such as 10m, 12h, 7d",
    )
    add("--error", metavar="TEXT", help="whose last error contains this")
    add(
        "--payload",
        type=a_member,
        action="append",
        metavar="KEY=VALUE",
        help="whose payload has this member (JSON, or text); may be repeated",
    )


def filters_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the chosen filters, the state apart, as `Inspector` takes them."""
    named = {name: getattr(arguments, name) for name in ("queue", "type", "older_than", "error")}
    chosen = {name: value for name, value in named.items() if value is not None}
    return {**chosen, **({"payload": dict(arguments.payload)} if arguments.payload else {})}


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


def did_you_mean_id(inspector: Inspector, job_id: str) -> str:
    """Return a hint with the stored id that is nearest to a mistyped one; "" when none is near."""
    candidates: Sequence[str] = inspector.similar_ids(job_id)
    near = difflib.get_close_matches(job_id, candidates, n=1, cutoff=0.4)
    return f": did you mean {output.printable(near[0])}?" if near else ""
