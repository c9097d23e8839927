"""What sweeps say: configurations with their means and intervals, fronts, what budgets buy, what targets cost.

A configuration is what was swept, without the seed: its runs are its replicates. Configurations are compared within a
task, which is a data set: an accuracy on one says nothing about another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from fedsweep import shown
from fedsweep.errors import UserError
from fedsweep.pareto.front import attainment, hypervolume, on_front
from fedsweep.pareto.load import Sweep

RESAMPLES = 1000
QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Question:
    """What is asked of the sweeps."""

    x: str = "total"  # whose bits: uplink, downlink or total
    y: str = "test_accuracy"  # of METRICS
    group: str = "encoder"  # the key whose values tell colours, markers and panels apart
    points: str = "final"  # final: a run is its last evaluation; all: every evaluation is an operating point
    targets: tuple[float, ...] | None = None  # values of y; None: two that are not quite the best
    budgets: tuple[int, ...] | None = None  # bits; None: a few between the least and the most
    reference: tuple[float, float] | None = None  # (bits, y) of the hypervolume; None: see `Analysis.reference`

    @property
    def sign(self) -> int:
        """Times y it is a cost: less is better."""
        return 1 if self.y.endswith("loss") else -1

    @property
    def validation(self) -> str:
        """What is chosen by where there is a validation split: y of that split (for single clients, of all of them)."""
        return self.y.replace("test_", "validation_").partition("_p")[0]


@dataclass(frozen=True)
class Task:
    """What is known of one data set."""

    name: str
    baseline: int | None  # the configuration that encodes nothing, either way, the best one if there are several
    float32_bits: float | None  # what a run sends without encoding; None if that differs among the configurations
    reference: tuple[float, float]  # the hypervolume's reference point: (bits, y)
    hypervolume: float  # of the means, in decades of bits times y
    seeds: dict[str, float]  # seed -> the hypervolume of its runs, for seeds that every configuration has
    surface: tuple[np.ndarray, np.ndarray] | None  # bits [m] and y [3, m] that QUARTILES of those seeds attain (NaN:
    # none); None for fewer than two seeds


@dataclass(frozen=True)
class Analysis:
    """The answer. Tables are indexed by configuration; bits are those of `question.x`.

    configs: sweep, trial (its first), task, group, label, short (the label without the group), float32, uncompressed,
      and a column for each key in which configurations differ (`keys`).
    evaluations: config, replicate, round, x, y, s: every evaluation of every run; s is what is selected by.
    points: config, round, n, x, x_half, y, y_half, s, on_front, resampled: means over replicates and half of their 95 %
      intervals (Student's t; NaN for one replicate); on how many of RESAMPLES bootstrap resamples of the replicates it
      is on the front (NaN for one).
    budgets, targets: config, budget or target, mean, half, reached (replicates that got there), n.
    """

    question: Question
    sweeps: tuple[Sweep, ...]
    select: str  # the metric that fronts are selected by
    keys: tuple[str, ...]
    configs: pd.DataFrame
    evaluations: pd.DataFrame
    points: pd.DataFrame
    budgets: pd.DataFrame
    targets: pd.DataFrame
    tasks: tuple[Task, ...]

    @property
    def selection(self) -> str:
        """How what is shown was chosen, for captions."""
        reported = self.question.y.replace("_", " ")
        if self.select != self.question.y:
            return f"selected by {self.select.replace('_', ' ')}, reported by {reported}"
        if not self.question.y.startswith("test_"):
            return f"selected and reported by {reported}"
        held_out = [sweep.rounds[self.question.validation].notna().any() for sweep in self.sweeps]
        why = "not all sweeps have held out a validation split" if any(held_out) else "no validation split was held out"
        return f"selected and reported by {reported}: {why}"


def analyse(sweeps: Sequence[Sweep], question: Question) -> Analysis:
    """Raises UserError if there is nothing to analyse, or the question names what is not there."""
    configs, runs, keys = _configurations(sweeps, question)
    rounds = pd.concat(
        [sweep.rounds.assign(sweep=place) for place, sweep in enumerate(sweeps)], ignore_index=True
    ).merge(runs, on=["sweep", "trial", "replicate"])
    configs["uncompressed"] = _uncompressed(configs, rounds, sweeps)
    select = _selected_by(rounds, question)
    table = rounds[rounds[question.y].notna()]
    evaluations = pd.DataFrame(
        {
            "config": table.config,
            "replicate": table.seed,  # configurations are paired by it
            "round": table["round"],
            "x": table[f"{question.x}_bits"].astype(float),
            "y": table[question.y],
            "s": table[select],
        }
    ).sort_values(["config", "replicate", "round"], ignore_index=True)
    if evaluations.empty:
        raise UserError(f"--y {question.y}: no run has evaluated it; see evaluate_every, or choose another metric")
    finals = evaluations.groupby(["config", "replicate"], as_index=False).last()
    operating = finals if question.points == "final" else evaluations
    budgets = question.budgets if question.budgets is not None else _usual_budgets(finals)
    targets = question.targets if question.targets is not None else _usual_targets(finals, question)
    points, tasks = [], []
    for name in configs.task.unique():
        own = operating[operating.config.map(configs.task) == name]
        mine = _points(own, question)
        points.append(mine)
        tasks.append(_task(name, configs[configs.task == name], mine, own, question))
    return Analysis(
        question,
        tuple(sweeps),
        select,
        keys,
        configs,
        evaluations,
        pd.concat(points, ignore_index=True),
        _within_budgets(evaluations, budgets),
        _reached_targets(evaluations, targets, question),
        tuple(tasks),
    )


def _selected_by(rounds: pd.DataFrame, question: Question) -> str:
    """The validation metric where every run has it and the test metric is asked for, else the metric itself."""
    evaluated = rounds[rounds[question.y].notna()]
    found = len(evaluated) and evaluated[question.validation].notna().all()
    return question.validation if found else question.y


def _configurations(sweeps: Sequence[Sweep], question: Question) -> tuple[pd.DataFrame, pd.DataFrame, tuple[str, ...]]:
    """(configs, runs: sweep, trial, replicate -> config and seed, the keys in which configurations differ)"""
    rows, runs, known = [], [], {}
    swept = list(dict.fromkeys(key for sweep in sweeps for key in sweep.keys if key != "seed"))
    for place, sweep in enumerate(sweeps):
        replicates = sweep.rounds.groupby("trial").replicate.unique()
        one_task = not any(key.partition(".")[0] == "dataset" for key in sweep.keys)
        first = next(iter(sweep.points), None)
        known_task = _data_set(sweep, first) if one_task and first is not None else None
        for trial, point in sweep.points.items():
            same = (place, *(item for item in point.items() if item[0] != "seed"))
            if same not in known:
                known[same] = len(rows)
                rows.append(
                    {
                        "sweep": place,
                        "trial": trial,
                        "task": known_task or _data_set(sweep, trial),
                        "group": _value(sweep, trial, question.group),
                        "float32": float(sweep.float32[trial].of(question.x)),
                        **{key: _value(sweep, trial, key) for key in swept},
                    }
                )
            for replicate in replicates[trial]:
                runs.append((place, trial, replicate, known[same], sweep.seeds[trial, replicate]))
    if not rows:
        said = "; ".join(f"{sweep.name}: no run is complete ({sweep.missing or 'none has begun'})" for sweep in sweeps)
        raise UserError(f"{said}; nothing to show")
    configs = pd.DataFrame(rows)
    if (configs.group == "").all():  # no trial of any sweep has it: the first one says so
        sweeps[0].value(configs.trial[0], question.group)
    configs["group"] = configs.group.where(configs.group != "", "none")
    keys = tuple(key for key in swept if configs[key].nunique() > 1)
    configs["task"] = _shortened(configs.task)
    _label(configs, keys, question.group, sweeps)
    return configs, pd.DataFrame(runs, columns=["sweep", "trial", "replicate", "config", "seed"]), keys


def _uncompressed(configs: pd.DataFrame, rounds: pd.DataFrame, sweeps: Sequence[Sweep]) -> list[bool]:
    """Which configurations have sent as many bits as float32 takes, in both directions."""
    runs = rounds.groupby(["config", "replicate"])[["uplink_bits", "downlink_bits"]].max()
    sent = runs.groupby("config").mean()
    plain = [sweeps[row.sweep].float32[row.trial] for row in configs.itertuples()]
    return [
        math.isclose(up, float32.uplink) and math.isclose(down, float32.downlink)
        for (up, down), float32 in zip(sent.itertuples(index=False), plain, strict=True)
    ]


def _value(sweep: Sweep, trial: int, key: str) -> str:
    try:
        return sweep.value(trial, key)
    except UserError:  # another sweep's key: no encoder.rank with encoder=uniform
        return ""


def _data_set(sweep: Sweep, trial: int) -> str:
    """The name of the data set and its settings but for where it lies."""
    settings = sweep.settings(trial)
    own = {key: value for key, value in settings.items() if key.startswith("dataset.") and key != "dataset.dir"}
    name = own.pop("dataset.name")
    words = (f"{key.removeprefix('dataset.')}={value}" for key, value in sorted(own.items()))
    return shown.printable(" ".join([name, *words]))


def _shortened(tasks: pd.Series) -> pd.Series:
    """Without the settings that all tasks of that data set share."""
    words = {task: task.split(" ") for task in tasks.unique()}
    short = {}
    for task, (name, *settings) in words.items():
        others = [other for other in words.values() if other[0] == name]
        short[task] = " ".join([name, *(s for s in settings if not all(s in other for other in others))])
    return tasks.map(short)


def _label(configs: pd.DataFrame, keys: Sequence[str], group: str, sweeps: Sequence[Sweep]) -> None:
    """Adds `label` and `short`; labels are unique in a task, which is named apart."""
    names = {key: key.rpartition(".")[2] for key in keys}
    for key in keys:  # client_lr and server_lr stay apart, encoder.bits and downlink.bits become whole names
        if list(names.values()).count(names[key]) > 1 or "." not in key:
            names[key] = key
    # what all configurations of each group share, their name tells (each of several grids has keys of its own)
    varied = configs.groupby("group")[list(keys)].nunique().max() > 1 if keys else {}
    told = [key for key in keys if key != group and key.partition(".")[0] != "dataset" and varied[key]]
    several = configs.group.nunique() > 1

    def words(row: pd.Series) -> str:
        return " ".join(f"{names[key]}={row[key]}" for key in told if row[key] not in ("", "None"))

    configs["short"] = configs.apply(words, axis=1) if told else ""
    label = (configs.group + " " + configs.short).str.strip() if several else configs.short
    label = label.where(label != "", configs.group)
    if len(sweeps) > 1:
        repeated = (configs.task + label).duplicated(keep=False)
        label = label.where(~repeated, label + " (" + configs.sweep.map(lambda k: sweeps[k].name) + ")")
    repeated = (configs.task + label).duplicated(keep=False)
    configs["label"] = label.where(~repeated, label + configs.trial.map(" trial {}".format))


def _points(operating: pd.DataFrame, question: Question) -> pd.DataFrame:
    """Means, intervals, the front and how sure it is, for the operating points of one task."""
    index = ["config"] if question.points == "final" else ["config", "round"]
    grouped = operating.groupby(index)
    mean, n = grouped[["x", "y", "s"]].mean(), grouped.size()
    points = pd.DataFrame(
        {
            "round": grouped["round"].max(),
            "n": n,
            "x": mean.x,
            "x_half": _half_interval(grouped.x.std(), n),
            "y": mean.y,
            "y_half": _half_interval(grouped.y.std(), n),
            "s": mean.s,
        }
    )
    points["on_front"] = on_front(np.column_stack([points.x, question.sign * points.s]))
    points["resampled"] = _resampled(operating, index, question)
    return points.drop(columns="round" if "round" in index else []).reset_index()


def _half_interval(deviation: pd.Series, n: pd.Series) -> pd.Series:
    """Half of the 95 % interval of the mean, by Student's t; NaN for one value."""
    return special.stdtrit(n - 1, 0.975) * deviation / np.sqrt(n)


def _resampled(operating: pd.DataFrame, index: list[str], question: Question) -> pd.Series | float:
    """On how many of RESAMPLES resamples of the seeds each point is on the front; NaN for a point with one seed.

    Configurations with the same seeds are drawn together: equal seeds are pairs. The others draw from their own.
    """
    x, s = (operating.pivot_table(index=index, columns="replicate", values=column) for column in ("x", "s"))
    there = x.notna().to_numpy()
    kinds, kind = np.unique(there, axis=0, return_inverse=True)  # which seeds; which of these each point has
    rng = np.random.default_rng(0)
    weights = np.zeros([RESAMPLES, len(kinds), x.shape[1]])
    for place, seeds in enumerate(kinds):
        n = seeds.sum()
        weights[:, place, seeds] = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n
    xs, ss, counts = x.fillna(0).to_numpy(), question.sign * s.fillna(0).to_numpy(), np.zeros(len(x))
    for drawn in weights:
        own = drawn[kind.ravel()]
        counts += on_front(np.column_stack([(xs * own).sum(axis=1), (ss * own).sum(axis=1)]))
    return pd.Series(np.where(there.sum(axis=1) > 1, counts, math.nan), index=x.index)


def _task(name: str, configs: pd.DataFrame, points: pd.DataFrame, operating: pd.DataFrame, question: Question) -> Task:
    plain = points[points.config.map(configs.uncompressed)]
    baseline = None if plain.empty else int(plain.loc[(question.sign * plain.s).idxmin(), "config"])
    same = configs.float32.nunique() == 1
    float32 = float(configs.float32.iloc[0]) if same else None
    reference = question.reference or (
        max(float32 or 0.0, float(points.x.max())),
        0.0 if question.sign < 0 else float(points.y.max()),
    )
    has_all = operating.groupby("replicate").config.nunique() == len(configs)
    fronts = {str(seed): _selected(own, question) for seed, own in operating.groupby("replicate") if has_all[seed]}
    surface = None
    if len(fronts) > 1:
        x, y = attainment(list(fronts.values()), QUARTILES)
        surface = x, np.where(np.isinf(y), np.nan, question.sign * y)
    return Task(
        name,
        baseline,
        float32,
        reference,
        _volume(_selected(points, question), reference, question),
        {seed: _volume(front, reference, question) for seed, front in fronts.items()},
        surface,
    )


def _selected(points: pd.DataFrame, question: Question) -> np.ndarray:
    """Bits and the cost of what is reported, [n, 2], of the points that are on the front by what is selected by."""
    chosen = points[on_front(np.column_stack([points.x, question.sign * points.s]))]
    return np.column_stack([chosen.x, question.sign * chosen.y])


def _volume(front: np.ndarray, reference: tuple[float, float], question: Question) -> float:
    costs = np.column_stack([np.log10(front[:, 0]), front[:, 1]])
    return hypervolume(costs, (math.log10(reference[0]), question.sign * reference[1]))


def _usual_budgets(finals: pd.DataFrame) -> tuple[int, ...]:
    """Powers of two: a run at the cheapest end, one at the dearest, one between them."""
    low, high = np.log2(finals.x.min()), np.log2(finals.x.max())
    return tuple(2**k for k in sorted({math.ceil(low), math.ceil((low + high) / 2), math.ceil(high)}))


def _usual_targets(finals: pd.DataFrame, question: Question) -> tuple[float, ...]:
    """Two round numbers that are not quite the best."""
    best = finals.groupby("config").y.mean()
    if question.sign > 0:
        return (float(f"{1.1 * best.min():.2g}"), float(f"{1.5 * best.min():.2g}"))
    return tuple(sorted({math.floor(100 * share * best.max()) / 100 for share in (0.9, 0.98)}))


def _within_budgets(evaluations: pd.DataFrame, budgets: Iterable[int]) -> pd.DataFrame:
    """y at a run's last evaluation before its bits pass a budget."""
    rows = []
    for budget in budgets:
        inside = evaluations[evaluations.x <= budget].groupby(["config", "replicate"]).y.last()
        rows.append(_spread(inside, evaluations, "budget", budget))
    return pd.concat(rows, ignore_index=True) if rows else _spread_columns("budget")


def _reached_targets(evaluations: pd.DataFrame, targets: Iterable[float], question: Question) -> pd.DataFrame:
    """Bits at a run's first evaluation that is at least as good as a target."""
    rows = []
    for target in targets:
        good = evaluations[question.sign * evaluations.y <= question.sign * target]
        rows.append(_spread(good.groupby(["config", "replicate"]).x.first(), evaluations, "target", target))
    return pd.concat(rows, ignore_index=True) if rows else _spread_columns("target")


def _spread(found: pd.Series, evaluations: pd.DataFrame, name: str, value: float) -> pd.DataFrame:
    n = evaluations.groupby("config").replicate.nunique()
    grouped = found.groupby("config")
    reached = grouped.size().reindex(n.index, fill_value=0)
    half = _half_interval(grouped.std().reindex(n.index), reached.where(reached > 1))
    table = pd.DataFrame(
        {name: value, "mean": grouped.mean().reindex(n.index), "half": half, "reached": reached, "n": n}
    )
    return table.reset_index()


def _spread_columns(name: str) -> pd.DataFrame:
    return pd.DataFrame(columns=["config", name, "mean", "half", "reached", "n"])
