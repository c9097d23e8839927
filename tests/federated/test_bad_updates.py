"""on_bad_update: what becomes of a client whose update holds a NaN or an infinity."""

from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from test_process import SPEC, clients, start
from variations import some

from fedsweep import encoders, models, runtime, trial
from fedsweep.errors import UserError
from fedsweep.federated import cohort, process
from fedsweep.federated.uplink import EncodedMean
from fedsweep.progress import RunProgress
from fedsweep.tracking.run_folder import read_rounds

SMALL = ("model=logistic_regression", "encoder=uniform", "encoder.bits=4", "encoder.threshold=100")


def spoiled(client, pixel=np.inf):
    """The client with one pixel that is no number."""
    inputs = client.inputs.copy()
    inputs[0, 3, 3] = pixel
    return dataclasses.replace(client, inputs=inputs)


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def after(config, data, *overrides, rounds=1, receivers=None):
    """(outcomes, weights) of rounds with the same clients."""
    _, running = start(config(*SMALL, *overrides))
    with running:
        return [running.round(data, receivers) for _ in range(rounds)], running.weights()


@pytest.mark.parametrize("pixel", [np.inf, -np.inf, np.nan])
def test_a_client_that_is_dropped_leaves_nothing_but_what_it_received(config, pixel):
    good = clients([9, 7, 5])
    (dropped,), weights = after(config, [*good, spoiled(clients([8], seed=1, first=9)[0], pixel)], "on_bad_update=drop")
    (without,), alone = after(config, good, receivers=4)
    assert equal(weights, alone)
    assert dataclasses.replace(dropped, bad_updates=0) == without  # loss, accuracy, bits up; four models down
    assert dropped.bad_updates == 1 and without.bad_updates == 0


def test_a_client_that_counts_as_zero_sends_as_many_bits_and_keeps_its_weight(config):
    data = clients([9, 7, 5])
    bad = spoiled(clients([8], seed=1, first=9)[0])
    (zero,), weights = after(config, [*data, bad], "on_bad_update=zero")
    (three,), alone = after(config, data, "on_bad_update=zero")
    (four,), _ = after(config, [*data, clients([8], seed=1, first=9)[0]])
    assert zero.uplink == four.uplink and zero.bad_updates == 1 and three.bad_updates == 0
    assert zero.loss == pytest.approx(three.loss) and zero.accuracy == three.accuracy and zero.finite
    initial = start(config(*SMALL))[0].initial_weights(0)
    for first, mean, diluted in zip(initial, alone, weights, strict=True):
        np.testing.assert_allclose(diluted - first, (mean - first) * 21 / 29, atol=1e-6)


@pytest.mark.parametrize(
    "overrides",
    some([(), ("encoder.error_feedback=true", "encoder.bits=8"), ("schedule=falling_loss",)], [()]),
)
@pytest.mark.parametrize("choice", ["drop", "zero"])
def test_without_bad_updates_a_run_is_the_default_bit_for_bit(config, choice, overrides):
    ours, weights = after(config, clients([9, 7, 5]), f"on_bad_update={choice}", *overrides, rounds=3)
    plain, same = after(config, clients([9, 7, 5]), *overrides, rounds=3)
    assert ours == plain and equal(weights, same)


def test_a_client_that_is_dropped_keeps_its_memory(config):
    """Rounds good, bad, good: as if it had not taken part in the second."""
    others, one = clients([9, 7]), clients([8], seed=1, first=9)[0]
    ends = []
    for second in ([*others, spoiled(one)], others):
        _, running = start(config(*SMALL, "encoder.error_feedback=true", "encoder.bits=8", "on_bad_update=drop"))
        with running:
            for data in ([*others, one], second, [*others, one]):
                running.round(data)
            ends.append(running.state())
    assert equal(*ends)


@pytest.mark.parametrize("choice", ["fail", "drop", "zero"])
def test_a_round_without_any_good_update_is_refused_and_changes_nothing(config, choice):
    _, running = start(config(*SMALL, f"on_bad_update={choice}"))
    with running:
        before = running.state()
        with pytest.raises(runtime.NotFiniteError) as caught:
            running.round([spoiled(client) for client in clients([5, 4])])
        assert caught.value.everybody == (choice != "fail")
        assert equal(before, running.state())


def test_a_client_that_counts_as_zero_sends_what_it_remembers(config):
    checked = config("encoder=uniform", "encoder.bits=8", "encoder.threshold=100", "encoder.error_feedback=true")
    uplink = EncodedMean(
        encoders.uplink(checked), [tf.TensorSpec([200], tf.float32)], seed=0, error_feedback=True, zero_bad=True
    )
    sent, after_sum = uplink.parameters(uplink.initial_state())
    remembered = tf.random.stateless_normal([200], [3, 4])
    weight = {"examples": tf.constant(1.0), "loss": tf.constant(np.nan), "noise_seed": tf.constant([1, 2])}
    message = uplink.encode([tf.fill([200], np.float32(np.nan))], {**weight, "memory": [remembered]}, sent)
    (received,) = uplink.mean(uplink.total(message), after_sum)
    assert message["bad"] and np.abs(received - remembered).max() < 0.05
    np.testing.assert_allclose(message["memory"][0], remembered - received, atol=1e-6)


