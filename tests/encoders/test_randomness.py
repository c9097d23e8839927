"""Noise for stochastic rounding: what rounding needs of it."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from fedsweep.encoders import randomness
from fedsweep.encoders.numeric import round_randomly

COLUMNS = 2 * 2048  # elements a row of the table that the noise is made of


def noise(size, seed=(3, 7), bits=16):
    return randomness.dither(size, tf.constant(seed, tf.int32), bits).numpy()


@pytest.mark.parametrize("bits", [2, 3, 8, 13, 16])
def test_noise_takes_every_odd_multiple_equally_often(bits):
    size = 2**20
    steps = noise(size, bits=bits).astype(np.float64) * 2**bits
    assert set(np.unique(steps)) == set(range(1, 2**bits, 2))
    cells = np.bincount(steps.astype(int) // 2, minlength=2 ** (bits - 1))
    expected = size / len(cells)
    chi_square = np.sum((cells - expected) ** 2) / expected
    assert abs(chi_square - (len(cells) - 1)) < 5 * np.sqrt(2 * len(cells))


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 10_000])
def test_noise_has_the_size_that_is_asked_for_and_repeats(size):
    assert noise(size).shape == (size,)
    assert np.array_equal(noise(size), noise(size))


def test_noise_differs_from_seed_to_seed():
    a, b = noise(2**16, (1, 2)), noise(2**16, (1, 3))
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / 2**8


@pytest.mark.parametrize(("fewer", "more"), itertools.combinations([2, 5, 12, 16], 2))
def test_noise_of_more_bits_is_the_same_noise_with_more_digits(fewer, more):
    """Widths of one quantizer are compared under the same noise."""
    assert np.max(np.abs(noise(50_000, bits=fewer) - noise(50_000, bits=more))) < 2.0**-fewer


def test_neighbours_and_corners_of_the_table_are_independent():
    """Two elements, and four on the corners of a rectangle, which simple tabulation alone would couple."""
    size = 2**18
    signs = np.sign(noise(size) - 0.5)
    table = signs.reshape(-1, COLUMNS)
    products = {
        "next element": signs[1:] * signs[:-1],
        "next word": signs[2:] * signs[:-2],
        "next row": table[1:] * table[:-1],
        "three": table[1:, 2:] * table[:-1, :-2] * table[1:, :-2],
        "corners": table[1:, 2:] * table[:-1, :-2] * table[1:, :-2] * table[:-1, 2:],
    }
    for name, product in products.items():
        assert abs(np.mean(product)) < 6 / np.sqrt(product.size), name


def test_low_bits_of_the_corners_are_independent():
    """Each bit that rounding looks at, not the first alone."""
    words = (noise(2**18).astype(np.float64) * 2**16).astype(np.int64).reshape(-1, COLUMNS)
    corners = words[1:, 2:] ^ words[:-1, :-2] ^ words[1:, :-2] ^ words[:-1, 2:]
    for bit in range(1, 16):  # the lowest is always set
        ones = (corners >> bit) & 1
        # Neighbouring rectangles share corners, so their deviations add up: four times those of independent bits.
        assert abs(np.mean(ones) - 0.5) < 4 * 3 / np.sqrt(ones.size), bit


@pytest.mark.parametrize("most", [1, 3, 255, 4095, 65_535])
def test_rounding_has_the_stated_mean(monkeypatch, most):
    """Exactly, over every value that the noise can take."""
    asked = []

    def every_value(size, seed, bits):
        asked.append(int(bits))
        return tf.constant(np.arange(1, 2 ** int(bits), 2) / 2 ** int(bits), tf.float32)

    width = most.bit_length()
    step = max(2.0**-15, 2.0 ** (width - 23))
    values = np.float32(most) - np.float32([0, 0.75, 0.5, 0.3, 0.1, 0.9, 0.999, 1 - 2.0**-16, 2.0**-16])
    monkeypatch.setattr(randomness, "dither", every_value)
    for value in [*values, *np.float32([2.0**-16 - 2.0**-40, 1e-6, 0])]:
        size = round(1 / step)
        rounded = round_randomly(tf.fill([size], value), tf.constant([5, 6], tf.int32), float(most)).numpy()
        assert set(np.unique(rounded)) <= {np.floor(value), np.floor(value) + 1}
        assert abs(np.mean(rounded, dtype=np.float64) - float(value)) <= step / 2 + (2.0**-25 if value < 0.5 else 0)
    assert {2.0 ** (1 - bits) for bits in asked} == {step}


def test_rounding_keeps_integers_and_stays_below_most():
    whole = tf.constant(np.arange(65_536), tf.float32)
    assert np.array_equal(round_randomly(whole, tf.constant([1, 2], tf.int32), 65_535.0), whole)
    under = tf.fill([2**16], np.nextafter(np.float32(255), np.float32(0)))
    assert np.max(round_randomly(under, tf.constant([1, 2], tf.int32), 255.0)) == 255
