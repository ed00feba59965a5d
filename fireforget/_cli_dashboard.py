"""The command `dashboard`."""

import argparse
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Any

from fireforget import _cli_output as output
from fireforget._cli_common import add_command, opened, wants_json
from fireforget.errors import FireforgetError

_NICENESS = 5  # jobs come before those who watch them
_LARGEST_PORT = 65535


def add_dashboard(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add `dashboard`."""
    dashboard = add_command(
        commands,
        "dashboard",
        _dashboard,
        "serve a page for the browser that shows the queue and steers it, until it is stopped",
        "dashboard --db shop.db\ndashboard --port 9000 --read-only",
    )
    add = dashboard.add_argument
    add(
        "--host",
        default="127.0.0.1",
        metavar="HOST",
        help="address to listen on (default: 127.0.0.1); others need FIREFORGET_TOKEN",
    )
    add("--port", type=_a_port, default=8787, metavar="PORT", help="port to listen on (default: 8787); 0 takes any that is free")
    add("--read-only", action="store_true", help="refuse whatever would change something")
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name by which it is reached, beside localhost and IP addresses, as behind a proxy; may be repeated",
    )
    add("--metrics-file", metavar="PATH", help="the metrics file of a worker, whose counters /metrics is to have too")


def _a_port(text: str) -> int:
    if not text.isdecimal() or int(text) > _LARGEST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 0 to {_LARGEST_PORT}")
    return int(text)


def _dashboard(arguments: argparse.Namespace) -> int:
    from fireforget import dashboard, logs

    token = os.environ.get(dashboard.TOKEN_VARIABLE) or None
    dashboard.check_reach(arguments.host, token)
    with opened(arguments) as (queue, _):
        app = dashboard.application(
            queue,
            read_only=arguments.read_only,
            token=token,
            hosts=arguments.allow_host,
            metrics_file=arguments.metrics_file,
        )
        logs.configure()
        _warn_of_missing(arguments.metrics_file)
        with suppress(OSError, AttributeError):  # another system has no such thing
            os.nice(_NICENESS)
        server = dashboard.Server(app, arguments.host, arguments.port)
        try:
            server.start()
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else error
            raise FireforgetError(f"cannot listen on {arguments.host}:{arguments.port} ({why}): give another --port") from None
        try:
            _announce(server.url, arguments, protected=token is not None)
            _wait_for_the_end()
        finally:
            server.close()
    return 0


def _warn_of_missing(metrics_file: str | None) -> None:
    """Say that the file with a worker's counters is not there: a worker may bring it yet, or its name is mistyped."""
    if metrics_file is not None and not os.path.exists(metrics_file):
        missing = f"{output.printable(metrics_file)}: there is no such file yet, so /metrics is without a worker's counters"
        print(f"fireforget: {missing} until one is started with this --metrics-file", file=sys.stderr)


def _announce(url: str, arguments: argparse.Namespace, *, protected: bool) -> None:
    if wants_json(arguments):
        output.print_json({"url": url, "read_only": arguments.read_only, "protected": protected}, indent=None)
        return
    more = ", which only shows," if arguments.read_only else ""
    print(f"The dashboard{more} is at {url}{' and asks for the token' if protected else ''}. Ctrl-C ends it.", flush=True)


def _wait_for_the_end() -> None:
    """Return when INT or TERM asks for it; what an action is doing is then ended first."""
    ending = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ending.set())
    ending.wait()
