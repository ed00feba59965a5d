"""An interruption never cuts a section in two that holds locks."""

import threading

import pytest

from fireforget import _db
from fireforget._shield import Shield, Window, shield
from fireforget.errors import JobTimeout


def test_an_interruption_waits_for_the_end_of_the_outermost_section():
    """It is raised there, once, and only where it was meant for this thread."""
    own = Shield()
    error = JobTimeout("timed out")
    me = threading.get_ident()
    assert not own.defers(me, error)
    with pytest.raises(JobTimeout) as raised, own:
        with own:
            assert own.defers(me, error)
        assert not own.defers(me + 1, error)
    assert raised.value is error
    with own:
        pass


def test_an_interruption_whose_job_has_ended_is_dropped():
    """The next job of the thread has done nothing to deserve it."""
    own = Shield()
    with own:
        own.defers(threading.get_ident(), JobTimeout("timed out"))
        own.forget(threading.get_ident())


def test_a_statement_on_the_database_is_such_a_section():
    """With a lock held and a transaction open, a timeout waits for the end of both."""
    with pytest.raises(JobTimeout), _db.gate:
        assert shield.defers(threading.get_ident(), JobTimeout("timed out"))
    with _db.gate:
        pass


def test_an_interruption_waits_until_the_window_is_open():
    """What comes while our own code runs is raised when the application's does, once; nothing comes when it is shut again."""
    window, thrown = Window(), []
    error = JobTimeout("timed out")
    window.interrupt(error, thrown.append)
    with pytest.raises(JobTimeout) as raised:
        window.open()
    assert raised.value is error
    window.open()
    window.interrupt(error, thrown.append)
    window.shut()
    window.interrupt(JobTimeout("too late"), thrown.append)
    assert thrown == [error]


def test_a_shielded_section_that_ends_at_the_same_moment_loses_no_interruption():
    """Either it raises it, or whoever interrupts is told that the section has ended."""
    own = Shield()
    me = threading.get_ident()

    class Ending(dict):
        """Another thread asks how deep the section is, and it ends meanwhile."""

        def __contains__(self, thread):
            self.clear()
            own._waiting.pop(thread)
            return False

    own._depth = Ending({me: 1})
    assert own.defers(me, JobTimeout("timed out")), "the section has raised it: it must not be raised again"
