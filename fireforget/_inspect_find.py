"""Which jobs match: filters, and walks over a million jobs in reads that are short, each one.

Jobs are found by their number, in order, so a walk goes on where it stopped, whatever comes and goes meanwhile.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import Any

from fireforget import _sql, _sql_find, _sql_queues
from fireforget import payload as json_payload
from fireforget._inspect_access import Access
from fireforget.clock import Seconds, to_seconds
from fireforget.errors import InvalidOption, InvalidPayload
from fireforget.task import State

MOST_READ = 20_000
"""Numbers of jobs that one read collects for an operation over many."""
_WINDOW = 20_000  # row numbers that one read of the table steps over
_MOST_ROWS = 500  # read at a time, with their payloads
_MOST_SORTED = 350_000  # with no more jobs in a state, their numbers are sorted instead of walking the table
_MOST_PENDING_SORTED = 150_000  # the widest index
_MOST_FILTERED = 20_000  # where each of them has to be looked at as well
_EXACT = 2**53  # integers below this are equal to no float that is written with other digits
_MOST_QUEUES = 200  # whose jobs are read side by side


@dataclass(frozen=True)
class Filter:
    """Which jobs an operation is about."""

    state: State | None
    parameters: dict[str, Any]
    """For the conditions of `_sql_find` that are named so."""
    payload: Mapping[str, Any] | None
    hints: dict[str, str]
    """Parameters for conditions that pass over most payloads that cannot match; `admits` decides."""

    @property
    def number(self) -> int | None:
        """The state as the table stores it."""
        return None if self.state is None else _sql.number_of(self.state)

    @property
    def by_queue_alone(self) -> bool:
        """Whether an index answers it, without a look at the jobs themselves."""
        return self.state is not None and self.payload is None and self.parameters.keys() <= {"queue"}

    @property
    def read(self) -> dict[str, Any]:
        """The parameters of statements that look for matching jobs."""
        return {**self.parameters, **self.hints}

    def admits(self, payload_text: Any) -> bool:
        """Return whether a stored payload has the members that are wanted; one that is no JSON object has none."""
        if self.payload is None:
            return True
        try:
            members = json_payload.decode(payload_text)
        except (ValueError, TypeError, RecursionError):
            return False
        return all(_has(members, path, value) for path, value in self.payload.items())


def _state(name: State | str) -> State:
    try:
        return State(name)
    except ValueError:
        near = difflib.get_close_matches(str(name), list(State), n=1)
        remedy = f"did you mean {str(near[0])!r}?" if near else f"choose among {', '.join(State)}"
        raise InvalidOption("state", name, remedy) from None


def _has(members: Any, path: str, wanted: Any) -> bool:
    """Return whether an object has a member with this value: one of this name, or else the one that a path with dots leads to."""
    if not isinstance(members, dict):
        return False
    if path in members:
        return _same_json(members[path], wanted)
    first, dot, rest = path.partition(".")
    return bool(dot) and first in members and _has(members[first], rest, wanted)


def _hints_of(payload: Mapping[str, Any]) -> dict[str, str]:
    """Return texts that every payload with these members has in it, by parameters' names of `_sql_find`."""
    hints = {}
    for at, (path, value) in enumerate(payload.items()):
        if (text := _as_written(path.rpartition(".")[2])) is not None:
            hints[f"text_{at}"] = text
        if (text := _as_written(value)) is not None:
            number = isinstance(value, int) and not isinstance(value, bool)
            hints[f"{'number' if number else 'text'}_value_{at}"] = text
    return hints


def _as_written(value: Any) -> str | None:
    """Return what JSON of this value has in it, quotes apart; None where it may be written otherwise than a hint allows."""
    if not (value is None or isinstance(value, str) or (isinstance(value, int) and abs(value) < _EXACT)):
        return None
    try:
        text = json_payload.encode(value).strip('"')
    except InvalidPayload:
        return None
    return text if text and "\\" not in text else None


