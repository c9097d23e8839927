"""Reading files that others have written: whatever is wrong with one is one line that names it."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fedsweep.errors import DamagedFile, UserError

DENSEST = 1032  # bytes that one byte of deflate (of gzip and of zip) can stand for at most
_LONGEST = 200  # characters of a library's reason
ELSEWHERE = {  # SQLite's codes of errors that say nothing about what the file holds
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
}  # fmt: skip


@contextlib.contextmanager
def opened(path: Path, kind: str, right: str) -> Iterator[BinaryIO]:
    """The open file; `content_of` holds for what is done with it.

    Raises:
      UserError: the file is absent, no regular file (a pipe would block), or the system does not let it be read; the
        system's own reason is given.
      DamagedFile: see `content_of`.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            raise UserError(f"{path}: is a pipe or a device; name a file")
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # a NUL in the name
        raise UserError(f"{str(path)!r}: is no name of a file ({error})") from error
    with file, content_of(path, kind, right):
        yield file


@contextlib.contextmanager
def content_of(path: Path, kind: str, right: str) -> Iterator[None]:
    """Whatever the libraries inside raise becomes "PATH: not KIND (their reason); RIGHT", a DamagedFile; where the
    system or a lock keeps the file from being read, "PATH: cannot be read (the reason)", a UserError.

    On damaged bytes zipfile, gzip, NumPy and SQLite raise most of what Python has (struct.error, SyntaxError,
    NotImplementedError, OverflowError, RecursionError, ...) and document little of it, so no list would be whole.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a parser finds odd in a header is no news beside the outcome
            yield
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{path}: needs more memory than is left ({reason(error)})") from error
    except OSError as error:
        # zipfile seeks to where a damaged directory says, gzip's and lzma's own errors have no number
        if error.errno in (None, errno.EINVAL):
            raise DamagedFile(path, f"not {kind} ({reason(error)})", right) from error
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in ELSEWHERE:
            raise UserError(f"{path}: cannot be read ({reason(error)})") from error
        raise DamagedFile(path, f"not {kind} ({reason(error)})", right) from error


def reason(error: BaseException) -> str:
    """What an exception says, in one line of printable text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in said[:_LONGEST])
