"""Ids that are nearly right, or only begun: found by looking up what could have been meant, however many jobs there are."""

import re
import string
from collections.abc import Iterator

from fireforget import _sql_inspect
from fireforget._claimed import public_id
from fireforget._inspect_access import Access, Connection

_NEIGHBOURS = 20  # task_ids looked at on each side of where a mistyped one would stand
_LONGEST = 64  # characters of an id for which one wrong letter is looked for everywhere
_MOST_DIGITS = 18
_LETTERS = string.ascii_letters + string.digits + "-_:./"


class Ids:
    """The ids of one queue's file."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def similar(self, job_id: str) -> list[str]:
        """Return stored ids that look like this one: a letter apart, with the same number, or beginning alike."""
        with self._access.reading() as connection:
            found = [*self._generated(connection, job_id), *self._own(connection, job_id)]
        return list(dict.fromkeys(found))

    def beginning(self, text: str, limit: int) -> list[str]:
        """Return up to `limit` stored ids that begin so; the latest ones for no text."""
        with self._access.reading() as connection:
            if not text:
                rows = connection.execute(_sql_inspect.LAST_IDS, {"most": limit}).fetchall()
                return [own or self._public(n, nonce) for n, nonce, own in rows]
            own = [name for (name,) in connection.execute(_sql_inspect.TASK_IDS_FROM, {"task_id": text, "most": limit})]
            found = [name for name in own if name.startswith(text)]
            for first, last in _ranges(self._access.tag, text):
                parameters = {"first": first, "last": last, "most": limit}
                found += [self._public(*row) for row in connection.execute(_sql_inspect.IDS_OF_NUMBERS, parameters)]
        return [name for name in found if name.startswith(text)][:limit]

    def _generated(self, connection: Connection, job_id: str) -> Iterator[str]:
        """Yield ids with this number whatever stands around it, and those with its nonce whose number is a digit apart."""
        match = re.search(r"^(?:[^-]*-)?(\d{1,18})(?:-|$)", job_id)  # generated ids are tag-number-nonce
        if match is None:
            return
        numbers = [match[1], *(number for number in _a_letter_apart(match[1], string.digits) if number)]
        for number in dict.fromkeys(int(number) for number in numbers if len(number) <= _MOST_DIGITS):
            parameters = {"first": number, "last": number, "most": 1}
            for row in connection.execute(_sql_inspect.IDS_OF_NUMBERS, parameters):
                found = self._public(*row)
                if number == int(match[1]) or job_id.endswith(found.rpartition("-")[2]):
                    yield found

    def _own(self, connection: Connection, job_id: str) -> Iterator[str]:
        """Yield task_ids that are a letter apart, and those before and behind the place where this one would stand."""
        for candidate in _a_letter_apart(job_id, _LETTERS) if len(job_id) <= _LONGEST else ():
            if connection.execute(_sql_inspect.HAS_TASK_ID, {"task_id": candidate}).fetchone()[0]:
                yield candidate
        for statement in (_sql_inspect.TASK_IDS_FROM, _sql_inspect.TASK_IDS_BEFORE):
            for (own,) in connection.execute(statement, {"task_id": job_id, "most": _NEIGHBOURS}):
                if own[:1] == job_id[:1]:
                    yield own

    def _public(self, n: int, nonce: int) -> str:
        return public_id(self._access.tag, n, nonce)


def _a_letter_apart(word: str, letters: str) -> Iterator[str]:
    """Yield words with one letter left out, two swapped, one replaced or one added."""
    for at in range(len(word) + 1):
        head, tail = word[:at], word[at:]
        if tail:
            yield head + tail[1:]
        if len(tail) > 1:
            yield head + tail[1] + tail[0] + tail[2:]
        for letter in letters:
            if tail:
                yield head + letter + tail[1:]
            yield head + letter + tail


def _ranges(tag: str, text: str) -> Iterator[tuple[int, int]]:
    """Yield the numbers, first and last, of the generated ids that begin with this text."""
    if tag.startswith(text) or text == f"{tag}-":
        yield 0, 10**_MOST_DIGITS
        return
    match = re.fullmatch(rf"{re.escape(tag)}-(\d{{1,{_MOST_DIGITS}}})(-.*)?", text)
    if match is None:
        return
    number = int(match[1])
    yield number, number
    for digits in range(1, _MOST_DIGITS + 1 - len(match[1])) if match[2] is None else ():
        yield number * 10**digits, (number + 1) * 10**digits - 1
