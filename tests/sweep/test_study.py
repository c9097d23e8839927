"""The Optuna study: draws repeat, survive a crash anywhere, and reach any storage."""

from __future__ import annotations

import re

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from variations import some

from fedsweep.errors import NotWritten, UserError
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


def drawn(study, count, fixed=()):
    points = []
    for k in range(count):
        points.append(study.draw(fixed[k] if fixed else None))
        study.commit()
    return points


def search(study, trials, lag=3, first=0):
    points = []
    for number in range(trials):
        if number >= first + lag:
            study.tell(number - lag, "complete", values(points[number - lag]))
        points.append(study.draw())
        study.commit()
    return points


@pytest.mark.parametrize("sampler", some(sampler_choices(), ["tpe", "random"]))
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
        points = drawn(study, 6)
        for number, point in enumerate(points):
            study.tell(number, "complete", [told * v for v in values(point)])
        return drawn(study, 4)

    assert draws(1) != draws(-1)


def test_values_lie_in_the_space_as_hydra_reads_them(config, tmp_path):
    for point in search(open_study(config, studies.journal(tmp_path / "j"), "sweep/sampler=random"), 30):
        assert 0.01 <= float(point["optimizer.client_lr"]) <= 1
        assert point["encoder.bits"] in list("12345678")
        assert point["encoder"] in ("uniform", "hadamard")
        assert point["rounds"] in ("10", "8", "6", "4")


@pytest.mark.parametrize("sampler", some(sampler_choices(), ["tpe"]))
def test_a_trial_that_a_crash_left_half_drawn_is_drawn_again(config, tmp_path, sampler):
    """Also where the sampler has counted it already: at every place of the search."""
    overrides = [f"sweep/sampler={sampler}"]
    if sampler.startswith("nsga"):
        overrides.append("sweep.sampler.population_size=4")
    whole = search(open_study(config, studies.journal(tmp_path / "whole"), *overrides), 12)
    for cut in range(12):
        path = tmp_path / f"cut{cut}"
        study = open_study(config, studies.journal(path), *overrides)
        points = search(study, cut)
        if cut >= 3:
            study.tell(cut - 3, "complete", values(points[cut - 3]))
        study.draw()  # and no commit
        assert search(open_study(config, studies.journal(path), *overrides), 12) == whole


def test_an_extended_search_is_the_longer_search(config, tmp_path):
    """The last results were told when it seemed to be at its end; the longer search would not have known them yet."""
    overrides = ["sweep.sampler.n_startup_trials=3"]
    whole = search(open_study(config, studies.journal(tmp_path / "whole"), *overrides), 16)
    study = open_study(config, studies.journal(tmp_path / "j"), *overrides)
    for number, point in enumerate(search(study, 8)):
        study.tell(number, "complete", values(point))
    extended = open_study(config, studies.journal(tmp_path / "j"), *overrides, "sweep.extend=true")
    assert search(extended, 16) == whole


def test_another_optuna_that_draws_other_points_is_noticed(config, tmp_path):
    search(open_study(config, studies.journal(tmp_path / "j")), 3)
    study = open_study(config, studies.journal(tmp_path / "j"), "sweep.extend=true", seed=1)
    with pytest.raises(UserError, match=r"trial 0 was .* go on with the version that began the sweep"):
        study.draw()


def test_every_value_of_a_range_of_floats_can_be_drawn(config, tmp_path):
    steps = {"optimizer.client_lr": Range(0.3, 0.3, 3, ("0.3", "0.6", "0.8999999999999999"))}
    study = open_study(config, studies.journal(tmp_path / "j"), "sweep/sampler=random", dimensions=steps)
    assert {point["optimizer.client_lr"] for point in drawn(study, 30)} == set(steps["optimizer.client_lr"].values)


