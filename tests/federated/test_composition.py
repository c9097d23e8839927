"""Encoders inside the learning process: all of them in both runtimes, error feedback, differences, dropout, codes."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from test_process import POPULATION, SPEC, clients, start
from variations import some

from fedsweep import encoders, federated, models, runtime, schema
from fedsweep.federated import plan as planning
from fedsweep.models.functional import Model, WeightSpec
from fedsweep.runtime import types

sys.path.append(str(Path(__file__).resolve().parents[1] / "encoders"))
from test_encoders import ENCODERS

ROUNDS = 3
# One of each family, and what composes them; all variants would take minutes to compile.
FAMILIES = {
    **{text.split()[0]: text for text, _ in reversed(ENCODERS.values()) if text.startswith("encoder=")},
    **{name: ENCODERS[name][0] for name in ("uniform-1", "eden-2.5", "top_k-composed", "scheduled", "huffman")},
}


def all_encoders_at_once(config, monkeypatch):
    """A model with a weight matrix for each encoder, each of a size of its own, and the rule that goes with it."""
    rules, specs = {}, []
    for k, text in enumerate(FAMILIES.values()):
        rules[64, 10 + k] = encoders.uplink(config("encoder.threshold=0", *text.split()))
        specs.append(WeightSpec(f"{k}", (64, 10 + k)))

    def logits(weights, images, _=None):
        flat = tf.reshape(images, [-1, 64])
        return sum(flat @ weight[:, :10] for weight in weights) + sum(
            tf.reduce_sum(flat @ weight[:, 10:], axis=1, keepdims=True) * tf.one_hot(k % 10, 10)
            for k, weight in enumerate(weights[1:])
        )

    monkeypatch.setattr(encoders, "uplink", lambda config: lambda spec: rules[tuple(spec.shape)](spec))
    sketch = [64, 10 + list(FAMILIES).index("encoder=count_sketch")]  # makes no sense there
    identity = encoders.downlink(config())
    monkeypatch.setattr(
        encoders,
        "downlink",
        lambda config: lambda spec: (identity if list(spec.shape) == sketch else rules[tuple(spec.shape)])(spec),
    )
    return Model("all", SPEC, tuple(specs), logits)


@pytest.mark.exhaustive
def test_every_encoder_gives_the_same_bits_and_weights_in_both_runtimes(config, monkeypatch):
    """In both directions; and plans say what crosses, but for what lossless codes take."""
    model = all_encoders_at_once(config, monkeypatch)
    seen = {}
    for name in ("map_reduce", "tff"):
        with runtime.start(config(f"runtime={name}", "optimizer.client_lr=0.001"), model, POPULATION) as running:
            outcomes = [running.round(clients([25, 12], seed=number)) for number in range(2)]
            seen[name] = outcomes, running.weights()
            if name == "map_reduce":
                fixed = [meter.fixed_bits() for meter in (running._process.uplink, running._process.downlink)]
    plan = planning.of(config(), model, lambda: POPULATION)
    assert (plan.uplink_bits, plan.downlink_bits) == tuple(sum(bits.values()) for bits in fixed)
    (ours, our_weights), (theirs, their_weights) = seen["map_reduce"], seen["tff"]
    for a, b in zip(ours, theirs, strict=True):
        # A last bit of a sum may tip a rounding, and so the length of a lossless code by a word.
        assert a.uplink["update"] == pytest.approx(b.uplink["update"], rel=1e-3)
        assert a.downlink == pytest.approx(b.downlink, rel=1e-3)
        assert a.uplink["weight"] == b.uplink["weight"] and a.uplink["metrics"] == b.uplink["metrics"]
        assert a.loss == pytest.approx(b.loss, rel=1e-3) and a.width == pytest.approx(b.width)
    for name, a, b in zip(FAMILIES, our_weights, their_weights, strict=True):
        # A last bit of a sum may tip a rounding of the second round: few elements, by a step.
        assert np.mean(np.abs(a - b) > 1e-5) < 0.02, name


def test_the_same_composition_on_the_downlink_in_both_runtimes(config):
    """A difference to all clients through a code, its bits in the measurements of one and the messages of the other."""
    overrides = ["encoder=identity", "downlink=uniform", "downlink.error_feedback=true", "code=elias_gamma"]
    seen, weights = [], []
    for name in ("map_reduce", "tff"):
        _, running = start(config(*overrides, "downlink.threshold=1000", f"runtime={name}", "model=2nn"))
        with running:
            seen.append([running.round(clients([9, 5], seed=number)).downlink for number in range(2)])
            weights.append(running.weights())
    assert seen[0] == seen[1] and seen[0][0] != seen[0][1]
    assert all(np.mean(np.abs(a - b) > 1e-5) < 0.02 for a, b in zip(*weights, strict=True))


COMPOSED = [
    "encoder=top_k encoder.error_feedback=true downlink=top_k downlink.error_feedback=true",
    "schedule=falling_loss",
    "optimizer=mime_lite",
    "downlink=dropout downlink.share=0.5",
    "optimizer=fedadam optimizer.server_schedule=linear optimizer.client_schedule=cosine rounds=9",
]


@pytest.mark.parametrize("overrides", some(COMPOSED, COMPOSED[:2]))
def test_tff_composes_the_same_state_and_messages(config, overrides):
    """Ours is what TFF compiles its own composition to: leaf by leaf of the state, and of what crosses."""
    checked = config(*overrides.split(), "encoder.threshold=1000", "downlink.threshold=1000", "model=2nn")
    model = models.build(checked.model, SPEC)
    ours, process = federated.form(checked, model), federated.build(checked, model)
    theirs = tff.backends.mapreduce.get_map_reduce_form_for_computation(process.next)
    state = process.initialize.type_signature.result.member
    assert types.leaves(ours.state_type) == types.leaves(state)
    assert types.paths(ours.state_type) == types.paths(state)
    crossing = (
        (ours.message_type, theirs.work.type_signature.result),
        (ours.broadcast_type, theirs.prepare.type_signature.result),
    )
    for a, b in crossing:  # TFF orders the parts in its own way
        assert sorted(map(str, types.leaves(a))) == sorted(map(str, types.leaves(b)))


@pytest.mark.parametrize(
    "overrides",
    ["downlink=dropout downlink.share=0.5", "optimizer.server_schedule=linear optimizer.client_warmup=2 rounds=9"],
)
def test_both_runtimes_train_alike(config, overrides):
    """What the tests above leave out: masks of federated dropout, learning rates that follow the round."""
    results = []
    for name in ("map_reduce", "tff"):
        _, running = start(
            config(*overrides.split(), "encoder=identity", "downlink.threshold=1000", f"runtime={name}", "model=2nn")
        )
        with running:
            for number in range(2):
                data = [dataclasses.replace(each, round=number + 1) for each in clients([9, 5], seed=number)]
                running.round(data)
            results.append(running.weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def memory_of(running):
    """client -> its tensors."""
    return {client: [tensor.copy() for tensor in tensors] for client, tensors in running._memory.items()}


def test_a_client_adds_what_its_last_message_lost(config):
    """One client, one tensor: p = update + memory, and what is remembered is p - decode(encode(p)), by hand."""
    checked = config(
        "encoder=top_k", "encoder.share=0.1", "encoder.error_feedback=true", "encoder.threshold=10000", "model=2nn",
        "client_batch_size=100", "optimizer.client_lr=0.5",
    )  # fmt: skip
    exact = config("encoder=identity", "model=2nn", "client_batch_size=100", "optimizer.client_lr=0.5")
    (data,) = clients([8])
    (largest,) = [k for k, spec in enumerate(models.build(schema.Model("2nn"), SPEC).weights) if spec.size > 20_000]
    _, running = start(checked)
    kept = 0.0
    with running:
        for _ in range(ROUNDS):
            before = running.weights()
            _, whole = start(exact)
            with whole:  # the same step without encoding, from the same weights
                whole.restore([*before, *whole.state()[len(before) :]])
                whole.round([data])
                update = before[largest] - whole.weights()[largest]
            running.round([data])
            p = update + kept
            k = round(0.1 * p.size)
            message = np.where(np.abs(p) >= np.sort(np.abs(p).ravel())[-k], p, 0)
            np.testing.assert_allclose(before[largest] - running.weights()[largest], message, atol=2e-6)
            kept = p - message
            # in units of update times weight, 8 examples
            remembered = [t for t in memory_of(running)[0] if t.shape == p.shape]
            np.testing.assert_allclose(remembered[0] / 8, kept, atol=2e-6)


def test_clients_remember_apart_and_only_those_that_took_part(config):
    checked = config("encoder=sign", "encoder.error_feedback=true", "model=2nn")
    _, running = start(checked)
    data = clients([16, 16, 16])
    with running:
        running.round(data[:2])
        first = memory_of(running)
        assert set(first) == {0, 1} and running.client_memory == sum(t.nbytes for m in first.values() for t in m)
        running.round(data[1:])
        second = memory_of(running)
    assert set(second) == {0, 1, 2}
    assert all(np.array_equal(a, b) for a, b in zip(first[0], second[0], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first[1], second[1], strict=True))


def test_what_stays_at_a_client_costs_nothing_and_is_not_sent(config):
    plain, feedback = (
        config("encoder=sign", "model=2nn"),
        config("encoder=sign", "encoder.error_feedback=true", "model=2nn"),
    )
    bits = []
    for checked in (plain, feedback):
        _, running = start(checked)
        with running:
            bits.append(running.round(clients([3, 4])))
    assert bits[0].uplink == bits[1].uplink


def test_differences_bring_the_clients_to_the_model_and_go_to_everyone(config):
    """The model jumps, the server's updates are nearly nothing: what clients hold closes in, 10 % a message."""
    checked = config(
        "encoder=identity", "downlink=top_k", "downlink.share=0.1", "downlink.threshold=1000", "model=2nn",
        "optimizer.client_lr=1e-9",
    )  # fmt: skip
    model, running = start(checked)
    plan = planning.of(checked, model, lambda: POPULATION)

    def missing():
        return sum(np.sum((a - b) ** 2) for a, b in zip(running.weights(), held_of(running), strict=True))

    with running:
        assert missing() == 0  # clients begin with the model that follows from the seed
        jump = np.random.default_rng(0)
        state = running.state()
        moved = [w + jump.normal(size=w.shape).astype(np.float32) for w in state[: len(model.weights)]]
        running.restore([*moved, *state[len(moved) :]])
        left = [missing()]
        for number in range(10):
            outcome = running.round(clients([3], seed=number))
            assert outcome.downlink == POPULATION * plan.downlink_bits == plan.round_bits[1]
            left.append(missing())
    assert left == sorted(left, reverse=True) and left[10] < 0.01 * left[0]


