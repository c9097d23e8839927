"""Client and server optimizers against the papers' updates written out; who takes part; text, dropout, Keras models."""

from __future__ import annotations

import collections
import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from test_process import POPULATION, SPEC, clients, start

from fedsweep import datasets, evaluation, federated, models, runtime, schema
from fedsweep.datasets import DataSpec
from fedsweep.errors import UserError
from fedsweep.federated import client_work, cohort
from fedsweep.federated import plan as planning
from fedsweep.federated.cohort import ClientData
from fedsweep.runtime.graphs import as_function

SMALL = ["encoder=identity", "model=logistic_regression", "optimizer.client_lr=0.3"]


def slope(model, weights, inputs, labels):
    """The gradient of the mean loss."""
    weights = [tf.constant(w) for w in weights]
    with tf.GradientTape() as tape:
        tape.watch(weights)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model.logits(weights, inputs))
        loss = tf.reduce_mean(losses)
    return [g.numpy() for g in tape.gradient(loss, weights)]


def batches(client, size, epochs):
    """The client's batches, with its own shuffles."""
    fold_in = tf.random.experimental.stateless_fold_in
    for epoch in range(epochs):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(len(client.labels)), fold_in(fold_in(client.seed, 0), epoch)
        ).numpy()
        for first in range(0, len(order), size):
            rows = order[first : first + size]
            yield client.inputs[rows], client.labels[rows]


def norm(tensors):
    return math.sqrt(sum(float(np.sum(t**2)) for t in tensors))


def shortened(tensors, most):
    return [t * min(1, most / norm(tensors)) for t in tensors]


def plain(model, received, client, step, epochs=2, size=4):
    """Training written out; `step(weights, gradient)` gives the new weights."""
    weights = [np.array(w) for w in received]
    for inputs, labels in batches(client, size, epochs):
        weights = step(weights, slope(model, weights, inputs, labels))
    return weights


def momentum_step(rate, decay):
    velocity = []

    def step(weights, gradient):
        velocity[:] = [decay * v + g for v, g in zip(velocity or [0] * len(gradient), gradient, strict=True)]
        return [w - rate * v for w, v in zip(weights, velocity, strict=True)]

    return step


@pytest.mark.parametrize(
    ("overrides", "make_step"),
    [
        ([], lambda start: lambda w, g: [a - 0.3 * b for a, b in zip(w, g, strict=True)]),
        (["optimizer.client_momentum=0.9"], lambda start: momentum_step(0.3, 0.9)),
        (
            ["optimizer.client_weight_decay=0.1"],
            lambda start: lambda w, g: [a - 0.3 * (b + 0.1 * a) for a, b in zip(w, g, strict=True)],
        ),
        (
            ["optimizer.client_clip=0.2"],
            lambda start: lambda w, g: [a - 0.3 * b for a, b in zip(w, shortened(g, 0.2), strict=True)],
        ),
        (  # Li et al. 2020, equation 2: the loss has mu/2 |w - w_t|^2 on top
            ["optimizer=fedprox", "optimizer.proximal=0.5"],
            lambda start: lambda w, g: [a - 0.3 * (b + 0.5 * (a - s)) for a, b, s in zip(w, g, start, strict=True)],
        ),
    ],
    ids=["plain", "momentum", "weight decay", "clip", "fedprox"],
)
def test_a_client_steps_as_its_optimizer_says(config, overrides, make_step):
    checked = config(*SMALL, *overrides, "optimizer.client_lr=0.3", "client_epochs=2", "client_batch_size=4")
    (client,) = clients([10])
    model, running = start(checked)
    with running:
        received = running.weights()
        running.round([client])
        trained = running.weights()
    for ours, right in zip(trained, plain(model, received, client, make_step(received)), strict=True):
        np.testing.assert_allclose(ours, right, atol=2e-6)


def test_a_batchs_gradient_stays_a_function_of_its_own(config):
    """In the graph of a loop, which has a cycle, it is chance whether oneDNN gets the gradient of max pooling."""
    settings = config("model=cnn_small", "encoder=identity")
    work = federated.form(settings, models.build(settings.model, SPEC)).parts["work"]
    functions = as_function(work).graph.as_graph_def().library.function
    holding = [each for each in functions if any(node.op == "MaxPoolGrad" for node in each.node_def)]
    assert holding
    for each in holding:
        assert each.attr["_noinline"].b
        assert any(node.op == "MaxPool" for node in each.node_def)