def test_a_journal_with_half_a_line_and_a_forgotten_lock_opens(config, tmp_path):
    path = tmp_path / "journal"
    whole = search(open_study(config, studies.journal(tmp_path / "whole")), 6)
    search(open_study(config, studies.journal(path)), 3)
    with path.open("ab") as file:
        file.write(b'{"op_code": 5, "trial')
    (tmp_path / "first").write_text('{"op_code": 0')
    assert len(search(open_study(config, studies.journal(tmp_path / "first")), 3)) == 3
    (tmp_path / "journal.lock").symlink_to(path)
    assert search(open_study(config, studies.journal(path)), 6) == whole


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [*lines[:4], b"\0" * 30, *lines[5:]],
        lambda lines: [*lines[:4], lines[4][:20], *lines[5:]],
        lambda lines: [*lines[:4], *lines[5:]],
        lambda lines: [*lines[:6], lines[5], *lines[6:]],
        lambda lines: [line.replace(b'"values":[0.', b'"values":[0.9') for line in lines],
        lambda lines: [b"garbage", *lines[1:]],
        lambda lines: [b"[]", *lines[1:]],
    ],
    ids=["NULs", "cut line", "lost line", "doubled line", "other values", "garbage", "no object"],
)
def test_a_damaged_journal_is_said_and_the_search_is_the_same(config, tmp_path, damage, capsys):
    overrides = ["sweep.sampler.n_startup_trials=2"]
    whole = search(open_study(config, studies.journal(tmp_path / "whole"), *overrides), 10)
    path = tmp_path / "study.journal"
    search(open_study(config, studies.journal(path), *overrides), 7)
    before = path.read_bytes()
    path.write_bytes(b"\n".join(damage(before.split(b"\n"))))
    assert path.read_bytes() != before
    assert search(open_study(config, studies.journal(path), *overrides), 10) == whole
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{path}: ") and "kept as study.journal.damaged" in line
    assert path.with_name("study.journal.damaged").exists()


def test_a_full_disk_under_the_journal_is_named_and_costs_nothing(config, tmp_path, monkeypatch):
    path = tmp_path / "study.journal"
    whole = search(open_study(config, studies.journal(tmp_path / "whole")), 6)
    study = open_study(config, studies.journal(path))
    search(study, 3)

    def full(*_):
        with path.open("ab") as file:
            file.write(b'{"op_')
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(NotWritten, match=re.escape(str(path))):
        patch.setattr(JournalFileBackend, "append_logs", full)
        study.draw()
    assert search(open_study(config, studies.journal(path)), 6) == whole


def test_a_lost_journal_does_not_become_another_search(config, tmp_path):
    settings = config("sweep.resume=latest").sweep
    point = search(open_study(config, studies.journal(tmp_path / "a")), 1)
    for drawn, right in ((point, True), ([{**point[0], "optimizer.client_lr": "0.5"}], False)):
        storage = studies.journal(tmp_path / f"b{right}")
        study = studies.Study("sweep", storage, DIMENSIONS, settings, 0, drawn)
        if right:
            assert study.draw() == point[0]
        else:
            with pytest.raises(UserError, match="trial 0 was"):
                study.draw()


def test_the_study_is_optunas_own(config, tmp_path):
    """Anybody's Optuna reads it: directions, names of the objectives, states."""
    url = f"sqlite:///{tmp_path}/studies.db"
    study = open_study(config, url)
    points = drawn(study, 4)
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
        study.commit(-100.0 if number else 100.0)
        study.tell(number, "complete", values(point))
    over, under = optuna.load_study(study_name="sweep", storage=storage).trials
    assert any(value > 0 for value in over.constraints.values())
    assert all(value <= 0 for value in under.constraints.values())


def test_an_enumerated_space_is_stored_as_it_is_and_can_grow(config, tmp_path):
    bits = {"encoder.bits": Choices(("2", "4"))}
    study = open_study(config, studies.journal(tmp_path / "j"), dimensions=bits)
    assert drawn(study, 2, [{"encoder.bits": b} for b in "24"]) == [{"encoder.bits": "2"}, {"encoder.bits": "4"}]
    study.tell(0, "complete", [0.5, 10])
    more = {"encoder.bits": Choices(("2", "4", "8"))}
    study = open_study(config, studies.journal(tmp_path / "j"), "sweep.extend=true", dimensions=more)
    assert drawn(study, 3, [{"encoder.bits": b} for b in "248"])[2] == {"encoder.bits": "8"}
    for number in (0, 1):
        study.tell(number, "complete", [0.6, 20])
    plain = optuna.load_study(study_name="sweep", storage=studies.journal(tmp_path / "j"))
    assert [t.params["encoder.bits"] for t in plain.trials] == ["2", "4", "8"]
    assert [t.state.name for t in plain.trials] == ["COMPLETE", "COMPLETE", "RUNNING"]


def test_a_new_sweep_takes_no_other_sweeps_study(config, tmp_path):
    url = f"sqlite:///{tmp_path}/studies.db"
    studies.refuse_used(url, "sweep")
    studies.Study("sweep", url, DIMENSIONS, config().sweep, 0).draw()
    with pytest.raises(UserError, match="holds a study named sweep; rename the sweep's folder"):
        studies.refuse_used(url, "sweep")
    with pytest.raises(UserError, match="holds a study named sweep; rename the sweep's folder"):
        studies.Study("sweep", url, DIMENSIONS, config().sweep, 0)


def test_a_storage_that_cannot_be_used_is_one_line():
    with pytest.raises(UserError, match=r"sweep.storage=.*: cannot be used .*; name an Optuna storage"):
        studies.refuse_used("sqlite:////proc/no/such.db", "sweep")
