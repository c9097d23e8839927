"""The Optuna study: draws repeat, survive a crash anywhere, and reach any storage."""

from __future__ import annotations

import optuna
import pytest

from fedsweep.errors import UserError
from fedsweep.sweep import study as studies
from fedsweep.sweep.space import Choices, Interval, Range

DIMENSIONS = {
    "optimizer.client_lr": Interval(0.01, 1.0, log=True),
    "encoder.bits": Interval(1, 8, log=False),
    "encoder": Choices(("uniform", "hadamard")),
    "rounds": Range(10, -2, 4, ("10", "8", "6", "4")),
}


def sampler_choices():
    return ["tpe", "nsga2", "nsga3", "random", "qmc"]


def values(point) -> list[float]:
    """Objectives that only depend on the point."""
    bits, rate = int(point["encoder.bits"]), float(point["optimizer.client_lr"])
    return [1 - (rate - 0.1) ** 2 - 1 / bits, bits * 100.0]


def open_study(config, storage, *overrides, dimensions=DIMENSIONS, seed=0):
    return studies.Study("sweep", storage, dimensions, config("sweep.resume=latest", *overrides).sweep, seed)


def search(study, trials, lag=3, first=0):
    points = []
    for number in range(trials):
        if number >= first + lag:
            study.tell(number - lag, "complete", values(points[number - lag]))
        points.append(study.draw())
    return points


@pytest.mark.parametrize("sampler", sampler_choices())
def test_draws_repeat_and_go_on_after_any_interruption(config, tmp_path, sampler):
    """Cut off after every possible number of draws, opened anew from its file: the same points."""
    overrides = [f"sweep/sampler={sampler}"]
    if sampler == "tpe":
        overrides.append("sweep.sampler.n_startup_trials=3")
    if sampler.startswith("nsga"):
        overrides.append("sweep.sampler.population_size=4")
    whole = search(open_study(config, studies.journal(tmp_path / "whole"), *overrides), 14)
    assert len({tuple(point.values()) for point in whole}) > 10
    for cut in (0, 1, 5, 9):
        path = tmp_path / f"cut{cut}"
        search(open_study(config, studies.journal(path), *overrides), cut)
        assert search(open_study(config, studies.journal(path), *overrides), 14) == whole
    assert search(open_study(config, studies.journal(tmp_path / "other"), *overrides, seed=1), 14) != whole


def test_a_guided_sampler_uses_what_it_is_told(config, tmp_path):
    def draws(told):
        study = open_study(config, studies.journal(tmp_path / str(told)), "sweep.sampler.n_startup_trials=3")
        points = [study.draw() for _ in range(6)]
        for number, point in enumerate(points):
            study.tell(number, "complete", [told * v for v in values(point)])
        return [study.draw() for _ in range(4)]

    assert draws(1) != draws(-1)


def test_values_lie_in_the_space_as_hydra_reads_them(config, tmp_path):
    for point in search(open_study(config, studies.journal(tmp_path / "j"), "sweep/sampler=random"), 30):
        assert 0.01 <= float(point["optimizer.client_lr"]) <= 1
        assert point["encoder.bits"] in list("12345678")
        assert point["encoder"] in ("uniform", "hadamard")
        assert point["rounds"] in ("10", "8", "6", "4")


def test_a_trial_that_a_crash_left_half_drawn_is_drawn_again(config, tmp_path):
    path = tmp_path / "journal"
    whole = search(open_study(config, studies.journal(tmp_path / "whole")), 6)
    search(open_study(config, studies.journal(path)), 3)
    plain = optuna.load_study(study_name="sweep", storage=studies.journal(path))
    plain.ask({"encoder": optuna.distributions.CategoricalDistribution(("uniform", "hadamard"))})  # no more than that
    assert search(open_study(config, studies.journal(path)), 6) == whole


def test_a_journal_with_half_a_line_and_a_forgotten_lock_opens(config, tmp_path):
    path = tmp_path / "journal"
    whole = search(open_study(config, studies.journal(tmp_path / "whole")), 6)
    search(open_study(config, studies.journal(path)), 3)
    with path.open("ab") as file:
        file.write(b'{"op_code": 5, "trial')
    (tmp_path / "journal.lock").symlink_to(path)
    assert search(open_study(config, studies.journal(path)), 6) == whole


def test_the_study_is_optunas_own(config, tmp_path):
    """Anybody's Optuna reads it: directions, names of the objectives, states."""
    url = f"sqlite:///{tmp_path}/studies.db"
    study = open_study(config, url)
    points = [study.draw() for _ in range(4)]
    study.tell(0, "complete", values(points[0]))
    study.tell(0, "complete", values(points[0]))  # twice does nothing
    study.tell(1, "pruned", None)
    study.tell(2, "failed", None)
    plain = optuna.load_study(study_name="sweep", storage=url)
    assert [d.name for d in plain.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert plain.metric_names == ["test_accuracy", "total_bits"]
    assert [t.state.name for t in plain.trials] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert plain.trials[0].values == values(points[0])


def test_a_budget_is_a_constraint_of_the_study(config, tmp_path):
    storage = studies.journal(tmp_path / "journal")
    study = open_study(config, storage, "sweep.bit_budget=500")
    for number in range(2):
        point = study.draw()
        study.constrain(number, -100.0 if number else 100.0)
        study.tell(number, "complete", values(point))
    over, under = optuna.load_study(study_name="sweep", storage=storage).trials
    assert any(value > 0 for value in over.constraints.values())
    assert all(value <= 0 for value in under.constraints.values())


def test_an_enumerated_space_is_stored_as_it_is_and_can_grow(config, tmp_path):
    bits = {"encoder.bits": Choices(("2", "4"))}
    study = open_study(config, studies.journal(tmp_path / "j"), dimensions=bits)
    assert [study.draw({"encoder.bits": b}) for b in "24"] == [{"encoder.bits": "2"}, {"encoder.bits": "4"}]
    study.tell(0, "complete", [0.5, 10])
    more = {"encoder.bits": Choices(("2", "4", "8"))}
    study = open_study(config, studies.journal(tmp_path / "j"), dimensions=more)
    assert [study.draw({"encoder.bits": b})["encoder.bits"] for b in "248"] == ["2", "4", "8"]
    study.tell(1, "complete", [0.6, 20])
    plain = optuna.load_study(study_name="sweep", storage=studies.journal(tmp_path / "j"))
    assert [t.params["encoder.bits"] for t in plain.trials] == ["2", "4", "8"]
    assert [t.state.name for t in plain.trials] == ["COMPLETE", "COMPLETE", "RUNNING"]


def test_a_new_sweep_takes_no_other_sweeps_study(config, tmp_path):
    url = f"sqlite:///{tmp_path}/studies.db"
    studies.Study("sweep", url, DIMENSIONS, config().sweep, 0).draw()
    with pytest.raises(UserError, match="holds a study named sweep; give the sweep's folder"):
        studies.Study("sweep", url, DIMENSIONS, config().sweep, 0)


def test_a_storage_that_cannot_be_used_is_one_line(config):
    with pytest.raises(UserError, match=r"sweep.storage=.*: .*; name an Optuna storage"):
        open_study(config, "sqlite:////proc/no/such.db", "sweep.storage=sqlite:////proc/no/such.db")
