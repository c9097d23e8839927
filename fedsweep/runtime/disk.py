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
import zipfile
import zlib
from pathlib import Path

import numpy as np
import platformdirs
import tensorflow_federated as tff
from google.protobuf import message as protobuf
from tensorflow_federated.proto.v0 import computation_pb2

from fedsweep import files
from fedsweep.environment import PACKAGES
from fedsweep.federated import PARTS, Form
from fedsweep.runtime import types

_MOST_FILES = 256  # kept, of about 50 kB each
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, protobuf.DecodeError)


def read(key: str) -> Form | None:
    """The form that `write` kept under this key; None if there is none, or a damaged file."""
    path = _path(key)
    try:
        with np.load(path, allow_pickle=False) as content:
            parts = {part: _deserialized(content[part].tobytes()) for part in PARTS}
            form = Form(parts, [content[f"arr_{k}"] for k in range(len(content.files) - len(PARTS))])
    except _DAMAGED:
        return None
    with contextlib.suppress(OSError):  # it may belong to somebody else
        os.utime(path)  # used: the last to go
    return form


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
        files.write_atomically(path, content.getvalue())
    except OSError as error:
        print(f"fedsweep: {error}; a run that needs the same graphs will trace them again", file=sys.stderr)
    else:
        _remove_oldest(path.parent)


def _remove_oldest(folder: Path) -> None:
    """Leaves the files used last. Drafts of processes that were killed go, too; other processes write and remove."""
    used = {}
    for file in folder.iterdir():
        with contextlib.suppress(OSError):
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
    return platformdirs.user_cache_path("fedsweep") / "graphs" / f"{name}.npz"
