"""The command `group list`: jobs that are collected to be handed over together."""

import argparse

from fireforget import _cli_output as output
from fireforget._cli_common import Commands, add_command, add_group, check_queue, opened, wants_json
from fireforget.inspector import GroupInfo


def add_group_list(commands: Commands) -> None:
    """Add `group list`."""
    group = add_group(commands, "group", "look at jobs that are collected to be handed over together")
    listing = add_command(
        group, "list", _groups, "print the groups that wait", "group list\ngroup list --queue low --app shop.jobs:registry"
    )
    listing.add_argument("--queue", metavar="NAME", help="in this queue")
    listing.add_argument(
        "--app", metavar="APP", help="the application, module:registry: its aggregators say when a group completes"
    )


def _groups(arguments: argparse.Namespace) -> int:
    registry = None
    if arguments.app is not None:
        from fireforget.app import load_registry

        registry = load_registry(arguments.app, flag="--app")
    with opened(arguments) as (_, inspector):
        if arguments.queue is not None:
            check_queue(inspector, arguments.queue)
        groups = inspector.groups(arguments.queue, registry=registry)
    if wants_json(arguments):
        output.print_json([vars(group) for group in groups])
        return 0
    output.print_table(
        ["queue", "group", "jobs", "oldest", "newest", "completes"],
        [[g.queue, g.name, f"{g.size:,}", output.briefly(g.oldest), output.briefly(g.newest), _completes(g)] for g in groups],
        empty="no job waits in a group",
        left=(0, 1),
    )
    return 0


def _completes(group: GroupInfo) -> str:
    if group.closed:
        return "is complete"
    return "unknown" if group.completes_at is None else output.briefly(group.completes_at)
