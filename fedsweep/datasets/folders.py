"""Where a data set's files lie."""

from __future__ import annotations

import os
from pathlib import Path

from fedsweep.errors import UserError


def place(name: str, folder: str | None, otherwise: Path) -> tuple[Path, bool]:
    """The folder of a data set's files, and whether somebody has named it.

    It is `folder` (dataset.dir); without it the one with the data set's name in FEDSWEEP_DATA; without that
    `otherwise`. Raises UserError if dataset.dir or FEDSWEEP_DATA is no folder.
    """
    data = os.environ.get("FEDSWEEP_DATA")
    if folder is None and not data:
        return otherwise, False
    key, named = ("FEDSWEEP_DATA", data) if folder is None else ("dataset.dir", folder)
    named = expanded(named)
    if not os.path.isdir(named):  # noqa: PTH112 (Path's raises for names that are too long)
        raise UserError(f"{key}={named}: no such folder; name the one that holds {name}'s files")
    return (named / name if folder is None else named), True


def expanded(name: str) -> Path:
    """The path, its `~` replaced by the home folder. Raises UserError if that is nobody's home."""
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise UserError(f"{name}: no home folder is known for {name.split('/')[0]}; write the whole path") from error
