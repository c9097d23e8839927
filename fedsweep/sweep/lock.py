"""One process at a time works in the folder of a sweep, or of a single run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from fedsweep.errors import UserError
from fedsweep.files import clear_drafts, writing


@contextlib.contextmanager
def locked(folder: Path, what: str = "sweep") -> Iterator[None]:
    """Holds the lock of a sweep or a run; that of a process that was killed is free.

    Raises:
      UserError: another process holds it.
      NotWritten: the folder cannot be written.
    """
    lock = filelock.FileLock(folder / ".lock")
    with writing(folder / ".lock"):
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise UserError(f"{folder}: another process runs this {what}; wait for it, or end it") from None
    try:
        clear_drafts(folder)
        yield
    finally:
        (folder / ".lock").unlink(missing_ok=True)
        lock.release()
