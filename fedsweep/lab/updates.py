"""Updates of real clients, taken from a short run and cached: what encoders meet in training."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import platformdirs

from fedsweep import datasets, files, models, schema
from fedsweep.datasets import own
from fedsweep.errors import UserError
from fedsweep.lab.vectors import Vectors

WARM_UP = 2  # rounds before the one whose updates are taken
THRESHOLD = 10_000  # tensors with more elements are taken, those that a run encodes by default


def load(config: schema.Config, clients: int, say: Callable[[str], None]) -> Vectors:
    """The updates of `clients` clients in round 3 of the run that `config` describes, each tensor above THRESHOLD.

    An update is what a client sends before it is multiplied by its weight.
    """
    path = cached(config, clients)
    tensors = _read(path, clients)
    if tensors is None:
        say(f"Training {WARM_UP + 1} rounds ({config.model.name}, {config.dataset.name}) for updates, into {path}")
        tensors = _train(config, clients)
        content = io.BytesIO()
        np.savez(content, *tensors)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_atomically(path, content.getvalue())
        except OSError as error:  # only slower the next time
            say(f"{path}: cannot be written ({error.strerror}); the updates are not kept")
    shapes = ", ".join("x".join(map(str, tensor.shape[1:])) for tensor in tensors)
    title = f"updates of {config.model.name} on {config.dataset.name} ({shapes}), {clients} clients"
    return Vectors(title, [[tensor[i] for tensor in tensors] for i in range(clients)])


def cached(config: schema.Config, clients: int) -> Path:
    """The file for these updates, named by all they depend on."""
    fields = ["dataset", "model", "optimizer", "downlink", "code", "seed"]
    fields += [name for name in vars(config) if name.startswith("client")]
    said = {name: getattr(config, name) for name in fields}
    if any(map(config.optimizer.changes, ("client", "server"))):
        said["rounds"] = config.rounds
    said = {name: dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v for name, v in said.items()}
    place = [os.environ.get("FEDSWEEP_DATA"), str(Path.cwd()) if said["dataset"].get("dir") else None]
    if isinstance(config.dataset, schema.IdxData | schema.ArraysData):  # files of one's own change
        place += [
            [str(path.resolve()), path.exists() and path.stat().st_mtime_ns] for path in own.paths(config.dataset)
        ]
    text = json.dumps(
        [said, clients, WARM_UP, THRESHOLD, place, importlib.metadata.version("fedsweep")], sort_keys=True
    )
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return platformdirs.user_cache_path("fedsweep") / "lab" / f"updates-{digest}.npz"


def _read(path: Path, clients: int) -> list[np.ndarray] | None:
    """One array [clients, ...] for each tensor; None if there is no file, or a damaged one."""
    try:
        with np.load(path, allow_pickle=False) as content:
            tensors = [content[f"arr_{k}"] for k in range(len(content.files))]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    whole = tensors and all(tensor.dtype == np.float32 and len(tensor) == clients for tensor in tensors)
    return tensors if whole else None


def _train(config: schema.Config, clients: int) -> list[np.ndarray]:
    dataset = datasets.load(config.dataset, config.seed)
    population = len(dataset.client_ids)
    schema.check_cohort(config, population)
    if clients > population:
        raise UserError(
            f"--clients {clients}: the data set {dataset.name} has {population}; leave updates out, or --run"
        )
    model = models.build(config.model, dataset.spec)
    taken = [k for k, weight in enumerate(model.weights) if weight.size > THRESHOLD]
    if not taken:
        raise UserError(f"--run model={model.name}: has no tensor above {THRESHOLD} elements, which a run would encode")

    from fedsweep import runtime

    try:
        return _sent(config, model, dataset, clients, taken)
    except runtime.NotFiniteError as error:
        raise UserError(f"--run: the update of {error} in the short run; lower the rates") from error


def _sent(config, model, dataset, clients: int, taken: list[int]) -> list[np.ndarray]:
    """The tensors `taken`, one array [clients, ...] for each; NotFiniteError where one holds no number."""
    config = dataclasses.replace(config, on_bad_update="fail")  # zeros or fewer clients would be measured as updates
    from fedsweep import runtime
    from fedsweep.federated import cohort

    with runtime.start(config, model, len(dataset.client_ids)) as running:
        for number in range(1, WARM_UP + 1):
            running.round(*cohort.sample(dataset, config, number))
        many = dataclasses.replace(config, clients_per_round=clients, client_dropout=0)
        sampled, _ = cohort.sample(dataset, many, WARM_UP + 1)
        by_examples = config.client_weighting == "examples"
        sent = [
            [update[k] / np.float32(len(client.labels) if by_examples else 1) for k in taken]  # sent times the weight
            for client, update in zip(sampled, running.updates(sampled), strict=True)
        ]
    return [np.stack(tensors) for tensors in zip(*sent, strict=True)]
