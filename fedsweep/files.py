"""Files that are never found half written, and never written over by accident."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from fedsweep import secrets
from fedsweep.errors import UserError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes the file by rename: a reader sees the old content or the new, never half of it, even after a power cut.

    A text in which something was masked is for its owner alone (0600): it says where a secret fits.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with open(draft, "wb", opener=_opener(content)) as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def clear_drafts(folder: Path) -> None:
    """Removes what processes that were killed while they wrote have left; nobody else may be writing there."""
    for path in folder.glob(".?*.[0-9]*"):
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
        with open(path, "x", opener=_opener(text)) as file:
            file.write(text)
    except FileExistsError:
        raise _taken(path) from None


def refuse_used(folder: Path, names: Iterable[str]) -> None:
    """Says early, of files in the folder, what `claim` would say."""
    for path in (folder / name for name in names):
        if path.exists():
            raise _taken(path)


def _taken(path: Path) -> UserError:
    return UserError(f"{path}: is there already; choose another folder (hydra.run.dir, hydra.sweep.dir)")
