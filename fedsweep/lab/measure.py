"""Measures an encoder on vectors: clients encode, the server decodes and averages, as in a round of training.

Error. With x_i the vector of client i of n, and y the server's mean of what it decoded,

    nmse = ||y - mean_i x_i||^2 / (sum_i ||x_i||^2 / n),

the normalised error of the mean of Suresh et al. 2017, DRIVE and EDEN. An unbiased encoder whose clients draw their own
noise has nmse (n clients) = nmse (1 client) / n. Several tensors are one vector: squares are summed over them.

Bias. The vectors stay the same over the repeats, the encoder's seeds change; bias is the norm of the average over
repeats of y - mean_i x_i, over the norm of mean_i x_i. Noise alone would leave its standard error, `noise`: a bias of
about that size is none; one well above it is one.

Bits. Those of what a client sends, divided by its elements (never by a padded size): every tensor of the message by
its size, behind a lossless code the exact length of the code.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from scipy import special

from fedsweep import encoders, schema
from fedsweep.lab.channel import Channel, Seeds
from fedsweep.lab.vectors import Vectors

_SERVER = 2**31 - 1  # the server's place among the clients' seeds


@dataclass(frozen=True)
class Measured:
    """One encoder on one kind of vectors."""

    elements: int
    bits: float  # an element, mean over clients and repeats
    nmse: float  # mean over repeats
    interval: float  # half of nmse's 95 % interval over repeats; NaN with one repeat
    bias: float
    noise: float  # NaN with one repeat
    encode_ms: float  # a client, all its tensors, one thread: median over clients and repeats
    decode_ms: float  # the same at the server; what it does once a round counts 1/n


class Lab:
    """Encoders are built once for each shape and reused over clients, repeats and kinds of vectors."""

    def __init__(self, repeats: int, seed: int):
        self._repeats, self._seed = repeats, seed
        self._channels: dict[tuple, Channel] = {}

    def same(self, config: schema.Config, vectors: Vectors) -> tuple[str, ...]:
        """Equal for configurations that encode the vectors alike: what plans call the encoders."""
        rule = encoders.uplink(config)
        return tuple(rule(tf.TensorSpec(tensor.shape, tf.float32))[0] for tensor in vectors.clients[0])

    def measure(self, config: schema.Config, vectors: Vectors) -> Measured:
        """`config`'s uplink encoder on the vectors."""
        clients, repeats = len(vectors.clients), self._repeats
        errors = np.zeros(repeats)  # ||y - mean x||^2 by repeat
        bits, power, truth_power, bias_power = 0, 0.0, 0.0, 0.0
        seconds = np.zeros((2, repeats, clients))  # encode, decode
        for k in range(len(vectors.clients[0])):
            tensors = [tf.constant(client[k]) for client in vectors.clients]
            channel = self._channel(config, tensors[0])
            # the same float32 sum as the server's: what loses nothing has no error
            truth = (functools.reduce(tf.add, tensors) / clients).numpy().astype(np.float64)
            power += sum(_square(client[k].astype(np.float64)) for client in vectors.clients) / clients
            truth_power += _square(truth)
            channel.begin(tensors, self._seeds(clients, k, repeats))
            total = np.zeros_like(truth)
            for repeat in range(repeats):
                sent = channel.round(tensors, self._seeds(clients, k, repeat))
                error = sent.mean.astype(np.float64) - truth
                errors[repeat] += _square(error)
                total += error
                bits += sent.bits
                seconds[:, repeat] += (sent.encode, sent.decode)
            bias_power += _square(total / repeats)
        # variance of the average: E||average||^2 = ||bias||^2 + noise^2
        noise_power = max(0.0, errors.mean() - bias_power) / (repeats - 1) if repeats > 1 else math.nan
        nmse = errors / power if power else np.where(errors > 0, np.inf, 0.0)
        encode_ms, decode_ms = 1000 * np.median(seconds.reshape(2, -1), axis=1)
        return Measured(
            elements=vectors.elements,
            bits=bits / (vectors.elements * clients * repeats),
            nmse=float(nmse.mean()),
            interval=_interval(nmse),
            bias=_ratio(bias_power, truth_power),
            noise=_ratio(noise_power, truth_power),
            encode_ms=float(encode_ms),
            decode_ms=float(decode_ms),
        )

    def _channel(self, config: schema.Config, tensor: tf.Tensor) -> Channel:
        key = (id(config), tuple(tensor.shape))  # configurations live as long as the lab
        if key not in self._channels:
            self._channels[key] = Channel(encoders.uplink(config), tf.TensorSpec(tensor.shape, tf.float32))
        return self._channels[key]

    def _seeds(self, clients: int, tensor: int, repeat: int) -> Seeds:
        """For one tensor; encoders are compared on the same ones."""

        def seed(place: int) -> tf.Tensor:
            words = np.random.SeedSequence([self._seed, repeat, place, tensor]).generate_state(2)
            return tf.constant(words.view(np.int32))

        return seed(_SERVER), [seed(client) for client in range(clients)]


def _square(x: np.ndarray) -> float:
    return float(np.vdot(x, x))


def _ratio(power: float, reference: float) -> float:
    """The ratio of two norms from their squares."""
    return math.sqrt(power / reference) if reference else math.nan


def _interval(values: np.ndarray) -> float:
    """Half of the 95 % interval of their mean, by Student's t."""
    n = len(values)
    return float(special.stdtrit(n - 1, 0.975) * values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
