"""A sweep's Optuna study: it keeps every trial, and draws the points of spaces that cannot be enumerated.

Only the public ask and tell are used. Three rules make a search repeat, whatever the number of workers and however
often it is cut off: each trial is drawn by a fresh sampler whose seed follows from the trial's number; the caller tells
results in the order of the trials, at fixed places between the draws; and where a crash left a trial half drawn, or the
sweep is extended, all draws are made again in a new study.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage, JournalStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from fedsweep import schema, seeds
from fedsweep.errors import DamagedFile, NotWritten, UserError
from fedsweep.files import sha256, writing
from fedsweep.secrets import masked, visible
from fedsweep.sweep.record import same_point
from fedsweep.sweep.space import Choices, Dimension, Point, Range

JOURNAL = "study.journal"
_NUMBER = "trial"  # the user attribute that is stored last: the trial's number in the sweep

_GUIDED = {
    "tpe": optuna.samplers.TPESampler,
    "nsga2": optuna.samplers.NSGAIISampler,
    "nsga3": optuna.samplers.NSGAIIISampler,
    "gp": optuna.samplers.GPSampler,
}

optuna.logging.set_verbosity(optuna.logging.WARNING)


@contextlib.contextmanager
def _trying_new_things() -> Iterator[None]:
    """Without Optuna's warning that an interface is experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


class Study:
    """A sweep's study. One process at a time uses it; the sweep's lock sees to that."""

    def __init__(
        self,
        name: str,
        storage: str | BaseStorage,
        dimensions: Mapping[str, Dimension],
        settings: schema.Sweep,
        seed: int,
        drawn: Sequence[Point] = (),
    ):
        """Makes the study, or opens it for a sweep that goes on.

        Args:
          name: of the study.
          storage: where it is kept.
          dimensions: what is swept.
          settings: how.
          seed: of the first trial's sampler, the others' follow from it.
          drawn: the points of the first trials, should the storage have lost them: those are drawn again, or none.

        Raises:
          UserError: the storage cannot be used, or holds another sweep's study of that name.
        """
        self._settings, self._seed, self._dimensions = settings, seed, dimensions
        self._distributions = {key: _distribution(dimension) for key, dimension in dimensions.items()}
        self._numbers: list[int] = []  # Optuna's numbers of our trials
        self._pending: optuna.Trial | None = None  # drawn, not committed
        self._where = where = (
            "study.journal" if isinstance(storage, BaseStorage) else f"sweep.storage={visible(storage)}"
        )
        try:
            backend = get_storage(storage)
            self._study = self._open(name, backend)
            trials = self._study.get_trials(deepcopy=False)
            self._before = [trial for trial in trials if _NUMBER in trial.user_attrs]
            self._expected = [self._point(trial) for trial in self._before] or drawn
            # What was half drawn, or told when a search seemed to be at its end, is not where it would have been. So
            # all is drawn again, as it was.
            if settings.extend or len(self._before) < len(trials):
                optuna.delete_study(study_name=name, storage=backend)
                self._study, self._before = self._open(name, backend), []
        except optuna.exceptions.DuplicatedStudyError as error:
            raise UserError(
                f"{where}: holds a study named {name}; rename the sweep's folder (hydra.sweep.dir)"
            ) from error
        except NotWritten:
            raise
        except Exception as error:  # each kind of storage has its own
            raise UserError(f"{where}: cannot be used; {masked(str(error)).partition(chr(10))[0]}") from error

    def _open(self, name: str, storage: BaseStorage) -> optuna.Study:
        directions = list(self._settings.directions.values())
        study = optuna.create_study(
            study_name=name, storage=storage, directions=directions, load_if_exists=self._settings.resume is not None
        )
        if not study.metric_names:
            with _trying_new_things():
                study.set_metric_names(list(self._settings.directions))
        return study

    def _point(self, trial: optuna.Trial | optuna.trial.FrozenTrial) -> Point:
        return {
            key: _text(dimension, trial.params[key])
            for key, dimension in self._dimensions.items()
            if key in trial.params  # of several grids each point has its own keys
        }

    def draw(self, fixed: Point | None = None) -> Point:
        """The point of the next trial: what was drawn before, the given one of an enumerated space, or a new draw.

        `commit` follows.
        """
        number = len(self._numbers)
        if number < len(self._before):
            self._numbers.append(self._before[number].number)
            return self._expected[number]
        self._study.sampler = self._sampler(number, fixed)
        keys = self._distributions if fixed is None else fixed
        with self._storing():
            self._pending = self._study.ask({key: self._distributions[key] for key in keys})
        self._numbers.append(self._pending.number)
        point = self._point(self._pending)
        if number < len(self._expected) and not same_point(self._expected[number], point, self._dimensions):
            then, now = self._expected[number], f"Optuna {optuna.__version__} draws {point}"
            raise UserError(f"trial {number} was {then}, and {now}; go on with the version that began the sweep")
        return point

    def commit(self, excess: float | None = None) -> None:
        """The trial is drawn; it would send `excess` bits more than the budget (fewer, if negative)."""
        if self._pending:
            with self._storing():
                if excess is not None:
                    self._pending.set_constraint("bit_budget", excess)
                self._pending.set_user_attr(_NUMBER, len(self._numbers) - 1)
            self._pending = None

    def tell(self, number: int, status: str, values: Sequence[float] | None) -> None:
        """The end of trial `number`, with its objectives if it is complete. Telling it twice does nothing."""
        state = TrialState.PRUNED if status == "pruned" else TrialState.COMPLETE if values else TrialState.FAIL
        with self._storing():
            self._study.tell(self._numbers[number], values, state, skip_if_finished=True)

    @contextlib.contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            yield
        except optuna.exceptions.StorageInternalError as error:
            reason = masked(str(error)).partition("\n")[0]
            raise UserError(f"{self._where}: cannot be used ({reason}); sweep.resume=latest goes on") from error

    @_trying_new_things()
    def _sampler(self, number: int, fixed: Point | None) -> optuna.samplers.BaseSampler:
        def seed(*numbers: int) -> int:
            return int(seeds.words(self._seed, seeds.Stream.SEARCH, 1, *numbers)[0])

        if fixed is not None:
            return optuna.samplers.PartialFixedSampler(fixed, optuna.samplers.RandomSampler(seed(number)))
        sampler = self._settings.sampler
        arguments = {key: value for key, value in vars(sampler).items() if key != "name"}  # our keys are Optuna's
        if sampler.name == "qmc":  # a sequence has one seed; the study counts how far it is
            return optuna.samplers.QMCSampler(seed=seed(), scramble=True, warn_independent_sampling=False)
        if sampler.name == "random":
            return optuna.samplers.RandomSampler(seed(number))
        return _GUIDED[sampler.name](seed=seed(number), **arguments)


