"""How commands and the worker read their words: a mistake gets one line, with the nearest right word."""

import argparse
import difflib
import math
import os
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NoReturn

from fireforget.errors import InvalidOption

DEFAULT_DB = "fireforget.db"
_OPTIONS = r"\b(max_retry|process_in|process_at|task_id|unique_for|unique_key|after_failure)\b"
"""Names of options, in remedies, that are no words of English."""
_UNITS = {"ms": 0.001, "s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class Parser(argparse.ArgumentParser):
    """A parser that reports a mistake in one line, with the nearest right word and the help page of that very command.

    `speaker` is what the line begins with.
    """

    def __init__(self, *, speaker: str = "fireforget", **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**settings)
        self._speaker = speaker

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        self.exit(2, f"{self._speaker}: {message} (see {self.prog} --help)\n")

    def parse_known_args(  # type: ignore[override]  # argparse has it overloaded
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse the words of this command; what is too many is an error here, where the right flags and help are known."""
        given = list(sys.argv[1:] if args is None else args)
        self._refuse_unknown_options(given)
        parsed, extra = super().parse_known_args(given, namespace)
        if extra:
            self._refuse_unknown_options(extra)
            self.error(f"there is no option {extra[0]!r}" if extra[0].startswith("-") else f"{extra[0]!r} is one word too many")
        return parsed, extra

    def _refuse_unknown_options(self, words: Sequence[str]) -> None:
        """Name an unknown option before its value is taken for something else, or something else is found missing."""
        has_commands = any(isinstance(action, argparse._SubParsersAction) for action in self._actions)
        known = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        for word in words:
            if word == "--" or (has_commands and not word.startswith("-")):
                return  # what follows is not options, or those of another parser
            name = word.partition("=")[0]
            if name.startswith("--") and " " not in name and not any(option.startswith(name) for option in known):
                self.error(f"there is no option {name!r}{nearest(name, known)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            what = "command" if isinstance(action, argparse._SubParsersAction) else "value"
            blamed = None if what == "command" else action
            raise argparse.ArgumentError(blamed, f"there is no {what} {value!r}{suggestion(str(value), choices)}")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return what to add to a message about an unknown word: the nearest known one, if any is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f": did you mean {near[0]!r}?" if near else ""


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return what to add to a message about an unknown word: the nearest known one, or all of a few."""
    known = [str(name) for name in known]
    return nearest(word, known) or (f": choose among {', '.join(known)}" if 0 < len(known) <= 12 else "")


def prog() -> str:
    """Return how this program was called."""
    name = os.path.basename(sys.argv[0] or "")
    return name if name == "fireforget" else "python -m fireforget"


def a_duration(text: str) -> float:
    """Return seconds: "90", "1.5h", "2d", "1h30m"."""
    parts = re.fullmatch(r"(?:\d+(?:\.\d+)? ?(?:ms|s|min|m|h|d|w) ?)+", text.strip())
    if parts:
        return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?) ?(ms|min|[smhdw])", text))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration: give seconds, or such as 10m, 1.5h, 7d")
    return seconds


def a_path(text: str) -> str:
    """Return a path; an empty one, such as of a variable that is not set, must not stand for another database."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty: give that of the database")
    return text


def an_integer(text: str) -> int:
    """Return a whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def a_count(text: str) -> int:
    """Return a whole number above 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def in_flags(error: InvalidOption) -> str:
    """Return what is wrong with an option in the words of the command line: an option's name as its flag, a value as typed."""
    value = error.value
    if isinstance(value, datetime):
        value = value.isoformat()
    elif isinstance(value, float):
        value = f"{value:g}"
    return re.sub(_OPTIONS, lambda name: _flag(name[0]), f"{_flag(error.option)} {value}: {error.remedy}")


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")
