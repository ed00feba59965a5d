"""Log records: the one place that makes them out of what happened to a job, and how a worker prints them.

Everything logs through the standard library, under `fireforget`. A record's fields are attributes of the record, so that any
formatter of the application can use them; ours print them as `name=value` or as one JSON object a line.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from types import FunctionType
from typing import Any, Literal, TextIO

_package = logging.getLogger("fireforget")
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
    if not _worker.isEnabledFor(level):
        return
    fields: dict[str, Any] = {
        "task_type": task_type,
        "task_id": task_id,
        "queue": queue,
        "retry_count": retry_count,
        "duration": round(duration, 6),
    }
    if success is not None:
        fields["success"] = success
    fields.update(more)
    if trace_id is not None:
        fields["trace_id"] = trace_id
    if _printer is None or not _printer.print(time.time(), level, message, fields):
        _worker.handle(_record(level, message, fields))


def _record(level: int, message: str, fields: Mapping[str, Any]) -> logging.LogRecord:
    """Make a record as `Logger.log` does, without a search for the caller or a check of the names: they are ours."""
    record = logging.getLogRecordFactory()(_worker.name, level, __file__, 0, message, (), None, "_log")
    record.__dict__.update(fields)
    return record


# --- how a worker prints them -------------------------------------------------------------------------------------------


Line = Callable[[float, str, str, str, Mapping[str, Any]], str]
"""Makes a line of the time in Unix seconds, level, logger, message and fields of a record."""


@lru_cache(maxsize=2)
def _in_utc(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _instant(created: float) -> str:
    second = int(created)
    return f"{_in_utc(second)}.{int((created - second) * 1000):03d}Z"


def text_line(created: float, level: str, logger: str, message: str, fields: Mapping[str, Any]) -> str:
    """Return a record as one line: time in UTC, level, message, then the fields as `name=value`."""
    return f"{_instant(created)} {level} {message}" + "".join([f" {name}={_quoted(value)}" for name, value in fields.items()])


_NUMBERS = frozenset((int, float, bool))


def _quoted(value: object) -> str:
    """Return a field's value as one word: text that has blanks in it, or is empty, is quoted as in JSON."""
    if type(value) in _NUMBERS:
        return str(value)
    text = value if type(value) is str else str(value)
    return text if text.isprintable() and text and " " not in text else json.dumps(text)


def json_line(created: float, level: str, logger: str, message: str, fields: Mapping[str, Any]) -> str:
    """Return a record as one JSON object: `time`, `level`, `logger`, `message`, and the fields."""
    head = f'{{"time": "{_instant(created)}", {_head(level, logger, message)}'
    return f"{head}, {_to_json(fields)[1:]}" if fields else head + "}"


@lru_cache(maxsize=64)
def _head(level: str, logger: str, message: str) -> str:
    """Return the members that most records have alike; encoding a record's text is most of what it costs."""
    return _to_json({"level": level, "logger": logger, "message": message})[1:-1]


_to_json = json.JSONEncoder(default=str, check_circular=False).encode


class _Formatter(logging.Formatter):
    """Makes the line of a record with `line`; one that has a traceback has it at the end."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line

    def _of(self, record: logging.LogRecord, **more: Any) -> str:
        values = record.__dict__
        fields = {name: values[name] for name in FIELDS if name in values} | more
        return self._line(record.created, record.levelname, record.name, record.getMessage(), fields)


class TextFormatter(_Formatter):
    """One line a record, as `text_line` makes it, with its traceback below where it has one."""

    def __init__(self) -> None:
        super().__init__(text_line)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        line = self._of(record)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(_Formatter):
    """One JSON object a line, as `json_line` makes it, with a `traceback` where there is one."""

    def __init__(self) -> None:
        super().__init__(json_line)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        return self._of(record, traceback=self.formatException(record.exc_info)) if record.exc_info else self._of(record)


def _of_logging(function: Any) -> Any:
    """Return a function of `logging`, or None where something else has been put into its place already."""
    return function if isinstance(function, FunctionType) and function.__globals__ is vars(logging) else None


_CALL_HANDLERS, _HANDLE = _of_logging(logging.Logger.callHandlers), _of_logging(logging.Logger.handle)


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to whatever `sys.stderr` is at the moment, in one write a record, so that lines of several processes stay whole."""

    def __init__(self, formatter: _Formatter) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(formatter)
        self.ours = formatter
        self.line = formatter._line

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # an attribute there
        return sys.stderr

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(self.format(record))
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is that of `logging`
        """Tell on standard error what is wrong with a record. Never raises, or the run that it is of would have failed by it:
        a handler may have closed `sys.stderr`, or put anything in its place.
        """
        with suppress(Exception):
            super().handleError(record)

    def print(self, created: float, level: int, message: str, fields: Mapping[str, Any]) -> bool:
        """Write a record of the worker's without making a `LogRecord` of it; False where that would not be the same.

        There is a record for each job, and what `logging` does for it costs more than a short job. Nobody misses that unless
        the application has changed how records are made, where they go, or what becomes of them there; or what watches it has
        put itself into `logging`, as those that report errors and those that trace do.
        """
        untouched = (
            logging.root.handlers == [self]
            and not (self.filters or _worker.handlers or _worker.filters or _package.handlers)
            and self.formatter is self.ours
            and self.level <= level
            and _worker.propagate
            and _package.propagate
            and logging.getLogRecordFactory() is logging.LogRecord
            and logging.Logger.callHandlers is _CALL_HANDLERS
            and logging.Logger.handle is _HANDLE
        )
        if untouched:
            line = self.line(created, logging.getLevelName(level), _worker.name, message, fields)
            self.acquire()
            try:
                self._write(line)
            except RecursionError:
                raise
            except Exception:  # as in `emit`
                self.handleError(_record(level, message, fields))
            finally:
                self.release()
        return untouched

    @staticmethod
    def _write(line: str) -> None:
        stream = sys.stderr
        stream.write(line + "\n")
        if not getattr(stream, "line_buffering", False):  # as it is in a child
            stream.flush()


_printer: _StandardError | None = None
"""What `configure` has set up in this process."""


def configure(level: str = "info", format: Literal["text", "json"] = "text") -> None:
    """Send all records of this process of `level` and above to standard error, in our format; replaces earlier handlers."""
    global _printer  # noqa: PLW0603 - one a process, as the root logger's handlers are
    handler = _printer = _StandardError(JsonFormatter() if format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