@pytest.mark.parametrize("schedule", ["falling_loss", "plateau schedule.patience=1"])
def test_the_loss_of_a_client_that_counts_as_zero_is_in_no_schedule(config, schedule):
    data = [*clients([9, 7]), spoiled(clients([60], seed=1, first=9)[0])]
    widths = []
    for choice in ("zero", "drop"):
        # A step that moves nothing: the clients' losses are the same in every round, whoever is left out.
        overrides = ["encoder.bits=2", f"on_bad_update={choice}", *f"schedule={schedule}".split()]
        outcomes, _ = after(config, data, *overrides, "optimizer.client_lr=1e-6", rounds=4)
        widths.append([outcome.width for outcome in outcomes])
    assert widths[0] == widths[1]


def run(config, folder, monkeypatch, bad_rounds, everybody=False, **overrides):
    """A real run in which a client, or everybody, has an infinite pixel in some rounds: (result, rows, header)"""
    sample = cohort.sample

    def spoiling(dataset, checked, number):
        data, receivers = sample(dataset, checked, number)
        if number in bad_rounds:
            data = [spoiled(client) if everybody or k == 0 else client for k, client in enumerate(data)]
        return data, receivers

    monkeypatch.setattr(cohort, "sample", spoiling)
    words = [f"{key}={value}" for key, value in overrides.items()]
    checked = config(*SMALL, "tracker=csv", "rounds=4", "evaluate_every=2", *words)
    result = trial.run(checked, folder, "run", RunProgress("run", 4))
    assert result["status"] == json.loads((folder / "result.json").read_text())["status"]
    with (folder / "rounds.csv").open() as file:
        header = next(csv.reader(file))
    return result, read_rounds(folder / "rounds.csv"), header


def test_a_run_drops_and_counts(config, tmp_path, monkeypatch):
    result, rows, header = run(config, tmp_path / "a", monkeypatch, {2, 3}, on_bad_update="drop")
    assert result["status"] == "complete" and [row.bad_updates for row in rows] == [0, 1, 1, 0]
    assert header[-1] == "bad_updates"
    plan = result["plan"]
    assert result["uplink_bits"] == 38 * plan["uplink_bits"]
    assert result["uplink_ratio"] == pytest.approx(plan["float32_uplink_bits"] / plan["uplink_bits"])
    assert result["downlink_bits"] == plan["run_bits"][1] and result["downlink_ratio"] == 1
    assert all(np.isfinite([row.train_loss, row.train_accuracy]).all() for row in rows)


def test_a_run_with_zeros_sends_what_its_plan_says(config, tmp_path, monkeypatch):
    result, rows, header = run(config, tmp_path / "a", monkeypatch, {2, 3}, on_bad_update="zero")
    assert result["status"] == "complete" and [row.bad_updates for row in rows] == [0, 1, 1, 0]
    assert result["uplink_bits"] == result["plan"]["run_bits"][0] and "bad_updates" in header


def test_by_default_one_bad_update_ends_the_run_and_nothing_is_counted(config, tmp_path, monkeypatch):
    result, rows, header = run(config, tmp_path / "a", monkeypatch, {2})
    assert result["status"] == "diverged" and len(rows) == 1 and "bad_updates" not in header
    assert result["error"].startswith("round 2: a client's update of ") and result["error"].endswith(
        "; lower the rates"
    )


@pytest.mark.parametrize("choice", ["drop", "zero"])
def test_a_round_in_which_everybodys_update_is_bad_ends_the_run(config, tmp_path, monkeypatch, choice):
    result, rows, _ = run(config, tmp_path / "a", monkeypatch, {3}, everybody=True, on_bad_update=choice)
    assert result["status"] == "diverged" and len(rows) == 2
    assert result["error"] == "round 3: every client's update holds a NaN or an infinity; lower the rates"


@pytest.mark.parametrize("choice", ["drop", "zero"])
def test_a_plain_tff_process_has_fail_only(config, choice):
    checked = config(*SMALL, f"on_bad_update={choice}")
    with pytest.raises(ValueError, match=f"^on_bad_update={choice}: a plain TFF process has fail only$"):
        process.build(checked, models.build(checked.model, SPEC))


def test_what_cannot_be_is_refused(config):
    with pytest.raises(UserError, match=r"^on_bad_update=skip: must be one of fail, drop, zero$"):
        config("on_bad_update=skip")
    for choice in ("drop", "zero"):
        with pytest.raises(UserError, match=rf"^on_bad_update={choice}: must be fail with runtime=tff"):
            config(f"on_bad_update={choice}", "runtime=tff")
