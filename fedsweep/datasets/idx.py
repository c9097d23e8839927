"""IDX files, the format of MNIST: two zero bytes, a type byte, the rank, big-endian sizes, then the array."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from fedsweep.errors import UserError

_GZIP = b"\x1f\x8b"
_TYPES = {0x08: np.dtype(">u1"), 0x09: np.dtype(">i1"), 0x0B: np.dtype(">i2"), 0x0C: np.dtype(">i4")}


def read(path: Path, dtype: type, shape: tuple[int | None, ...]) -> np.ndarray:
    """Reads one IDX file, compressed with gzip or not.

    Args:
      path: the file.
      dtype: the element type it must have (np.uint8 for images, np.int32 for extended labels).
      shape: the shape it must have; None where any size will do.

    Returns:
      The array in native byte order.

    Raises:
      UserError: the file is missing, truncated, no gzip or IDX file, or of another type or shape; names the file.
    """
    try:
        raw = path.read_bytes()
        if raw[:2] == _GZIP or path.suffix == ".gz":
            raw = gzip.decompress(raw)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error

    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _TYPES:
        raise UserError(f"{path}: not an IDX file (it begins with {raw[:4].hex() or 'nothing'})")
    element, rank = _TYPES[raw[2]], raw[3]
    header = 4 + 4 * rank
    sizes = tuple(int(n) for n in np.frombuffer(raw[4:header], ">u4")) if len(raw) >= header else ()
    expected = header + int(np.prod(sizes, dtype=np.int64)) * element.itemsize
    if len(sizes) != rank or len(raw) != expected:
        raise UserError(f"{path}: {len(raw)} bytes where its header announces {expected}; fetch it again")
    fits = len(sizes) == len(shape) and all(want in (None, got) for want, got in zip(shape, sizes, strict=True))
    if element.newbyteorder("=") != np.dtype(dtype) or not fits:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise UserError(f"{path}: {element.name} {list(sizes)} where {np.dtype(dtype).name} [{wanted}] belongs")
    return np.frombuffer(raw, element, offset=header).reshape(sizes).astype(dtype)
