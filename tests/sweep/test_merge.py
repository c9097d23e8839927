"""Which sweeps are the same sweep, and what an extension may change."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from fedsweep.errors import UserError
from fedsweep.sweep import resume
from fedsweep.sweep.record import Record


def grid(bits="2,4", thresholds="10,20", **changes) -> Record:
    axes = {"encoder.bits": bits.split(","), "encoder.threshold": thresholds.split(",")}
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    record = Record(
        space=axes,
        points=points,
        n_trials=len(points),
        replicates=1,
        objectives={"test_accuracy": "maximize"},
        sampling={"bit_budget": None},
        config={"rounds": 40, "encoder": {"bits": bits.split(",")[0], "name": "uniform"}, "seed": 0},
        digests={" ".join(f"{key}={value}" for key, value in sorted(point.items())): "same" for point in points},
        mlflow_run_id="parent",
    )
    return dataclasses.replace(record, **changes)


def search(n_trials=20, interval="interval(0.01,1)", **changes) -> Record:
    sampling = {"sampler": {"name": "tpe", "n_startup_trials": 10}, "in_flight": 4}
    space = {"optimizer.client_lr": interval}
    changes |= {"space": space, "points": None, "n_trials": n_trials, "sampling": sampling}
    return grid(**changes)


def test_the_same_sweep_goes_on_as_it_was():
    assert resume.merge(grid(), grid(mlflow_run_id=None), extend=False) == grid()
    assert resume.merge(search(), search(mlflow_run_id=None), extend=False) == search()


@pytest.mark.parametrize(
    ("new", "says"),
    [
        (grid(config={"rounds": 41, "encoder": {"bits": "2", "name": "uniform"}, "seed": 0}), "rounds was 40, is 41"),
        (grid(config={"rounds": 40, "encoder": {"bits": "2", "name": "drive"}, "seed": 0}), "encoder.name was uniform"),
        (grid(objectives={"test_loss": "minimize"}), "objectives was maximize test_accuracy"),
        (grid(sampling={"bit_budget": 5}), r"sweep\.bit_budget was None, is 5"),
        (grid(replicates=3), "replicates was 1, is 3"),
    ],
)
@pytest.mark.parametrize("extend", [False, True])
def test_another_configuration_is_refused_whatever_is_asked(new, says, extend):
    with pytest.raises(UserError, match=says):
        resume.merge(grid(), new, extend)


def test_a_search_has_a_sampler_that_stays():
    other = dataclasses.replace(search(), sampling={"sampler": {"name": "random"}, "in_flight": 4})
    with pytest.raises(UserError, match=r"sweep\.sampler\.name was tpe, is random"):
        resume.merge(search(), other, extend=True)


@pytest.mark.parametrize("new", [grid(bits="2,4,8"), grid(bits="2"), grid(thresholds="10,30"), search()])
def test_another_space_needs_extend(new):
    with pytest.raises(UserError, match=r"^sweep.resume: "):
        resume.merge(grid(), new, extend=False)


def test_a_changed_file_of_a_choice_is_noticed():
    changed = {**grid().digests, "encoder.bits=4 encoder.threshold=10": "other"}
    for extend, bits in ((False, "2,4"), (True, "2,4,8")):
        with pytest.raises(UserError, match=r"the configuration of encoder.bits=4 encoder.threshold=10 was another"):
            resume.merge(grid(), grid(bits=bits, digests=changed), extend)


def test_the_order_of_the_command_line_does_not_matter():
    points = [dict(reversed(point.items())) for point in reversed(grid().points)]
    digests = dict(reversed(grid().digests.items()))
    turned = grid(space=dict(reversed(grid().space.items())), points=points, digests=digests)
    assert resume.merge(grid(), turned, extend=False) == grid()
    assert resume.merge(grid(), grid(bits="4,2"), extend=True).points == grid().points


def test_the_order_of_the_objectives_does():
    both = {"test_accuracy": "maximize", "total_bits": "minimize"}
    with pytest.raises(UserError, match="objectives was"):
        resume.merge(grid(objectives=both), grid(objectives=dict(reversed(both.items()))), extend=True)


def test_an_extended_grid_keeps_the_numbers_of_its_old_points():
    merged = resume.merge(grid(), grid(bits="8,4", mlflow_run_id=None), extend=True)
    old = grid().points
    assert merged.points[: len(old)] == old
    assert merged.points[len(old) :] == [
        {"encoder.bits": "8", "encoder.threshold": "10"}, {"encoder.bits": "8", "encoder.threshold": "20"},
    ]  # fmt: skip
    assert merged.n_trials == 6 and merged.space["encoder.bits"] == ["2", "4", "8"]
    assert merged.mlflow_run_id == "parent"
    assert resume.merge(merged, grid(bits="2,4,8"), extend=False) == merged  # and goes on as the larger sweep
    assert resume.merge(merged, grid(bits="8,4"), extend=True).points == merged.points


def test_a_search_can_get_more_trials_and_not_fewer():
    assert resume.merge(search(20), search(30), extend=True).n_trials == 30
    with pytest.raises(UserError, match=r"sweep.n_trials=10: must be at least 20"):
        resume.merge(search(20), search(10), extend=True)
    with pytest.raises(UserError, match="a sampler's space stays as it is"):
        resume.merge(search(), search(interval="interval(0.01,2)"), extend=True)


def test_an_extension_sweeps_the_same_keys():
    other = dataclasses.replace(grid(), space={"encoder.bits": ["2"]}, points=[{"encoder.bits": "2"}], n_trials=1)
    with pytest.raises(UserError, match="only values can be added to the keys that are swept"):
        resume.merge(grid(), other, extend=True)
