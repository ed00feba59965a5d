"""How many jobs go where: lanes by weight, frames by pace."""

from collections import Counter
from itertools import pairwise

import pytest

from fireforget._pool.plan import MOST_IN_FRAME, Lanes, Pace, room

WEIGHTS = {"critical": 6, "default": 3, "low": 1}


@pytest.mark.parametrize("at_once", [1, 3, 10, 64, 100])
def test_full_lanes_share_exactly_by_weight(at_once):
    """6:3:1 means 60, 30 and 10 of every hundred, however many are picked at once."""
    lanes = Lanes(WEIGHTS, strict=False)
    picked = []
    while len(picked) < 1000:
        picked += lanes.picks(WEIGHTS, at_once)
    for start in range(0, 900, 100):
        assert Counter(picked[start : start + 100]) == {"critical": 60, "default": 30, "low": 10}


def test_the_share_is_spread_evenly():
    """A light lane waits for at most one round of ten, and a heavy one does not run in one block."""
    picked = Lanes(WEIGHTS, strict=False).picks(WEIGHTS, 100)
    lows = [index for index, lane in enumerate(picked) if lane == "low"]
    assert max(b - a for a, b in pairwise(lows)) <= 10
    assert "critical" * 5 not in "".join(picked)


def test_an_empty_lane_costs_the_others_nothing():
    """Two of three share by their own weights."""
    lanes = Lanes(WEIGHTS, strict=False)
    assert Counter(lanes.picks(["low", "default"], 40)) == {"default": 30, "low": 10}
    assert lanes.picks(["low"], 5) == ["low"] * 5
    assert lanes.picks([], 5) == []


def test_a_lane_that_was_empty_has_saved_nothing_up():
    """When its jobs come it gets its share, not what it did not use before."""
    lanes = Lanes(WEIGHTS, strict=False)
    lanes.picks(WEIGHTS, 7)
    lanes.found_empty("critical")
    lanes.picks(["default", "low"], 1000)
    assert Counter(lanes.picks(WEIGHTS, 100))["critical"] in range(59, 62)


def test_strict_takes_the_heaviest_lane_that_has_jobs_always():
    """Lighter ones wait until it is empty."""
    lanes = Lanes(WEIGHTS, strict=True)
    assert lanes.picks(["low", "critical", "default"], 4) == ["critical"] * 4
    assert lanes.picks(["low", "default"], 2) == ["default"] * 2


def test_a_frame_grows_only_as_far_as_its_jobs_are_short():
    """One job while nothing is known; hundreds of short ones; one when they turn out to be long."""
    pace = Pace()
    assert pace.frame() == 1
    pace.observe(10, 10e-6)
    assert pace.frame() == MOST_IN_FRAME
    pace.observe(1, 2.0)
    assert pace.frame() == 1
    pace.observe(0, 5.0)
    for _ in range(60):
        pace.observe(1, 1e-6)
    assert pace.frame() == MOST_IN_FRAME


@pytest.mark.parametrize("frame", [0, 1])
def test_long_jobs_come_one_for_each_thread(frame):
    """What waits in a child behind a long job could be running in another."""
    assert [room(in_hand, frame, 2) for in_hand in range(4)] == [2, 1, 0, 0]


def test_short_jobs_come_a_frame_ahead():
    """The next frame is on its way while one is worked on, and never a third."""
    assert room(0, 64, 1) == room(64, 64, 1) == 64
    assert room(65, 64, 1) == 0
    assert room(0, 2, 8) == 8
