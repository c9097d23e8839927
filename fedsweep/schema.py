"""The typed configuration, and every check that can be made before anything heavy loads.

`check` turns what Hydra composed into a `Config`: types first, then the ranges and the rules that cross fields. Each
refusal is one line with the key, the offending value and what would be right.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedsweep import secrets, store
from fedsweep.composing import Allowance, literal
from fedsweep.errors import UserError
from fedsweep.units import parse_bits

PACKINGS = ("tensor_encoding", "dense")
ROTATIONS = ("none", "hadamard", "fourier", "kashin")
VALUES = (  # what a sparsifier's values can be encoded with
    "identity", "uniform", "qsgd", "terngrad", "sign", "one_bit", "drive", "eden", "lloyd_max", "normal_float",
    "natural",
)  # fmt: skip
CODES = ("packed", "huffman", "range", "elias_gamma", "elias_delta", "golomb_rice", "zero_run")
PARTITIONS = ("dirichlet", "iid", "shards", "quantity")
TEXT_DATASETS = ("shakespeare", "stackoverflow", "tiny_shakespeare")
TEXT_MODELS = ("char_lstm", "word_lstm")
LR_SCHEDULES = ("constant", "linear", "cosine", "exponential")
SAMPLINGS = ("uniform", "fixed", "cyclic")
WEIGHTINGS = ("examples", "uniform")
BAD_UPDATES = ("fail", "drop", "zero")
# What a sweep can optimize: the columns of rounds.csv that are no times and no counters.
METRICS = (
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "test_accuracy_p10",
    "test_accuracy_p50",
    "test_accuracy_p90",
    "validation_loss",
    "validation_accuracy",
    "uplink_bits",
    "downlink_bits",
    "total_bits",
)


@dataclass
class Encoder:
    name: str
    bits: float | None  # without effect where a subclass does not type it anew; there so that grids compose
    threshold: int  # tensors with more elements than this are encoded
    error_feedback: bool


@dataclass
class RotatedUniformEncoder(Encoder):
    bits: int
    stochastic: bool
    packing: str


@dataclass
class UniformEncoder(RotatedUniformEncoder):
    rotation: str


@dataclass
class RotatableEncoder(Encoder):
    rotation: str


@dataclass
class BitsEncoder(RotatableEncoder):
    bits: int


@dataclass
class QsgdEncoder(BitsEncoder):
    bucket: int | None


@dataclass
class TernGradEncoder(RotatableEncoder):
    clip: float
    packing: str


@dataclass
class EdenEncoder(RotatableEncoder):
    bits: float


@dataclass
class LloydMaxEncoder(BitsEncoder):
    iterations: int


@dataclass
class NormalFloatEncoder(BitsEncoder):
    block: int


@dataclass
class ShareEncoder(Encoder):
    share: float


@dataclass
class StcEncoder(ShareEncoder):
    positions: str


@dataclass
class TopKEncoder(StcEncoder):
    bits: int
    values: str


@dataclass
class RandKEncoder(ShareEncoder):
    bits: int
    values: str
    unbiased: bool


@dataclass
class ThreeLcEncoder(Encoder):
    sparsity: float


@dataclass
class RateDistortionEncoder(Encoder):
    trade_off: float


@dataclass
class CountSketchEncoder(ShareEncoder):
    rows: int
    recovered: float


@dataclass
class LowRankEncoder(Encoder):
    rank: int


@dataclass
class CustomEncoder(Encoder):
    maker: str  # module:function, of a tensor's spec, which returns a tensor_encoding Encoder


@dataclass
class Same:
    """The downlink uses the uplink's encoder."""

    name: str


@dataclass
class Code:
    """The lossless code behind encoders that send integers."""

    name: str


@dataclass
class Schedule:
    """How the width of the uplink's quantizer changes from round to round, or from client to client."""

    name: str


@dataclass
class Plateau(Schedule):
    patience: int
    smoothing: float


