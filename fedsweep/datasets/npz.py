"""NumPy's npz archives: a zip file with a member NAME.npy for each array. Nothing in one is run or unpickled."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fedsweep.datasets import reading
from fedsweep.errors import DamagedFile, UserError

_KIND, _RIGHT = "a whole npz file of plain arrays", "np.savez writes one"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those of np.savez and np.savez_compressed
_ENCRYPTED = 0x1
_PLAIN = "biufcUSMmV"  # kinds of elements that are not Python objects


def read(path: Path, needed: Sequence[str], others: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The arrays `needed`, and those of `others` that are there.

    A size that an array's header announces is compared with what the file can hold before memory is taken for it.

    Raises:
      UserError: the file is absent, cannot be read, or lacks an array.
      DamagedFile: the file is none that np.savez has written, or is no longer.
    """
    with reading.opened(path, _KIND, _RIGHT) as file, zipfile.ZipFile(file) as archive:
        members: dict[str, zipfile.ZipInfo] = {}
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name in members and name in (*needed, *others):
                raise DamagedFile(path, f"not {_KIND} (it holds {name} twice)", _RIGHT)
            members[name] = member
        if missing := [name for name in needed if name not in members]:
            raise UserError(f"{path}: has no {missing[0]}; the arrays {', '.join(needed)} belong in it")
        size = path.stat().st_size
        wanted = [*needed, *(name for name in others if name in members)]
        return {name: _array(path, archive, members[name], name, size) for name in wanted}


def _array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, size: int) -> np.ndarray:
    def no(what: str) -> DamagedFile:
        return DamagedFile(path, f"not {_KIND} ({name}: {what})", _RIGHT)

    if member.flag_bits & _ENCRYPTED:
        raise no("it is encrypted")
    if member.compress_type not in _METHODS:
        raise no(f"it is compressed by method {member.compress_type} of zip; stored or deflated is read")
    if member.compress_size > size or member.file_size > reading.DENSEST * member.compress_size + 64:
        raise no(f"{member.file_size} bytes are announced, which a file of {size} cannot hold")
    with archive.open(member) as content:
        try:
            shape, dtype = _header(content)
        except Exception as error:  # NumPy has Python parse it: SyntaxError, MemoryError, RecursionError, ...
            raise no(f"its header cannot be read, {reading.reason(error)}") from error
        if dtype.hasobject or dtype.kind not in _PLAIN:
            raise no("it holds Python objects, which are not loaded")
        announced, there = math.prod(shape) * dtype.itemsize, member.file_size - content.tell()
        if announced != there or not dtype.itemsize or any(length < 0 for length in shape):
            raise no(f"{announced} bytes are announced for {dtype} {list(shape)} and {there} are there")
    with archive.open(member) as content:
        return np.lib.format.read_array(content, allow_pickle=False)  # zipfile checks the sum at the end


def _header(content: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(content)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
        (3, 0): lambda file: np.lib.format._read_array_header(file, version=(3, 0)),
    }
    shape, _, dtype = read_header[version](content)
    return shape, dtype
