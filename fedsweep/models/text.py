"""Models that predict the next token: the LSTMs of "Adaptive federated optimization" (Reddi et al. 2021)."""

from __future__ import annotations

import tensorflow as tf

from fedsweep.datasets import DataSpec
from fedsweep.models.functional import Model, WeightSpec, layer
from fedsweep.models.image import dense


def char_lstm(spec: DataSpec) -> Model:
    """Embedding of 8, two LSTM layers of 256, a dense layer; 820,522 parameters on Shakespeare's 90 tokens."""
    weights = (
        WeightSpec("embedding", (spec.classes, 8), "random_uniform"),
        *_lstm_weights("lstm1", 8, 256),
        *_lstm_weights("lstm2", 256, 256),
        *layer("logits", 256, spec.classes),
    )

    def logits(w, tokens, _=None):
        x = tf.gather(w[0], tokens)
        x = _lstm(x, *w[1:4])
        x = _lstm(x, *w[4:7])
        return _dense(x, w[7], w[8])

    return Model("char_lstm", spec, weights, logits)


def word_lstm(spec: DataSpec) -> Model:
    """Embedding of 96, an LSTM layer of 670, a dense layer of 96, one for the words; 4,050,748 parameters on 10,004."""
    weights = (
        WeightSpec("embedding", (spec.classes, 96), "random_uniform"),
        *_lstm_weights("lstm", 96, 670),
        *layer("projection", 670, 96),
        *layer("logits", 96, spec.classes),
    )

    def logits(w, tokens, _=None):
        x = tf.gather(w[0], tokens)
        x = _lstm(x, *w[1:4])
        return _dense(_dense(x, w[4], w[5]), w[6], w[7])

    return Model("word_lstm", spec, weights, logits)


def _lstm_weights(name: str, features: int, units: int) -> tuple[WeightSpec, ...]:
    """In Keras's layout: the gates input, forget, cell, output side by side."""
    return (
        WeightSpec(f"{name}/kernel", (features, 4 * units)),
        WeightSpec(f"{name}/recurrent", (units, 4 * units), "orthogonal"),
        WeightSpec(f"{name}/bias", (4 * units,), "lstm_bias"),
    )


def _lstm(x: tf.Tensor, kernel: tf.Tensor, recurrent: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """An LSTM layer (Hochreiter and Schmidhuber 1997), x [n, tokens, features] -> [n, tokens, units].

    What the inputs give to the gates is one product for all tokens; only the recurrent part goes token by token.
    """
    nothing = tf.zeros([tf.shape(x)[0], recurrent.shape[0]])

    def step(state, gates):
        cell, output = state
        i, f, c, o = tf.split(gates + output @ recurrent, 4, axis=1)
        cell = tf.sigmoid(f) * cell + tf.sigmoid(i) * tf.tanh(c)
        return cell, tf.sigmoid(o) * tf.tanh(cell)

    by_token = tf.transpose(_dense(x, kernel, bias), [1, 0, 2])
    _, outputs = tf.scan(step, by_token, (nothing, nothing), parallel_iterations=1)
    return tf.transpose(outputs, [1, 0, 2])


def _dense(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """x [n, tokens, features] through a dense layer, as one product of matrices."""
    flat = dense(tf.reshape(x, [-1, kernel.shape[0]]), kernel, bias)
    return tf.reshape(flat, [-1, x.shape[1], kernel.shape[1]])


BUILDERS = {"char_lstm": char_lstm, "word_lstm": word_lstm}
