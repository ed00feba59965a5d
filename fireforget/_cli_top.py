"""The command `top`: queues, jobs and workers, live, on a terminal; a block of plain text each time where there is none.

What is shown, and what keys do, stands in `_top`; here it meets the terminal. `curses` is imported here alone, and when needed.
The file is read once an interval, and less often where that takes long, so that looking costs a twentieth of a core at most.
"""

import argparse
import locale
import os
import signal
import sys
import time
from contextlib import ExitStack, suppress
from typing import Any

from fireforget import _cli_output as output
from fireforget import _top
from fireforget._cli_common import Commands, add_command, database_of, opened, wants_json
from fireforget._cli_parser import a_count, a_duration
from fireforget._cli_queues import members_of_queue
from fireforget.errors import FireforgetError
from fireforget.inspector import Inspector
from fireforget.queue_sqlite import SqliteQueue

DEFAULT_INTERVAL = 1.0
SHORTEST_INTERVAL, LONGEST_INTERVAL = 0.1, 3600.0
_SHARE = 20
"""Reading takes one part in so many of the time at most."""
_MOST_DEAD_READS = 50  # of a terminal that is gone, one after the other
_PLAIN_WIDTH, _PLAIN_HEIGHT = 120, 40
_WAYS = {
    "\t": "tab", "\n": "enter", "\r": "enter", "\x1b": "esc", " ": "space", "\x7f": "esc", "\b": "esc", "k": "up", "j": "down",
    "h": "left", "l": "right", "g": "home", "G": "end",
}  # fmt: skip
"""Keys that have names, and letters that stand for them."""
_NAMED = {
    "KEY_UP": "up", "KEY_DOWN": "down", "KEY_LEFT": "left", "KEY_RIGHT": "right", "KEY_PPAGE": "page up",
    "KEY_NPAGE": "page down", "KEY_HOME": "home", "KEY_END": "end", "KEY_ENTER": "enter", "KEY_BTAB": "backtab",
    "KEY_BACKSPACE": "esc",
}  # fmt: skip


def add_top(commands: Commands) -> None:
    """Add `top`."""
    top = add_command(commands, "top", _run, "watch queues, jobs and workers, live, on a terminal", "top\ntop --interval 5")
    top.add_argument(
        "--interval",
        type=_an_interval,
        default=DEFAULT_INTERVAL,
        metavar="S",
        help=f"look again every S seconds (default: {DEFAULT_INTERVAL:g})",
    )
    top.add_argument("--count", type=a_count, metavar="N", help="end after having looked N times (default: never)")


def _an_interval(text: str) -> float:
    seconds = a_duration(text)
    if not SHORTEST_INTERVAL <= seconds <= LONGEST_INTERVAL:
        raise argparse.ArgumentTypeError(f"{text!r} is too short or too long: give from {SHORTEST_INTERVAL:g} seconds to an hour")
    return seconds


class Reader:
    """Reads snapshots, and opens the database anew after it could not be read."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._stack = ExitStack()
        self._queue: SqliteQueue
        self._inspector: Inspector | None = None
        self.seen: _top.Snapshot | None = None
        self.trouble = ""
        """Why it could not be read at the last try; "" when it was."""
        self.seconds = 0.0
        """How long the last read took."""

    def look(self, view: _top.View) -> None:
        """Read what the view shows; where that fails, keep what was seen and say why."""
        began = time.monotonic()
        try:
            self.seen = view.read(self.inspector())
            self.trouble = ""
        except FireforgetError as error:
            self.trouble = output.printable(str(error))
            self.close()
        self.seconds = time.monotonic() - began

    def inspector(self) -> Inspector:
        """Return the inspector, of a database opened now if it is not; raises a `FireforgetError` where there is none."""
        if self._inspector is None:
            self._queue, self._inspector = self._stack.enter_context(opened(self._arguments))
        self._queue._database.check_identity()  # else what is read is of a file that was deleted
        return self._inspector

    def close(self) -> None:
        """Close the database."""
        self._inspector = None
        self._stack.close()


def _run(arguments: argparse.Namespace) -> int:
    reader = Reader(arguments)
    try:
        reader.inspector()  # what is missing or no queue from the start is a mistake, and ends the command
        if wants_json(arguments):
            _print_json(reader, arguments)
        elif (curses := _curses()) is None:
            _print_plain(reader, arguments)
        else:
            _on_terminal(curses, reader, arguments)
    except KeyboardInterrupt:
        pass
    finally:
        reader.close()
    return 0


def _curses() -> Any:
    """Return the module, or None where there is no terminal for it."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
        return None
    try:
        import curses

        curses.setupterm()
    except (ImportError, OSError) as error:
        print(f"fireforget: no curses here ({error}): plain text instead", file=sys.stderr)
        return None
    except curses.error:  # a terminal that it does not know
        return None
    return curses


# --- where there is no terminal -----------------------------------------------------------------------------------------


def _print_json(reader: Reader, arguments: argparse.Namespace) -> None:
    view = _top.View()
    for _ in _times(reader, arguments):
        reader.look(view)
        if reader.trouble or reader.seen is None:
            output.print_json({"trouble": reader.trouble, "queues": [], "workers": [], "active": []}, indent=None)
            continue
        seen = reader.seen
        members = {
            "trouble": None,
            "queues": [{**members_of_queue(q), "rate": view.rates.of(q.name)} for q in seen.queues],
            "workers": [vars(worker) for worker in seen.workers],
            "active": [output.members_of(info) for info in seen.jobs],
        }
        output.print_json(members, indent=None)


