"""What the unit tests share."""

import pytest

from fireforget import middleware
from fireforget.metrics import Samples


@pytest.fixture
def samples(monkeypatch):
    """What the default middleware counts, from none on."""
    samples = Samples()
    monkeypatch.setattr(middleware, "samples", samples)
    return samples
