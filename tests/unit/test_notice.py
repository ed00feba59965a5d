"""When to look at the database after the kernel has told of a write."""

from fireforget._pool.notice import GLANCE_SECONDS, LOOKS


def test_a_commit_that_takes_its_disk_a_minute_is_still_seen():
    """The notice comes when the write begins; looks go on, ever more rarely, until any sync should be over."""
    assert sum(LOOKS) > 60
    assert sum(LOOKS[:8]) < 0.02
    assert list(LOOKS) == sorted(LOOKS)


def test_glances_end_with_a_whole_look_a_millisecond_after_the_notice():
    """Ten of them, as cheap as one look; whatever they miss, a look at everything does not."""
    moments = [sum(LOOKS[: n + 1]) for n in range(len(LOOKS))]
    assert sum(moment < GLANCE_SECONDS for moment in moments) == 10
    assert 0.0009 < min(moment for moment in moments if moment >= GLANCE_SECONDS) < 0.0011
