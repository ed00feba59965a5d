"""Limits of a handler as its registration says them: how many of its jobs run at once, how many start in a time, by which key.

Pure: what is counted, and where, is the store's business (`_limited`). A job's limit key stands in its row. It names the handler
and, where that has a `concurrency_key`, what the template made of the payload::

    "mail:send"                 a handler with limits and no key: its jobs count together
    "mail:send user:7"          the same with concurrency_key="user:{user_id}"
    " "                         the payload does not fit the template: the job goes to a child, which archives it for that
"""

import json
import re
from collections.abc import Callable, Mapping
from string import Formatter
from typing import Any, NamedTuple

from fireforget.errors import InvalidOption
from fireforget.payload import storable

UNFIT = " "
"""The limit key of a job that no key can be made for."""
_WINDOWS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_MOST = 1_000_000
_LONGEST_KEY = 300
_SLACK_SHARE, _MOST_SLACK = 0.05, 0.25


class Rate(NamedTuple):
    """At most `starts` in any `seconds`."""

    starts: int
    seconds: float

    @property
    def slack(self) -> float:
        """Seconds that a job may be on its way to a child. It counts as started when they are over, and starts by then or not at
        all: so the rate holds for the starts themselves, however long the way is.
        """
        return min(self.seconds * _SLACK_SHARE, _MOST_SLACK)

    def __str__(self) -> str:
        return f"{self.starts}/{next(unit for unit, seconds in _WINDOWS.items() if seconds == self.seconds)}"


class KeyTemplate:
    """A `concurrency_key`: text with names of the handler's arguments in braces."""

    def __init__(self, text: object, defaults: Mapping[str, Any], first: str | None, *, open_ended: bool) -> None:
        """Check a template against a signature: `defaults` has its arguments by name, `...` for those without a default; `first`
        is the one that a payload fills that is no object; with `open_ended` it takes any name.
        """
        if not isinstance(text, str) or not text.strip():
            raise InvalidOption("concurrency_key", text, 'give text such as "user:{user_id}"')
        self.text = text
        self._first = first
        self._parts: list[tuple[str, str | None]] = []
        try:
            parsed = list(Formatter().parse(text))
        except ValueError as error:
            raise InvalidOption("concurrency_key", text, f"{error}: write a brace that is meant as such twice") from None
        for literal, name, spec, conversion in parsed:
            if name is not None and (spec or conversion or not name.isidentifier()):
                raise InvalidOption("concurrency_key", text, "only names of arguments can be in braces, such as {user_id}")
            if name is not None and name not in defaults and not open_ended:
                takes = f"takes {', '.join(defaults)}" if defaults else "takes no arguments"
                raise InvalidOption("concurrency_key", text, f"the handler {takes}, and no {name}")
            self._parts.append((literal, name))
        self._defaults = {name: _text_of(value) for name, value in defaults.items() if value is not ...}

    def fill(self, payload: Any) -> str:
        """Return the key of a decoded payload; raises `LookupError` for one that has not what the template names."""
        if payload is None:
            payload = {}
        if not isinstance(payload, dict):
            payload = {} if self._first is None else {self._first: payload}
        key = ""
        for literal, name in self._parts:
            key += literal
            if name is not None:
                if name in payload:
                    key += _text_of(payload[name])
                elif name in self._defaults:
                    key += self._defaults[name]
                else:
                    raise LookupError(f"concurrency_key {self.text!r} needs {name}, which the payload does not have")
        return key


class Limits(NamedTuple):
    """The limits of one handler."""

    pattern: str
    concurrency: int | None
    """Jobs with the same key that may be active at once; None: any number."""
    rate: Rate | None
    """Starts of jobs with the same key; None: any number."""
    template: KeyTemplate | None
    """What the key is made of; None: all jobs of the handler have the same."""

    def key_of(self, payload: Any) -> str:
        """Return the limit key of a job with this decoded payload; raises `LookupError` where the payload has none."""
        name = self.pattern.replace("%", "%25").replace(" ", "%20")
        if self.template is None:
            return name
        key = storable(self.template.fill(payload))
        if len(key) > _LONGEST_KEY:  # it stands in the row and in an index
            from hashlib import blake2b  # here, since importing it takes a producer 3 ms

            key = f"{key[:_LONGEST_KEY]}...{blake2b(key.encode(), digest_size=16).hexdigest()}"
        return f"{name} {key}"

    def key_of_text(self, payload: Any) -> str:
        """Return the limit key of a job whose payload is stored as this text; `UNFIT` where there is none."""
        if self.template is None:
            return self.key_of(None)
        try:
            return self.key_of(None if payload is None else json.loads(payload))
        except (LookupError, ValueError, TypeError, RecursionError):
            return UNFIT

    def numbers(self) -> dict[str, Any]:
        """Return what other programs may know of it, as JSON can say it."""
        return {"concurrency": self.concurrency, "rate": None if self.rate is None else str(self.rate)}


RuleOf = Callable[[str], "Limits | None"]
"""The limits of the handler for a type of task; None: it has none."""


def named_in(limit_key: str) -> tuple[str, str | None]:
    """Return the handler's pattern and the filled template that a limit key stands for."""
    name, separator, key = limit_key.partition(" ")
    return name.replace("%20", " ").replace("%25", "%"), key if separator else None


def check_concurrency(value: object) -> int | None:
    """Return a `concurrency`; raises `InvalidOption`."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST):
        raise InvalidOption("concurrency", value, f"give how many may run at once, a whole number from 1 to {_MOST}")
    return value


def parse_rate(value: object) -> Rate | None:
    """Return a `rate` such as "10/s"; raises `InvalidOption`."""
    if value is None:
        return None
    match = re.fullmatch(r"\s*([0-9]{1,9})\s*/\s*([smh])\s*", value) if isinstance(value, str) else None
    if match is None:
        raise InvalidOption("rate", value, 'give starts per second, minute or hour, such as "10/s", "100/m" or "5000/h"')
    starts = int(match[1])
    if not 1 <= starts <= _MOST:
        raise InvalidOption("rate", value, f"give from 1 to {_MOST} starts")
    return Rate(starts, _WINDOWS[match[2]])


def _text_of(value: Any) -> str:
    """Return what stands in a key for a JSON value: text as it is, anything else as JSON writes it."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError):  # a default that is not JSON
        return str(value)
