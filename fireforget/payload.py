"""JSON in and out: payloads, results, headers.

A payload is encoded once, when the task is made, so later changes to the object are not seen and what is not JSON is refused
where it was written. Pickle is never used for what is stored: a database file must not be able to run code.
"""

import json
import math
from typing import Any

from fireforget.errors import InvalidPayload, shortened

MAX_RESULT_BYTES = 1024 * 1024
"""A result or progress note above this is replaced by null: the job succeeded all the same."""

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_encode_ascii = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode
_PLAIN = (str, int, float, bool, type(None))


def encode(value: Any) -> str:
    """Return `value` as compact JSON text that UTF-8 can carry.

    Raises `InvalidPayload` for what JSON cannot say: other types, NaN and infinities, cycles, and keys that are not text
    (the standard encoder would silently turn the key 1 into "1").
    """
    try:
        _check_keys(value)
        text = _encode(value)
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError:  # a lone surrogate: JSON can write it down, UTF-8 cannot
        return _encode_ascii(value)
    except InvalidPayload:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidPayload(
            f"{shortened(value)} is not JSON ({error}): use None, booleans, finite numbers, text, lists and objects with text "
            "keys"
        ) from error
    return text


def size_of(text: str) -> int:
    """Return how many bytes the JSON text takes in the database."""
    return len(text) if text.isascii() else len(text.encode())


def result_of(value: Any) -> tuple[str | None, str | None]:
    """Return a result as JSON text and a note on it: a result that cannot be kept is null, and the note says why.

    Never raises: whatever an application's object does when it is looked at, the job has succeeded.
    """
    if value is None:
        return None, None
    try:
        text = encode(value)
        size = size_of(text)
    except Exception as error:
        return None, storable(f"result not kept: {type(error).__name__}: {error}")[:1000]
    if size > MAX_RESULT_BYTES:
        return None, f"result not kept: {size} bytes of JSON, at most {MAX_RESULT_BYTES} are"
    return text, None


def storable(text: str) -> str:
    """Return text that UTF-8 can carry: what it cannot, a lone surrogate, is written as an escape."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def decode(text: str | bytes | None) -> Any:
    """Return the value of JSON text from the database; None (SQL NULL) is null. Raises ValueError for what is not JSON.

    A foreign program's may be a BLOB, and have NaN or 1e999 in it, which Python would read and JSON has not.
    """
    if text is None:
        return None
    if isinstance(text, bytes):
        text = text.decode()
    try:
        value, end = _decoder.raw_decode(text)  # without a search for the blanks around it, which what we have stored has not
    except ValueError:
        end = -1
    return value if end == len(text) else _decoder.decode(text)


def decode_leniently(text: str | bytes | None) -> Any:
    """Return the value of JSON text from the database, to be shown: what is not JSON is there as its text."""
    try:
        return decode(text)
    except (ValueError, TypeError, RecursionError):
        return text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text


def headers_of(text: str | bytes | None) -> dict[str, str]:
    """Return the headers that a job was stored with: of what a foreign program stored, the members that are text."""
    value = decode_leniently(text)
    return {name: member for name, member in value.items() if isinstance(member, str)} if isinstance(value, dict) else {}


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number in JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits} is too large for a number")
    return number


_decoder = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def _check_keys(value: Any) -> None:
    if type(value) in _PLAIN:
        return
    if isinstance(value, dict):
        for key, member in value.items():
            if not isinstance(key, str):
                raise InvalidPayload(f"the key {key!r} is not text: JSON objects have text keys, so write {str(key)!r}")
            _check_keys(member)
    elif isinstance(value, list | tuple):
        for member in value:
            _check_keys(member)
