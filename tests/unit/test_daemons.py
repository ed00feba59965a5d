"""The executor that never holds up an exit."""

import threading

import pytest

from fireforget._daemons import DaemonExecutor


@pytest.fixture
def executor():
    executor = DaemonExecutor("test", 2, idle_seconds=0.01)
    yield executor
    executor.shutdown()


def test_a_call_is_answered_by_its_future(executor):
    """Results and errors come back, SystemExit included, and the next call still runs."""
    assert executor.submit(pow, 2, exp=3).result(5) == 8
    with pytest.raises(SystemExit):
        executor.submit(exit, 1).result(5)
    assert list(executor.map(abs, [-1, -2])) == [1, 2]


def test_calls_beyond_the_threads_wait_for_one_that_is_free(executor):
    """There are never more threads than said, and nothing is lost."""
    gate, running = threading.Event(), threading.Semaphore(0)

    def work(number):
        running.release()
        gate.wait()
        return number, threading.current_thread().name

    futures = [executor.submit(work, number) for number in range(10)]
    for _ in range(2):
        assert running.acquire(timeout=5)
    assert not running.acquire(timeout=0.05)
    gate.set()
    results = [future.result(5) for future in futures]
    assert [number for number, _ in results] == list(range(10))
    assert len({name for _, name in results}) <= 2


def test_idle_threads_end_but_for_the_last_one(executor):
    """Who submits nothing for a while keeps one sleeping thread, which can still serve when the interpreter leaves."""
    both = threading.Barrier(2)

    def meet():
        both.wait(5)
        return threading.current_thread()

    first, second = [future.result(5) for future in [executor.submit(meet) for _ in range(2)]]
    while first.is_alive() and second.is_alive():
        threading.Event().wait(0.001)
    assert executor.submit(threading.current_thread).result(5) in (first, second)


def test_many_short_calls_around_the_idle_time_are_all_run():
    """A thread that is about to end does not take a call with it."""
    executor = DaemonExecutor("test", 3, idle_seconds=0.0001)
    for number in range(1_000):
        futures = [executor.submit(abs, -number) for _ in range(3)]
        assert [future.result(5) for future in futures] == [number] * 3
    executor.shutdown()


def test_after_shutdown_nothing_more_is_taken(executor):
    """What was submitted still runs unless it is cancelled; a later call is refused."""
    gate, running = threading.Event(), threading.Semaphore(0)

    def work():
        running.release()
        return gate.wait(5)

    first, second = [executor.submit(work) for _ in range(2)]
    for _ in range(2):
        assert running.acquire(timeout=5)
    waiting = executor.submit(int)
    executor.shutdown(cancel_futures=True)
    gate.set()
    assert first.result(5)
    assert second.result(5)
    assert waiting.cancelled()
    with pytest.raises(RuntimeError):
        executor.submit(int)
