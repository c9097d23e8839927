"""What is to be swept, and everything that would stop a trial and can be known before the first one."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedsweep import cli, nested, schema
from fedsweep.errors import UserError
from fedsweep.sweep import space as spaces
from fedsweep.sweep.record import Record
from fedsweep.sweep.space import Choices, Dimension, Interval, Point, Space
from fedsweep.tracking.run_folder import CLIENT_QUANTILES

_UNSWEPT = {
    "tracker": "the trials of a sweep are children of one run",
    "sweep": "it says how to sweep",
    "hydra": "it says how to sweep",
    "runtime.threads": "results do not depend on it",
    "replicates": "it is part of every trial",
    "checkpoint_every": "results do not depend on it",
}
_MOST_RUNS = 1_000_000
_MANY = 100  # configurations that take so long to compose that a person should know why


@dataclass(frozen=True)
class Request:
    """What Hydra hands over."""

    overrides: Sequence[Override]  # of hydra.sweeper.params, then of the command line
    grids: Sequence[Sequence[Override]]  # of sweep.grids
    compose: Callable[[Sequence[str]], DictConfig]  # overrides -> configuration, without Hydra's own part
    folder: str  # hydra.sweep.dir
    multirun: DictConfig  # what multirun.yaml holds
    # A launcher of Hydra's: overrides of runs -> for each what went wrong, or None. None: workers of our own.
    launch: Callable[[Sequence[Sequence[str]]], Sequence[str | None]] | None
    batch: int | None  # runs that the launcher takes at once; None: as many as there are


@dataclass(frozen=True)
class Checked:
    """A sweep that can start. Nothing has been written yet."""

    request: Request
    space: Space
    record: Record
    first: schema.Config  # of the first point
    configs: dict[frozenset, schema.Config]  # by the items of the points that were checked
    follows: frozenset[str]  # keys that are interpolations of swept ones

    @property
    def settings(self) -> schema.Sweep:
        return self.first.sweep

    def config(self, point: Point) -> schema.Config:
        """The checked configuration of a point; raises `UserError` for a combination that makes no sense."""
        known = self.configs.get(frozenset(point.items()))
        return known or _composed(self.request, self.space, point)[1]


def check(request: Request) -> Checked:
    """Composes and checks the points (of a space for a sampler: each value of short dimensions, the ends of others).

    Raises:
      UserError: for the first thing that is wrong.
    """
    space = spaces.parse(request.overrides, request.grids)
    for dimension in space.dimensions:
        key = dimension.lstrip("+")
        for name, reason in _UNSWEPT.items():
            if key == name or key.startswith((f"{name}.", f"{name}/")):
                raise UserError(f"{key}: cannot be swept; {reason}")
    said = {override.get_key_element() for override in request.overrides}
    for key in dict.fromkeys(o.get_key_element() for grid in request.grids for o in grid):
        if key in said:
            print(f"{key}: what the command line says of it counts in all of sweep.grids", flush=True)
    probe = space.probes()[0]
    composed, first = _composed(request, space, probe)
    settings = first.sweep
    if first.replicates > 1 and _sweeps_seed(space):
        raise UserError(f"seed: cannot be swept with replicates={first.replicates}, which are seed, seed + 1, ...")
    follows = _follows(composed, {dimension.lstrip("+") for dimension in space.dimensions})
    if first.replicates > 1 and (keys := sorted(_follows(composed, {"seed"}))):
        raise UserError(f"{keys[0]}: cannot follow seed with replicates={first.replicates}; sweep seed=0,1,2 instead")
    enumerated = bool(space.grids) or space.size <= settings.grid_limit
    if enumerated:
        n_trials = min(int(space.size), settings.n_trials or int(space.size))
        points = list(itertools.islice(space.points(), n_trials))
    else:
        n_trials, points = _search(space, settings), space.probes()
    if n_trials * first.replicates > _MOST_RUNS:
        raise UserError(
            f"replicates={first.replicates}: makes {n_trials} trials more than {_MOST_RUNS:,} runs; take fewer"
        )

    if len(points) > _MANY:
        print(f"checking {len(points)} configurations", flush=True)
    configs = {
        frozenset(point.items()): first if point == probe else _composed(request, space, point)[1] for point in points
    }
    digests = {_text(point): schema.digest(configs[frozenset(point.items())])[:16] for point in points}
    _check_clients(configs.values())
    record = Record(
        space=space.describe(),
        points=points if enumerated else None,
        n_trials=n_trials,
        replicates=first.replicates,
        objectives=settings.directions,
        sampling=_sampling(settings, enumerated),
        config=schema.comparable(first),
        digests=digests,
        mlflow_run_id=None,
    )
    return Checked(request, space, record, first, configs, follows)


def parse_grids(sweep: object, parse: Callable[[list[str]], list[Override]]) -> list[list[Override]]:
    """`grids` of the configuration's section sweep, through Hydra's parser; raises `UserError` if they are none."""
    grids = sweep.get("grids") if isinstance(sweep, DictConfig) else None  # the check of types says what else is wrong
    found = [] if grids is None else grids
    lists = isinstance(found, list | ListConfig) and all(isinstance(grid, list | ListConfig) for grid in found)
    if not lists or not all(isinstance(o, str) for grid in found for o in grid):
        raise UserError(
            f"sweep.grids={grids}: must be a list of lists of overrides, as [['encoder=eden'],['encoder=sign']]"
        )
    try:
        return [parse(list(grid)) for grid in found]
    except HydraException as error:
        raise UserError(f"sweep.grids: {cli.one_line(error)}") from error


def _composed(request: Request, space: Space, point: Point) -> tuple[DictConfig, schema.Config]:
    """A point's configuration as Hydra composes it, and as it is checked."""
    try:
        composed = request.compose(space.arguments(point))
        return composed, schema.check(composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_told(cli.one_line(error), space, point)) from error
    except UserError as error:
        for key, dimension in space.dimensions.items():
            if isinstance(dimension, Interval) and "to Integer" in str(error) and key in str(error):
                raise UserError(f"{key}={dimension}: takes whole numbers; write int({dimension})") from error
        raise UserError(_told(str(error), space, point)) from error


