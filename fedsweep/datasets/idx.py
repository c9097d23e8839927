"""IDX files, the format of MNIST: two zero bytes, a type byte, the rank, big-endian sizes, then the array."""

from __future__ import annotations

import gzip
import math
import sys
from pathlib import Path

import numpy as np

from fedsweep.datasets import reading
from fedsweep.errors import DamagedFile

_GZIP = b"\x1f\x8b"
_TYPES = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
_AGAIN = "fetch or write it again"


def read(path: Path, dtype: type, shape: tuple[int | None, ...]) -> np.ndarray:
    """Reads one IDX file, compressed with gzip or not (its first bytes tell, whatever its name is).

    Args:
      path: the file.
      dtype: the element type it must have (np.uint8 for images, np.int32 for extended labels).
      shape: the shape it must have; None where any size will do.

    Returns:
      The array in native byte order.

    Raises:
      UserError: the file is missing or cannot be read.
      DamagedFile: it is truncated, no gzip or IDX file, or of another type or shape.
    """
    with reading.opened(path, "an IDX file", _AGAIN) as file:
        magic = file.read(2)
        size = file.seek(0, 2)
        file.seek(0)
        if magic == _GZIP:
            with reading.content_of(path, "a whole gzip file", _AGAIN), gzip.open(file) as content:
                return _array(path, content, size * reading.DENSEST, dtype, shape)
        if path.suffix == ".gz" and magic != b"\0\0":
            begins = magic.hex() or "nothing"
            raise DamagedFile(path, f"not a whole gzip file, nor a plain IDX file (it begins with {begins})", _AGAIN)
        return _array(path, file, size, dtype, shape)


def _array(path: Path, content, most: int, dtype: type, shape: tuple[int | None, ...]) -> np.ndarray:
    """`most`: bytes that the content can have; memory is taken for no more than the header announces, or that."""
    start = content.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _TYPES:
        raise DamagedFile(
            path, f"not an IDX file (it begins with {start.hex() or 'nothing'})", "name one, as MNIST's are"
        )
    element, rank = _TYPES[start[2]], start[3]
    header = content.read(4 * rank)
    if len(header) < 4 * rank:
        what = f"{4 + len(header)} bytes where its header of rank {rank} announces {4 + 4 * rank} for itself"
        raise DamagedFile(path, what, _AGAIN)
    sizes = tuple(map(int, np.frombuffer(header, ">u4")))
    data = math.prod(sizes) * element.itemsize
    expected = 4 + 4 * rank + data
    if expected > most:
        what = f"its header announces {expected} bytes, and it can hold {most} at most"
        raise DamagedFile(path, what, _AGAIN)
    raw = content.read(data)
    if len(raw) != data or content.read(1):
        found = "more" if len(raw) == data else 4 + 4 * rank + len(raw)
        raise DamagedFile(path, f"{found} bytes where its header announces {expected}", _AGAIN)
    fits = len(sizes) == len(shape) and all(want in (None, got) for want, got in zip(shape, sizes, strict=True))
    if element.newbyteorder("=") != np.dtype(dtype) or not fits:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        got = list(sizes) if rank <= 8 else f"of rank {rank}"
        what = f"{element.name} {got} where {np.dtype(dtype).name} [{wanted}] belongs"
        raise DamagedFile(path, what, "name a file that has it")
    if math.prod(n or 1 for n in sizes) * np.dtype(dtype).itemsize > sys.maxsize:  # NumPy takes no sizes of 0 for that
        raise DamagedFile(path, f"its header announces the sizes {list(sizes)}, which no array has", _AGAIN)
    return np.frombuffer(raw, element).reshape(sizes).astype(dtype)
