"""A real broker for the tests of engines: Debian's redis-server on a free loopback port; where it is missing they are skipped."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20.0


def eventually(check, within=PATIENCE, otherwise=lambda: ""):
    """Wait until `check` returns something true, and return that."""
    until, pause = monotonic() + within, threading.Event()
    while not (found := check()):
        assert monotonic() < until, f"never: {otherwise()}"
        pause.wait(0.02)
    return found


@pytest.fixture(scope="session")
def redis_port(tmp_path_factory):
    """The port of a Redis of this test run alone."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server here: install it to test engines on a real broker")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            eventually(lambda: _answers(port))
            yield port
        finally:
            server.terminate()


def _answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.fixture
def run_program(tmp_path):
    """Start a program in the test's folder; killed at the end, with all that it started."""
    running = []

    def run_program(name, *arguments, **more):
        log = tmp_path / f"{name}.log"
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", **more}
        with log.open("a") as file:
            process = subprocess.Popen(
                [sys.executable, *arguments], cwd=tmp_path, env=environment, stdout=file, stderr=file, start_new_session=True
            )
        process.log = log
        running.append(process)
        return process

    yield run_program
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, 9)
        process.wait()
