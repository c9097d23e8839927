"""Files that are never found half written, and never written over by accident."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from fedsweep import secrets
from fedsweep.errors import DamagedFile, NotWritten, UserError

_DIGEST = 64  # characters of a SHA-256


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says of an OSError which file it was that could not be written: the error of an open file knows no name."""
    try:
        yield
    except OSError as error:
        raise NotWritten(error.errno, error.strerror or str(error), str(path)) from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes the file by rename: a reader sees the old content or the new, never half of it, even after a power cut.

    A text in which something was masked is for its owner alone (0600): it says where a secret fits.

    Raises:
      NotWritten: the disk is full, say; the old content is there as it was.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        try:
            with open(draft, "wb", opener=_opener(content)) as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError:
            with contextlib.suppress(OSError):  # a full disk has no room for it
                draft.unlink()
            raise


def read_text(path: Path, right: str) -> str:
    """The UTF-8 text in the file; `right` says what helps where it is none.

    Raises:
      DamagedFile: there are bytes that are no text.
      OSError: the file cannot be read.
    """
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise DamagedFile(path, "cannot be read (it is not UTF-8)", right) from error
    if "\0" in text:
        raise DamagedFile(path, "cannot be read (it holds NULs, as a power cut leaves them)", right)
    return text


def sealed(archive: bytes) -> bytes:
    """A zip archive (an .npz, say) with the SHA-256 of all its other bytes as its comment: it still opens as one."""
    body = archive[:-2] + _DIGEST.to_bytes(2, "little")  # the comment's length comes last
    return body + sha256(body).encode()


def is_sealed(archive: bytes) -> bool:
    """Whether these are the bytes that `sealed` gave. Ask before anything parses them."""
    return sha256(archive[:-_DIGEST]).encode() == archive[-_DIGEST:]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def clear_drafts(folder: Path) -> None:
    """Removes what processes that were killed while they wrote have left; nobody else may be writing there."""
    for path in folder.glob(".?*.[0-9]*"):
        if path.suffix[1:].isdecimal() and path.is_file():  # as `write_atomically` names them
            path.unlink()


def write_json(path: Path, content: dict) -> None:
    """`content` as JSON, by `write_atomically`."""
    write_atomically(path, as_json(content))


def as_json(content: dict) -> str:
    """NaN and infinity, which JSON does not have, are refused."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _opener(content: str | bytes) -> Callable[[str, int], int]:
    mode = 0o600 if isinstance(content, str) and secrets.MASK in content else 0o666
    return lambda name, flags: os.open(name, flags, mode)


def claim(path: Path, text: str) -> None:
    """Writes a new file, for this process alone; what is there already is never written over."""
    try:
        file = open(path, "x", encoding="utf-8", opener=_opener(text))  # noqa: SIM115  closed below
    except FileExistsError:
        raise _taken(path) from None
    try:
        with writing(path), file:
            file.write(text)
    except NotWritten:
        path.unlink()  # half of it is nobody's
        raise


def refuse_used(folder: Path, names: Iterable[str]) -> None:
    """Says early, of files in the folder, what `claim` would say."""
    for path in (folder / name for name in names):
        if path.exists():
            raise _taken(path)


def _taken(path: Path) -> UserError:
    return UserError(f"{path}: is there already; choose another folder (hydra.run.dir, hydra.sweep.dir)")