def test_float32_on_the_downlink_has_no_differences_to_send(config):
    """A grid of encoders with error feedback and downlink=same may hold identity: it costs what it costs without."""
    checked = config("encoder=identity", "encoder.error_feedback=true", "downlink=same", "model=2nn")
    model, running = start(checked)
    with running:
        assert running.round(clients([3, 4])).downlink == 2 * 32 * model.parameters


def held_of(running):
    """The part of the server's state that clients hold."""
    paths = running._process.state_paths
    return [tensor for path, tensor in zip(paths, running.state(), strict=True) if "held" in path]


def test_federated_dropout_trains_the_part_that_was_sent(config):
    """A random half of each large tensor is sent and trained; the other half keeps its values for the round."""
    checked = config(
        "encoder=identity", "downlink=dropout", "downlink.share=0.5", "downlink.threshold=1000", "model=2nn"
    )
    model, running = start(checked)
    changed = []
    with running:
        for number in range(2):
            before = running.weights()
            outcome = running.round(clients([20, 30], seed=number))
            changed.append([a != b for a, b in zip(before, running.weights(), strict=True)])
    thinned = [k for k, spec in enumerate(model.weights) if spec.size > 1000]
    assert thinned
    for k in thinned:
        assert 0.1 < changed[0][k].mean() <= 0.5  # not all: inputs that are always 0, units that are
        assert not np.array_equal(changed[0][k], changed[1][k])  # another half
    sent = sum(32 * (round(spec.size / 2) if k in thinned else spec.size) for k, spec in enumerate(model.weights))
    assert outcome.downlink == 2 * (sent + 64 * len(thinned))