def test_a_masked_client_steps_along_the_masked_gradient(config):
    """Federated dropout: one batch of all examples, every weight tensor with a mask."""
    settings = config(*SMALL, "client_batch_size=100", "optimizer.client_lr=0.3")
    model = models.build(settings.model, SPEC)
    (client,) = clients([10])
    received = [tf.constant(tensor) for tensor in model.initial_weights(1)]
    masks = [tf.cast(tf.random.stateless_uniform(w.shape, (1, k)) < 0.5, tf.float32) for k, w in enumerate(received)]
    data = {"inputs": client.inputs, "labels": client.labels, "seed": tf.constant(client.seed), "round": tf.constant(1)}
    weights = tff.learning.models.ModelWeights(tuple(received), tuple(masks))
    update, _, _ = tf.function(client_work.training(model, settings), autograph=False)(weights, data)
    gradient = slope(model, received, client.inputs, client.labels)
    for ours, mask, right in zip(update, masks, gradient, strict=True):
        np.testing.assert_allclose(ours, 0.3 * mask.numpy() * right, atol=2e-6)


def test_an_update_is_clipped_before_it_is_averaged(config):
    checked = config(*SMALL, "optimizer.update_clip=0.01", "client_batch_size=100")
    model, running = start(checked)
    (client,) = clients([10])
    with running:
        received = running.weights()
        running.round([client])
        moved = [a - b for a, b in zip(received, running.weights(), strict=True)]
    gradient = slope(model, received, client.inputs, client.labels)
    assert norm(moved) == pytest.approx(0.01, rel=1e-4)
    for ours, right in zip(moved, shortened(gradient, 0.01), strict=True):
        np.testing.assert_allclose(ours, right, atol=1e-6)


@pytest.mark.parametrize(("weighting", "shares"), [("examples", [0.75, 0.25]), ("uniform", [0.5, 0.5])])
def test_the_mean_weighs_clients_by_examples_or_alike(config, weighting, shares):
    checked = config(*SMALL, f"client_weighting={weighting}", "client_batch_size=100")
    model, running = start(checked)
    two = clients([30, 10])
    with running:
        received = running.weights()
        outcome = running.round(two)
        trained = running.weights()
    gradients = [slope(model, received, client.inputs, client.labels) for client in two]
    for ours, before, a, b in zip(trained, received, *gradients, strict=True):
        np.testing.assert_allclose(ours, before - 0.3 * (shares[0] * a + shares[1] * b), atol=1e-6)
    assert outcome.uplink["weight"] == 2 * 32  # it is sent either way


@pytest.mark.parametrize("name", ["map_reduce", "tff"])
def test_mime_lite_is_the_papers(config, name):
    """Karimireddy et al. 2021, algorithm 1 with momentum: clients use the server's and leave it; the server's follows
    the mean gradient of all examples at the model that was sent. Each direction carries twice the tensors."""
    beta, rate = 0.6, 0.3
    checked = config(
        *SMALL, "optimizer=mime_lite", f"optimizer.momentum={beta}", f"optimizer.client_lr={rate}",
        "client_batch_size=4", "client_epochs=2", f"runtime={name}",
    )  # fmt: skip
    model, running = start(checked)
    data = clients([10, 6])
    with running:
        x = running.weights()
        m = [np.zeros_like(w) for w in x]
        for _ in range(3):
            outcome = running.round(data)

            def step(w, g, m=m):
                return [a - rate * ((1 - beta) * b + beta * c) for a, b, c in zip(w, g, m, strict=True)]

            trained = [plain(model, x, client, step) for client in data]
            whole = [slope(model, x, client.inputs, client.labels) for client in data]
            m = [(1 - beta) * (10 * a + 6 * b) / 16 + beta * c for a, b, c in zip(*whole, m, strict=True)]
            x = [(10 * a + 6 * b) / 16 for a, b in zip(*trained, strict=True)]
            for ours, right in zip(running.weights(), x, strict=True):
                np.testing.assert_allclose(ours, right, atol=5e-6)
    plan = planning.of(checked, model, lambda: POPULATION)
    assert outcome.downlink == 2 * plan.downlink_bits == 2 * 2 * 32 * model.parameters
    assert outcome.uplink_bits == 2 * plan.uplink_bits == 2 * (2 * 32 * model.parameters + 32 + 96)
    assert [tensor.tensor for tensor in plan.uplink][2:] == ["gradient of logits/kernel", "gradient of logits/bias"]


