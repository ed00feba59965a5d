"""How an error reads in the database: its text, and its traceback from the application's own frames on, both cut to size."""

import os
from typing import Any

from fireforget import middleware
from fireforget import payload as json_payload
from fireforget.errors import Interruption, JobTimeout

MOST_TRACEBACK = 16 * 1024
"""Characters of a traceback that are kept: the last ones."""
MOST_ERROR = 4096
"""Characters of an error that are kept: the first ones."""
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def text_of(error: BaseException) -> str:
    """Return what is told of an error: its type and message, and of a timeout the message alone."""
    if isinstance(error, JobTimeout):
        return str(error) or "timed out"
    return middleware.describe(error)


def shorten(text: str) -> str:
    """Return a text that the database can keep, cut where it is too long."""
    text = json_payload.storable(text)
    return text if len(text) <= MOST_ERROR else text[:MOST_ERROR] + " [...]"


def traceback_of(error: BaseException) -> str:
    """Return the traceback from the handler's own frames on, cut in the middle of nothing: its end is what tells most."""
    import traceback

    try:
        return _format(error, traceback)
    except Exception as failed:  # an exception of the application's that cannot be shown must not end the child
        return f"<its traceback cannot be shown: {type(failed).__name__}>"


def _format(error: BaseException, traceback: Any) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN):
        trace = trace.tb_next
    told = traceback.TracebackException(type(error), error, trace)
    _leave_out_own(told)
    if isinstance(error, Interruption):  # where the handler was, not how it was interrupted there
        while len(told.stack) > 1 and told.stack[-1].filename.startswith(_OWN):
            told.stack.pop()
    text = json_payload.storable("".join(told.format()).rstrip())
    return text if len(text) <= MOST_TRACEBACK else "[...]\n" + text[-MOST_TRACEBACK:]


def _leave_out_own(told: Any) -> None:
    """Leave out the frames of ours that led to the handler, in what caused the error too; a chain may be long."""
    left = [told]
    while left:
        told = left.pop()
        while len(told.stack) > 1 and told.stack[0].filename.startswith(_OWN):
            del told.stack[0]
        left += filter(None, (told.__cause__, told.__context__, *(getattr(told, "exceptions", None) or ())))
