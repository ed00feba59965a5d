"""A worker's settings are refused before anything is started."""

from datetime import timedelta

import pytest

from fireforget._pool.config import Settings, available_cpus
from fireforget.errors import InvalidOption

COUNTS = ("concurrency", "threads", "max_tasks_per_child", "max_rss_mb")


def test_what_is_not_given_is_the_documented_default():
    """The table of the worker's flags."""
    settings = Settings.checked()
    assert settings.concurrency == available_cpus() >= 1
    assert (settings.threads, dict(settings.queues)) == (1, {"critical": 6, "default": 3, "low": 1})
    assert (settings.strict_priority, settings.burst, settings.metrics_file) == (False, False, None)
    assert (settings.metrics_interval, settings.shutdown_timeout) == (15.0, 30.0)
    assert (settings.max_tasks_per_child, settings.max_rss_mb) == (None, None)
    assert Settings.checked(concurrency=None, queues=None) == settings


def test_good_settings_are_taken(tmp_path):
    """Durations in seconds or as timedelta, queues as a mapping or as names of one weight, paths as paths."""
    settings = Settings.checked(
        concurrency=3,
        shutdown_timeout=timedelta(seconds=2),
        queues=["a", "b"],
        metrics_file=tmp_path / "metrics.prom",
        max_rss_mb=64,
    )
    assert (settings.concurrency, settings.shutdown_timeout, settings.queues) == (3, 2.0, {"a": 1, "b": 1})
    assert settings.metrics_file == str(tmp_path / "metrics.prom")
    assert Settings.checked(shutdown_timeout=0).shutdown_timeout == 0.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in COUNTS for value in (0, -1, True, 1.5, "2")),
        *(("metrics_interval", value) for value in (0, -1, "15", True)),
        *(("shutdown_timeout", value) for value in (-1, "30", float("inf"))),
        *(("queues", value) for value in ({}, [], "default", 5, {"a": 0}, {"a": True}, {"a": 1.5}, {"a": 10**7})),
        ("queues", {"": 1}),
        ("queues", {5: 1}),
        ("metrics_file", "/"),
        ("metrics_file", "/no/such/folder/metrics.prom"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(name, value):
    """A worker that would do something else than it was told does not start."""
    with pytest.raises(InvalidOption) as caught:
        Settings.checked(**{name: value})
    assert caught.value.option == (name if value not in ({"": 1}, {5: 1}) else "queue")