def test_mime_lites_gradient_is_encoded_as_the_update_is_and_its_state_can_be_restored(config):
    checked = config("optimizer=mime_lite", "model=2nn", "encoder.bits=4", "encoder.threshold=1000", "downlink=same")
    data = [clients([8, 8], seed=number) for number in range(3)]
    model, running = start(checked)
    with running:
        outcomes = [running.round(part) for part in data[:2]]
        state = running.state()
        running.round(data[2])
        whole = running.weights()
    plan = planning.of(checked, model, lambda: POPULATION)
    assert outcomes[1].uplink_bits == 2 * plan.uplink_bits and outcomes[1].downlink == 2 * plan.downlink_bits
    assert {t.encoder for t in plan.uplink if t.elements > 1000} != {"identity"}
    _, running = start(checked)
    with running:
        running.restore(state)
        running.round(data[2])
        assert all(np.array_equal(a, b) for a, b in zip(running.weights(), whole, strict=True))


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [  # of elements with mean updates d1, d2; Reddi et al. 2021, algorithm 2
        (
            ["optimizer=fedadagrad", "optimizer.server_lr=0.1"],
            lambda d: [0.1 * d[0] / np.sqrt(d[0] ** 2 + 1e-6), 0.1 * d[1] / np.sqrt(d[0] ** 2 + d[1] ** 2 + 1e-6)],
        ),
        (
            ["optimizer=fedavg", "optimizer.server_lr=2", "rounds=2", "optimizer.server_schedule=linear"],
            lambda d: [2 * d[0], 1 * d[1]],
        ),
        (
            ["optimizer=fedavg", "rounds=4", "optimizer.server_warmup=2"],
            lambda d: [0.5 * d[0], d[1]],
        ),
        (
            ["optimizer=fedavg", "rounds=2", "optimizer.client_schedule=cosine"],
            lambda d: [d[0], 0.5 * d[1]],
        ),
    ],
    ids=["fedadagrad", "server schedule", "server warm-up", "client schedule"],
)
def test_the_server_and_its_schedules(config, overrides, steps):
    checked = config(*SMALL, *overrides, "optimizer.client_lr=0.3", "client_batch_size=100")
    model, running = start(checked)
    (client,) = clients([20])
    weights, deltas = [running.weights()], []
    with running:
        for number in (1, 2):
            deltas.append(0.3 * slope(model, weights[-1], client.inputs, client.labels)[0])
            running.round([dataclasses.replace(client, round=number)])
            weights.append(running.weights())
    for k, right in enumerate(steps(deltas)):
        np.testing.assert_allclose(weights[k][0] - weights[k + 1][0], right, atol=5e-5)


def test_yogi_is_the_papers(config):
    """Zaheer et al. 2018: v <- v - (1 - beta_2) sign(v - d^2) d^2, with Adam's bias correction in the rate."""
    overrides = ["optimizer.beta_1=0", "optimizer.beta_2=0.5", "optimizer.server_lr=0.1", "client_batch_size=100"]
    checked = config(*SMALL, "optimizer=fedyogi", *overrides, "optimizer.client_lr=1")
    model, running = start(checked)
    (client,) = clients([20])
    second = dataclasses.replace(client, inputs=client.inputs * np.float32(0.3))
    v = 1e-6  # where TFF begins
    with running:
        for number, one in enumerate((client, second), 1):
            before = running.weights()
            d = slope(model, before, one.inputs, one.labels)[0]
            v = v - 0.5 * np.sign(v - d**2) * d**2
            running.round([one])
            step = 0.1 * math.sqrt(1 - 0.5**number) * d / (np.sqrt(v) + 1e-3)
            moved = before[0] - running.weights()[0]
            np.testing.assert_allclose(moved, step, atol=2e-4)


