"""Two options for pytest: `--jobs N` runs the tests in N processes, `--shuffle SEED` runs them in another order.

Most tests wait for programs, so three processes on two cores take less than half the time of one. They are three unless it is
said otherwise; the tests of one module stay in pytest's own process, where a debugger finds them. A process takes the next
module of tests when it is done with one, since fixtures belong to modules, and tells what became of each test::

    pytest ─ collects ─ forks ─► takes a module ─► runs its tests ─► takes the next
      │                                                │
      └── counts and shows them ◄── their reports ◄────┘
"""

import os
import random
import signal
import struct
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import chain, groupby
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from threading import Event
from time import monotonic
from typing import Any

import pytest

_SECONDS_TO_TEAR_DOWN = 10
_MODULE = struct.Struct("<H")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("side by side")
    group.addoption("--jobs", type=int, default=3, metavar="N", help="run modules of tests in N processes (default: 3)")
    group.addoption("--shuffle", type=int, metavar="SEED", help="shuffle the modules, and the tests in each")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    seed = config.getoption("--shuffle")
    if seed is None:
        return
    modules = [list(tests) for _, tests in groupby(items, key=lambda item: item.path)]
    order = random.Random(seed)
    order.shuffle(modules)
    for tests in modules:
        order.shuffle(tests)
    items[:] = [item for tests in modules for item in tests]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    option = session.config.option
    shared_already = session.config.pluginmanager.hasplugin("dsession") or hasattr(session.config, "workerinput")  # pytest-xdist
    if option.jobs < 2 or option.collectonly or option.usepdb or session.testsfailed or shared_already:
        return None
    crew = _Crew(session)
    if crew.modules < 2:
        return None
    crew.run(option.jobs)
    return True


class _Crew:
    """The processes that run the tests of a session."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._modules = [list(tests) for _, tests in groupby(session.items, key=lambda item: item.path)]
        self._told: list[Connection] = []
        self.modules = len(self._modules)
        session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined] # one for all, which pytest tidies up

    def run(self, jobs: int) -> None:
        self._to_do, give = os.pipe()  # whoever reads a number has that module: a pipe hands each out once
        os.write(give, b"".join(map(_MODULE.pack, range(len(self._modules)))))
        os.close(give)
        processes = [self._fork() for _ in range(jobs)]
        os.close(self._to_do)
        try:
            for report in self._reports():
                self._session.config.hook.pytest_runtest_logreport(report=report)
                if self._session.shouldfail:
                    raise self._session.Failed(self._session.shouldfail)
                if self._session.shouldstop:
                    raise self._session.Interrupted(self._session.shouldstop)
        finally:
            self._end(processes)

    def _end(self, processes: list[int]) -> None:
        """End whoever still runs tests, and let it tear down what those have set up: workers would go on by themselves."""
        for told in self._told:
            told.close()
        for process in processes:
            os.kill(process, signal.SIGINT)  # none is reaped yet, so each number is still its own
        until = monotonic() + _SECONDS_TO_TEAR_DOWN
        while processes and monotonic() < until:
            processes = [process for process in processes if os.waitpid(process, os.WNOHANG) == (0, 0)]
            Event().wait(0.01)
        for process in processes:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)

    def _fork(self) -> int:
        told, tell = Pipe(duplex=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which pytest has none of here
            process = os.fork()
        if process == 0:
            try:
                for each in (*self._told, told):
                    each.close()
                self._serve(tell)
            except BaseException:
                with suppress(OSError):  # where we are no more heard, we were to end
                    tell.send((traceback.format_exc(),))
            finally:
                os._exit(0)
        tell.close()
        self._told.append(told)
        return process

    def _reports(self) -> Iterator[pytest.TestReport]:
        """Yield the reports of all processes until each has said that it is done."""
        config = self._session.config
        runs: dict[Connection, str] = {}
        while self._told:
            for told in wait(self._told):
                assert isinstance(told, Connection)
                try:
                    data = told.recv()
                except (EOFError, ConnectionError):
                    data = (f"a process that runs tests has died in {runs.get(told, 'its first')}",)
                if isinstance(data, str):
                    runs[told] = data
                elif isinstance(data, tuple):  # it can run no more
                    (self._session.shouldfail,) = data
                    raise self._session.Failed(self._session.shouldfail)
                elif data is not None:
                    yield config.hook.pytest_report_from_serializable(config=config, data=data)
                else:
                    self._told.remove(told)
                    told.close()

    # --- in a process of its own --------------------------------------------------------------------------------------

    def _serve(self, tell: Connection) -> None:
        config = self._session.config
        config.pluginmanager.unregister(name="terminalreporter")
        capture: Any = config.pluginmanager.getplugin("capturemanager")
        capture.stop_global_capturing()  # its files are those of the process that has forked this one
        capture.start_global_capturing()
        config.pluginmanager.register(_Teller(config, tell))
        try:
            item = None
            for following in chain(self._items(), [None]):
                if item is not None:
                    config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if self._session.shouldfail or self._session.shouldstop:
                    break
                item = following
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # it may come twice, and what comes now is to be done
            self._session._setupstate.teardown_exact(None)
        getattr(
            config, "_cleanup_stack", ExitStack()
        ).close()  # among other things it finds what has gone wrong unseen, in destructors and threads
        tell.send(None)

    def _items(self) -> Iterator[pytest.Item]:
        while number := os.read(self._to_do, _MODULE.size):
            yield from self._modules[_MODULE.unpack(number)[0]]


class _Teller:
    """Passes on which test begins, and what became of it."""

    def __init__(self, config: pytest.Config, tell: Connection) -> None:
        self._config = config
        self._tell = tell

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._tell.send(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._tell.send(self._config.hook.pytest_report_to_serializable(config=self._config, report=report))
