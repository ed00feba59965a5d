"""The processes of a worker and the memory they take, as the kernel tells it: no worker writes that into the database."""

import os
import socket
from pathlib import Path
from typing import Any

_MOST = 500  # processes of one worker


def of_worker(pid: int, host: str) -> list[dict[str, Any]] | None:
    """Return the processes below a worker's, its own first, with their resident bytes; None where the system does not tell.

    Only Linux tells, of this very machine, and not out of a container of its own.
    """
    if host != socket.gethostname() or not os.path.isdir(f"/proc/{pid}"):
        return None
    found: list[dict[str, Any]] = []
    waiting = [pid]
    while waiting and len(found) < _MOST:
        at = waiting.pop(0)
        try:
            fields = Path(f"/proc/{at}/statm").read_text(encoding="ascii").split()
            children = Path(f"/proc/{at}/task/{at}/children").read_text(encoding="ascii").split()
        except (OSError, ValueError):
            continue  # it has ended meanwhile, or is another user's
        found.append({"pid": at, "resident_bytes": int(fields[1]) * os.sysconf("SC_PAGE_SIZE")})
        waiting += [int(child) for child in children]
    return found or None