@pytest.mark.parametrize(
    ("schedule", "warmup", "factors"),
    [
        ("constant", 0, [1, 1, 1, 1, 1]),
        ("constant", 2, [0.5, 1, 1, 1, 1]),
        ("linear", 0, [1, 0.8, 0.6, 0.4, 0.2]),
        ("linear", 2, [0.5, 1, 1, 2 / 3, 1 / 3]),
        ("cosine", 1, [1, 1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
        ("exponential", 1, [1, 1, 0.01**0.25, 0.1, 0.01**0.75]),
    ],
)
def test_learning_rates_follow_their_schedules(config, schedule, warmup, factors):
    from fedsweep.federated import optimizers

    settings = [f"optimizer.client_schedule={schedule}", f"optimizer.client_warmup={warmup}"]
    checked = config("rounds=5", *settings)
    found = [float(optimizers.factor(checked, "client", tf.constant(number))) for number in range(1, 6)]
    assert found == pytest.approx(factors, abs=1e-6)


def test_clients_are_drawn_anew_or_the_same_or_take_turns(config):
    def chosen(sampling, rounds=8, seed=0):
        checked = config(f"client_sampling={sampling}", "clients_per_round=5", f"seed={seed}")
        return [tuple(cohort.draw(checked, 20, number).chosen) for number in range(1, rounds + 1)]

    assert len(set(chosen("uniform"))) == 8 and all(len(set(part)) == 5 for part in chosen("uniform"))
    assert len(set(chosen("fixed"))) == 1 and chosen("fixed")[0] == chosen("uniform")[0]
    turns = chosen("cyclic")
    assert sorted(sum(turns[:4], ())) == list(range(20)) and turns[:4] == turns[4:]
    for sampling in ("uniform", "fixed", "cyclic"):
        assert chosen(sampling) == chosen(sampling) != chosen(sampling, seed=1)


def test_clients_that_drop_out_have_received_and_send_nothing(config):
    checked = config("client_dropout=0.5", "clients_per_round=6", "rounds=200")
    data = datasets.load(checked.dataset, 0)
    sent, received = cohort.messages(checked, lambda: 20, 200)
    assert received == 1200 and 0.45 < sent / received < 0.55
    everyone = config("clients_per_round=6")
    assert tuple(cohort.draw(checked, 20, 3).chosen) == tuple(cohort.draw(everyone, 20, 3).chosen)
    number = next(k for k in range(1, 200) if 0 < len(cohort.draw(checked, 20, k).sending) < 6)
    clients, receivers = cohort.sample(data, checked, number)
    model, running = start(checked)
    with running:
        outcome = running.round(clients, receivers)
    plan = planning.of(checked, model, lambda: POPULATION)
    assert receivers == 6 > len(clients) == len(cohort.draw(checked, 20, number).sending)
    assert outcome.uplink_bits == len(clients) * plan.uplink_bits and outcome.downlink == 6 * plan.downlink_bits
    nearly_all = config("client_dropout=0.999", "clients_per_round=6")
    assert all(len(cohort.draw(nearly_all, 20, k).sending) == 1 for k in range(1, 20))


def test_a_client_trains_with_its_first_examples_only(config):
    data = datasets.load(config().dataset, 0)
    capped, _ = cohort.sample(data, config("client_max_examples=7"), 1)
    whole, _ = cohort.sample(data, config(), 1)
    assert [len(client.labels) for client in capped] == [min(7, len(client.labels)) for client in whole]
    assert all(np.array_equal(a.inputs, b.inputs[:7]) for a, b in zip(capped, whole, strict=True))


TEXT = DataSpec((6,), 12, text=True, uncounted=(9, 11))


def sentences(sizes, seed=0):
    rng = np.random.default_rng(seed)
    out = []
    for k, n in enumerate(sizes):
        tokens = rng.integers(1, 12, (n, 7)).astype(np.int32)
        tokens[0, 4:] = 0
        out.append(ClientData(tokens[:, :-1], tokens[:, 1:], np.array([seed, k], np.int32), client=k))
    return out


@pytest.mark.parametrize("name", ["char_lstm", "word_lstm"])
def test_an_lstm_is_keras_and_padding_changes_nothing(name):
    """Keras's own layers with the same weights; and a token's logits do not depend on what follows."""
    model = models.build(schema.Model(name), TEXT)
    weights = model.initial_weights(0)
    layers = tf.keras.layers
    sizes = {"char_lstm": (8, [256, 256], []), "word_lstm": (96, [670], [96])}[name]
    stack = [layers.Embedding(12, sizes[0])]
    stack += [layers.LSTM(units, return_sequences=True) for units in sizes[1]]
    stack += [layers.Dense(units) for units in (*sizes[2], 12)]
    keras = tf.keras.Sequential(stack)
    (client,) = sentences([5])
    keras(client.inputs)
    assert [tuple(w.shape) for w in keras.weights] == [w.shape for w in model.weights]
    keras.set_weights(weights)
    ours = tf.function(model.logits)(list(map(tf.constant, weights)), tf.constant(client.inputs))
    np.testing.assert_allclose(ours, keras(client.inputs), atol=2e-6)
    changed = client.inputs.copy()
    changed[:, 3:] = 1
    np.testing.assert_allclose(tf.function(model.logits)(weights, tf.constant(changed))[:, :3], ours[:, :3], atol=1e-6)
    forget = [w for w, spec in zip(weights, model.weights, strict=True) if spec.initial == "lstm_bias"]
    assert all(np.array_equal(bias, np.repeat([0, 1, 0, 0], len(bias) // 4)) for bias in forget)


@pytest.fixture
def words(monkeypatch):
    """A small model of words, in which every token predicts by itself."""
    from fedsweep.models.functional import Model, WeightSpec

    weights = (WeightSpec("table", (12, 12)),)
    return Model("words", TEXT, weights, lambda w, tokens, _=None: tf.gather(w[0], tokens))


@pytest.mark.parametrize("name", ["map_reduce", "tff"])
def test_text_is_trained_on_what_is_no_padding_and_accuracy_leaves_uncounted_labels_out(config, words, name):
    data = sentences([3, 2])
    checked = config("encoder=identity", "client_batch_size=100", "optimizer.client_lr=0.7", f"runtime={name}")
    with runtime.start(checked, words, POPULATION) as running:
        before = running.weights()
        outcome = running.round(data)
        after = running.weights()
    losses, hits, counted, gradient = [], [], [], 0
    for client in data:
        real = client.labels != 0
        x, y = client.inputs[real], client.labels[real]
        rows = before[0][x] - np.log(np.exp(before[0][x]).sum(1, keepdims=True))
        losses += list(-rows[range(len(y)), y])
        counts = (y != 9) & (y != 11)
        hits += list((rows.argmax(1) == y)[counts])
        counted += list(counts)
        one = np.zeros_like(before[0])
        np.add.at(one, x, (np.exp(rows) - np.eye(12)[y]) / len(y))
        gradient += len(client.labels) * one / 5
    assert outcome.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert outcome.accuracy == pytest.approx(np.mean(hits)) and len(hits) == sum(counted) < len(losses)
    np.testing.assert_allclose(after[0], before[0] - 0.7 * gradient, atol=1e-6)
    plan = planning.of(checked, words, lambda: POPULATION)
    assert outcome.uplink["metrics"] == 2 * 4 * 32 == 2 * plan.metrics_bits
    assert outcome.uplink_bits == 2 * plan.uplink_bits


def test_evaluation_means_over_labels_and_quantiles_over_clients(words):
    data = sentences([4, 3, 2])
    inputs, labels = (np.concatenate([getattr(c, name) for c in data]) for name in ("inputs", "labels"))
    owners = np.repeat(np.arange(3, dtype=np.int32), [4, 3, 2])
    held = datasets.Examples(inputs, labels, owners)
    Data = collections.namedtuple("Data", ["test", "validation", "scaled"])
    weights = words.initial_weights(3)
    found = evaluation.Evaluator(words, Data(held, held.rows(slice(0)), lambda x: x), threads=2).test(weights)
    right = weights[0][inputs].argmax(-1) == labels
    counts = (labels != 0) & (labels != 9) & (labels != 11)
    assert found.accuracy == pytest.approx(right[counts].mean())
    by_client = [right[owners == k][counts[owners == k]].mean() for k in range(3)]
    assert found.quantiles == pytest.approx({f"p{q}": np.quantile(by_client, q / 100) for q in (10, 50, 90)})


def test_dropout_is_drawn_from_the_clients_seed_while_it_trains_and_is_none_in_evaluation(config):
    spec = DataSpec((8, 8, 1), 10)
    checked = config("encoder=identity", "model=cnn_dropout", "client_batch_size=100")
    (client,) = clients([12], spec)
    other = dataclasses.replace(client, seed=client.seed + 1)
    results = []
    for one in (client, client, other):
        model, running = start(checked, spec)
        with running:
            running.round([one])
            results.append(running.weights())
    assert all(np.array_equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert not np.array_equal(results[0][-2], results[2][-2])
    # Weights stay and all examples are equal: a second epoch with the masks of the first would have its loss.
    alike = dataclasses.replace(client, inputs=client.inputs[[0] * 12], labels=client.labels[[0] * 12])
    losses = []
    for epochs in (1, 2):
        frozen = config(
            *("encoder=identity", "model=cnn_dropout", "client_batch_size=100", "optimizer.client_lr=1e-9"),
            f"client_epochs={epochs}",
        )
        with start(frozen, spec)[1] as running:
            losses.append(running.round([alike]).loss)
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)
    weights = list(map(tf.constant, results[0]))
    a, b = (model.logits(weights, tf.constant(client.inputs)) for _ in range(2))
    assert np.array_equal(a, b)
    noisy = [model.logits(weights, tf.constant(client.inputs), tf.constant([1, k])) for k in range(200)]
    np.testing.assert_allclose(np.mean(noisy, 0), a, atol=0.3)  # kept elements are scaled up
    assert np.std(noisy, 0).mean() > 0.01


def test_a_keras_model_trains_as_the_functional_one_with_its_weights_would(config):
    checked = config("encoder=identity", "model=keras", "client_batch_size=100", "optimizer.client_lr=0.2")
    model, running = start(checked)
    (client,) = clients([15])
    with running:
        before = running.weights()
        running.round([client])
        after = running.weights()
    hidden, bias, kernel, last = before

    def logits(w, x, _=None):
        return tf.nn.relu(tf.reshape(x, [-1, 64]) @ w[0] + w[1]) @ w[2] + w[3]

    twin = dataclasses.replace(model, logits=logits)
    gradient = slope(twin, [hidden, bias, kernel, last], client.inputs, client.labels)
    for new, old, g in zip(after, before, gradient, strict=True):
        np.testing.assert_allclose(new, old - 0.2 * g, atol=1e-6)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.initial_weights(0), strict=True))
    assert not np.array_equal(before[0], model.initial_weights(1)[0])


class _Subclassed(tf.keras.Model):
    """Its weights come with its first call, in layers within layers."""

    def __init__(self, spec):
        super().__init__()
        layers = tf.keras.layers
        inner = tf.keras.Sequential([layers.Dense(6, activation="relu"), layers.Dense(spec.classes)])
        self.stack = tf.keras.Sequential([layers.Flatten(), inner])

    def call(self, inputs, training=None):
        return self.stack(inputs)


def test_a_subclassed_keras_model_trains(config):
    model, running = start(config("encoder=identity", "model=keras", f"model.maker={__name__}:_Subclassed"))
    with running:
        first, second = (running.round(clients([30])).loss for _ in range(2))
    assert [weight.shape for weight in model.weights] == [(64, 6), (6,), (6, 10), (10,)] and second < first


def _bad(spec):
    return tf.keras.Sequential(
        [tf.keras.layers.Flatten(), tf.keras.layers.BatchNormalization(), tf.keras.layers.Dense(10)]
    )


def _dropout(spec):
    layers = tf.keras.layers
    return tf.keras.Sequential([layers.Flatten(), layers.Dropout(0.5), layers.Dense(10)])


def _weightless(spec):
    return tf.keras.Sequential([tf.keras.layers.AveragePooling2D(2), tf.keras.layers.Flatten(), _Ten()])


class _Ten(tf.keras.layers.Layer):
    def call(self, inputs):
        return inputs[:, :10]


def _of_nothing():
    return _narrow(None)


def _narrow(spec):
    return tf.keras.Sequential([tf.keras.layers.Flatten(), tf.keras.layers.Dense(9)])


@pytest.mark.parametrize(
    ("maker", "says"),
    [
        ("no_such_module:f", "No module named"),
        ("fedsweep.models.keras:nothing", "has no attribute"),
        ("builtins:repr", "returned str, not a tf.keras.Model"),
        (f"{__name__}:_bad", "is not trainable"),
        (f"{__name__}:_dropout", "draws while it trains"),
        (":f", "Empty module name"),
        (f"{__name__}:_weightless", "has no weights to train"),
        (f"{__name__}:_of_nothing", "it is called with one argument"),
        (f"{__name__}:_narrow", "where logits .* belong"),
    ],
)
def test_a_keras_model_that_cannot_serve_is_refused_in_a_line(config, maker, says):
    with pytest.raises(UserError, match=f"^model.maker={maker}: .*{says}") as refused:
        start(config("model=keras", f"model.maker={maker}"))
    assert "\n" not in str(refused.value)
