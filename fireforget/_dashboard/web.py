"""A request and an answer, and refusals: what the parts of the dashboard hand to each other."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from fireforget.errors import (
    DuplicateTask,
    FireforgetError,
    InvalidTask,
    QueueNotEmpty,
    ScheduleInUse,
    StoreError,
    UnknownJob,
    UnknownQueue,
    UnknownSchedule,
    WrongState,
)

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

MOST_BODY_BYTES = 4 * 1024 * 1024
"""Room for a payload of 1 MiB as JSON text inside of JSON."""
_MOST_FIELDS = 50  # of a query


class Refusal(Exception):
    """The request gets this answer instead of what it asked for."""

    def __init__(self, status: HTTPStatus, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


def bad(message: str) -> Refusal:
    """Return the refusal of a request that makes no sense."""
    return Refusal(HTTPStatus.BAD_REQUEST, "invalid", message)


@dataclass
class Answer:
    """What goes back."""

    body: bytes
    content_type: str = "application/json"
    status: HTTPStatus = HTTPStatus.OK
    headers: dict[str, str] = field(default_factory=dict)


def json_answer(value: Any, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None) -> Answer:
    """Return a JSON value as an answer; in ASCII, so that no character set matters."""
    return Answer(json.dumps(value, separators=(",", ":")).encode("ascii"), status=status, headers=headers or {})


class Request:
    """One request, as WSGI tells it."""

    def __init__(self, environ: "WSGIEnvironment") -> None:
        self.environ = environ
        self.method: str = environ["REQUEST_METHOD"]
        self.path: str = environ.get("PATH_INFO", "")
        self.mount: str = environ.get("SCRIPT_NAME", "")

    def header(self, name: str) -> str | None:
        """Return a header, None where it is not there."""
        key = name.upper().replace("-", "_")
        value: str | None = self.environ.get(key if key == "CONTENT_TYPE" else f"HTTP_{key}")
        return value

    @property
    def remote(self) -> str:
        """Who asks: the address, and the name where the surrounding application has asked for one."""
        user, address = self.environ.get("REMOTE_USER"), self.environ.get("REMOTE_ADDR", "?")
        return f"{user} at {address}" if user else str(address)

    @cached_property
    def query(self) -> dict[str, list[str]]:
        """The members of the query."""
        try:
            text = self.environ.get("QUERY_STRING", "")
            return parse_qs(text, keep_blank_values=False, max_num_fields=_MOST_FIELDS, errors="replace")
        except ValueError as error:
            raise bad(f"the query cannot be read: {error}") from None

    def one(self, name: str, default: str | None = None) -> str | None:
        """Return a member of the query that is there once at most."""
        values = self.query.get(name, [])
        if len(values) > 1:
            raise bad(f"{name} is there twice")
        return values[0] if values else default

    def needed(self, name: str) -> str:
        """Return a member of the query that has to be there."""
        value = self.one(name)
        if value is None:
            raise bad(f"{name} is missing")
        return value

    def number(self, name: str, default: int, most: int) -> int:
        """Return a whole number of the query, from 1 to `most`."""
        text = self.one(name)
        if text is None:
            return default
        if not text.isdecimal() or not text.isascii() or len(text) > 9 or not 1 <= int(text) <= most:
            raise bad(f"{name} is a whole number from 1 to {most}")
        return int(text)

    def json(self) -> dict[str, Any]:
        """Return the body, which has to be a JSON object."""
        length = self.environ.get("CONTENT_LENGTH") or "0"
        if not length.isdecimal():
            raise bad("Content-Length is no number")
        if int(length) > MOST_BODY_BYTES:
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", f"the body has more than {MOST_BODY_BYTES} bytes")
        try:
            value = json.loads(self.environ["wsgi.input"].read(int(length)))
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # "\\ud800" is JSON, and no text that can be stored or logged
        except (ValueError, RecursionError):
            raise bad("the body is not JSON in UTF-8") from None
        if not isinstance(value, dict):
            raise bad("the body is a JSON object")
        return value


_STATUS_OF: tuple[tuple[type[Exception] | tuple[type[Exception], ...], HTTPStatus, str], ...] = (
    (UnknownJob, HTTPStatus.NOT_FOUND, "unknown_job"),
    (UnknownQueue, HTTPStatus.NOT_FOUND, "unknown_queue"),
    (UnknownSchedule, HTTPStatus.NOT_FOUND, "unknown_schedule"),
    (WrongState, HTTPStatus.CONFLICT, "wrong_state"),
    (DuplicateTask, HTTPStatus.CONFLICT, "duplicate"),
    (QueueNotEmpty, HTTPStatus.CONFLICT, "queue_not_empty"),
    (ScheduleInUse, HTTPStatus.CONFLICT, "schedule_in_use"),
    (StoreError, HTTPStatus.SERVICE_UNAVAILABLE, "store"),
    ((InvalidTask, argparse.ArgumentTypeError), HTTPStatus.BAD_REQUEST, "invalid"),
    (FireforgetError, HTTPStatus.CONFLICT, "refused"),
)


def refusal_of(error: Exception) -> Refusal | None:
    """Return the refusal that an error of fireforget means; None for a mistake of ours."""
    if isinstance(error, Refusal):
        return error
    for kinds, status, code in _STATUS_OF:
        if isinstance(error, kinds):
            return Refusal(status, code, str(error))
    return None
