"""What a run goes on from after it was cut off: a runtime's state at the end of a round, in one file.

The clients of a round follow from the seed and the round's number (`federated.cohort`), so a round's number is the
sampler's position.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedsweep.files import write_atomically


@dataclass(frozen=True)
class Checkpoint:
    round: int  # the last round that the state has seen
    state: list[np.ndarray]  # Runtime.state


def write(path: Path, round_number: int, state: Sequence[np.ndarray]) -> None:
    """Replaces the checkpoint; whenever the power fails, the old one or the new one is there."""
    content = io.BytesIO()
    np.savez(content, np.int64(round_number), *state)
    write_atomically(path, content.getvalue())


def read(path: Path) -> Checkpoint | None:
    """The checkpoint in the file; None if there is none that can be read: the run then starts again."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            number, *state = (arrays[f"arr_{k}"] for k in range(len(arrays.files)))
    except (FileNotFoundError, zipfile.BadZipFile, EOFError, ValueError, KeyError):
        return None
    return Checkpoint(int(number), state)