def _print_plain(reader: Reader, arguments: argparse.Namespace) -> None:
    view = _top.View(room=_PLAIN_HEIGHT, sparks=_sparks())
    for _ in _times(reader, arguments):
        reader.look(view)
        width = output.terminal_width() or _PLAIN_WIDTH
        lines = _top.screen(view, reader.seen, reader.trouble, width, _PLAIN_HEIGHT, database_of(arguments))
        texts = ["".join(text for text, _ in line).rstrip() for line in lines[1:-1]]
        foot = f"cannot read: {reader.trouble}" if reader.trouble else time.strftime("%H:%M:%S UTC", time.gmtime())
        print("\n".join([text for text in texts if text] + [output.cut(foot, width)]), end="\n\n", flush=True)


def _times(reader: Reader, arguments: argparse.Namespace) -> Any:
    """Yield each time to look, the given number of times or until Ctrl-C."""
    done = 0
    while True:
        yield done
        done += 1
        sys.stdout.flush()
        if done == arguments.count:
            return
        time.sleep(_pause(reader, arguments))


def _pause(reader: Reader, arguments: argparse.Namespace) -> float:
    return max(float(arguments.interval), _SHARE * reader.seconds)


def _sparks() -> str:
    return _top._SPARKS if "utf" in (sys.stdout.encoding or "").lower() else _top._PLAIN_SPARKS


# --- on a terminal --------------------------------------------------------------------------------------------------------


def _on_terminal(curses: Any, reader: Reader, arguments: argparse.Namespace) -> None:
    locale.setlocale(locale.LC_ALL, "")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the terminal is left as it was
    curses.set_escdelay(25)
    try:
        curses.wrapper(lambda window: _Terminal(curses, window, reader, arguments).run())
    finally:
        signal.signal(signal.SIGTERM, before)


class _Terminal:
    """The loop: draw, wait for a key or for the time to look again."""

    def __init__(self, curses: Any, window: Any, reader: Reader, arguments: argparse.Namespace) -> None:
        self._curses, self._window, self._reader, self._arguments = curses, window, reader, arguments
        self._view = _top.View(sparks=_sparks())
        self._styles = self._make_styles()

    def _make_styles(self) -> dict[str, int]:
        curses = self._curses
        styles = {"bold": curses.A_BOLD, "dim": curses.A_DIM, "title": curses.A_UNDERLINE, "chosen": curses.A_REVERSE}
        if not os.environ.get("NO_COLOR") and curses.has_colors():
            curses.use_default_colors()
            for number, (style, colour) in enumerate((("good", "GREEN"), ("warn", "YELLOW"), ("bad", "RED")), 1):
                curses.init_pair(number, getattr(curses, f"COLOR_{colour}"), -1)
                styles[style] = curses.color_pair(number)
        return styles

    def run(self) -> None:
        """Show it until it is to end."""
        with suppress(self._curses.error):  # a terminal that cannot hide its cursor
            self._curses.curs_set(0)
        view, reader, looked = self._view, self._reader, 0
        due = dead = 0.0
        while True:
            now = time.monotonic()
            if now >= due:
                height, _ = self._window.getmaxyx()
                view.room = max(1, height - _top._FRAME - 1)
                reader.look(view)
                looked += 1
                due = time.monotonic() + _pause(reader, self._arguments)
            self._draw()
            if looked == self._arguments.count:
                return
            asked = time.monotonic()
            key = self._key(None if view.held else max(0.0, due - asked))
            does = view.press(key, reader.seen) if key else ""
            if does == "quit":
                return
            if does == "read":
                due = 0.0
            elif view.held:
                due = float("inf")
            gone = not key and time.monotonic() - asked < min(0.01, max(0.0, due - asked) / 2)
            dead = dead + 1 if gone else 0
            if dead > _MOST_DEAD_READS:  # reading from a terminal that is gone does not wait
                return

    def _key(self, seconds: float | None) -> str:
        """Return the name of the key that is pressed within that time, "resize" for a new size; "" when there is none."""
        self._window.timeout(-1 if seconds is None else int(seconds * 1000) + 1)
        try:
            key = self._window.get_wch()
        except self._curses.error:
            return ""
        if isinstance(key, str):
            return _WAYS.get(key, key)
        name = self._curses.keyname(key).decode("ascii", "replace")
        if name == "KEY_RESIZE":
            self._curses.update_lines_cols()
            self._window.clear()
            return "r"
        return _NAMED.get(name, "")

    def _draw(self) -> None:
        window, reader = self._window, self._reader
        height, width = window.getmaxyx()
        window.erase()
        name = database_of(self._arguments)
        for y, line in enumerate(_top.screen(self._view, reader.seen, reader.trouble, width - 1, height, name)):
            x = 0
            for text, style in line:
                try:
                    window.addstr(y, x, text, self._styles.get(style, 0))
                except (self._curses.error, UnicodeEncodeError):  # it was made smaller meanwhile
                    break
                x += output.columns_of(text)
        window.refresh()