@dataclass
class UpdateRange(Schedule):
    resolution: float


@dataclass
class Dataset:
    name: str
    validation_fraction: float


@dataclass
class Partitioned(Dataset):
    """Data without clients of its own."""

    partition: str
    clients: int
    alpha: float
    shards: int


@dataclass
class DigitsData(Partitioned):
    test_fraction: float


@dataclass
class IdxData(Partitioned):
    train_images: str
    train_labels: str
    test_images: str
    test_labels: str


@dataclass
class ArraysData(Partitioned):
    file: str


@dataclass
class WriterData(Dataset):
    dir: str | None


@dataclass
class TinyShakespeareData(Dataset):
    dir: str | None
    sequence_length: int
    test_fraction: float


@dataclass
class TffData(Dataset):
    """What one of TFF's own loaders opens."""

    dir: str | None
    test_examples: int | None


@dataclass
class EmnistData(TffData):
    classes: int


@dataclass
class ShakespeareData(TffData):
    sequence_length: int


@dataclass
class StackOverflowData(TffData):
    sequence_length: int
    vocabulary: int


@dataclass
class Model:
    name: str


@dataclass
class KerasModel(Model):
    maker: str  # module:function, of a DataSpec, which returns a Keras model


@dataclass
class Optimizer:
    """What all optimizers have; a choice's own fields are in its subclass."""

    name: str
    client_lr: float
    server_lr: float
    client_momentum: float
    client_weight_decay: float
    client_clip: float | None
    update_clip: float | None
    client_schedule: str
    client_warmup: int
    server_schedule: str
    server_warmup: int

    def changes(self, side: str) -> bool:
        """Whether the learning rate of a side, client or server, changes over the rounds."""
        return getattr(self, f"{side}_schedule") != "constant" or getattr(self, f"{side}_warmup") > 0


@dataclass
class Momentum(Optimizer):
    momentum: float


@dataclass
class Adam(Optimizer):
    """Adam and Yogi."""

    beta_1: float
    beta_2: float
    epsilon: float


@dataclass
class Adagrad(Optimizer):
    epsilon: float
    initial_accumulator: float


@dataclass
class Proximal(Optimizer):
    proximal: float


@dataclass
class MimeLite(Optimizer):
    momentum: float


@dataclass
class Tracker:
    """Where results go beside the run's files. Each choice of the group sets its own fields; several are merged."""

    csv: bool = False  # nowhere else
    mlflow: bool = False
    uri: str | None = None
    experiment: str = "fedsweep"
    system_metrics: bool = False
    tensorboard: bool = False


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
    grids: list[list[str]] | None
    n_trials: int | None
    grid_limit: int
    objectives: list[str] | None
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
    client_max_examples: int | None
    client_sampling: str
    client_dropout: float
    client_weighting: str
    on_bad_update: str
    seed: int
    evaluate_every: int
    replicates: int
    checkpoint_every: int | None
    verify_wire: bool
    sweep: Any = None
    encoder: Any = None
    code: Any = None
    schedule: Any = None
    downlink: Any = None
    dataset: Any = None
    model: Any = None
    optimizer: Any = None
    tracker: Any = None
    runtime: Any = None

    @property
    def validates(self) -> bool:
        """Whether there is a validation set."""
        return self.dataset.validation_fraction > 0

    @property
    def downlink_encoder(self) -> Encoder:
        """What the server encodes with: `downlink=same` stands for the uplink's encoder."""
        return self.encoder if isinstance(self.downlink, Same) else self.downlink

    @property
    def downlink_difference(self) -> bool:
        """Whether the server sends the difference between the model and what clients hold; float32 loses nothing."""
        return self.downlink_encoder.error_feedback and self.downlink_encoder.name not in ("identity", "dropout")


