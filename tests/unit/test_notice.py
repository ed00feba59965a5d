"""When to look at the database after the kernel has told of a write."""

from fireforget._pool.notice import LOOKS


def test_a_commit_that_takes_its_disk_a_minute_is_still_seen():
    """The notice comes when the write begins; looks go on, ever more rarely, until any sync should be over."""
    assert sum(LOOKS) > 60
    assert sum(LOOKS[:8]) < 0.02
    assert list(LOOKS) == sorted(LOOKS)
