"""One process at a time works in a sweep's folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from fedsweep.errors import UserError
from fedsweep.files import clear_drafts


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the sweep's lock; that of a process that was killed is free. Raises `UserError` if it is taken."""
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(f"{folder}: another process runs this sweep; wait for it, or end it") from None
    try:
        clear_drafts(folder)
        yield
    finally:
        (folder / ".lock").unlink(missing_ok=True)
        lock.release()
