"""What a run goes on from after it was cut off: a runtime's state at the end of a round, in one sealed file.

The clients of a round follow from the seed and the round's number (`federated.cohort`), so a round's number is the
sampler's position.

The file is an .npz whose last bytes are the SHA-256 of all others (`files.sealed`): the round, the arrays, their
number, order, types and shapes are those that were written, or there is no checkpoint. The last two are kept
(`run_folder.CHECKPOINTS`), so that one that is damaged costs its rounds only.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedsweep.files import is_sealed, sealed, write_atomically, writing
from fedsweep.tracking.run_folder import CHECKPOINTS


@dataclass(frozen=True)
class Checkpoint:
    round: int  # the last round that the state has seen
    state: list[np.ndarray]  # Runtime.state
    history: str  # digest of the configuration and of the rounds up to there (`RunFolder.history`)


def write(path: Path, round_number: int, state: Sequence[np.ndarray], history: str = "") -> None:
    """Makes this the last checkpoint; whenever the power fails, at least one whole checkpoint is there.

    Raises:
      NotWritten: the disk is full, say.
    """
    content = io.BytesIO()
    np.savez(content, *state, round=np.int64(round_number), history=np.array(history))
    if path.exists():
        with writing(path):
            path.replace(path.with_name(CHECKPOINTS[1]))
    write_atomically(path, sealed(content.getvalue()))


def read(path: Path) -> Checkpoint | None:
    """The checkpoint in the file; None if it is not there, or not what was written."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    if not is_sealed(content):
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        names = set(arrays.files)
        if not {"round", "history"} <= names:  # of another version
            return None
        state = [arrays[f"arr_{k}"] for k in range(len(names) - 2)]
        return Checkpoint(int(arrays["round"]), state, str(arrays["history"]))
