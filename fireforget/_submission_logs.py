"""The log records of submissions. Nothing here raises, whatever a logger or handler does."""

import logging
from collections import Counter
from contextlib import suppress
from itertools import islice
from typing import Any

from fireforget._submission_lanes import Submission

DEFAULT_LOGGER = logging.getLogger("fireforget.patterns")
_TYPES_LISTED = 10


def describe(error: BaseException) -> str:
    """Return an error as one text, `type: message`."""
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:  # a __str__ that raises
        return type(error).__name__


def log_failure(submission: Submission, error: str) -> None:
    """Write the ERROR record of one submission."""
    fields = {"task_type": submission.task.type, "queue": submission.options.get("queue"), "error": error}
    _log(submission.logger, logging.ERROR, "fire-and-forget enqueue failed", fields)


def log_arrivals(mine: list[Submission], part: list[Submission], answers: Any) -> None:
    """Write the DEBUG records of those of the part that are `mine` still, where somebody wants them."""
    if not any(_wants_debug(logger) for logger in {each.logger for each in mine}):
        return
    wanted = set(map(id, mine))
    for submission, task_id in zip(part, _ids(answers, len(part)), strict=True):
        if id(submission) in wanted:
            queue = submission.options.get("queue")
            fields = {"task_id": task_id, "task_type": submission.task.type, "queue": queue}
            _log(submission.logger, logging.DEBUG, "fire-and-forget task enqueued", fields)


def log_drops(logger: logging.Logger, count: int, max_submissions: int, max_bytes: int) -> None:
    """Write the ERROR record of those that found the buffer full."""
    message = "fire-and-forget buffer full (%d submissions or %d bytes): %d dropped"
    _log(logger, logging.ERROR, message, {"dropped": count}, max_submissions, max_bytes, count)


def log_losses(lost: list[Submission]) -> None:
    """Write one ERROR record a logger with what the exit loses."""
    for logger in {each.logger for each in lost}:
        types = Counter(each.task.type for each in lost if each.logger is logger)
        count = sum(types.values())
        listed = ", ".join(f"{type} {number}" for type, number in types.most_common(_TYPES_LISTED))
        message = "fire-and-forget lost %d submissions at exit: no answer in time (%s%s)"
        more = ", ..." if len(types) > _TYPES_LISTED else ""
        _log(logger, logging.ERROR, message, {"lost": count, "task_types": dict(types)}, count, listed, more)


def _log(logger: logging.Logger | None, level: int, message: str, fields: dict[str, Any], *values: object) -> None:
    with suppress(BaseException):  # a handler's trouble is nobody's here, and there is nowhere left to report it
        (logger or DEFAULT_LOGGER).log(level, message, *values, extra=fields)


def _wants_debug(logger: logging.Logger | None) -> bool:
    try:
        return (logger or DEFAULT_LOGGER).isEnabledFor(logging.DEBUG)
    except BaseException:
        return False


def _ids(answers: Any, count: int) -> list[Any]:
    """Return `count` ids; None for what an enqueuer did not answer."""
    ids: list[Any] = []
    try:
        for answer in islice(answers, count):
            ids.append(getattr(answer, "id", None))
    except BaseException:  # not iterable, or an `id` that raises
        pass
    return ids + [None] * (count - len(ids))
