"""Kashin's representation, held to its paper, to random frames and to the Hadamard rotation."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from channel import bits_of, channel, nmse, normal
from variations import some

from fedsweep.encoders import levels, randomness
from fedsweep.encoders.rotation import TRANSFORMS, Kashin

KASHIN, HADAMARD = TRANSFORMS["kashin"], TRANSFORMS["hadamard"]
# Powers of two, just above them, where a frame is crowded, and between.
SIZES = [1, 2, 3, 5, 16, 17, 65, 100, 512, 513, 3500, 4096, 4097, 33_000, 60_000, 65_536, 65_537]
VECTORS = {
    "gaussian": lambda rng, size: rng.normal(size=size),
    "lognormal": lambda rng, size: rng.lognormal(sigma=1.5, size=size) * rng.choice([-1, 1], size),
    "sparse": lambda rng, size: np.where(rng.random(size) < 0.01, rng.normal(size=size), 0),
    "a few": lambda rng, size: np.where(rng.permutation(size) < 4, rng.normal(size=size), 0),
    "rows": lambda rng, size: np.where(np.arange(size) < 128, rng.normal(size=size), 0),
    "columns": lambda rng, size: np.where(np.arange(size) % 64 == 7, rng.normal(size=size), 0),
    "embedding rows": lambda rng, size: np.where(np.isin(np.arange(size) // 50, rng.permutation(-(-size // 50))[:3]),
                                                 rng.normal(size=size), 0),
}  # fmt: skip


def flatness(coefficients, x):
    """The largest coefficient, in units of norm2(x) / sqrt(d2): 1 where all are equally large."""
    return np.abs(coefficients).max() * np.sqrt(len(coefficients)) / np.linalg.norm(x)


def of_frame(forward, backward, x, frame):
    """Lyubarskii and Vershynin's algorithm, written anew, for any tight frame: forward = backward^T."""
    left, total, level = x, np.zeros(frame), np.linalg.norm(x) / np.sqrt(frame)
    for _ in range(2):
        kept = np.clip(forward(left), -level, level)
        left, total, level = left - backward(kept), total + kept, 0.9 * level
    return total + forward(left)


def orthogonal_frame(size, frame, seed):
    """`size` orthonormal columns of R^frame, uniformly random."""
    columns, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(frame, size)))
    return lambda x: columns @ x, lambda y: columns.T @ y


def random_columns(size, frame, seed):
    """`size` random columns of a Hadamard matrix, signs random; its own fast transform."""
    rng = np.random.default_rng(seed)
    places, signs = rng.choice(frame, size, replace=False), rng.choice([-1, 1], size)

    def transform(y):
        for axis in range(frame.bit_length() - 1):
            y = y.reshape(-1, 2, 1 << axis)
            y = np.stack([y[:, 0] + y[:, 1], y[:, 0] - y[:, 1]], axis=1)
        return y.reshape(frame) / np.sqrt(frame)

    def forward(x):
        spread = np.zeros(frame)
        spread[places] = x * signs
        return transform(spread)

    return forward, lambda y: transform(y)[places] * signs


def matrix(size):
    """The frame as a matrix, float64 [d2, d]: the inverse of every unit vector, a row each."""
    frame = KASHIN.padded(size)
    inverse = tf.function(lambda y: KASHIN.inverse(y, tf.constant([3, 4]), size), autograph=False)
    return np.stack([inverse(tf.constant(row)).numpy() for row in np.eye(frame, dtype=np.float32)]).astype(np.float64)


@pytest.mark.parametrize("size", SIZES)
def test_kashins_frame_is_as_large_as_hadamards(size):
    assert KASHIN.padded(size) == HADAMARD.padded(size) == 1 << (size - 1).bit_length()


@pytest.mark.parametrize("size", some(SIZES, [2, 17, 100, 513, 4096, 33_000]))
@pytest.mark.parametrize("kind", VECTORS)
def test_coefficients_are_within_the_papers_level_and_no_wider_than_plain_ones_and_come_back(kind, size):
    """Theorem 3.5: none above K norm2 / sqrt(d2), K = 1 / ((1 - eta) sqrt(delta))."""
    level = 1 / ((1 - Kashin.ETA) * np.sqrt(Kashin.DELTA))
    for k in range(3):
        x = VECTORS[kind](np.random.default_rng(k), size).astype(np.float32)
        if not x.any():
            continue
        seed = tf.constant([3, k])
        coefficients = KASHIN.forward(tf.constant(x), seed).numpy()
        assert flatness(coefficients, x) <= level
        assert nmse(KASHIN.inverse(tf.constant(coefficients), seed, size).numpy(), x) < 1e-12
        if size == KASHIN.padded(size):
            assert np.array_equal(coefficients, HADAMARD.forward(tf.constant(x), seed))
        if size >= Kashin.CROWDED * KASHIN.padded(size):
            assert np.ptp(coefficients) <= np.ptp(HADAMARD.forward(tf.constant(x), seed))


