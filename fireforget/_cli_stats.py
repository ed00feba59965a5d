"""The command `stats`: queues and workers as they are now, once or again and again in place."""

import argparse
import io
import shutil
import sys
import time
from contextlib import redirect_stdout

from fireforget import _cli_output as output
from fireforget._cli_common import Commands, add_command, opened, wants_json
from fireforget._cli_parser import a_duration
from fireforget._cli_queues import members_of_queue, print_queues
from fireforget.inspector import Inspector

DEFAULT_WATCH_SECONDS = 2.0
SHORTEST_WATCH, LONGEST_WATCH = 0.1, 86400.0
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def add_stats(commands: Commands) -> None:
    """Add `stats`."""
    stats = add_command(commands, "stats", _stats, "print queues, states and workers", "stats --db shop.db\nstats --watch 5")
    stats.add_argument(
        "--watch",
        nargs="?",
        type=_a_watch_interval,
        const=DEFAULT_WATCH_SECONDS,
        metavar="S",
        help=f"print again every S seconds until Ctrl-C, in place on a terminal (default: {DEFAULT_WATCH_SECONDS:g})",
    )


def _a_watch_interval(text: str) -> float:
    seconds = a_duration(text)
    if not SHORTEST_WATCH <= seconds <= LONGEST_WATCH:
        raise argparse.ArgumentTypeError(f"{text!r} is too short or too long: give from {SHORTEST_WATCH:g} seconds to a day")
    return seconds


def _stats(arguments: argparse.Namespace) -> int:
    with opened(arguments) as (_, inspector):
        if arguments.watch is None:
            _print_stats(arguments, inspector)
            return 0
        try:
            _watch(arguments, inspector)
        except KeyboardInterrupt:
            print()
        return 0


def _watch(arguments: argparse.Namespace, inspector: Inspector) -> None:
    in_place = sys.stdout.isatty() and not wants_json(arguments)
    try:
        print(_HIDE_CURSOR if in_place else "", end="")
        while True:
            if in_place:
                _print_in_place(arguments, inspector)
            else:
                _print_block(arguments, inspector)
            time.sleep(arguments.watch)
    finally:
        print(_SHOW_CURSOR if in_place else "", end="", flush=True)


def _print_block(arguments: argparse.Namespace, inspector: Inspector) -> None:
    _print_stats(arguments, inspector)
    if not wants_json(arguments):
        print(f"\n{time.strftime('%H:%M:%S', time.gmtime())} UTC, every {arguments.watch:g} s; Ctrl-C ends", flush=True)


class _Page(io.StringIO):
    """What is to stand on the terminal."""

    def isatty(self) -> bool:
        return True


def _print_in_place(arguments: argparse.Namespace, inspector: Inspector) -> None:
    """Write over what stands there, all at once, so that nothing flickers; what the terminal has no lines for is left out."""
    with redirect_stdout(_Page()) as page:
        _print_block(arguments, inspector)
    lines = page.getvalue().splitlines()
    most = max(2, shutil.get_terminal_size().lines - 1)
    shown = lines if len(lines) <= most else [*lines[: most - 1], lines[-1]]
    sys.stdout.write(_HOME + "".join(f"{line}{_CLEAR_LINE}\n" for line in shown) + _CLEAR_BELOW)
    sys.stdout.flush()


def _print_stats(arguments: argparse.Namespace, inspector: Inspector) -> None:
    queues, workers = inspector.queues(), inspector.workers()
    if wants_json(arguments):
        members = {"queues": [members_of_queue(q) for q in queues], "workers": [vars(worker) for worker in workers]}
        output.print_json(members, indent=2 if arguments.watch is None else None)
        return
    print_queues(queues)
    print(f"\n{output.plural(len(workers), 'worker')}" + (":" if workers else ""))
    for worker in workers:
        load = f"{output.plural(worker.concurrency, 'child', 'children')}, {output.plural(worker.active, 'active job')}"
        load += "" if worker.alive else ", dead"
        print(f"  {output.printable(worker.name)}  {load}, since {output.instant(worker.started_at)}")
