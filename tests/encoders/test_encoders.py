"""Properties that every encoder must have, and what is special to each. A new encoder is one line in ENCODERS."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

from fedsweep import encoders, schema
from fedsweep.encoders import randomness


def padded(n):
    return 1 << (n - 1).bit_length()


def words(bits, word_bits):
    """32-bit words of `word_bits` useful bits, and two float32."""
    return lambda n: 32 * math.ceil(n * bits / word_bits) + 64


def rotated(bits, word_bits):
    return lambda n: words(bits, word_bits)(padded(n))


UNIFORM = functools.partial(schema.UniformEncoder, "uniform", threshold=0)
HADAMARD = functools.partial(schema.UniformEncoder, "hadamard", threshold=0)
# name of the test: configuration, expected bits for n elements
ENCODERS = {
    "identity": (schema.Encoder("identity", None, 0), lambda n: 32 * n),
    "uniform-8": (UNIFORM(bits=8, stochastic=True, packing="tensor_encoding"), words(8, 28)),
    "uniform-1-dense": (UNIFORM(bits=1, stochastic=True, packing="dense"), words(1, 32)),
    "uniform-5-nearest": (UNIFORM(bits=5, stochastic=False, packing="dense"), words(5, 32)),
    "hadamard-4": (HADAMARD(bits=4, stochastic=True, packing="tensor_encoding"), rotated(4, 28)),
    "hadamard-16-nearest": (HADAMARD(bits=16, stochastic=False, packing="dense"), rotated(16, 32)),
}
STOCHASTIC = ["uniform-8", "uniform-1-dense", "hadamard-4"]


@pytest.fixture(params=ENCODERS)
def encoder(request):
    return ENCODERS[request.param]


def channel(config, shape):
    """`channel(config, shape)(x, seed)`: (encoded tensors, the server's view of x), for one client."""
    spec = tf.TensorSpec(shape, tf.float32)
    gather = te.encoders.as_gather_encoder(encoders.build(config)(spec)[1], spec)

    @tf.function
    def send(x, seed):
        with randomness.stream(randomness.fold_in(seed, 0)):
            encode_params, before, after = gather.get_params(gather.initial_state())
        with randomness.stream(randomness.fold_in(seed, 1)):
            encoded, _ = gather.encode(x, encode_params)
        return encoded, gather.decode_after_sum(gather.decode_before_sum(encoded, before), after, 1)

    def checked(x, seed=(1, 2)):
        encoded, decoded = send(tf.constant(x), tf.constant(seed, tf.int32))
        return encoded, decoded.numpy()

    return checked


def send(config, x, seed=(1, 2)):
    return channel(config, x.shape)(x, seed)


def bits_of(encoded):
    return sum(int(tf.size(t)) * t.dtype.size * 8 for t in encoded.values())


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(1,), (7,), (64,), (1000,), (20, 30), (3, 3, 4, 8)])
def test_shape_and_dtype_are_kept_and_bits_are_those_of_the_formula(encoder, shape):
    config, bits = encoder
    encoded, decoded = send(config, normal(*shape))
    assert decoded.shape == shape and decoded.dtype == np.float32
    assert bits_of(encoded) == bits(math.prod(shape))


@pytest.mark.parametrize(
    "x", [np.zeros(100), np.full(100, 3.0), np.full(1, -2.0), normal(100) * 1e30, normal(100) * 1e-30,
          normal(100) * 1e-38],
    ids=["zeros", "constant", "one element", "huge", "small", "tiny"],
)  # fmt: skip
def test_extreme_tensors_come_back_finite_and_within_their_range(encoder, x):
    x = x.astype(np.float32)
    config, _ = encoder
    _, decoded = send(config, x)
    assert np.isfinite(decoded).all()
    if config.name == "identity" or (config.name == "uniform" and x.min() == x.max()):
        assert np.array_equal(decoded, x)
    elif config.name == "uniform":  # one step; 5e-38 because TensorFlow takes numbers below 1.2e-38 for zero
        assert np.abs(decoded - x).max() <= 1.001 * (x.max() - x.min()) / (2**config.bits - 1) + 5e-38
    else:  # a rotation moves error between elements: a step each, of a range of at most 2 norms
        step = 2 * np.linalg.norm(x.astype(np.float64)) / (2**config.bits - 1)
        assert np.linalg.norm((decoded - x).astype(np.float64)) <= 1.001 * step * math.sqrt(padded(x.size)) + 1e-36


