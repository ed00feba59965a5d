"""The ring in which a child lays down results."""

import random

import pytest

from fireforget._pool.ring import Ring


@pytest.fixture
def words():
    return memoryview(bytearray(8 * 64)).cast("Q")


def test_what_was_put_is_taken_once_and_in_order(words):
    """By another view of the same memory, as in another process."""
    ours, theirs = Ring(words, 8, 32), Ring(words, 8, 32)
    assert ours.put(0, b"") and ours.put(7, b"seven") and ours.put(8, b"12345678")
    assert theirs.take() == [(0, b""), (7, b"seven"), (8, b"12345678")]
    assert theirs.take() == []
    ours.clear()
    assert theirs.take() == []


def test_a_full_ring_says_so_and_loses_nothing(words):
    """Then the result is sent; what does not fit at all is refused always."""
    ring = Ring(words, 0, 32)
    assert not ring.put(0, b"x" * 300)
    put = [index for index in range(20) if ring.put(index, b"x" * 20)]
    assert 0 < len(put) < 20
    assert [index for index, _ in ring.take()] == put
    assert ring.put(20, b"again")
    assert ring.take() == [(20, b"again")]


def test_it_goes_round_and_round_with_entries_of_any_size(words):
    """No entry crosses the end, none is lost, and nothing outside of the ring is touched."""
    dice = random.Random(1)
    ring, waiting, taken, index = Ring(words, 8, 48), [], [], 0
    while index < 2000:
        data = dice.randbytes(dice.choice((0, 1, 7, 8, 9, 60, 150)))
        if ring.put(index, data):
            waiting.append((index, data))
            index += 1
        if dice.random() < 0.4 or not ring.put(0, b"") or waiting.append((0, b"")):
            taken = ring.take()
            assert taken == waiting
            waiting.clear()
    assert words[:8].tolist() == [0] * 8 and words[56:].tolist() == [0] * 8
