"""The graphs of a round, kept on disk for the next process that needs them.

Tracing takes seconds and depends on a part of the configuration alone (`federated.graph_key`), so a run that is
resumed, repeated with another seed, or told another number of rounds finds its graphs here, ready to import.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import os
import platform
import sys
from pathlib import Path

import numpy as np
import platformdirs
import tensorflow_federated as tff
from tensorflow_federated.proto.v0 import computation_pb2

from fedsweep import files
from fedsweep.environment import PACKAGES
from fedsweep.federated import PARTS, Form
from fedsweep.runtime import types

_MOST_FILES = 256  # kept, of about 50 kB each


def read(key: str) -> Form | None:
    """The form that `write` kept under this key; None if there is none, or a damaged file."""
    path = _path(key)
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if not files.is_sealed(content):
        return None
    with contextlib.suppress(OSError):  # it may belong to somebody else
        os.utime(path)  # used: the last to go
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        parts = {part: _deserialized(arrays[part].tobytes()) for part in PARTS}
        return Form(parts, [arrays[f"arr_{k}"] for k in range(len(arrays.files) - len(PARTS))])


def write(key: str, form: Form) -> None:
    """Keeps the form under the key, without model weights; a disk that is full, or not ours, costs only time."""
    serialize = tff.framework.serialize_computation
    parts = {p: np.frombuffer(serialize(form.parts[p]).SerializeToString(), np.uint8) for p in PARTS}
    nothing = np.zeros(0, np.float32)
    state = [
        nothing if ("global_model_weights" in path and "trainable" in path) or "held" in path else leaf
        for path, leaf in zip(types.paths(form.state_type), form.state, strict=True)
    ]
    content = io.BytesIO()
    np.savez_compressed(content, *state, **parts)
    path = _path(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, files.sealed(content.getvalue()))
    except OSError as error:
        print(f"fedsweep: {error}; a run that needs the same graphs will trace them again", file=sys.stderr)
    else:
        _remove_oldest(path.parent)


def _remove_oldest(folder: Path) -> None:
    """Leaves the files used last. Drafts of processes that were killed go, too; other processes write and remove."""
    used = {}
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            used[file] = file.stat().st_mtime
    for file in sorted(used, key=used.get, reverse=True)[_MOST_FILES:]:
        with contextlib.suppress(OSError):
            file.unlink()


def _deserialized(content: bytes) -> tff.Computation:
    return tff.framework.deserialize_computation(computation_pb2.Computation.FromString(content))


def _sources() -> bytes:
    """A digest of fedsweep's own code and of the versions of what traces."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256(repr([platform.python_version(), *map(importlib.metadata.version, PACKAGES)]).encode())
    for source in sorted(package.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.digest()


_SOURCES = _sources()  # at import: graphs come from the code that was loaded, whatever is edited while a sweep runs


def _path(key: str) -> Path:
    """Named by all that graphs depend on: the key, the code, the versions."""
    name = hashlib.sha256(_SOURCES + key.encode()).hexdigest()[:32]
    return platformdirs.user_cache_path("fedsweep") / "graphs" / name
