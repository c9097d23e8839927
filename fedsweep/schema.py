"""The typed configuration, and every check that can be made before anything heavy loads.

`check` turns what Hydra composed into a `Config`: types first, then the ranges and the rules that cross fields. Each
refusal is one line with the key, the offending value and what would be right.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedsweep.errors import UserError

PACKINGS = ("tensor_encoding", "dense")


@dataclass
class Encoder:
    name: str
    bits: int | None
    threshold: int  # tensors with more elements than this are encoded


@dataclass
class UniformEncoder(Encoder):
    bits: int
    stochastic: bool
    packing: str


@dataclass
class Same:
    """The downlink uses the uplink's encoder."""

    name: str


@dataclass
class DigitsData:
    name: str
    clients: int
    alpha: float
    test_fraction: float


@dataclass
class WriterData:
    name: str
    dir: str | None


@dataclass
class Model:
    name: str


@dataclass
class Optimizer:
    name: str
    client_lr: float
    server_lr: float


@dataclass
class Momentum(Optimizer):
    momentum: float


@dataclass
class Adam(Optimizer):
    beta_1: float
    beta_2: float
    epsilon: float


@dataclass
class MlflowTracker:
    name: str
    uri: str | None
    experiment: str


@dataclass
class CsvTracker:
    name: str


@dataclass
class MapReduceRuntime:
    name: str
    threads: int | None


@dataclass
class TffRuntime:
    name: str


@dataclass
class Sweep:
    n_trials: int | None = None
    max_workers: int = 1
    resume: str | None = None


@dataclass
class Config:
    """One run, checked. Group fields hold the dataclass that `GROUPS` names for the group's choice."""

    rounds: int
    clients_per_round: int
    client_epochs: int
    client_batch_size: int
    seed: int
    evaluate_every: int
    replicates: int
    checkpoint_every: int | None
    sweep: Sweep = field(default_factory=Sweep)
    encoder: Any = None
    downlink: Any = None
    dataset: Any = None
    model: Any = None
    optimizer: Any = None
    tracker: Any = None
    runtime: Any = None

    @property
    def downlink_encoder(self) -> Encoder:
        """What the server encodes with: `downlink=same` stands for the uplink's encoder."""
        return self.encoder if isinstance(self.downlink, Same) else self.downlink


_ENCODERS = {"identity": Encoder, "uniform": UniformEncoder, "hadamard": UniformEncoder}
GROUPS: dict[str, dict[str, type]] = {
    "encoder": _ENCODERS,
    "downlink": {**_ENCODERS, "same": Same},
    "dataset": {"digits": DigitsData, "mnist_by_writer": WriterData},
    "model": {"cnn": Model, "2nn": Model, "cnn_small": Model},
    "optimizer": {"fedavg": Optimizer, "fedavgm": Momentum, "fedadam": Adam},
    "tracker": {"mlflow": MlflowTracker, "csv": CsvTracker},
    "runtime": {"map_reduce": MapReduceRuntime, "tff": TffRuntime},
}


def check(composed: DictConfig) -> Config:
    """The composed configuration as a `Config`; raises `UserError` with one line for the first thing that is wrong."""
    # The fields that Config types as Any are the groups: their own dataclasses type them.
    plain = OmegaConf.masked_copy(composed, [key for key in composed if key not in GROUPS])
    config = _typed(Config, plain, prefix="")
    for group, choices in GROUPS.items():
        section = composed.get(group)
        name = section.get("name") if isinstance(section, DictConfig) else None
        if name not in choices:
            raise UserError(f"{group}={section if name is None else name}: choose one of {', '.join(choices)}")
        setattr(config, group, _typed(choices[name], section, prefix=f"{group}."))
    _check_ranges(config)
    _check_sweep_keys(config)
    _check_clients(config)
    return config


def _typed(cls: type, values: DictConfig, prefix: str) -> Any:
    """`values` as an instance of the dataclass `cls`: every field there, no other, each of its type."""
    names = [f.name for f in dataclasses.fields(cls)]
    for key in values:
        if key not in names:
            raise UserError(f"{prefix}{key}: no such key; choose from {', '.join(prefix + name for name in names)}")
    for f in dataclasses.fields(cls):
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and (f.name not in values or OmegaConf.is_missing(values, f.name)):
            raise UserError(f"{prefix}{f.name}: a value is needed ({f.type})")
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), values))
    except OmegaConfBaseException as error:
        raise UserError(f"{prefix}{error.full_key or error.key}: {str(error).splitlines()[0]}") from error


