"""`python -m fireforget`: the commands for people. Each is a method of `Inspector` or another public call, and prints.

Exit codes: 0 done, 1 said no (no such job or queue, a state that does not allow it, an answer that was no), 2 misused or could
not start; the latter two with one line on standard error.

The commands stand in `_cli_stats`, `_cli_queues`, `_cli_tasks`, `_cli_changes`, `_cli_groups`, `_cli_workers`, `_cli_relay`,
`_cli_cron`, `_cli_top`, `_cli_file`, `_cli_dashboard` and `_cli_completion`; what they share in `_cli_common`, how they read in
`_cli_parser`, how they print in `_cli_output`. Another one is a file that adds itself to `parser` below.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from fireforget import __version__
from fireforget._cli_common import Misused, Refused, add_command, common_flags
from fireforget._cli_completion import add_completion
from fireforget._cli_cron import add_cron
from fireforget._cli_dashboard import add_dashboard
from fireforget._cli_file import add_backup, add_doctor
from fireforget._cli_groups import add_group_list
from fireforget._cli_output import print_table, printable
from fireforget._cli_parser import DEFAULT_DB, Parser, in_flags, prog
from fireforget._cli_queues import add_queue
from fireforget._cli_relay import add_relay
from fireforget._cli_stats import add_stats
from fireforget._cli_tasks import add_enqueue, add_task
from fireforget._cli_top import add_top
from fireforget._cli_workers import add_worker_list
from fireforget.errors import (
    BackupExists,
    DuplicateTask,
    FireforgetError,
    InvalidOption,
    QueueNotEmpty,
    ScheduleInUse,
    StoreBusy,
    TaskIDConflict,
    UnknownJob,
    UnknownQueue,
    UnknownSchedule,
    WrongState,
)

__all__ = ["DEFAULT_DB", "main", "parser", "print_table"]

_SAID_NO = (
    Refused, UnknownJob, UnknownQueue, UnknownSchedule, WrongState, QueueNotEmpty, ScheduleInUse, DuplicateTask, TaskIDConflict,
    BackupExists,
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    worker_flags = _flags_of_worker(given)
    if worker_flags is not None:  # its flags are its own, and the same as those of `python -m fireforget.worker`
        from fireforget.worker import main as worker

        return worker(worker_flags, called=f"{prog()} worker")
    arguments = parser().parse_args(given)
    run: Callable[[argparse.Namespace], int] = arguments.run
    _print_whatever_it_is()
    try:
        return _run_and_print(run, arguments)
    except _SAID_NO as error:
        return _say(str(error), 1)
    except FireforgetError as error:
        return _say(_in_words(error, arguments.called), 2)
    except KeyboardInterrupt:
        return 130  # as a shell reports what Ctrl-C ended


def _run_and_print(run: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    try:
        code = run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        _print_no_more()
        return 0
    except UnicodeEncodeError as error:  # of a name that was typed: what is printed is escaped
        raise Misused(f"{error.object!r} is not UTF-8, as names in the database are") from None
    except OSError as error:
        if error.filename is not None or isinstance(error, FireforgetError):  # not of the output
            raise
        _print_no_more()
        raise FireforgetError(f"the output cannot be written: {error.strerror}") from None


def _print_no_more() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what the interpreter flushes at its end


def _in_words(error: FireforgetError, called: str) -> str:
    if isinstance(error, Misused):
        return f"{error} (see {called} --help)"
    if isinstance(error, StoreBusy):  # the flag --timeout is another
        return str(error).replace("or wait longer (timeout=)", "or try again")
    return in_flags(error) if isinstance(error, InvalidOption) else str(error)


def _say(text: str, code: int) -> int:
    print(f"fireforget: {printable(text)}", file=sys.stderr)
    return code


def _print_whatever_it_is() -> None:
    """Have characters that the terminal's encoding lacks shown escaped, rather than end in an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _flags_of_worker(given: Sequence[str]) -> list[str] | None:
    """Return the flags for a worker when the command is `worker`, but for `worker list`; a `--db` before it is one of them."""
    before: list[str] = []
    rest = list(given)
    while rest and rest[0].startswith("-"):
        takes_value = rest[0] == "--db"
        before += rest[: 1 + takes_value]
        del rest[: 1 + takes_value]
    if rest[:1] != ["worker"]:
        return None
    words = [word for at, word in enumerate(rest[1:], 1) if not word.startswith("-") and rest[at - 1] != "--db"]
    return None if words[:1] == ["list"] else before + rest[1:]


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    made = Parser(
        prog=prog(),
        description="A durable job queue on one SQLite file.",
        epilog=f"examples:\n  {prog()} demo\n  {prog()} stats --db shop.db\n  {prog()} task list --state archived",
        parents=[common_flags()],
    )
    made.add_argument("--version", action="version", version=f"fireforget {__version__}")
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True)
    demo = add_command(commands, "demo", _demo, "watch real work flow through a queue", "demo ~/notes")
    demo.add_argument("folder", nargs="?", metavar="FOLDER", help="text files to index (default: the standard library's sources)")
    add_worker_list(commands)
    add_relay(commands)
    add_enqueue(commands)
    add_stats(commands)
    add_top(commands)
    add_queue(commands)
    add_group_list(commands)
    add_task(commands)
    add_cron(commands)
    add_doctor(commands)
    add_backup(commands)
    add_dashboard(commands)
    add_completion(commands, made)
    return made


def _demo(arguments: argparse.Namespace) -> int:
    from fireforget.demo import run

    return run(arguments.folder)
