"""The typed configuration, and every check that can be made before anything heavy loads.

`check` turns what Hydra composed into a `Config`: types first, then the ranges and the rules that cross fields. Each
refusal is one line with the key, the offending value and what would be right.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedsweep.errors import UserError
from fedsweep.units import parse_bits

PACKINGS = ("tensor_encoding", "dense")
# What a sweep can optimize: the columns of rounds.csv that are no times and no counters.
METRICS = (
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "uplink_bits",
    "downlink_bits",
    "total_bits",
)


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
class Sampler:
    name: str


@dataclass
class StartupSampler(Sampler):
    n_startup_trials: int


@dataclass
class GeneticSampler(Sampler):
    population_size: int


@dataclass
class NoPruner:
    name: str


@dataclass
class DominancePruner:
    name: str
    margin: float
    patience: int
    min_rounds: int


@dataclass
class Sweep:
    n_trials: int | None
    grid_limit: int
    objectives: list[str]
    bit_budget: str | None
    in_flight: int
    max_workers: int | None
    trials_per_worker: int
    retries: int
    max_failures: int
    resume: str | None
    extend: bool
    storage: str | None
    dry_run: bool
    sampler: Any = None
    pruner: Any = None

    @property
    def directions(self) -> dict[str, str]:
        """The objectives: metric -> maximize or minimize."""
        return {metric: direction for direction, _, metric in (text.partition(" ") for text in self.objectives)}

    @property
    def budget(self) -> int | None:
        """`bit_budget` in bits."""
        return None if self.bit_budget is None else parse_bits(self.bit_budget)


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
    sweep: Any = None
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
    "sweep/sampler": {
        "tpe": StartupSampler,
        "nsga2": GeneticSampler,
        "nsga3": GeneticSampler,
        "gp": StartupSampler,
        "random": Sampler,
        "qmc": Sampler,
    },
    "sweep/pruner": {"none": NoPruner, "dominance": DominancePruner},
}


def check(composed: DictConfig) -> Config:
    """The composed configuration as a `Config`; raises `UserError` with one line for the first thing that is wrong."""
    # The fields that are typed Any are the groups: their own dataclasses type them.
    config = _section(Config, composed, "")
    config.sweep = _section(Sweep, composed.get("sweep"), "sweep.")
    for group, choices in GROUPS.items():
        *above, field = group.split("/")
        section = OmegaConf.select(composed, group.replace("/", "."))
        name = section.get("name") if isinstance(section, DictConfig) else None
        if name not in choices:
            raise UserError(f"{group}={section if name is None else name}: choose one of {', '.join(choices)}")
        owner = config.sweep if above else config
        setattr(owner, field, _typed(choices[name], section, prefix=f"{group.replace('/', '.')}."))
    _check_ranges(config)
    _check_sweep_keys(config)
    _check_clients(config)
    return config


def _section(cls: type, values: Any, prefix: str) -> Any:
    """The fields of `cls` that belong to no group and are no section of their own."""
    if not isinstance(values, DictConfig):
        raise UserError(f"{prefix[:-1]}={values}: holds keys of its own; leave it as it is and set those")
    apart = {group.rpartition("/")[2] for group in GROUPS if group.rpartition("/")[0] == prefix[:-1]}
    return _typed(cls, OmegaConf.masked_copy(values, [key for key in values if key not in {*apart, "sweep"}]), prefix)


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
    sweep = config.sweep
    _require(config.replicates >= 1, "replicates", config.replicates, "at least 1")
    last_seed = config.seed + config.replicates - 1
    _require(last_seed < 2**31, "replicates", config.replicates, "so few that seed + replicates - 1 is below 2^31")
    every = config.checkpoint_every
    _require(every is None or every >= 1, "checkpoint_every", every, "at least 1, or null")
    for key in ("n_trials", "max_workers"):
        value = getattr(sweep, key)
        _require(value is None or value >= 1, f"sweep.{key}", value, "at least 1, or null")
    for key, least in {
        "grid_limit": 0,
        "retries": 0,
        "max_failures": 0,
        "in_flight": 1,
        "trials_per_worker": 1,
    }.items():
        _require(getattr(sweep, key) >= least, f"sweep.{key}", getattr(sweep, key), f"at least {least}")

    _require(sweep.grid_limit <= 10_000, "sweep.grid_limit", sweep.grid_limit, "at most 10000")

    right = f"a list such as [maximize test_accuracy, minimize total_bits], each once, of {', '.join(METRICS)}"
    pairs = [text.partition(" ") for text in sweep.objectives]
    known = all(direction in ("maximize", "minimize") and metric in METRICS for direction, _, metric in pairs)
    unique = len(sweep.directions) == len(pairs) >= 1
    _require(known and unique, "sweep.objectives", sweep.objectives, right)
    try:
        budget = sweep.budget
    except ValueError:
        budget = 0
    _require(budget is None or budget >= 1, "sweep.bit_budget", sweep.bit_budget, "bits, as 300Mibit or 314572800")

    for key, least in {"n_startup_trials": 1, "population_size": 2}.items():
        value = getattr(sweep.sampler, key, least)
        _require(value >= least, f"sweep.sampler.{key}", value, f"at least {least}")
    if isinstance(sweep.pruner, DominancePruner):
        pruner = sweep.pruner
        _require(0 <= pruner.margin < 1, "sweep.pruner.margin", pruner.margin, "an accuracy, in [0, 1)")
        _require(pruner.patience >= 1, "sweep.pruner.patience", pruner.patience, "at least 1")
        _require(pruner.min_rounds >= 1, "sweep.pruner.min_rounds", pruner.min_rounds, "at least 1")


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
