"""Tests that run side by side say what they say one after the other."""

import re
import subprocess
import sys

import pytest

ROOT = __file__.rsplit("/tests/", 1)[0]
HOOKS = "from tests.side_by_side import pytest_addoption, pytest_collection_modifyitems, pytest_runtestloop\n"
ONE = """
import pytest
@pytest.fixture
def broken():
    raise RuntimeError("in the set-up")
def test_passes(): print("said by one that passes")
def test_fails(): print("said by one that fails"); assert 1 == 2, "as it should"
def test_has_an_error(broken): ...
@pytest.mark.skip(reason="today")
def test_is_skipped(): ...
@pytest.mark.xfail(strict=True)
def test_is_known_to_fail(): assert False
"""
OTHER = "import pytest\n@pytest.mark.parametrize('n', range(20))\ndef test_one_of_many(n): ...\n"
UNSEEN = """
class Cycle:
    def __init__(self):
        self.itself = self
    def __del__(self):
        raise RuntimeError("in a destructor")
kept = []
def test_leaves_something(): kept.append(Cycle())
def test_lets_it_go(): kept.clear()
"""
LEFT = """
import pytest, subprocess, sys
@pytest.fixture
def program():
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as program:
        try:
            yield program
        finally:
            program.stdin.close()
            print("was", program.wait(9), file=open("torn_down", "w"))
def test_would_go_on(program):
    open("began", "w").close()
    program.wait()
"""
FAILS = """
import os, threading
def test_fails():
    while not os.path.exists("began"):
        threading.Event().wait(0.01)
    assert False
"""


ENVIRONMENT = {
    "PYTHONPATH": ROOT,
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
}  # an order of somebody else's would take the place of ours


@pytest.fixture
def run(tmp_path):
    """Run pytest over modules of tests, in processes side by side; return its exit code and what it printed."""

    def run(*options, **modules):
        (tmp_path / "conftest.py").write_text(HOOKS)
        for name, text in modules.items():
            (tmp_path / f"test_{name}.py").write_text(text)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", ".", "-rA", *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT, check=False)
        return done.returncode, done.stdout

    return run


def outcomes(printed):
    return sorted(re.findall(r"(?m)^(PASSED|FAILED|ERROR|SKIPPED|XFAIL) (\S+)", printed))


def test_what_became_of_each_is_told_as_in_one_process(run):
    """With its output, and an exit code of failure."""
    alone, in_turn = run("--jobs", "1", one=ONE, other=OTHER)
    together, at_once = run("--jobs", "2", one=ONE, other=OTHER)
    assert alone == together == 1
    assert outcomes(at_once) == outcomes(in_turn)
    assert len(outcomes(at_once)) == 25
    assert "said by one that fails" in at_once
    assert "AssertionError: as it should" in at_once
    assert "1 failed, 21 passed, 1 skipped, 1 xfailed, 1 error" in at_once


def test_all_well_is_success(run):
    """And nothing to do is not."""
    assert run("--jobs", "3", other=OTHER)[0] == 0
    assert run("--jobs", "3", "-k", "nothing", other=OTHER)[0] == 5


@pytest.mark.parametrize("options", [(), ("--jobs", "2")])
def test_one_module_stays_where_a_debugger_finds_it(run, options):
    """Several are shared without being asked for."""
    here = "def test_is_in_pytests_own_process(pytestconfig): assert pytestconfig.pluginmanager.hasplugin('terminalreporter')"
    assert run(*options, one=here)[0] == 0
    assert run(*options, one=here, other=OTHER)[0] == 1


def test_the_first_failure_may_end_it(run):
    """As `-x` promises."""
    code, printed = run("--jobs", "2", "-x", one="def test_fails(): assert False", other=OTHER)
    assert (code, "stopping after 1 failures" in printed) == (1, True)


def test_a_process_that_dies_is_a_failure(run):
    """What it had still to run was not run."""
    code, printed = run("--jobs", "2", one="import os\ndef test_dies(): os._exit(0)\ndef test_is_lost(): ...", other=OTHER)
    assert code == 1
    assert "a process that runs tests has died in test_one.py::test_dies" in printed


def test_what_shows_at_a_processs_end_alone_is_a_failure(run):
    """As with one process: a destructor that raises when the last test is over."""
    code, printed = run("--jobs", "2", "-W", "error", one=UNSEEN, other=OTHER)
    assert (code, "RuntimeError: in a destructor" in printed) == (1, True)


def test_a_process_that_is_ended_tears_down_first(run, tmp_path):
    """A program that a test has started does not go on when another test has failed."""
    code, printed = run("--jobs", "2", "-x", a=LEFT, b=OTHER, c=FAILS)
    assert (code, "stopping after 1 failures" in printed) == (1, True)
    assert (tmp_path / "torn_down").read_text() == "was 0\n"


def test_a_seed_gives_an_order(run):
    """The same one each time."""
    orders = [re.findall(r"\[(\d+)\] PASSED", run("-v", "--shuffle", seed, other=OTHER)[1]) for seed in ("1", "1", "2")]
    assert len(orders[0]) == 20
    assert orders[0] == orders[1] != orders[2]
