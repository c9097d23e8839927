"""A sweep's Optuna study: it keeps every trial, and draws the points of spaces that cannot be enumerated.

Only the public ask and tell are used. Three rules make a search repeat, whatever the number of workers and however
often it is cut off: each trial is drawn by a fresh sampler whose seed follows from the trial's number; the caller tells
results in the order of the trials, at fixed places between the draws; and a trial counts as drawn when its last
attribute is stored, so what a crash left half drawn is drawn again.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

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
from fedsweep.environment import masked
from fedsweep.errors import UserError
from fedsweep.sweep.space import Choices, Dimension, Interval, Point

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
    ):
        """Makes the study, or opens it for a sweep that goes on.

        Raises:
          UserError: the storage cannot be used, or holds another sweep's study of that name.
        """
        self._settings, self._seed, self._dimensions = settings, seed, dimensions
        self._distributions = {key: _distribution(dimension) for key, dimension in dimensions.items()}
        self._excess: dict[int, float] = {}  # bits over the budget, by trial
        self._numbers: list[int] = []  # Optuna's numbers of our trials; a trial half drawn in a crash has none of ours
        try:
            self._study = self._open(name, backend := get_storage(storage))
            trials = self._study.get_trials(deepcopy=False)
            self._before = [trial for trial in trials if _NUMBER in trial.user_attrs]
            if any(trial.distributions != self._distributions for trial in self._before):  # the space was extended
                optuna.delete_study(study_name=name, storage=backend)
                self._study = self._open(name, backend)
                self._study.add_trials([self._moved(trial) for trial in self._before])
                self._before = trials = self._study.get_trials(deepcopy=False)
        except optuna.exceptions.DuplicatedStudyError as error:
            right = "give the sweep's folder (hydra.sweep.dir) another name"
            raise UserError(f"sweep.storage={masked(str(storage))}: holds a study named {name}; {right}") from error
        except Exception as error:  # each kind of storage has its own
            reason = masked(str(error)).partition("\n")[0]
            right = "name an Optuna storage, such as sqlite:///studies.db, or leave it null"
            raise UserError(f"sweep.storage={masked(str(settings.storage))}: {reason}; {right}") from error
        for trial in trials:
            if trial.state == TrialState.RUNNING and _NUMBER not in trial.user_attrs:
                self._study.tell(trial.number, state=TrialState.FAIL)

    def _open(self, name: str, storage: str | BaseStorage) -> optuna.Study:
        directions = list(self._settings.directions.values())
        study = optuna.create_study(
            study_name=name, storage=storage, directions=directions, load_if_exists=self._settings.resume is not None
        )
        if not study.metric_names:
            with _trying_new_things():
                study.set_metric_names(list(self._settings.directions))
        return study

    def _moved(self, trial: optuna.trial.FrozenTrial) -> optuna.trial.FrozenTrial:
        """The trial in the extended space."""
        return optuna.trial.create_trial(
            state=trial.state,
            values=trial.values,
            params=trial.params,
            distributions=self._distributions,
            user_attrs=trial.user_attrs,
            system_attrs=trial.system_attrs,
        )

    def draw(self, fixed: Point | None = None) -> Point:
        """The point of the next trial: what was drawn before, the given one of an enumerated space, or a new draw."""
        number = len(self._numbers)
        if number < len(self._before):
            trial = self._before[number]
        else:
            self._study.sampler = self._sampler(number, fixed)
            trial = self._study.ask(self._distributions)
            trial.set_user_attr(_NUMBER, number)
        self._numbers.append(trial.number)
        return {key: _text(dimension, trial.params[key]) for key, dimension in self._dimensions.items()}

    def constrain(self, number: int, excess: float) -> None:
        """Trial `number` would send so many bits over the budget (under, if negative); before it is told."""
        self._excess[number] = excess

    def tell(self, number: int, status: str, values: Sequence[float] | None) -> None:
        """The end of trial `number`, with its objectives if it is complete. Telling it twice does nothing."""
        state = TrialState.PRUNED if status == "pruned" else TrialState.COMPLETE if values else TrialState.FAIL
        self._study.sampler = self._sampler(number)  # it stores the constraint
        self._study.tell(self._numbers[number], values, state, skip_if_finished=True)

    @_trying_new_things()
    def _sampler(self, number: int, fixed: Point | None = None) -> optuna.samplers.BaseSampler:
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
        if self._settings.budget is not None:
            arguments["constraints_func"] = self._constraints
        return _GUIDED[sampler.name](seed=seed(number), **arguments)

    def _constraints(self, trial: optuna.trial.FrozenTrial) -> tuple[float]:
        return (self._excess.get(trial.user_attrs[_NUMBER], 0.0),)


def journal(path: Path) -> JournalStorage:
    """The study in a file. Only the sweep that holds its folder's lock comes here, so leftovers of a crash can go."""
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if path.exists():
        content = path.read_bytes()
        if whole := content.rfind(b"\n") + 1:  # a power cut may leave half a line
            os.truncate(path, whole)
    return JournalStorage(JournalFileBackend(str(path)))


def _distribution(dimension: Dimension) -> BaseDistribution:
    if isinstance(dimension, Choices):
        return CategoricalDistribution(dimension.values)
    if isinstance(dimension, Interval):
        kind = IntDistribution if dimension.whole else FloatDistribution
        return kind(dimension.low, dimension.high, log=dimension.log)
    low, high = sorted((dimension.start, dimension.start + (dimension.count - 1) * dimension.step))
    if isinstance(low, int) and isinstance(dimension.step, int):
        return IntDistribution(low, high, step=abs(dimension.step))
    return FloatDistribution(low, high, step=abs(dimension.step))


def _text(dimension: Dimension, value: CategoricalChoiceType) -> str:
    """A value of Optuna's as it stands in a point."""
    if isinstance(dimension, Choices):
        return value
    if isinstance(dimension, Interval):
        return repr(value)
    return dimension.text(round((value - dimension.start) / dimension.step))
