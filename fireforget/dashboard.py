"""The dashboard of a queue: a page for the browser, JSON, health and metrics.

`python -m fireforget dashboard` serves it; `application` is the same for mounting under a path of an application of your own.
What it is made of is in `_dashboard`.
"""

import os
from collections.abc import Collection
from typing import TYPE_CHECKING

from fireforget._dashboard.guard import is_loopback
from fireforget._dashboard.server import Server as Server  # noqa: PLC0414  (public here)
from fireforget._dashboard.server import addresses_of
from fireforget._dashboard.wsgi import Application
from fireforget.errors import FireforgetError, InvalidOption
from fireforget.queue_sqlite import SqliteQueue

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

TOKEN_VARIABLE = "FIREFORGET_TOKEN"
"""The environment variable with the token of the command."""


def application(
    queue: SqliteQueue,
    *,
    read_only: bool = False,
    token: str | None = None,
    hosts: Collection[str] = (),
    metrics_file: str | os.PathLike[str] | None = None,
) -> "WSGIApplication":
    """Return the dashboard of a queue as a WSGI application, to be mounted under any path.

    `read_only` refuses whatever would change something. `token` is what has to be shown, by the page or as `Authorization:
    Bearer`; with None everybody may look and act whom the surrounding application lets through. `hosts` are the names by which it
    is reached, beside localhost and IP addresses: requests that name another one are refused; `["*"]` leaves that to the
    surrounding application. `metrics_file` is the one that a worker writes; its counters are then part of `/metrics`.

    It may be called by several threads at once. It reads while somebody looks, in short reads, and writes when somebody acts.
    Raises `InvalidOption` for a blank token.
    """
    if token is not None and (not isinstance(token, str) or not token.strip()):
        raise InvalidOption("token", token, "give text that is not blank, or None for no token")
    if isinstance(hosts, str):
        raise InvalidOption("hosts", hosts, "give a list of names")
    return Application(
        queue,
        read_only=read_only,
        token=token,
        hosts=hosts,
        metrics_file=None if metrics_file is None else os.fspath(metrics_file),
    )


def check_reach(host: str, token: str | None) -> None:
    """Raise `FireforgetError` where others could reach the dashboard without a token, or where there is no such host."""
    try:
        addresses = addresses_of(host)
    except OSError as error:
        raise FireforgetError(f"--host {host!r} leads nowhere ({error}): give an address of this machine") from None
    if token is None and not all(is_loopback(address) for address in addresses):
        raise FireforgetError(
            f"on {host!r} other machines reach the dashboard, and it can change the queue: set {TOKEN_VARIABLE} to a secret, "
            'such as python -c "import secrets; print(secrets.token_urlsafe())" prints, or leave --host away'
        )