def test_the_same_seed_gives_the_same_message(encoder):
    config, _ = encoder
    (a, _), (b, _) = send(config, normal(500)), send(config, normal(500))
    assert all(np.array_equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_another_seed_gives_another_message(name):
    config, _ = ENCODERS[name]
    (a, _), (b, _) = send(config, normal(500)), send(config, normal(500), seed=(1, 3))
    assert not all(np.array_equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_encoders_are_unbiased(name):
    """The mean of 400 independent messages, each of 64 places within 5.5 standard errors.

    The error is pooled over places (one that lies almost on a level hardly ever moves); none has more than 1.5 times
    the pooled one, so a right encoder fails in 64 * P(|z| > 3.6), 2 % of seeds, and the seed is fixed.
    """
    config, _ = ENCODERS[name]
    x = normal(64)
    through = channel(config, x.shape)
    sent = np.stack([through(x, seed=(7, k))[1] for k in range(400)]).astype(np.float64)
    standard_error = math.sqrt(sent.var(axis=0).mean() / len(sent))
    assert np.abs(sent.mean(axis=0) - x).max() < 5.5 * standard_error


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("stochastic", [True, False])
def test_uniform_is_off_by_at_most_a_step_and_half_a_step_when_rounding_to_nearest(bits, stochastic):
    x = normal(5000)
    config = UNIFORM(bits=bits, stochastic=stochastic, packing="dense")
    _, decoded = send(config, x)
    step = (x.max() - x.min()) / (2**bits - 1)
    assert np.abs(decoded - x).max() <= step * (1 if stochastic else 0.5) + 4e-6  # float32 at the ends of the range
    assert len(np.unique(decoded)) <= 2**bits


def test_no_value_needs_a_level_above_the_last_one():
    """Where (x - low) * (levels / range) exceeds levels by a last bit, the largest value came back as the smallest."""
    x = np.array([0.0574, -0.0625], np.float32)
    through = channel(UNIFORM(bits=16, stochastic=True, packing="dense"), x.shape)
    worst = max(np.abs(through(x, seed=(7, k))[1] - x).max() for k in range(1000))
    assert worst <= (x[0] - x[1]) / 65535 * 1.01


def test_uniform_errs_as_much_as_stochastic_rounding_must():
    """Suresh et al. 2017, lemma 2: each element's variance is at most (step / 2)^2; about 2/3 of that on average."""
    x = normal(4096)
    for bits in (1, 2, 4):
        config = UNIFORM(bits=bits, stochastic=True, packing="dense")
        through = channel(config, x.shape)
        error = np.mean([np.sum((through(x, seed=(3, k))[1] - x) ** 2) for k in range(20)])
        bound = x.size * ((x.max() - x.min()) / (2**bits - 1) / 2) ** 2
        assert 0.2 * bound < error <= bound


def test_a_rotation_flattens_the_range_of_a_spiky_tensor():
    x = normal(4096) * 0.01
    x[17] = 10.0
    error = {
        name: np.linalg.norm(send(schema.UniformEncoder(name, 2, 0, True, "dense"), x)[1] - x)
        for name in ("uniform", "hadamard")
    }
    assert error["hadamard"] < 0.25 * error["uniform"]


def test_the_rotation_loses_nothing():
    """At 16 bits what is left of the error is the quantizer's."""
    x = normal(3000)
    _, decoded = send(HADAMARD(bits=16, stochastic=False, packing="dense"), x)
    assert np.abs(decoded - x).max() < 1e-3


def test_only_tensors_with_more_elements_than_the_threshold_are_encoded():
    rule = encoders.build(UNIFORM(bits=4, threshold=1000, stochastic=True, packing="dense"))
    labels = [rule(tf.TensorSpec([n], tf.float32))[0] for n in (999, 1000, 1001)]
    assert labels == ["identity", "identity", "uniform 4 bit dense"]


def test_stages_work_outside_a_stream_as_tensor_encodings_own_do():
    core = encoders.build(HADAMARD(bits=8, stochastic=True, packing="dense"))(tf.TensorSpec([100], tf.float32))[1]
    simple = te.encoders.as_simple_encoder(core, tf.TensorSpec([100], tf.float32))
    encoded, _ = simple.encode(tf.constant(normal(100)), simple.initial_state())
    assert np.abs(simple.decode(encoded) - normal(100)).max() < 0.1
