"""Constants and bounds that the papers publish."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from channel import bits_of, channel, nmse, normal
from scipy.stats import norm

from fedsweep.encoders import gaussian
from fedsweep.encoders.rotation import TRANSFORMS, hadamard

# Mean squared error of the best quantizer of N(0, 1) with 2, 4, 8, 16 levels: Max, IRE Trans. Inf. Theory 1960, table
# I.
MAX_1960 = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497}
# NF4: Dettmers et al. 2023.
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


def error_of(config, overrides, x, repeats=1):
    through = channel(config, overrides.split(), x.shape, traced=repeats > 1)
    return np.mean([nmse(through(x, seed=(5, k))[1], x) for k in range(repeats)])


def cells(levels):
    """The edges of what is nearest to each level."""
    return np.array([-np.inf, *(np.array(levels[1:]) + levels[:-1]) / 2, np.inf])


def distortion(levels):
    """E (z - nearest level)^2 for z ~ N(0, 1), by the moments of the cells."""
    edges = cells(levels)
    mass, first = np.diff(norm.cdf(edges)), -np.diff(norm.pdf(edges))
    return 1 - np.sum(2 * np.array(levels) * first - np.array(levels) ** 2 * mass)


@pytest.mark.parametrize(("bits", "published"), MAX_1960.items())
def test_the_codebook_of_the_normal_distribution_is_maxs(bits, published):
    assert distortion(gaussian.lloyd_max(bits)) == pytest.approx(published, rel=1e-3)


def test_four_levels_stand_where_max_put_them():
    assert np.allclose(np.abs(gaussian.lloyd_max(2)), [1.510, 0.4528, 0.4528, 1.510], atol=1e-3)


def test_finer_codebooks_are_their_cells_means():
    levels = gaussian.lloyd_max(8)
    edges = cells(levels)
    assert np.allclose(-np.diff(norm.pdf(edges)) / np.diff(norm.cdf(edges)), levels, atol=1e-9)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_lloyd_max_fitted_to_normal_data_reaches_the_published_distortion(config, bits):
    x = normal(200_000)
    assert error_of(config, f"encoder=lloyd_max encoder.bits={bits} encoder.iterations=50", x) == pytest.approx(
        MAX_1960[bits], rel=0.02
    )


def test_lloyd_max_beats_uniform_on_skewed_data(config):
    x = np.exp(normal(50_000) * 1.5)
    assert error_of(config, "encoder=lloyd_max encoder.bits=4", x) < 0.05 * error_of(config, "encoder.bits=4", x)


def test_normal_float_with_four_bits_is_nf4():
    assert np.allclose(gaussian.normal_float(4), NF4, atol=1e-6)


@pytest.mark.parametrize("name", ["drive", "drive encoder.rotation=fourier", "eden encoder.bits=1"])
def test_drive_and_eden_at_one_bit_err_by_half_pi_minus_one(config, name):
    """Vargaftik et al. 2021: the normalised error tends to pi/2 - 1 for large d."""
    assert error_of(config, f"encoder={name}", normal(1 << 16)) == pytest.approx(math.pi / 2 - 1, rel=0.02)


@pytest.mark.parametrize(
    ("bits", "distortions"), [(2, [0.1175]), (3, [0.03454]), (4, [0.009497]), (2.5, [0.1175, 0.03454])]
)
def test_eden_errs_by_its_codebooks_distortion(config, bits, distortions):
    """1 / (1 - D) - 1, D the distortion of its Lloyd-Max quantizer; between whole bits the mean of both."""
    d = np.mean(distortions)
    assert error_of(config, f"encoder=eden encoder.bits={bits}", normal(1 << 16)) == pytest.approx(
        d / (1 - d), rel=0.03
    )


def test_eden_below_one_bit_errs_as_a_random_subset_at_one_bit(config):
    """pi / (2 b) - 1: 1 / b of the energy scaled up, quantized at one bit."""
    error = error_of(config, "encoder=eden encoder.bits=0.25", normal(1 << 14), repeats=5)
    assert error == pytest.approx(math.pi / (2 * 0.25) - 1, rel=0.03)


def test_eden_below_one_bit_sees_all_of_a_sparse_tensor(config):
    """What the first rows of a Hadamard matrix see of these two elements is their difference, nearly nothing."""
    x = np.zeros(1024, np.float32)
    x[[0, 512]] = 1, 1.001
    assert error_of(config, "encoder=eden encoder.bits=0.5", x, repeats=50) == pytest.approx(math.pi - 1, rel=0.5)


def test_rotations_of_clients_average_out(config):
    """With a rotation of its own for each of ten clients, DRIVE's error of the mean is a tenth; with one for all it
    stays (encoders.md's trap): the same x, ten seeds of clients against one."""
    x = normal(1 << 12)
    through = channel(config, ["encoder=drive"], x.shape)
    mean = np.mean([through(x, seed=(5, k))[1] for k in range(10)], axis=0)
    assert nmse(mean, x) == pytest.approx((math.pi / 2 - 1) / 10, rel=0.15)


def test_stc_sends_the_published_bits_for_positions(config):
    """Sattler et al. 2020: at p = 0.01 an element costs p (b_pos + 1) = 0.0911 bits, Golomb-coded."""
    x = normal(200_000)
    encoded, _ = channel(config, ["encoder=stc"], x.shape, traced=False)(x)
    assert sum(bits_of(encoded)) / x.size == pytest.approx(0.0911, rel=0.02)


def test_top_k_counts_an_index_for_every_value(config):
    """At 1 % of the tutorial CNN's largest tensor 21 bits each: 0.530 bits an element (encoders.md's trap: 0.320)."""
    x = normal(1_605_632)
    encoded, decoded = channel(config, ["encoder=top_k"], x.shape, traced=False)(x)
    assert sum(bits_of(encoded)) / x.size == pytest.approx(0.530, abs=5e-4)
    threshold = np.sort(np.abs(x))[-16056]
    assert np.array_equal(decoded, np.where(np.abs(x) >= threshold, x, 0))


def test_top_k_takes_the_first_of_equal_elements(config):
    x = np.array([1, -3, 2, 3, 2, 0, 2, 3], np.float32)
    through = channel(config, ["encoder=top_k", "encoder.share=0.5"], x.shape, traced=False)
    assert np.array_equal(through(x)[1], [0, -3, 2, 3, 0, 0, 0, 3])


def test_sign_errs_exactly_as_the_norms_say(config):
    x = normal(5000)
    expected = 1 - np.abs(x).sum() ** 2 / (x.size * np.sum(x**2))
    assert error_of(config, "encoder=sign", x) == pytest.approx(expected, rel=1e-4)


def test_one_bit_is_the_best_constant_for_each_sign(config):
    x = normal(5000) + 0.3
    best = np.where(x >= 0, x[x >= 0].mean(), x[x < 0].mean())
    assert np.allclose(channel(config, ["encoder=one_bit"], x.shape, traced=False)(x)[1], best, atol=1e-5)


def test_qsgd_keeps_the_bound_of_its_paper(config):
    x = normal(2000)
    for bits in (2, 4, 8):
        s = 2 ** (bits - 1) - 1
        for n, bucket in ((x.size, "null"), (100, 100)):
            bound = min(n / s**2, math.sqrt(n) / s)
            assert error_of(config, f"encoder=qsgd encoder.bits={bits} encoder.bucket={bucket}", x, repeats=5) <= bound


def test_natural_keeps_its_eighth_and_reaches_it_at_a_third(config):
    """Variance f (1 - f) 4^e for x = 2^e (1 + f), over x^2: at most 1/8, at f = 1/3."""
    assert error_of(config, "encoder=natural", np.full(50_000, 4 / 3, np.float32)) == pytest.approx(1 / 8, rel=0.02)
    assert error_of(config, "encoder=natural", normal(50_000)) < 1 / 8


def test_natural_leaves_powers_of_two_alone(config):
    x = (2.0 ** np.arange(-60, 60) * np.tile([1, -1], 60)).astype(np.float32)
    for bits in (8, 9):
        assert np.array_equal(
            channel(config, ["encoder=natural", f"encoder.bits={bits}"], x.shape, traced=False)(x)[1], x
        )


def test_random_elements_err_by_what_is_left_out(config):
    """n / k - 1 with scaling, 1 - k / n without."""
    x = normal(2000)
    assert error_of(config, "encoder=rand_k encoder.share=0.1", x, repeats=50) == pytest.approx(9, rel=0.1)
    unscaled = error_of(config, "encoder=rand_k encoder.share=0.1 encoder.unbiased=false", x, repeats=50)
    assert unscaled == pytest.approx(0.9, rel=0.02)


def test_terngrad_clips_at_two_and_a_half_deviations(config):
    x = normal(20_000)
    _, decoded = channel(config, ["encoder=terngrad"], x.shape, traced=False)(x)
    assert np.abs(decoded).max() == pytest.approx(2.5 * x.std(), rel=1e-3)
    assert set(np.unique(np.sign(decoded))) == {-1, 0, 1}


def test_three_lc_needs_at_most_1_6_bits_and_far_fewer_for_zeros(config):
    """Lim et al. 2018: a byte for five elements at most, and one for up to 14 bytes of zeros: 280 times fewer bits."""
    x = normal(70_000)
    through = channel(config, ["encoder=three_lc"], x.shape, traced=False)
    assert sum(bits_of(through(x)[0])) <= 1.6 * x.size + 64
    assert bits_of(through(np.zeros_like(x))[0])[1] == 32 * x.size / 280


def test_low_rank_loses_nothing_of_a_matrix_of_that_rank(config):
    x = (normal(50, 3) @ normal(3, 40, seed=1)).reshape(5, 10, 40)
    assert error_of(config, "encoder=low_rank encoder.rank=3", x) < 1e-9


def test_a_sketch_of_the_sum_is_the_sum_of_sketches_and_finds_the_large_elements(config):
    """Linear: the server unsketches once, after the sum. (channel has one client: here two tensors share the seed.)"""
    x, y = np.zeros([2, 3000], np.float32)
    x[[5, 700]], y[[700, 2999]] = [10, -4], [1, 7]
    through = channel(config, ["encoder=count_sketch", "encoder.share=0.3", "encoder.recovered=0.001"], x.shape)
    sketches = [next(iter(through(t)[0].values())).numpy() for t in (x, y, x + y)]
    assert np.allclose(sketches[0] + sketches[1], sketches[2], atol=1e-5)
    assert np.allclose(through(x + y)[1], x + y, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 7, 64, 98, 1000, 4 * 1031, 131_072])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_rotations_keep_the_norm_and_come_back(name, size):
    transform, seed, x = TRANSFORMS[name], tf.constant([3, 4]), normal(size)
    rotated = transform.forward(tf.constant(x), seed)
    assert len(rotated) == transform.padded(size)
    assert nmse(transform.inverse(rotated, seed, size).numpy(), x) < 1e-11  # what is lost does not average out
    if name != "kashin":  # a frame's coefficients are not unique, so neither is their norm
        assert np.linalg.norm(rotated) == pytest.approx(np.linalg.norm(x), rel=1e-6)
    if name == "fourier":
        assert transform.padded(size) <= size + 1


def test_the_fast_hadamard_transform_is_the_matrix():
    from scipy.linalg import hadamard as matrix

    for size in (1, 2, 8, 128, 2048):
        x = normal(size)
        assert np.allclose(hadamard(tf.constant(x)), matrix(size) @ x / math.sqrt(size), atol=1e-4)
