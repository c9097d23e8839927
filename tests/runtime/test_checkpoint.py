"""Checkpoints: both runtimes go on from one as if nothing had happened; a broken file is none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fedsweep import datasets, federated, models, runtime
from fedsweep.federated import cohort
from fedsweep.runtime import checkpoint

POPULATION = 20
BOTH = "downlink.threshold=100"  # the kernel is encoded in both directions
SMALL = ("model=logistic_regression", "encoder.threshold=100")  # a kernel that is encoded and a bias that is not


@pytest.mark.parametrize(
    "overrides",
    [
        ["runtime=map_reduce", "encoder=hadamard", "encoder.bits=2", "downlink=uniform", BOTH],
        ["runtime=tff", "encoder=hadamard", "encoder.bits=2", "downlink=uniform", BOTH],
        ["schedule=plateau", "schedule.patience=1", "encoder.error_feedback=true", "downlink=stc", BOTH],
    ],
    ids=["map_reduce", "tff", "what clients and schedules remember"],
)
def test_a_restored_run_gives_the_same_weights_bit_for_bit(config, tmp_path, overrides):
    """Optimizer state, streams of noise, schedules and memories in both directions are part of it."""
    checked = config(*overrides, "optimizer=fedadam", *SMALL, "clients_per_round=4")
    data = datasets.load(checked.dataset, 0)
    model = models.build(checked.model, data.spec)
    path = tmp_path / "checkpoint.npz"
    with runtime.start(checked, model, POPULATION) as running:
        for number in (1, 2):
            running.round(*cohort.sample(data, checked, number))
        checkpoint.write(path, 2, running.state())
        for number in (3, 4):
            running.round(*cohort.sample(data, checked, number))
        uninterrupted = running.weights()
    with runtime.start(checked, model, POPULATION) as running:
        saved = checkpoint.read(path)
        running.restore(saved.state)
        for number in range(saved.round + 1, 5):
            running.round(*cohort.sample(data, checked, number))
        for ours, theirs in zip(running.weights(), uninterrupted, strict=True):
            assert np.array_equal(ours, theirs)


def test_a_file_that_cannot_be_read_is_no_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.npz"
    assert checkpoint.read(path) is None
    checkpoint.write(path, 7, [np.arange(1000.0), np.int32(3)])
    whole = path.read_bytes()
    assert checkpoint.read(path).round == 7
    for content in (b"", whole[:100], whole[:-10], b"x" * 50):
        path.write_bytes(content)
        assert checkpoint.read(path) is None
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.npz"]


def test_runs_that_differ_in_their_seed_share_graphs_and_nothing_else(config):
    """The second run of an equal configuration compiles nothing; its seed is in its state alone."""
    data = datasets.load(config().dataset, 0)
    model = models.build(config(*SMALL).model, data.spec)

    def weights(seed, forget):
        if forget:
            runtime._graphs.clear()
        overrides = ["encoder=hadamard", "encoder.bits=3", "downlink=same", f"seed={seed}"]
        checked = config(*overrides, *SMALL, "clients_per_round=4")
        with runtime.start(checked, model, POPULATION) as running:
            running.round(*cohort.sample(data, checked, 1))
            return running.weights()

    fresh = weights(5, forget=True)
    weights(4, forget=True)
    (graphs,) = runtime._graphs.values()
    shared = weights(5, forget=False)
    assert list(runtime._graphs.values()) == [graphs]
    for a, b in zip(fresh, shared, strict=True):
        assert np.array_equal(a, b)


def test_graphs_kept_on_disk_give_the_same_run_and_damaged_ones_are_made_again(config, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    checked = config(*SMALL, "downlink=stc", BOTH, "clients_per_round=3")
    data = datasets.load(checked.dataset, 0)
    model = models.build(checked.model, data.spec)
    form, traced = federated.form, []
    monkeypatch.setattr(federated, "form", lambda *arguments: traced.append(1) or form(*arguments))

    def weights(seed):
        runtime._graphs.clear()  # as a new process has it
        seeded = dataclasses.replace(checked, seed=seed)
        with runtime.start(seeded, model, POPULATION) as running:
            for number in (1, 2):
                running.round(*cohort.sample(data, seeded, number))
            return running.weights()

    first, other = weights(5), weights(6)
    assert len(traced) == 1 and not np.array_equal(first[0], other[0])
    (file,) = tmp_path.glob("fedsweep/graphs/*")
    assert file.stat().st_size < 1e6  # no model weights
    whole = file.read_bytes()
    for content in (whole[:1000], b"", whole[:-50] + bytes([whole[-50] ^ 1]) + whole[-49:]):
        file.write_bytes(content)
        assert all(map(np.array_equal, weights(5), first))
    assert len(traced) == 4 and all(map(np.array_equal, weights(5), first))
    assert len(traced) == 4


def test_every_flipped_byte_of_a_checkpoint_is_found_before_anything_parses_it(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.npz"
    state = [np.arange(6.0).reshape(2, 3), np.int32(3), np.zeros(0)]
    checkpoint.write(path, 7, state, "history")
    with np.load(path) as opened:  # it is an .npz all the same
        assert set(opened.files) == {"arr_0", "arr_1", "arr_2", "round", "history"}
    saved = checkpoint.read(path)
    assert (saved.round, saved.history) == (7, "history")
    assert all(a.dtype == np.asarray(b).dtype and np.array_equal(a, b) for a, b in zip(saved.state, state, strict=True))
    whole = path.read_bytes()
    monkeypatch.delattr(np, "load")
    for k in range(len(whole)):
        for bit in (1, 128):
            path.write_bytes(whole[:k] + bytes([whole[k] ^ bit]) + whole[k + 1 :])
            assert checkpoint.read(path) is None, k
