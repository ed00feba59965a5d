"""Log records: the one place that makes them out of what happened to a job, and how a worker prints them.

Everything logs through the standard library, under `fireforget`. A record's fields are attributes of the record, so that any
formatter of the application can use them; ours print them as `name=value` or as one JSON object a line.
"""

import json
import logging
import sys
import time
from functools import lru_cache
from typing import Any, Literal, TextIO

_worker = logging.getLogger("fireforget.worker")

FIELDS = (
    "event",
    "task_type",
    "task_id",
    "queue",
    "retry_count",
    "duration",
    "success",
    "error",
    "trace_id",
    "pid",
    "worker",
    "reason",
    "seconds",
    "dropped",
    "lost",
    "task_types",
    "schedule",
    "action",
    "remote",
    "filter",
    "change",
    "changed",
)
"""The fields that records of fireforget may carry, in the order in which they are printed."""


def wants_info() -> bool:
    """Return whether INFO records of the worker are wanted at all; asked before a record's fields are put together."""
    return _worker.isEnabledFor(logging.INFO)


def task_processed(task_type: str, task_id: str, queue: str, retry_count: int, duration: float, trace_id: str | None) -> None:
    """Log a run that succeeded; `duration` in seconds."""
    _log(logging.INFO, "task processed", task_type, task_id, queue, retry_count, duration, True, trace_id)


def task_relayed(task_type: str, task_id: str, queue: str, duration: float) -> None:
    """Log that a job was handed to another engine; `duration` in seconds."""
    if wants_info():
        _log(logging.INFO, "task relayed", task_type, task_id, queue, 0, duration, True, None)


def task_failed(
    task_type: str, task_id: str, queue: str, retry_count: int, duration: float, error: str, trace_id: str | None = None
) -> None:
    """Log a run that failed; `duration` in seconds, `error` what the job's `last_error` says."""
    _log(logging.ERROR, "task failed", task_type, task_id, queue, retry_count, duration, False, trace_id, error=error)


def task_not_counted(
    reason: Literal["postponed", "revoked", "cancelled", "returned"],
    task_type: str,
    task_id: str,
    queue: str,
    retry_count: int,
    duration: float,
    why: str,
) -> None:
    """Log a run that was neither a success nor a failure."""
    if wants_info():
        _log(logging.INFO, f"task {reason}", task_type, task_id, queue, retry_count, duration, None, None, reason=why)


def result_not_kept(task_type: str, task_id: str, queue: str, why: str) -> None:
    """Log that a job succeeded and its result could not be stored."""
    _worker.warning("task result not kept", extra={"task_type": task_type, "task_id": task_id, "queue": queue, "reason": why})


def retry_delay_failed(task_type: str, task_id: str, why: str) -> None:
    """Log that a retry policy raised or returned no duration, and that the default was used."""
    _worker.error("retry_delay failed, used the default", extra={"task_type": task_type, "task_id": task_id, "error": why})


def hook_failed(hook: str, task_type: str, task_id: str, why: str) -> None:
    """Log that an `is_failure`, `on_failure` or `on_archived` raised or took too long; what became of the job stays so."""
    _worker.error(f"{hook} failed", extra={"task_type": task_type, "task_id": task_id, "error": why})


def event(level: int, message: str, **fields: object) -> None:
    """Log something that happened to the worker itself, with its fields."""
    _worker.log(level, message, extra=fields)


def _log(
    level: int,
    message: str,
    task_type: str,
    task_id: str,
    queue: str,
    retry_count: int,
    duration: float,
    success: bool | None,
    trace_id: str | None,
    **more: Any,
) -> None:
    fields: dict[str, Any] = {
        "task_type": task_type,
        "task_id": task_id,
        "queue": queue,
        "retry_count": retry_count,
        "duration": round(duration, 6),
        **more,
    }
    if success is not None:
        fields["success"] = success
    if trace_id is not None:
        fields["trace_id"] = trace_id
    if _worker.isEnabledFor(level):  # then as `Logger.log`, but for its search for the caller, which is always this place
        _worker.handle(_worker.makeRecord(_worker.name, level, __file__, 0, message, (), None, "_log", fields))


# --- how a worker prints them -------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _in_utc(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _instant(record: logging.LogRecord) -> str:
    return f"{_in_utc(int(record.created))}.{int(record.msecs):03d}Z"


class TextFormatter(logging.Formatter):
    """One line a record: time in UTC, level, message, then the fields as `name=value`."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the standard library's name
        """Append the fields to the message."""
        line = [f"{_instant(record)} {super().formatMessage(record)}"]
        for name, value in _fields(record):
            text = str(value)
            line.append(f"{name}={json.dumps(text) if ' ' in text or not text.isprintable() or not text else text}")
        return " ".join(line)


_to_json = json.JSONEncoder(default=str, check_circular=False).encode


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time`, `level`, `logger`, `message`, the fields, and `traceback` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        members: dict[str, Any] = {
            "time": _instant(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        members.update(_fields(record))
        if record.exc_info:
            members["traceback"] = self.formatException(record.exc_info)
        return _to_json(members)


def _fields(record: logging.LogRecord) -> list[tuple[str, Any]]:
    values = record.__dict__
    return [(name, values[name]) for name in FIELDS if name in values]


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to whatever `sys.stderr` is at the moment, in one write a record, so that lines of several processes stay whole."""

    terminator = ""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # an attribute there
        return sys.stderr

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record) + "\n"


def configure(level: str = "info", format: Literal["text", "json"] = "text") -> None:
    """Send all records of this process of `level` and above to standard error, in our format; replaces earlier handlers."""
    handler = _StandardError()
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