_ENCODERS = {
    "identity": Encoder,
    "uniform": UniformEncoder,
    "hadamard": RotatedUniformEncoder,
    "fourier": RotatedUniformEncoder,
    "kashin": RotatedUniformEncoder,
    "qsgd": QsgdEncoder,
    "sign": RotatableEncoder,
    "one_bit": RotatableEncoder,
    "drive": RotatableEncoder,
    "eden": EdenEncoder,
    "lloyd_max": LloydMaxEncoder,
    "normal_float": NormalFloatEncoder,
    "natural": BitsEncoder,
    "top_k": TopKEncoder,
    "rand_k": RandKEncoder,
    "stc": StcEncoder,
    "three_lc": ThreeLcEncoder,
    "rate_distortion": RateDistortionEncoder,
    "low_rank": LowRankEncoder,
    "custom": CustomEncoder,
}
GROUPS: dict[str, dict[str, type]] = {
    "encoder": {**_ENCODERS, "terngrad": TernGradEncoder, "count_sketch": CountSketchEncoder},
    "downlink": {**_ENCODERS, "dropout": ShareEncoder, "same": Same},
    "code": dict.fromkeys(("none", *CODES), Code),
    "schedule": {
        "constant": Schedule,
        "falling_loss": Schedule,
        "plateau": Plateau,
        "update_range": UpdateRange,
        "client_weight": Schedule,
    },
    "dataset": {
        "digits": DigitsData,
        "mnist_by_writer": WriterData,
        "emnist": EmnistData,
        "cifar100": TffData,
        "shakespeare": ShakespeareData,
        "stackoverflow": StackOverflowData,
        "tiny_shakespeare": TinyShakespeareData,
        "idx": IdxData,
        "arrays": ArraysData,
    },
    "model": {
        **dict.fromkeys(("cnn", "2nn", "cnn_small", "cnn_dropout", "resnet18", "logistic_regression"), Model),
        **dict.fromkeys(TEXT_MODELS, Model),
        "keras": KerasModel,
    },
    "optimizer": {
        "fedavg": Optimizer,
        "fedavgm": Momentum,
        "fedadam": Adam,
        "fedyogi": Adam,
        "fedadagrad": Adagrad,
        "fedprox": Proximal,
        "mime_lite": MimeLite,
    },
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
    secrets.learn(OmegaConf.to_container(composed))
    composed = resolved(composed)
    # The fields that are typed Any are the groups: their own dataclasses type them.
    config = _section(Config, composed, "")
    config.sweep = _section(Sweep, composed.get("sweep"), "sweep.")
    config.tracker = _section(Tracker, composed.get("tracker"), "tracker.")
    for group, choices in GROUPS.items():
        *above, field = group.split("/")
        section = OmegaConf.select(composed, group.replace("/", "."))
        name = section.get("name") if isinstance(section, DictConfig) else None
        if not isinstance(name, str) or name not in choices:
            raise UserError(f"{group}={section if name is None else name}: choose one of {', '.join(choices)}")
        owner = config.sweep if above else config
        setattr(owner, field, _typed(choices[name], section, prefix=f"{group.replace('/', '.')}."))
    if config.sweep.objectives is None:
        chosen_by = "validation" if config.validates else "test"
        config.sweep.objectives = [f"maximize {chosen_by}_accuracy", "minimize total_bits"]
    if config.tracker.mlflow:
        config.tracker.uri = store.chosen(config.tracker.uri)  # here: all processes of a sweep use the same
    secrets.learn(dataclasses.asdict(config))  # what interpolations have brought in
    _check_values(config, "")
    _check_ranges(config)
    _check_sweep_keys(config)
    _check_clients(config)
    return config


def _section(cls: type, values: Any, prefix: str) -> Any:
    """The fields of `cls` that belong to no group and are no section of their own."""
    if prefix == "tracker." and values is None:
        raise UserError("tracker=[]: choose csv for none, or of mlflow and tensorboard")
    if not isinstance(values, DictConfig):
        raise UserError(f"{prefix[:-1]}={values}: holds keys of its own; leave it as it is and set those")
    apart = {group.rpartition("/")[2] for group in GROUPS if group.rpartition("/")[0] == prefix[:-1]}
    return _typed(
        cls, OmegaConf.masked_copy(values, [key for key in values if key not in {*apart, "sweep", "tracker"}]), prefix
    )


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
    except OverflowError as error:  # a whole number that no float can hold
        huge = next(key for key in values if isinstance(values[key], int) and abs(values[key]) > sys.float_info.max)
        raise UserError(f"{prefix}{huge}: too large for a floating-point number") from error


def resolved(composed: DictConfig) -> DictConfig:
    """The configuration with every interpolation replaced by what it stands for in the whole of it.

    Raises:
      UserError: an interpolation cannot be resolved; the line names its key.
    """
    return OmegaConf.create(_resolved(composed, "", Allowance()))


def _resolved(node: Any, above: str, allowance: Allowance) -> Any:
    allowance.spend(above)
    if isinstance(node, str):
        return literal(node)
    if not OmegaConf.is_config(node) or node._is_none() or node._is_missing():
        return node
    if isinstance(node, DictConfig):
        return {key: _value(node, key, f"{above}{key}", allowance) for key in node}
    return [_value(node, place, f"{above}{place}", allowance) for place in range(len(node))]


def _value(node: Any, key: Any, path: str, allowance: Allowance) -> Any:
    if OmegaConf.is_missing(node, key):
        return "???"
    try:
        value = node[key]
        if path.count(".") > _DEEPEST:
            raise RecursionError
        return _resolved(value, f"{path}.", allowance)
    except (OmegaConfBaseException, RecursionError) as error:
        raw = str(node._get_node(key)._value())
        what = str(error).splitlines()[0] if str(error) else "refers to itself"
        if "${hydra" in raw:
            what = (
                "Hydra's own values are not available here; seed=0,1,2 sweeps over seeds, replicates=3 repeats each"
                " trial with three, and trials.csv numbers the trials"
            )
        raise UserError(f"{path}={raw}: {what}") from error


_DEEPEST = 50  # levels of a configuration; more is an interpolation that holds itself
# Whole numbers can be as large as this, or as 2**31 - 1. The limits are far beyond what has been published, and keep
# what is planned, drawn or unrolled into a graph before training to minutes and to the memory of a machine.
_MOST = {
    "rounds": 1_000_000,
    "clients_per_round": 1_000_000,
    "client_epochs": 1_000_000,
    "replicates": 10_000,
    "threshold": 2**63 - 1,
    "iterations": 1000,
    "rows": 100,
    "rank": 100_000,
    "clients": 10_000_000,
    "shards": 1_000_000,
    "sequence_length": 100_000,
    "vocabulary": 10_000_000,
    "threads": 4096,
    "max_workers": 4096,
    "in_flight": 100_000,
    "n_trials": 1_000_000,
    "n_startup_trials": 1_000_000,
    "population_size": 100_000,
    "retries": 1000,
}


def _check_values(config: Any, prefix: str) -> None:
    """What holds for every key: numbers are finite, whole ones have a limit, texts are not empty."""
    for f in dataclasses.fields(config):
        key, value = f"{prefix}{f.name}", getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            _check_values(value, f"{key}.")
        elif isinstance(value, float):
            _require(math.isfinite(value), key, value, "a finite number")
        elif isinstance(value, int) and not isinstance(value, bool):
            most = _MOST.get(f.name, 2**31 - 1)
            _require(value <= most, key, value, f"at most {most}")
        elif isinstance(value, str):
            _require(value.strip() != "", key, repr(value), "a text, not an empty one")


def _require(condition: bool, key: str, value: Any, right: str) -> None:
    if not condition:
        text = str(value)
        raise UserError(f"{key}={text if len(text) <= 100 else text[:100] + '...'}: must be {right}")


def _check_ranges(config: Config) -> None:
    for key in ("rounds", "clients_per_round", "client_epochs", "client_batch_size", "evaluate_every"):
        _require(getattr(config, key) >= 1, key, getattr(config, key), "at least 1")
    _require(0 <= config.seed < 2**31, "seed", config.seed, "from 0 to 2147483647")

    for group in ("encoder", "downlink"):
        if isinstance(getattr(config, group), Encoder):
            _check_encoder(group, getattr(config, group))
    _check_composition(config)

    _check_cohorts(config)
    _check_optimizer(config)
    _check_dataset(config.dataset)
    _check_model(config)
    if isinstance(config.runtime, MapReduceRuntime) and config.runtime.threads is not None:
        _require(config.runtime.threads >= 1, "runtime.threads", config.runtime.threads, "at least 1, or null")


def _check_cohorts(config: Config) -> None:
    """Who takes part in a round, and with what."""
    most = config.client_max_examples
    _require(most is None or most >= 1, "client_max_examples", most, "at least 1, or null")
    named = {"client_sampling": SAMPLINGS, "client_weighting": WEIGHTINGS, "on_bad_update": BAD_UPDATES}
    for key, choices in named.items():
        _require(getattr(config, key) in choices, key, getattr(config, key), f"one of {', '.join(choices)}")
    _require(0 <= config.client_dropout < 1, "client_dropout", config.client_dropout, "a probability, below 1")
    few = not config.client_dropout or config.rounds <= 100_000
    _require(few, "rounds", config.rounds, "at most 100000 with client_dropout, which is drawn for the plan")
    if isinstance(config.runtime, TffRuntime):
        needs = "fail with runtime=tff, which cannot leave a client out of a round"
        _require(config.on_bad_update == "fail", "on_bad_update", config.on_bad_update, needs)


def _check_optimizer(config: Config) -> None:
    optimizer = config.optimizer

    def require(condition: bool, key: str, right: str) -> None:
        _require(condition, f"optimizer.{key}", getattr(optimizer, key), right)

    for key in ("client_lr", "server_lr", "epsilon"):
        if hasattr(optimizer, key):
            rate = getattr(optimizer, key)
            require(math.isfinite(rate) and rate > 0, key, "a finite number above 0")
    for key in ("client_momentum", "momentum", "beta_1", "beta_2"):
        if hasattr(optimizer, key):
            require(0 <= getattr(optimizer, key) < 1, key, "in [0, 1)")
    for key in ("client_weight_decay", "proximal", "initial_accumulator"):
        if hasattr(optimizer, key):
            require(0 <= getattr(optimizer, key) < math.inf, key, "a finite number, 0 or more")
    for key in ("client_clip", "update_clip"):
        norm = getattr(optimizer, key)
        require(norm is None or 0 < norm < math.inf, key, "a norm above 0, or null")
    for side in ("client", "server"):
        require(
            getattr(optimizer, f"{side}_schedule") in LR_SCHEDULES,
            f"{side}_schedule",
            f"one of {', '.join(LR_SCHEDULES)}",
        )
        fits = 0 <= getattr(optimizer, f"{side}_warmup") < config.rounds
        require(fits, f"{side}_warmup", f"a number of rounds, from 0 to below rounds={config.rounds}")
    if isinstance(optimizer, MimeLite):
        needs = "0 with mime_lite, whose clients apply the server's momentum"
        require(optimizer.client_momentum == 0, "client_momentum", needs)
        needs = "false with optimizer=mime_lite, whose clients send a gradient beside the update"
        _require(not config.encoder.error_feedback, "encoder.error_feedback", True, needs)
        needs = "another one with optimizer=mime_lite, whose clients send the gradient of the whole model"
        _require(config.downlink.name != "dropout", "downlink", "dropout", needs)


def _check_dataset(dataset: Dataset) -> None:
    def require(condition: bool, key: str, right: str) -> None:
        _require(condition, f"dataset.{key}", getattr(dataset, key), right)

    require(0 <= dataset.validation_fraction < 1, "validation_fraction", "from 0 to below 1")
    if isinstance(dataset, Partitioned):
        require(dataset.partition in PARTITIONS, "partition", f"one of {', '.join(PARTITIONS)}")
        require(dataset.clients >= 1, "clients", "at least 1")
        require(math.isfinite(dataset.alpha) and dataset.alpha > 0, "alpha", "above 0")
        require(dataset.shards >= 1, "shards", "at least 1")
    if hasattr(dataset, "test_fraction"):
        require(0 < dataset.test_fraction < 1, "test_fraction", "between 0 and 1")
    if hasattr(dataset, "dir"):
        require(dataset.dir != "", "dir", "a folder, or null")
    if isinstance(dataset, TffData):
        require(dataset.test_examples is None or dataset.test_examples >= 1, "test_examples", "at least 1, or null")
    if isinstance(dataset, EmnistData):
        require(dataset.classes in (10, 62), "classes", "10 (digits) or 62 (digits and letters)")
    for key in ("sequence_length", "vocabulary"):
        if hasattr(dataset, key):
            require(getattr(dataset, key) >= 1, key, "at least 1")


def _check_model(config: Config) -> None:
    name, text = config.model.name, config.dataset.name in TEXT_DATASETS
    if isinstance(config.model, KerasModel):
        needs = "module:function, of a function that can be imported"
        _require(config.model.maker.count(":") == 1, "model.maker", config.model.maker, needs)
    elif (name in TEXT_MODELS) != text:
        what = "text" if text else "images"
        fitting = [choice for choice in GROUPS["model"] if choice == "keras" or (choice in TEXT_MODELS) == text]
        raise UserError(f"model={name}: {config.dataset.name} holds {what}; choose one of {', '.join(fitting)}")


# The widths that each encoder's symbols can have; those that are not here send as many bits as their method has.
_WIDTHS = {
    **dict.fromkeys(("uniform", "hadamard", "fourier", "kashin"), (1, 16)),
    "qsgd": (2, 16),
    "eden": (0, 8),
    "lloyd_max": (1, 8),
    "normal_float": (2, 8),
    "natural": (8, 9),
    **dict.fromkeys(("top_k", "rand_k"), (1, 16)),
}
_LINEAR = ("count_sketch", "dropout", "low_rank")  # they send float32 numbers
_EVENLY_SPACED = ("uniform", "hadamard", "fourier", "kashin", "qsgd")
# What would leave a model in pieces if it were sent as it is, and not the difference to what clients hold.
_FOR_DIFFERENCES = ("top_k", "rand_k", "stc", "three_lc", "low_rank", "sign", "one_bit", "drive")


def _check_encoder(group: str, encoder: Encoder) -> None:
    """The ranges of one encoder's knobs."""

    def require(condition: bool, key: str, right: str) -> None:
        _require(condition, f"{group}.{key}", getattr(encoder, key), right)

    require(encoder.threshold >= 0, "threshold", "a number of elements, 0 or more")
    low, high = _WIDTHS.get(encoder.name, (0, math.inf))
    if encoder.name == "eden":
        require(0 < encoder.bits <= high, "bits", f"above 0 and at most {high}; fractions are possible")
    elif high < math.inf:
        require(low <= encoder.bits <= high, "bits", f"from {low} to {high} with {group}={encoder.name}")
    if isinstance(encoder, RotatedUniformEncoder):
        require(encoder.packing in PACKINGS, "packing", f"one of {', '.join(PACKINGS)}")
    if isinstance(encoder, TernGradEncoder):
        require(encoder.packing in ("dense", "base_three"), "packing", "dense or base_three")
        require(0 <= encoder.clip < math.inf, "clip", "a number of standard deviations, or 0 for no clipping")
    if hasattr(encoder, "rotation"):
        own = encoder.name in ("drive", "eden")
        allowed = ("hadamard", "fourier") if own else ROTATIONS
        require(encoder.rotation in allowed, "rotation", f"one of {', '.join(allowed)} with {group}={encoder.name}")
    for key in ("share", "recovered"):
        if hasattr(encoder, key):
            require(0 < getattr(encoder, key) <= 1, key, "above 0 and at most 1")
    if hasattr(encoder, "values"):
        require(encoder.values in VALUES, "values", f"one of {', '.join(VALUES)}")
        if encoder.values in _WIDTHS:
            low, high = _WIDTHS[encoder.values]
            fits = low <= encoder.bits <= high or encoder.values == "natural"  # 9 bits, whatever is configured
            require(fits, "bits", f"from {max(low, 1)} to {high} with values={encoder.values}")
    if hasattr(encoder, "positions"):
        require(encoder.positions in ("fixed", *CODES), "positions", f"fixed, or one of {', '.join(CODES)}")
    for key in ("iterations", "block", "bucket", "rows", "rank"):
        if getattr(encoder, key, None) is not None:
            require(getattr(encoder, key) >= 1, key, "at least 1")
    if isinstance(encoder, CustomEncoder):
        require(encoder.maker.count(":") == 1, "maker", "module:function, of a function that can be imported")
    if isinstance(encoder, ThreeLcEncoder):
        require(1 <= encoder.sparsity < 2, "sparsity", "from 1 to below 2")
    if isinstance(encoder, RateDistortionEncoder):
        require(0 < encoder.trade_off < math.inf, "trade_off", "a finite number above 0")


_GROWS = (
    "{} as it is set: its error can exceed what it encodes, and what is remembered would grow. Error feedback goes with"
    " sign, top_k, rand_k with unbiased=false, eden from 1 bit, uniform from 5 (rotated from 3), qsgd with a bucket"
    " below (2^(bits-1)-1)^2, natural and others, and with the schedules falling_loss and plateau"
)


def _sends_integers(encoder: Encoder) -> bool:
    plain = ("identity", "custom", *_LINEAR)
    return encoder.name not in plain and getattr(encoder, "values", "") != "identity"


def _contracts(encoder: Encoder, schedule: str = "constant") -> bool:
    """Whether its error stays below what it encodes, so that what error feedback remembers stays bounded.

    For uniform that is so on updates as they are (normal, Laplace, sparse); no width below half of log2 n forces it.
    """
    bits = getattr(encoder, "bits", None)
    kind = getattr(encoder, "values", encoder.name)
    if kind in ("count_sketch", "terngrad") or getattr(encoder, "unbiased", False):
        return False
    if schedule in ("update_range", "client_weight"):  # down to a single level
        return False
    if kind in _EVENLY_SPACED[:4]:  # at 2 bits a step is several standard deviations, of spiky tensors at 4
        return bits >= (5 if kind == "uniform" and getattr(encoder, "rotation", "none") == "none" else 3)
    if kind == "eden":
        return bits >= 1
    if kind == "qsgd":  # its bound, min(n / s^2, sqrt(n) / s), is below 1
        bucket = getattr(encoder, "bucket", None)
        return bucket is not None and (2 ** (bits - 1) - 1) ** 2 > bucket
    return True


def _check_composition(config: Config) -> None:
    """What cannot be meant. On the uplink identity takes every knob without effect, so that grids can hold it."""
    up, down, code, schedule = config.encoder, config.downlink_encoder, config.code.name, config.schedule
    if code != "none":
        needs = "none, or the encoder one that sends integers (uniform, eden, top_k with encoder.values=uniform, ...)"
        plain = up.name == down.name == "identity"
        _require(plain or _sends_integers(up) or _sends_integers(down), "code", code, needs)
        own = "none with three_lc, which has a code of its own"
        _require("three_lc" not in (up.name, down.name), "code", code, own)
    if schedule.name != "constant":
        needs = f"constant with encoder={up.name}; a schedule needs one of {', '.join(_EVENLY_SPACED)}"
        follows = up.name == "identity" or getattr(up, "values", up.name) in _EVENLY_SPACED
        _require(follows, "schedule", schedule.name, needs)
        needs = "another schedule; qsgd's steps follow the norm, not the range"
        kind = getattr(up, "values", up.name)
        _require((kind, schedule.name) != ("qsgd", "update_range"), "schedule", schedule.name, needs)
    if isinstance(schedule, Plateau):
        _require(schedule.patience >= 1, "schedule.patience", schedule.patience, "at least 1")
        _require(0 <= schedule.smoothing < 1, "schedule.smoothing", schedule.smoothing, "in [0, 1)")
    if isinstance(schedule, UpdateRange):
        resolution = schedule.resolution
        _require(0 < resolution < math.inf, "schedule.resolution", resolution, "a finite number above 0")

    if up.error_feedback:
        _require(_contracts(up, schedule.name), "encoder.error_feedback", True, f"false with {_GROWS.format(up.name)}")
        here = "false with runtime=tff: TFF's executor gives clients no place to keep anything; runtime=map_reduce does"
        _require(config.runtime.name == "map_reduce" or up.name == "identity", "encoder.error_feedback", True, here)
    if config.verify_wire:
        here = "false with runtime=tff, which does not show what clients send; runtime=map_reduce does"
        _require(config.runtime.name == "map_reduce", "verify_wire", True, here)

    group = "downlink=same encoder" if isinstance(config.downlink, Same) else "downlink"
    needs = "another encoder; below 1 bit the model would arrive in pieces"
    _require(down.name != "eden" or down.bits >= 1, group, down.name, needs)
    lossy = down.name in _FOR_DIFFERENCES or (down.name == "eden" and down.bits < 2)
    needs = f"another encoder; {down.name} as it is set loses too much of a model: add error_feedback=true to it"
    _require(not lossy or down.error_feedback, group, down.name, needs)
    needs = "another encoder; its error is larger than the model"
    _require(down.name != "terngrad", group, down.name, needs)
    needs = "another encoder, or with a bucket below (2^(bits-1)-1)^2; its error is larger than the model"
    _require(down.name != "qsgd" or _contracts(down), group, down.name, needs)
    needs = "another encoder; a sketch is for sums over clients"
    _require(down.name != "count_sketch", group, down.name, needs)
    if config.downlink_difference:
        _require(_contracts(down), f"{group}.error_feedback", True, f"false with {_GROWS.format(down.name)}")
    if config.downlink.name in ("identity", "dropout"):
        nothing = f"false with downlink={config.downlink.name}, which sends float32"
        _require(not config.downlink.error_feedback, "downlink.error_feedback", True, nothing)
        # On the uplink identity takes a width, so that a grid can hold it; here a width was meant for something.
        right = f"null with downlink={config.downlink.name}, which sends float32; choose downlink=uniform or same, say"
        _require(config.downlink.bits is None, "downlink.bits", config.downlink.bits, right)


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
    chosen = any(metric.startswith("validation_") for metric in sweep.directions)
    right = "of other metrics, or dataset.validation_fraction above 0"
    _require(config.validates or not chosen, "sweep.objectives", sweep.objectives, right)
    by_client = any("accuracy_p" in metric for _, _, metric in pairs)
    right = f"without quantiles over clients: the test examples of dataset={config.dataset.name} are nobody's"
    nobodys = isinstance(config.dataset, (DigitsData, IdxData))
    _require(not (by_client and nobodys), "sweep.objectives", sweep.objectives, right)
    try:
        budget = sweep.budget
    except (ValueError, OverflowError):
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


def comparable(config: Config) -> dict:
    """The configuration as plain data, without what changes no result."""
    found = dataclasses.asdict(config)
    for key in ("tracker", "sweep", "checkpoint_every", "replicates"):
        del found[key]
    return found | {"runtime": {"name": config.runtime.name}}


def digest(config: Config) -> str:
    """Of what a run's numbers depend on: equal configurations have equal ones."""
    return hashlib.sha256(json.dumps(comparable(config), sort_keys=True).encode()).hexdigest()
