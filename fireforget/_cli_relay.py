"""The command `relay`: hand stored jobs to another enqueuer."""

import argparse

from fireforget._cli_common import Commands, add_command, database_of
from fireforget._worker_flags import add_worker_flags


def add_relay(commands: Commands) -> None:
    """Add `relay`, with the flags of a worker."""
    relay = add_command(
        commands,
        "relay",
        _relay,
        "hand stored jobs to another enqueuer instead of running them: the file as an outbox for another engine",
        "relay shop.jobs:registry --to shop.outbox:enqueuer --db shop.db",
    )
    relay.add_argument("app", metavar="APP", help="the registry whose types are relayed, as module:name")
    relay.add_argument(
        "--to", required=True, metavar="NAME", help="the enqueuer, or a function that makes it in each child, as module:name"
    )
    add_worker_flags(relay, concurrency=1)


def _relay(arguments: argparse.Namespace) -> int:
    from fireforget.relay import run

    arguments.db = database_of(arguments)
    return run(arguments)