def _follows(composed: DictConfig, keys: Set[str]) -> frozenset[str]:
    """The keys that interpolate those `keys`, directly or through others."""
    refers = {}
    for key, text in nested.items(OmegaConf.to_container(composed, resolve=False)):
        found = re.findall(r"\$\{(\.*)([\w.]+)\}", text) if isinstance(text, str) else ()
        refers[key] = {".".join([*key.split(".")[: -len(dots)], name]) if dots else name for dots, name in found}
    following: set[str] = set()
    while True:
        known = keys | following
        more = {
            key
            for key, names in refers.items()
            if any(f"{name}.".startswith(f"{k}.") or f"{k}.".startswith(f"{name}.") for name in names for k in known)
        }
        if more <= following:
            return frozenset(following)
        following |= more


def _told(error: str, space: Space, point: Point) -> str:
    """The error, and which of many combinations it is that makes no sense."""
    choices = [f"{key}={value}" for key, value in point.items() if key.lstrip("+") in schema.GROUPS]
    error = error.replace("--cfg job shows", " ".join(["--cfg job", *choices, "shows"]))  # the keys that it has
    told = [text for text in space.arguments(point) if not text.startswith("sweep.grids=")]
    return f"{error} (at {' '.join(told)})" if point and not error.startswith(tuple(told)) else error


def _text(point: Point) -> str:
    """A point as a key that does not depend on the order of the command line."""
    return " ".join(f"{key}={value}" for key, value in sorted(point.items()))


def dimensions(checked: Checked, record: Record) -> dict[str, Dimension]:
    """What the study sees: of an enumerated space (`record` may have extended it) the values as they stand."""
    if record.points is None:
        return checked.space.dimensions
    return {key: Choices(tuple(values)) for key, values in record.space.items()}


def _sweeps_seed(space: Space) -> bool:
    return any(key.lstrip("+") == "seed" for key in space.dimensions)


def _search(space: Space, settings: schema.Sweep) -> int:
    """The number of trials of a space that is not enumerated."""
    size = "no end of points" if math.isinf(space.size) else f"{space.size:,} points"
    if settings.n_trials is None:
        raise UserError(
            f"sweep.n_trials=null: the space has {size}, and up to sweep.grid_limit={settings.grid_limit} are"
            " enumerated; say how many trials to draw, as sweep.n_trials=20"
        )
    if _sweeps_seed(space):
        raise UserError("seed: is no dimension of a search; replicates=3 repeats every trial with three seeds")
    if settings.sampler.name == "gp":
        try:
            import torch  # noqa: F401
        except ImportError as error:
            raise UserError("sweep/sampler=gp: needs PyTorch; pip install torch, or choose another sampler") from error
    return settings.n_trials


def _check_clients(configs) -> None:
    """Reads each data set once: are its files there, and has it enough clients?"""
    from fedsweep import datasets

    clients: dict[str, int] = {}
    for config in configs:
        data = json.dumps([dataclasses.asdict(config.dataset), config.seed])
        if data not in clients:
            dataset = datasets.load(config.dataset, config.seed)
            clients[data] = len(dataset.client_ids)
            by_client = [metric for metric in config.sweep.directions if metric in CLIENT_QUANTILES]
            if by_client and dataset.test.clients is None:
                raise UserError(f"sweep.objectives: {by_client[0]}: the test examples of {dataset.source} are nobody's")
        schema.check_cohort(config, clients[data])


def _sampling(settings: schema.Sweep, enumerated: bool) -> dict:
    """What the trials depend on beside their configurations."""
    found: dict = {"bit_budget": settings.bit_budget}
    if not enumerated:
        found["sampler"] = dict(vars(settings.sampler))
    if isinstance(settings.pruner, schema.DominancePruner):
        found["pruner"] = dict(vars(settings.pruner))
    if len(found) > 1:
        found["in_flight"] = settings.in_flight
    return found