def _require(condition: bool, key: str, value: Any, right: str) -> None:
    if not condition:
        raise UserError(f"{key}={value}: must be {right}")


def _check_ranges(config: Config) -> None:
    for key in ("rounds", "clients_per_round", "client_epochs", "client_batch_size", "evaluate_every"):
        _require(getattr(config, key) >= 1, key, getattr(config, key), "at least 1")
    _require(0 <= config.seed < 2**31, "seed", config.seed, "from 0 to 2147483647")

    for group in ("encoder", "downlink"):
        encoder = getattr(config, group)
        if isinstance(encoder, Encoder):
            _require(encoder.threshold >= 0, f"{group}.threshold", encoder.threshold, "a number of elements, 0 or more")
            _require(encoder.bits is None or 1 <= encoder.bits <= 16, f"{group}.bits", encoder.bits, "from 1 to 16")
        if isinstance(encoder, UniformEncoder):
            _require(encoder.packing in PACKINGS, f"{group}.packing", encoder.packing, f"one of {', '.join(PACKINGS)}")

    if config.downlink.name == "identity":
        # On the uplink identity takes a width, so that a grid can hold it; here a width was meant for something.
        right = "null with downlink=identity, which sends float32; choose downlink=uniform, hadamard or same"
        _require(config.downlink.bits is None, "downlink.bits", config.downlink.bits, right)

    optimizer = config.optimizer
    for key in ("client_lr", "server_lr"):
        rate = getattr(optimizer, key)
        _require(math.isfinite(rate) and rate > 0, f"optimizer.{key}", rate, "a finite number above 0")
    for key in ("momentum", "beta_1", "beta_2"):
        if hasattr(optimizer, key):
            decay = getattr(optimizer, key)
            _require(0 <= decay < 1, f"optimizer.{key}", decay, "in [0, 1)")
    if hasattr(optimizer, "epsilon"):
        epsilon = optimizer.epsilon
        _require(math.isfinite(epsilon) and epsilon > 0, "optimizer.epsilon", epsilon, "a finite number above 0")

    if isinstance(config.dataset, DigitsData):
        dataset = config.dataset
        _require(dataset.clients >= 1, "dataset.clients", dataset.clients, "at least 1")
        _require(math.isfinite(dataset.alpha) and dataset.alpha > 0, "dataset.alpha", dataset.alpha, "above 0")
        _require(0 < dataset.test_fraction < 1, "dataset.test_fraction", dataset.test_fraction, "between 0 and 1")
    if isinstance(config.dataset, WriterData):
        _require(config.dataset.dir != "", "dataset.dir", "", "a folder, or null")
    if isinstance(config.runtime, MapReduceRuntime) and config.runtime.threads is not None:
        _require(config.runtime.threads >= 1, "runtime.threads", config.runtime.threads, "at least 1, or null")


def _check_sweep_keys(config: Config) -> None:
    """Keys whose meaning comes with the sweep engine are refused, not ignored, when they ask for more than it does."""
    _require(config.replicates == 1, "replicates", config.replicates, "1 for now; repeat with -m seed=0,1,2")
    _require(config.checkpoint_every is None, "checkpoint_every", config.checkpoint_every, "null for now")
    _require(config.sweep.n_trials is None, "sweep.n_trials", config.sweep.n_trials, "null for now: every point is run")
    _require(config.sweep.max_workers == 1, "sweep.max_workers", config.sweep.max_workers, "1 for now")
    _require(config.sweep.resume is None, "sweep.resume", config.sweep.resume, "null for now")


def _check_clients(config: Config) -> None:
    """Where the configuration alone tells how many clients there are; `check_cohort` serves the other data sets."""
    if isinstance(config.dataset, DigitsData):
        check_cohort(config, config.dataset.clients)


def check_cohort(config: Config, clients: int) -> None:
    """A round samples without replacement, so it cannot take more clients than the data set has."""
    if config.clients_per_round > clients:
        raise UserError(
            f"clients_per_round={config.clients_per_round}: the data set {config.dataset.name} has {clients} clients;"
            f" choose at most {clients}"
        )
