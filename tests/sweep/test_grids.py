"""A sweep over several grids from end to end, with clients that drop out: trained, extended, and read back."""

from __future__ import annotations

import csv

import pytest
import yaml

from fedsweep.pareto import analysis, load

GRIDS = "sweep.grids=[[],['encoder=identity','seed=7'],['encoder.bits=2']]"
MORE = "sweep.grids=[[],['encoder=identity','seed=7'],['encoder.bits=2'],['encoder=top_k','encoder.share=0.1']]"
FAST = ["-m", "rounds=3", "model=2nn", "clients_per_round=4", "client_max_examples=10", "sweep.max_workers=1"]


@pytest.mark.usefixtures("ready_store")
def test_grids_are_trained_as_they_say_and_read_back_the_same_from_folder_and_store(fedsweep):
    arguments = [*FAST, "client_dropout=0.4", "hydra.sweep.dir=out"]
    done = fedsweep(*arguments, GRIDS)
    assert done.returncode == 0, done.stderr
    configs = [yaml.safe_load((fedsweep.folder / "out" / str(k) / "config.yaml").read_text()) for k in range(3)]
    said = [(c["encoder"]["name"], c["encoder"]["bits"], c["seed"]) for c in configs]
    assert said == [("uniform", 8, 0), ("identity", None, 7), ("uniform", 2, 0)]

    refused = fedsweep(*arguments, MORE, "sweep.resume=out")
    assert refused.returncode == 1 and "add sweep.extend=true" in refused.stderr
    done = fedsweep(*arguments, MORE, "sweep.resume=out", "sweep.extend=true")
    assert done.returncode == 0, done.stderr
    with (fedsweep.folder / "out" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["encoder"], r["encoder.bits"], r["seed"], r["encoder.share"]) for r in rows] == [
        ("", "", "", ""), ("identity", "", "7", ""), ("", "2", "", ""), ("top_k", "", "", "0.1"),
    ]  # fmt: skip

    folder = load.from_folder(fedsweep.folder / "out")
    store = load.from_mlflow(folder.run_ids[0], f"sqlite:///{fedsweep.folder}/multirun_outputs/mlflow.db")
    for sweep in (folder, store):
        assert [sweep.value(k, "encoder") for k in range(4)] == ["uniform", "identity", "uniform", "top_k"]
        assert sweep.seeds == {(0, 0): 0, (1, 0): 7, (2, 0): 0, (3, 0): 0}
    assert folder.float32 == store.float32
    sent = folder.rounds.groupby("trial").uplink_bits.max()
    assert folder.float32[1].uplink == sent[1]  # float32 sends as many bits as float32, whoever drops out
    answer = analysis.analyse([folder], analysis.Question(x="uplink"))
    assert answer.configs.uncompressed.tolist() == [False, True, False, False]
    assert answer.configs.group.tolist() == ["uniform", "identity", "uniform", "top_k"]


@pytest.mark.parametrize(
    ("grids", "says"),
    [
        ("sweep.grids=['encoder=identity']", "sweep.grids=['encoder=identity']: must be a list of lists"),
        ("sweep.grids=[['encoder']]", "sweep.grids: Error parsing override 'encoder'"),
    ],
)
def test_grids_that_are_none_are_refused_in_a_line(fedsweep, grids, says):
    done = fedsweep(*FAST, grids)
    assert done.returncode == 1 and done.stderr.startswith(f"fedsweep: {says}") and done.stderr.count("\n") == 1
