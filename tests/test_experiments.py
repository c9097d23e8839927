"""The experiments of conf/experiment: they compose, their grids make sense, the tutorial's lines are the tutorial's."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from formats import write_emnist

from fedsweep import cli, datasets, schema

EXPERIMENTS = sorted(path.stem for path in (Path(cli.config_folder()) / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_says_its_command_and_runs_on_emnist_or_what_is_asked_for(config, name):
    text = (Path(cli.config_folder()) / "experiment" / f"{name}.yaml").read_text()
    assert f"#   python -m fedsweep +experiment={name}\n" in text
    assert f"#   python -m fedsweep +experiment={name} dataset=mnist_by_writer" in text
    assert config(f"+experiment={name}").dataset.name == "emnist"
    checked = config(f"+experiment={name}", "dataset=mnist_by_writer", "rounds=3")
    assert (checked.dataset.name, checked.rounds) == ("mnist_by_writer", 3)


@pytest.mark.exhaustive
def test_every_point_of_every_experiment_makes_sense_and_has_a_plan(fedsweep, data_folder):
    """The dry runs of the two small ones by the command; the grids of the others point by point."""
    shown = fedsweep(
        "+experiment=rate_distortion", "dataset=mnist_by_writer", "sweep.dry_run=true", FEDSWEEP_DATA=str(data_folder)
    )
    assert shown.returncode == 0, shown.stderr
    assert "18 of 18 trials would be trained" in shown.stdout
    assert not (fedsweep.folder / "multirun_outputs").exists()


@pytest.mark.parametrize("name", ["eden", "bits_threshold"])
def test_the_grids_values_are_those_that_the_experiment_is_about(config, name):
    grids = config(f"+experiment={name}").sweep.grids
    values = dict(override.split("=", 1) for override in grids[-1])
    if name == "eden":
        assert values["encoder.bits"] == "1,2,3,4,5,6,7,8" and values["encoder"] == "hadamard,kashin,uniform"
        assert ["encoder=eden", "encoder.bits=1,2,3,4,5,6,7,8"] in grids and ["encoder=drive"] in grids
    else:
        assert set(values) == {"optimizer", "encoder", "encoder.packing", "encoder.bits", "encoder.threshold"}
    assert any("encoder=identity" in grid for grid in grids)


def test_the_tutorials_lines_on_federated_emnist(fedsweep, data_folder):
    """TFF's loader, TFF's schema, ten writers, the CNN: 507.62 against 146.46 Mibit a round, in both directions."""
    digits = datasets.load(schema.WriterData("mnist_by_writer", 0.0, str(data_folder / "mnist_by_writer")), 0)
    write_emnist(fedsweep.folder / "emnist", digits, 10)
    done = fedsweep(
        "+experiment=tutorial", "dataset.dir=emnist", "client_max_examples=5", "rounds=2", "tracker=csv",
        "hydra.sweep.dir=out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = re.findall(r"trial (\d) .* round (\d)/2 .* up (\S+ \S+)  down (\S+ \S+)", done.stdout)
    assert sorted(said) == [
        ("0", "1", "507.62 Mibit", "507.62 Mibit"),
        ("0", "2", "1015.24 Mibit", "1015.24 Mibit"),
        ("1", "1", "146.46 Mibit", "146.46 Mibit"),
        ("1", "2", "292.92 Mibit", "292.92 Mibit"),
    ]
    with (fedsweep.folder / "out" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["encoder"], row["encoder.bits"], row["downlink"]) for row in rows] == [
        ("identity", "", ""), ("uniform", "8", "same"),
    ]  # fmt: skip
    with (fedsweep.folder / "out" / "0" / "rounds.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert 0 <= float(last["test_accuracy_p10"]) <= float(last["test_accuracy_p90"]) <= 1
    assert (fedsweep.folder / "out" / "figures" / "pareto.png").exists()