class _Journal(JournalFileBackend):
    """Optuna's journal. Each line has a digest of itself and of the lines before it, which Optuna passes over."""

    def __init__(self, path: Path, last: str):
        """`last`: the digest in the file's last line."""
        super().__init__(str(path))
        self._path, self._last = path, last

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        last, chained = self._last, []
        for log in logs:
            last = _linked(last, log)
            chained.append({**log, _LINK: last})
        size = self._path.stat().st_size
        with writing(self._path):
            try:
                super().append_logs(chained)
            except OSError:
                os.truncate(self._path, size)  # half a line would spoil the next one
                raise
        self._last = last


_LINK = "sha256"


def _linked(last: str, log: dict[str, Any]) -> str:
    return sha256(f"{last} {json.dumps(log)}".encode())[:16]


def _last_link(path: Path) -> str:
    """The digest in the last line of a journal; raises `DamagedFile` unless all lines are those that were written."""
    last = ""
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            log = json.loads(line)
            link = log.pop(_LINK, "")
        except (ValueError, AttributeError) as error:
            raise DamagedFile(path, f"line {number} cannot be read", _REBUILT) from error
        if link != (_linked(last, log) if link or last else ""):  # earlier versions wrote none
            raise DamagedFile(path, f"the lines up to {number} are not those that were written", _REBUILT)
        last = link
    return last


_REBUILT = "the study is made again from the results of the sweep's runs"


def journal(path: Path) -> JournalStorage:
    """The study in a file. Only the sweep that holds its folder's lock comes here, so leftovers of a crash can go.

    A damaged file is said and set aside: all is then drawn again, as it was.
    """
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)  # a power cut may leave half a line
        try:
            return JournalStorage(_Journal(path, _last_link(path)))
        except Exception as error:  # without digests, Optuna raises what it pleases over lines that are lost
            damage = error if isinstance(error, DamagedFile) else DamagedFile(path, "cannot be read", _REBUILT)
            path.replace(path.with_name(path.name + ".damaged"))
            print(f"{path}: {damage.what}; kept as {path.name}.damaged, and {_REBUILT}", flush=True)
    with writing(path):
        return JournalStorage(_Journal(path, last=""))


def refuse_used(storage: str | None, name: str) -> None:
    """Says early what a new sweep's study would say: its storage cannot be used, or has a study of that name."""
    if storage is None:
        return
    try:
        names = optuna.get_all_study_names(storage)
    except Exception as error:
        reason = masked(str(error)).partition("\n")[0]
        right = "name an Optuna storage, such as sqlite:///studies.db, or leave it null"
        raise UserError(f"sweep.storage={visible(storage)}: cannot be used ({reason}); {right}") from error
    if name in names:
        right = "rename the sweep's folder (hydra.sweep.dir), or resume it"
        raise UserError(f"sweep.storage={visible(storage)}: holds a study named {name}; {right}")


def _distribution(dimension: Dimension) -> BaseDistribution:
    if isinstance(dimension, Choices):
        return CategoricalDistribution(dimension.values)
    if isinstance(dimension, Range):  # by index: steps of floats do not add up to the last value
        return IntDistribution(0, dimension.count - 1)
    kind = IntDistribution if dimension.whole else FloatDistribution
    return kind(dimension.low, dimension.high, log=dimension.log)


def _text(dimension: Dimension, value: CategoricalChoiceType) -> str:
    """A value of Optuna's as it stands in a point."""
    if isinstance(dimension, Choices):
        return value
    return dimension.text(value) if isinstance(dimension, Range) else repr(value)