@pytest.mark.parametrize("size", [257, 350, 475])
def test_coefficients_are_as_flat_as_in_uniformly_random_frames(size):
    frame, xs = KASHIN.padded(size), [normal(size, seed=k) for k in range(5)]
    ours = [flatness(KASHIN.forward(tf.constant(x), tf.constant([3, k])), x) for k, x in enumerate(xs)]
    random = [flatness(of_frame(*orthogonal_frame(size, frame, k), x, frame), x) for k, x in enumerate(xs)]
    # Chance: 3 to 6 % of the mean of 5. From CROWDED on the first columns are used, which are less random.
    assert np.mean(ours) < (1.25 if size >= KASHIN.CROWDED * frame else 1.15) * np.mean(random)


@pytest.mark.parametrize("size", [2049, 3500, 4097, 33_000, 60_000, 65_537])
def test_coefficients_are_as_flat_as_in_frames_of_random_columns(size):
    frame, xs = KASHIN.padded(size), [normal(size, seed=k) for k in range(6)]
    ours = [flatness(KASHIN.forward(tf.constant(x), tf.constant([3, k])), x) for k, x in enumerate(xs)]
    random = [flatness(of_frame(*random_columns(size, frame, k), x, frame), x) for k, x in enumerate(xs)]
    assert np.mean(ours) < 1.1 * np.mean(random)


@pytest.mark.parametrize("size", [33, 65, 100, 129, 257, 300])
def test_the_frame_is_tight_and_its_vectors_are_as_different_as_those_of_random_columns(size):
    frame = KASHIN.padded(size)
    vectors = matrix(size)
    assert np.allclose(vectors.T @ vectors, np.eye(size), atol=1e-5)

    def closest(vectors):
        products = np.abs(vectors @ vectors.T) * frame / size
        return np.max(products - np.diag(np.diag(products)))

    columns = [random_columns(size, frame, seed)[0] for seed in range(5)]
    random = np.mean([closest(np.stack([forward(row) for row in np.eye(size)], axis=1)) for forward in columns])
    # The index of a block is scattered, its elements are not, so a few products are as in a smaller frame.
    assert closest(vectors) < min(3.5 * random, 0.55)


def quantized(transform, x, seed, bits):
    """x after the transform, uniform quantization with 2**bits levels, and back."""
    with randomness.stream(seed):
        quantizer, most = levels.Uniform(stochastic=True), float(2**bits - 1)
        rotated = quantizer.restore(*quantizer.quantize(transform.forward(x, seed), most), most)
    return transform.inverse(rotated, seed, len(x)).numpy()


@pytest.mark.parametrize("size", some([3500, 4096, 4097, 33_000, 51_200, 65_536], [4096, 33_000]))
@pytest.mark.parametrize("kind", VECTORS)
def test_kashins_error_is_never_above_hadamards_for_as_many_bits(kind, size):
    """Both send as many coefficients (above), so at equal widths they send equal bits."""
    for bits in (1, 4):
        errors = np.empty([2, 6])
        for k in range(6):
            x, seed = VECTORS[kind](np.random.default_rng(k), size).astype(np.float32), tf.constant([5, k])
            errors[:, k] = [nmse(quantized(each, tf.constant(x), seed, bits), x) for each in (KASHIN, HADAMARD)]
        kashin, plain = errors.mean(axis=1)
        chance = np.std(errors[0] - errors[1], ddof=1) / np.sqrt(6)
        assert kashin <= plain + (0 if size == KASHIN.padded(size) else 2.5 * chance) + 1e-12
        if kind != "a few":  # whose draws differ by more
            assert kashin <= 1.04 * plain + 1e-12
        if size in (4097, 33_000) and kind in ("gaussian", "lognormal", "sparse"):
            assert kashin < 0.75 * plain


@pytest.mark.parametrize("shape", [(3500,), (4096,), (4097,)])
def test_kashins_message_has_hadamards_bits(config, shape):
    names = ("kashin", "hadamard")
    messages = [
        channel(config, [f"encoder={name}", "encoder.bits=4"], shape, traced=False)(normal(*shape)) for name in names
    ]
    (kashin, _), (plain, _) = messages
    assert bits_of(kashin) == bits_of(plain)
