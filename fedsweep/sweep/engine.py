"""Which trial comes next, which runs it needs, and what became of them. Knows nothing of processes and screens.

What happens is the same whatever runs the trials, in whatever order they end: trial k of a search is drawn knowing the
results of trials 0 to k - in_flight and no others; a trial is compared with the trials before it; the results that are
in the sweep's folder already are not made again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedsweep import schema
from fedsweep.errors import SweepFailed, UserError
from fedsweep.sweep.record import Record, Trial, record_failure, write_trials
from fedsweep.sweep.space import Point
from fedsweep.tracking.run_folder import is_over, trusted_result, write_result
from fedsweep.units import format_bits

if TYPE_CHECKING:  # heavy
    from fedsweep.sweep.study import Study


@dataclass(frozen=True)
class Run:
    """One replicate of a trial: what a process must know to run it."""

    trial: int
    replicate: int
    title: str
    config: schema.Config  # with the replicate's own seed
    folder: Path
    sweep: Path
    point: Point


def ordered(record: Record, settings: schema.Sweep) -> bool:
    """Whether a trial depends on what earlier ones reached: it waits until all but the last `in_flight` have ended."""
    return record.points is None or isinstance(settings.pruner, schema.DominancePruner)


def at_once(record: Record, settings: schema.Sweep) -> int:
    """Runs that can go on at the same time."""
    trials = settings.in_flight if ordered(record, settings) else record.n_trials
    return min(trials, record.n_trials) * record.replicates


class Engine:
    """The trials of one sweep."""

    def __init__(
        self,
        folder: Path,
        record: Record,
        settings: schema.Sweep,
        study: Study,
        configure: Callable[[Point], schema.Config],
        plan: Callable[[schema.Config], dict],
        dry: bool = False,
    ):
        """The engine before its first trial.

        Args:
          folder: the sweep's.
          record: what it sweeps over.
          settings: how.
          study: draws the points; it has those that were drawn before an interruption.
          configure: a point's checked configuration.
          plan: a configuration's plan (`Plan.as_dict`).
          dry: write nothing; of an enumerated space all trials can be drawn at once.
        """
        self.trials: list[Trial] = []
        self.sent: dict[int, tuple[int, int]] = {}  # bits of a whole run by the plan: uplink, downlink
        self.coded: dict[int, tuple[bool, bool]] = {}  # whether lossless codes come on top, as many bits as they take
        self.record = record
        self.folder, self._settings, self._study = folder, settings, study
        self._configure, self._plan, self._dry = configure, plan, dry
        self._told = 0
        self._first: dict[str, Trial] = {}  # by what makes two trials equal
        self._runs: dict[int, list[Run]] = {}
        self._ordered = ordered(record, settings) and not (dry and record.points is not None)

    def may_draw(self) -> bool:
        """Whether the next trial can be drawn now."""
        next_trial = len(self.trials)
        if next_trial >= self.record.n_trials:
            return False
        if not self._ordered:
            return True
        return all(trial.finished for trial in self.trials[: max(0, next_trial - self._settings.in_flight + 1)])

    @property
    def done(self) -> bool:
        return len(self.trials) == self.record.n_trials and all(trial.finished for trial in self.trials)

    def draw(self) -> Trial:
        """The next trial; `runs` says what it needs."""
        number = len(self.trials)
        self._tell(number - self._settings.in_flight + 1)
        point = self._study.draw(self.record.points[number] if self.record.points is not None else None)
        trial = Trial(number, point, self.record.replicates)
        self.trials.append(trial)
        self._runs[number] = []
        try:
            config = self._configure(point)
            seeded = [dataclasses.replace(config, seed=config.seed + k) for k in range(trial.replicates)]
            found = [trusted_result(self._place(trial, k), self._dry, own) for k, own in enumerate(seeded)]
            plan = (found[0] or {}).get("plan")
            if not plan or "run_bits" not in plan:  # not there yet, or of an earlier version
                plan = self._plan(config)
        except SweepFailed:  # nobody is left to plan: not this trial's fault
            raise
        except UserError as error:  # a drawn combination that makes no sense, say: one bad trial
            self._study.commit()
            for replicate in range(trial.replicates):
                trial.results[replicate] = self._refuse(trial, replicate, "failed", str(error))
            return trial
        self.coded[number] = tuple(any(t["coded"] for t in plan[way]) for way in ("uplink", "downlink"))
        self.sent[number] = tuple(plan["run_bits"])
        total = sum(self.sent[number])
        self._study.commit(None if self._settings.budget is None else total - self._settings.budget)
        trial.twin = self._first.setdefault(_identity(config, plan), trial)
        if trial.twin is trial:
            trial.twin = None
        for replicate in range(trial.replicates):
            self._prepare(trial, replicate, seeded[replicate], total, found[replicate])
        return trial

    def _place(self, trial: Trial, replicate: int) -> Path:
        return self.folder / self.record.run_folder(trial.number, replicate)

    def _prepare(
        self, trial: Trial, replicate: int, config: schema.Config, total_bits: int, result: dict | None
    ) -> None:
        """Takes the result of a replicate that has one (it may be there from before), or plans its run.

        `config` has the replicate's own seed.
        """
        budget, folder = self._settings.budget, self._place(trial, replicate)
        if trial.twin:
            if not self._dry:
                folder.mkdir(parents=True, exist_ok=True)
                write_result(folder, {"status": "duplicate", "duplicate_of": trial.twin.number})
            return
        if budget is not None and total_bits > budget:
            sent = f"would send {format_bits(total_bits)}, more than sweep.bit_budget={format_bits(budget)}"
            trial.results[replicate] = self._refuse(trial, replicate, "pruned", sent)
            return
        if result and result["status"] == "duplicate":  # of a trial that was one
            result = None
        if result:
            trial.results[replicate] = result
        if not is_over(result):
            title = trial.title if trial.replicates == 1 else f"{trial.title} replicate {replicate}"
            self._runs[trial.number].append(
                Run(trial.number, replicate, title, config, folder, self.folder, trial.shown)
            )

    def _refuse(self, trial: Trial, replicate: int, status: str, error: str) -> dict:
        """The result of a run that is not started."""
        if self._dry:
            return {"status": status, "error": error}
        return record_failure(self._place(trial, replicate), error, status)

    def runs(self, trial: Trial) -> list[Run]:
        """The runs that a drawn trial needs."""
        return self._runs[trial.number]

    def begin(self, run: Run) -> None:
        """A run has been given to a process."""
        self.trials[run.trial].results[run.replicate] = {"status": "running"}
        self.write()

    def finish(self, run: Run, result: dict | None) -> None:
        """A run has ended or was cut off: its result.json's content; None if it has not begun after all."""
        if result:
            self.trials[run.trial].results[run.replicate] = result
        else:
            self.trials[run.trial].results.pop(run.replicate, None)
        self.write()

    def write(self) -> None:
        """trials.csv as things stand."""
        write_trials(self.folder, self.trials, self.record.space, self.record.objectives)

    def _tell(self, count: int) -> None:
        """Tells the study the ends of the trials before `count`, in their order."""
        for trial in self.trials[self._told : max(count, 0)]:
            if not trial.finished:
                break
            self._study.tell(trial.number, (trial.twin or trial).status, trial.objectives(self.record.objectives))
            self._told += 1

    def close(self) -> None:
        """Tells the study what it does not know yet. A search that was cut off tells it at the right place later."""
        if self.done or self.record.points is not None:
            self._tell(len(self.trials))


def _identity(config: schema.Config, plan: dict) -> str:
    """What two trials share if one is a duplicate of the other: the plan stands for the encoders and their knobs."""
    same = dataclasses.asdict(config)
    for key in ("encoder", "downlink", "code", "schedule", "tracker", "sweep", "checkpoint_every", "verify_wire"):
        del same[key]
    same["runtime"] = config.runtime.name
    if isinstance(config.dataset, schema.Partitioned):  # knobs of other partitions
        unused = {"iid": ("alpha", "shards"), "shards": ("alpha",)}.get(config.dataset.partition, ("shards",))
        same["dataset"] = {key: value for key, value in same["dataset"].items() if key not in unused}
    return json.dumps([same, plan], sort_keys=True)