@pytest.mark.parametrize("codes", some([("range",), schema.CODES], [("range",)]))
def test_messages_of_lossless_codes_are_made_and_decoded(config, codes):
    """verify_wire in both directions; the training is that without a code, bit for bit."""
    overrides = ["encoder.bits=4", "downlink=same", "model=2nn"]  # one tensor is above the threshold

    def after_two_rounds(*extra):
        _, running = start(config(*overrides, *extra))
        with running:
            return [running.round(clients([5, 4])) for _ in range(2)], running.weights()

    plain, expected = after_two_rounds("encoder.packing=dense")
    for code in codes:
        coded, got = after_two_rounds(f"code={code}", "verify_wire=true")
        assert all(np.array_equal(a, b) for a, b in zip(expected, got, strict=True)), code
        for with_code, without in zip(coded, plain, strict=True):
            assert with_code.uplink["update"] != without.uplink["update"], code
            if code in ("huffman", "range"):
                assert with_code.uplink["update"] < without.uplink["update"], code
        # Of the second message: `range` takes as many bits as no code for this first model, drawn at random.
        assert coded[1].downlink != plain[1].downlink, code


def test_a_schedule_sends_the_width_that_it_measures(config):
    """AdaQuantFL on a loss that falls: more bits an element, and as many on the wire as the width says."""
    checked = config(
        "schedule=falling_loss", "encoder.bits=4", "encoder.threshold=0", "model=2nn", "optimizer.client_lr=0.5"
    )
    model, running = start(checked)
    fixed = planning.of(checked, model, lambda: POPULATION).uplink_bits
    with running:
        outcomes = [running.round(clients([60, 50])) for _ in range(12)]
    widths = [outcome.width for outcome in outcomes]
    assert widths[0] == pytest.approx(4) and max(widths) > 4.9 and outcomes[-1].loss < outcomes[0].loss
    for outcome in outcomes:  # packed: a header of 5 bytes a tensor, whole bytes
        elements = 2 * outcome.width * model.parameters
        assert -1 < outcome.uplink_bits - 2 * fixed - elements < 2 * 48 * len(model.weights)