class Finder:
    """Finds the jobs of one queue's file that match."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def filter(
        self,
        state: State | str | None,
        *,
        queue: str | None = None,
        type: str | None = None,
        older_than: Seconds | None = None,
        newer_than: Seconds | None = None,
        error: str | None = None,
        payload: Mapping[str, Any] | None = None,
        group: str | None = None,
    ) -> Filter:
        """Return the filter of these arguments, those of `Inspector.tasks`; raises `ValueError` and `InvalidOption`."""
        parameters: dict[str, Any] = {}
        for name, text in (("queue", queue), ("type", type), ("error", error), ("group", group)):
            if text is not None and (not isinstance(text, str) or not text):
                raise InvalidOption(name, text, "give text that is not empty, or None for any")
        if queue is not None:
            parameters["queue"] = queue
        if type is not None:
            parameters["type_prefix" if type.endswith(":") else "type"] = type
        if older_than is not None:
            parameters["before"] = self._access.now() - to_seconds("older_than", older_than)
        if newer_than is not None:
            parameters["since"] = self._access.now() - to_seconds("newer_than", newer_than)
        if error is not None:
            parameters["error"] = error
        if group is not None:
            parameters["group"] = group
        if payload is not None and not (isinstance(payload, Mapping) and all(isinstance(name, str) for name in payload)):
            raise InvalidOption("payload", payload, "give a mapping of members that the payload has, such as {'user_id': 7}")
        hints = {} if payload is None else _hints_of(payload)
        return Filter(None if state is None else _state(state), parameters, payload, hints)

    def matching(self, wanted: Filter) -> Iterator[list[dict[str, Any]]]:
        """Yield the jobs that match by now, as parameters for statements that are fenced with the filter: a list a read."""
        for numbers in self.scan(wanted, 0, MOST_READ):
            payloads: dict[int, Any] = dict.fromkeys(numbers)
            if wanted.payload is not None:
                payloads = dict(self.rows(wanted, "n, payload", numbers))
            now = self._access.now()
            if payloads:
                yield [{"n": n, "now": now, "as_read": payload, **wanted.parameters} for n, payload in payloads.items()]

    def rows(self, wanted: Filter, columns: str, numbers: list[int]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows with these numbers that still match, the payload included."""
        statement = _sql_find.still_matching(columns, wanted.number, wanted.read)
        for at in range(0, len(numbers), _MOST_ROWS):
            with self._access.reading() as connection:
                asked = ({**wanted.read, "n": n} for n in numbers[at : at + _MOST_ROWS])
                rows = [row for each in asked if (row := connection.execute(statement, each).fetchone()) is not None]
            yield from (row for row in rows if wanted.admits(row[-1]))

    def scan(self, wanted: Filter, after: int, most: int) -> Iterator[list[int]]:
        """Yield the numbers of jobs that match, all but for the payload, in order: up to `most` a read, each one short."""
        with self._access.reading() as connection:
            last = connection.execute(_sql.LAST_NUMBER).fetchone()[0] or 0
        queues = self._queues(wanted)
        if queues is None:
            yield from self._scan_table(wanted, after, last, most)
        else:
            yield from self._scan_resting(wanted, queues, after, last, most)

    def _queues(self, wanted: Filter) -> list[str] | None:
        """Return the queues to look into where the index of the state has each queue's jobs in order; None where it has not."""
        if wanted.number is None or wanted.number < _sql_find.FIRST_RESTING:
            return None
        if "queue" in wanted.parameters:
            return [wanted.parameters["queue"]]
        with self._access.reading() as connection:
            found = connection.execute(_sql_queues.queues_in(wanted.number), {"most": _MOST_QUEUES + 1}).fetchall()
        return [queue for (queue,) in found] if len(found) <= _MOST_QUEUES else None

    def _scan_resting(self, wanted: Filter, queues: list[str], after: int, last: int, most: int) -> Iterator[list[int]]:
        """Walk the index of a resting state, all queues side by side; a window at a time where the jobs have to be looked at."""
        assert wanted.number is not None
        statement = _sql_find.matching(wanted.number, {"queue": "", **wanted.read}, by_index=True)
        next_in_queue = _sql_find.next_resting(wanted.number)
        while after < last:
            end = last
            with self._access.reading() as connection:
                if not wanted.parameters.keys() <= {"queue"} or wanted.hints:
                    places = ({"after": after, "queue": q} for q in queues)
                    following = [connection.execute(next_in_queue, place).fetchone()[0] for place in places]
                    after = min((n for n in following if n is not None), default=last + 1) - 1
                    end = min(last, after + _WINDOW)
                limits = {"after": after, "last": end, "most": most}
                lists = [connection.execute(statement, {**wanted.read, **limits, "queue": q}) for q in queues]
                numbers = [n for (n,) in islice(merge(*lists), most)]
                for cursor in lists:
                    cursor.close()
            if numbers:
                yield numbers
            after = numbers[-1] if len(numbers) == most else end

    def _scan_table(self, wanted: Filter, after: int, last: int, most: int) -> Iterator[list[int]]:
        """Walk the table, a window at a time, where jobs of the state lie close together; or the index of the state, sorting it,
        once a window had too few and few are in the state.
        """
        by_index: bool | None = None if wanted.state is not None else False
        while after < last:
            end = last
            if not by_index:
                after = self._before_next(after, last)
                end = min(last, after + _WINDOW)
            numbers = self._numbers(wanted, after, end, most, by_index=bool(by_index))
            if numbers:
                yield numbers
            after = numbers[-1] if len(numbers) == most else end
            if by_index is None and len(numbers) < most and after < last:
                by_index = self._is_rare(wanted)

    def _before_next(self, after: int, last: int) -> int:
        """Return the number before that of the next job."""
        with self._access.reading() as connection:
            following = connection.execute(_sql_find.NEXT_NUMBER, {"after": after}).fetchone()[0]
        return last if following is None else int(following) - 1

    def _numbers(self, wanted: Filter, after: int, end: int, most: int, *, by_index: bool) -> list[int]:
        statement = _sql_find.matching(wanted.number, wanted.read, by_index=by_index)
        parameters = {**wanted.read, "after": after, "last": end, "most": most}
        with self._access.reading() as connection:
            return [n for (n,) in connection.execute(statement, parameters)]

    def _is_rare(self, wanted: Filter) -> bool:
        assert wanted.number is not None
        filters = [name for name in ("queue",) if name in wanted.parameters]
        most = _MOST_PENDING_SORTED if wanted.state is State.PENDING else _MOST_SORTED
        if not wanted.by_queue_alone:
            most = _MOST_FILTERED
        parameters = {**{name: wanted.parameters[name] for name in filters}, "most": most + 1}
        with self._access.reading() as connection:
            jobs = connection.execute(_sql_find.count_up_to(wanted.number, filters), parameters).fetchone()[0]
        return bool(jobs <= most)


def _same_json(one: Any, other: Any) -> bool:
    """Return whether two values are the same JSON; Python takes true for 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
