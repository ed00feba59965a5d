"""What the tests of the faces share: a queue that can be drained, of either kind, and what handlers did."""

import pytest

from fireforget import Registry, SqliteQueue
from fireforget.testing import RecordingEnqueuer


@pytest.fixture(params=["file", "memory"])
def drainable(request, tmp_path, clock):
    """Either of the two that can be drained; what a test says holds for both."""
    if request.param == "memory":
        yield RecordingEnqueuer(clock=clock)
        return
    with SqliteQueue(tmp_path / "jobs.db", clock=clock) as queue:
        yield queue


@pytest.fixture
def patient_registry():
    """What fails is due again a minute later."""
    return Registry(retry_delay=60)


@pytest.fixture
def done():
    """What handlers did, in order."""
    return []
