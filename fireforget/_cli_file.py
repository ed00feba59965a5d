"""The commands about the database file itself: `doctor`, `backup`."""

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fireforget import _cli_output as output
from fireforget._cli_common import add_command, database_of, opened, wants_json
from fireforget._doctor import Finding, examine
from fireforget.task import State

_COLOUR_OF = {"ok": State.COMPLETED, "warning": "paused", "error": State.ARCHIVED}
"""The colours of tables that mean as much."""


def add_doctor(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add `doctor`."""
    doctor = add_command(
        commands,
        "doctor",
        _doctor,
        "look for what is wrong with the database and what runs on it, and say what to do; exit code 1 with an error",
        "doctor --db shop.db\ndoctor --full --json",
    )
    doctor.add_argument("--full", action="store_true", help="compare indexes with their tables too, which takes longer")


def add_backup(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add `backup`."""
    backup = add_command(
        commands,
        "backup",
        _backup,
        "copy the database into one file while programs go on using it, and check the copy",
        "backup shop-2026-11-24.db --db shop.db\nbackup nightly.db --force",
    )
    backup.add_argument("path", metavar="PATH", help="the file to make")
    backup.add_argument("--force", action="store_true", help="replace what is there")


# --- doctor -----------------------------------------------------------------------------------------------------------


def _doctor(arguments: argparse.Namespace) -> int:
    """Examine the file without opening it as a queue, which would convert and migrate it, or fail."""
    findings = examine(database_of(arguments), full=arguments.full)
    errors = sum(finding.status == "error" for finding in findings)
    if wants_json(arguments):
        output.print_json({"healthy": not errors, "findings": [vars(finding) for finding in findings]})
    else:
        _print_findings(findings)
    return 1 if errors else 0


def _print_findings(findings: Sequence[Finding]) -> None:
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        status = output.paint(finding.status.ljust(8), _COLOUR_OF[finding.status])
        print(f"{status} {finding.check.ljust(width)}  {output.printable(finding.message)}")
        if finding.remedy is not None:
            print(f"{' ' * (width + 11)}-> {output.printable(finding.remedy)}")
    counted = Counter(finding.status for finding in findings)
    errors, warnings = (output.plural(counted[status], status) for status in ("error", "warning"))
    print(f"\n{errors}, {warnings}")


# --- backup -----------------------------------------------------------------------------------------------------------


def _backup(arguments: argparse.Namespace) -> int:
    with opened(arguments) as (_, inspector):
        made = inspector.backup(arguments.path, force=arguments.force)
    if wants_json(arguments):
        output.print_json(vars(made))
    else:
        returned = f", {made.returned:,} of them pending again" if made.returned else ""
        size = f"{made.size / 2**20:,.1f} MiB"
        print(f"{output.printable(made.path)}: {output.plural(made.jobs)}{returned}, {size}, checked")
    return 0
