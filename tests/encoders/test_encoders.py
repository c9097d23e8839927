"""The contract of every encoder, and what is special to each. A new encoder is one line in ENCODERS."""

from __future__ import annotations

import contextlib
import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf
from channel import bits_of, channel, nmse, normal, rule
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te
from variations import some

from fedsweep import encoders, schema
from fedsweep.encoders import levels, randomness, tree
from fedsweep.errors import UserError
from fedsweep.federated import coded


def size(shape):
    return math.prod(shape)


def padded(n):
    return 1 << (n - 1).bit_length()


def words(n, bits, word_bits=32):
    return 32 * math.ceil(n * bits / word_bits)


def kept(n, share):
    return max(1, round(share * n))


def low_rank(shape):
    n, m = size(shape) // shape[-1], shape[-1]
    return 32 * 2 * (n + m) if len(shape) > 1 and 2 * (n + m) < n * m else 32 * n * m


# name of the test: overrides, bits for a shape by the encoder's formula; not what lossless codes take, which depends on
# the data
ENCODERS = {
    "identity": ("encoder=identity", lambda s: 32 * size(s)),
    "uniform-8": ("encoder.bits=8", lambda s: words(size(s), 8, 28) + 64),
    "uniform-1": ("encoder.bits=1 encoder.packing=dense", lambda s: words(size(s), 1) + 64),
    "uniform-5-nearest": (
        "encoder.bits=5 encoder.packing=dense encoder.stochastic=false",
        lambda s: words(size(s), 5) + 64,
    ),
    "uniform-4-rotated": (
        "encoder.bits=4 encoder.packing=dense encoder.rotation=fourier",
        lambda s: words(size(s) + size(s) % 2, 4) + 64,
    ),
    "hadamard-4": ("encoder=hadamard encoder.bits=4", lambda s: words(padded(size(s)), 4, 28) + 64),
    "hadamard-16-nearest": (
        "encoder=hadamard encoder.bits=16 encoder.packing=dense encoder.stochastic=false",
        lambda s: words(padded(size(s)), 16) + 64,
    ),
    "fourier-4": ("encoder=fourier encoder.bits=4", lambda s: words(size(s) + size(s) % 2, 4, 28) + 64),
    "kashin-4": ("encoder=kashin encoder.bits=4", lambda s: words(padded(size(s)), 4, 28) + 64),
    "qsgd-6": ("encoder=qsgd encoder.bits=6", lambda s: words(size(s), 6) + 32),
    "qsgd-4-buckets": (
        "encoder=qsgd encoder.bits=4 encoder.bucket=64",
        lambda s: words(size(s), 4) + 32 * math.ceil(size(s) / min(64, size(s))),
    ),
    "terngrad": ("encoder=terngrad", lambda s: words(size(s), 2) + 32),
    "terngrad-unclipped": (
        "encoder=terngrad encoder.clip=0 encoder.packing=base_three",
        lambda s: 8 * math.ceil(size(s) / 5) + 32,
    ),
    "sign": ("encoder=sign", lambda s: words(size(s), 1) + 32),
    "one_bit": ("encoder=one_bit", lambda s: words(size(s), 1) + 64),
    "drive": ("encoder=drive", lambda s: words(padded(size(s)), 1) + 96),
    "drive-fourier": ("encoder=drive encoder.rotation=fourier", lambda s: words(size(s) + size(s) % 2, 1) + 96),
    "eden-3": ("encoder=eden encoder.bits=3", lambda s: words(padded(size(s)), 3) + 96),
    "eden-half": ("encoder=eden encoder.bits=0.5", lambda s: words(kept(padded(size(s)), 0.5), 1) + 96 + 64),
    "eden-2.5": (
        "encoder=eden encoder.bits=2.5",
        lambda s: words(round(padded(size(s)) / 2), 3) + words(padded(size(s)) - round(padded(size(s)) / 2), 2) + 96,
    ),
    "lloyd_max-3": ("encoder=lloyd_max encoder.bits=3", lambda s: words(size(s), 3) + 32 * 8),
    "normal_float-4": ("encoder=normal_float", lambda s: words(size(s), 4) + 32 * math.ceil(size(s) / 64)),
    "natural": ("encoder=natural", lambda s: words(size(s), 9)),
    "natural-8": ("encoder=natural encoder.bits=8", lambda s: words(size(s), 8) + 32),
    "top_k": (
        "encoder=top_k encoder.share=0.1",
        lambda s: 32 * kept(size(s), 0.1) + words(kept(size(s), 0.1), max(1, math.ceil(math.log2(max(2, size(s)))))),
    ),
    "top_k-composed": (
        "encoder=top_k encoder.share=0.1 encoder.values=qsgd encoder.positions=elias_gamma",
        lambda s: 32 + words(kept(size(s), 0.1), 8) + 32,
    ),
    "rand_k": ("encoder=rand_k encoder.share=0.25", lambda s: 32 * kept(size(s), 0.25) + 64),
    "rand_k-natural": (
        "encoder=rand_k encoder.share=0.5 encoder.values=natural",
        lambda s: words(kept(size(s), 0.5), 9) + 64,
    ),
    "stc": ("encoder=stc encoder.share=0.1", lambda s: 32 + words(kept(size(s), 0.1), 1) + 32),
    "three_lc": ("encoder=three_lc encoder.sparsity=1.5", lambda s: 32 + 32),
    "rate_distortion": ("encoder=rate_distortion", lambda s: 32 + 32),
    "count_sketch": (
        "encoder=count_sketch encoder.share=0.6 encoder.recovered=0.2",
        lambda s: 32 * 3 * math.ceil(0.6 * size(s) / 3),
    ),
    "low_rank": ("encoder=low_rank encoder.rank=2", low_rank),
    "top_k-eden": (
        "encoder=top_k encoder.share=0.5 encoder.values=eden encoder.bits=2",
        lambda s: (
            words(padded(kept(size(s), 0.5)), 2)
            + 96
            + words(kept(size(s), 0.5), max(1, math.ceil(math.log2(max(2, size(s))))))
        ),
    ),
    "custom": ("encoder=custom", lambda s: 16 * size(s) + 32),
    "scheduled": ("schedule=falling_loss encoder.bits=5", lambda s: 64 + 32 + 32),
    "scheduled-range": ("schedule=update_range schedule.resolution=0.5", lambda s: 64 + 32 + 32),
    "scheduled-coarse": ("schedule=update_range schedule.resolution=100", lambda s: 64 + 32 + 32),
    "scheduled-qsgd": ("encoder=qsgd encoder.bits=2 schedule=client_weight", lambda s: 32 + 32 + 32),
    "scheduled-weight": ("schedule=client_weight encoder.bits=3", lambda s: 64 + 32 + 32),
    "huffman": ("encoder.bits=5 code=huffman", lambda s: 64 + 32),
    "eden-range": ("encoder=eden encoder.bits=2.5 code=range", lambda s: 96 + 2 * 32),
}
UNBIASED = [
    "uniform-8", "uniform-1", "uniform-4-rotated", "hadamard-4", "fourier-4", "kashin-4", "qsgd-6", "qsgd-4-buckets",
    "terngrad-unclipped", "drive", "drive-fourier", "eden-3", "eden-half", "eden-2.5", "natural", "natural-8", "rand_k",
    "rand_k-natural", "scheduled", "scheduled-range", "scheduled-weight", "scheduled-qsgd", "huffman",
    "eden-range",
]  # fmt: skip
BIASED = ["sign", "one_bit", "top_k", "three_lc", "lloyd_max-3", "terngrad"]


SHOWN = {name.partition("-")[0]: name for name in reversed(ENCODERS)}.values()  # the first variant of each


@pytest.fixture(params=some(ENCODERS, SHOWN))
def encoder(request):
    overrides, bits = ENCODERS[request.param]
    return overrides.split(), bits


@pytest.mark.parametrize("shape", some([(1,), (7,), (600,), (3, 4, 5, 6)], [(1,), (3, 4, 5, 6)]), ids=str)
def test_shape_and_dtype_are_kept_and_bits_are_those_of_the_formula(config, encoder, shape):
    overrides, bits = encoder
    encoded, decoded = channel(config, overrides, shape, traced=False)(normal(*shape))
    assert decoded.shape == shape and decoded.dtype == np.float32
    fixed, _ = bits_of(encoded)
    assert fixed == bits(shape)


def test_extreme_tensors_come_back_finite_and_the_same_seed_gives_the_same_message(config, encoder):
    overrides, _ = encoder
    shape = (100,)
    through = channel(config, overrides, shape, traced=False)
    first, plain = through(normal(*shape))
    again, _ = through(normal(*shape))
    assert all(np.array_equal(first[key], again[key]) for key in first)

    assert np.array_equal(through(np.zeros(shape, np.float32))[1], np.zeros(shape))
    _, constant = through(np.full(shape, -3.0, np.float32))
    assert np.isfinite(constant).all() and constant.mean() <= 0
    for scale in (1e30, 1e-30, 1e-38):
        _, decoded = through(normal(*shape) * np.float32(scale))
        assert np.isfinite(decoded).all()
        if scale != 1e-38:  # TensorFlow takes numbers below 1.2e-38 for zero
            # The error scales along; a little of it changes with the digits. (update_range looks at the scale itself.)
            largest = 2 * nmse(plain, normal(*shape)) + 1e-4
            assert "schedule=update_range" in overrides or nmse(decoded / scale, normal(*shape)) < largest


def test_one_element_is_sent_with_its_sign(config, encoder):
    overrides, _ = encoder
    _, decoded = channel(config, overrides, (1,), traced=False)(np.array([-2.0], np.float32))
    assert np.isfinite(decoded).all() and decoded[0] <= 0


def test_a_tensor_without_elements_travels_as_it_is(config, encoder):
    overrides, _ = encoder
    label, _ = rule(config, *overrides)(tf.TensorSpec([0], tf.float32))
    assert label == "identity"


def excess(config, name, x, repeats=300):
    """How much the mean of `repeats` independent messages misses x beyond what chance explains, in standard deviations.

    norm2(mean - x)^2 has the mean sum(variances) / repeats if there is no bias, and a standard deviation of at most
    sqrt(2 sum(variances^2)) / repeats where places are uncorrelated.
    """
    through = channel(config, ENCODERS[name][0].split(), x.shape)
    sent = np.stack([through(x, seed=(7, k))[1] for k in range(repeats)]).astype(np.float64)
    variances = sent.var(axis=0, ddof=1)
    missed = np.sum((sent.mean(axis=0) - x) ** 2)
    return (missed - variances.sum() / repeats) / (math.sqrt(2 * np.sum(variances**2)) / repeats + 1e-12)


@pytest.mark.parametrize("name", some(UNBIASED, SHOWN))
def test_encoders_that_claim_it_are_unbiased(config, name):
    """Chance takes a right encoder beyond 6 standard deviations in fewer than one seed of 10,000; it is fixed."""
    assert excess(config, name, normal(512)) < 6


@pytest.mark.parametrize("name", BIASED)
def test_the_test_for_bias_finds_it_in_encoders_that_have_one(config, name):
    """120 messages show the least bias of these, and more would show it the more clearly."""
    assert not excess(config, name, normal(512), repeats=120) < 6


@pytest.mark.parametrize("name", some(UNBIASED, SHOWN))
def test_another_seed_gives_another_message(config, name):
    through = channel(config, ENCODERS[name][0].split(), (512,))
    (a, _), (b, _) = through(normal(512)), through(normal(512), seed=(1, 3))
    assert not all(np.array_equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("stochastic", [True, False])
def test_uniform_is_off_by_at_most_a_step_and_half_a_step_when_rounding_to_nearest(config, bits, stochastic):
    x = normal(5000)
    overrides = [f"encoder.bits={bits}", f"encoder.stochastic={stochastic}", "encoder.packing=dense"]
    _, decoded = channel(config, overrides, x.shape, traced=False)(x)
    step = (x.max() - x.min()) / (2**bits - 1)
    assert np.abs(decoded - x).max() <= step * (1 if stochastic else 0.5) + 4e-6  # float32 at the ends of the range
    assert len(np.unique(decoded)) <= 2**bits


def test_no_value_needs_a_level_above_the_last_one(config):
    """Where (x - low) * (levels / range) exceeds levels by a last bit, the largest value came back as the smallest."""
    x = np.array([0.0574, -0.0625], np.float32)
    through = channel(config, ["encoder.bits=16", "encoder.packing=dense"], x.shape)
    worst = max(np.abs(through(x, seed=(7, k))[1] - x).max() for k in range(1000))
    assert worst <= (x[0] - x[1]) / 65535 * 1.01


@pytest.mark.parametrize("scale", some([1e-44, 1e-38, 1e-30, 1.0, 1e30, 3e38], [1e-44, 1.0, 3e38]))
@pytest.mark.parametrize("stochastic", [False, True])
def test_no_value_lies_above_the_last_symbol_of_uniform(scale, stochastic):
    """Wherever float32 rounds the step down: one symbol more would spill into a neighbour."""
    rng = np.random.default_rng(0)
    quantizer = levels.Uniform(stochastic)
    for trial in range(100):
        low, high = np.sort(rng.uniform(-0.5, 0.5, 2)) * scale
        x = np.concatenate([[low], rng.uniform(low, high, 30), [high] * 2000]).astype(np.float32)  # for every noise
        for bits in (1, 3, 8, 13, 16):
            most = 2**bits - 1
            with randomness.stream(tf.constant([trial, bits], tf.int32)):
                symbols, ends = quantizer.quantize(tf.constant(x), float(most))
            assert np.min(symbols) >= 0 and np.max(symbols) <= most, (low, high, bits)
            if scale > 1e-37:  # smaller steps are 0 in TensorFlow
                restored = np.float64(quantizer.restore(symbols, ends, float(most)))
                step = (float(x.max()) - float(x.min())) / most * (1 if stochastic else 0.5)
                assert np.max(np.abs(restored - x)) <= step * (1 + 1e-4) + 2e-7 * scale


def test_uniform_errs_as_much_as_stochastic_rounding_must(config):
    """Suresh et al. 2017: each element's variance is at most (step / 2)^2; about 2/3 of that on average."""
    x = normal(4096)
    for bits in (1, 2, 4):
        through = channel(config, [f"encoder.bits={bits}", "encoder.packing=dense"], x.shape)
        error = np.mean([np.sum((through(x, seed=(3, k))[1] - x) ** 2) for k in range(20)])
        bound = x.size * ((x.max() - x.min()) / (2**bits - 1) / 2) ** 2
        assert 0.2 * bound < error <= bound


def test_rotations_flatten_the_range_of_a_spiky_tensor(config):
    x = normal(4097)  # padded to nearly twice as many: room for kashin
    x[17] = 100.0
    error = {
        name: nmse(channel(config, [f"encoder={name}", "encoder.bits=2"], x.shape, traced=False)(x)[1], x)
        for name in ("uniform", "hadamard", "fourier", "kashin")
    }
    assert max(error["hadamard"], error["fourier"]) < 0.1 * error["uniform"]
    assert error["kashin"] < 0.8 * error["hadamard"]


def test_only_tensors_with_more_elements_than_the_threshold_are_encoded(config):
    chosen = rule(config, "encoder.bits=4", "encoder.threshold=1000", "encoder.packing=dense")
    labels = [chosen(tf.TensorSpec([n], tf.float32))[0] for n in (999, 1000, 1001)]
    assert labels == ["identity", "identity", "uniform 4 bit > dense"]


# Another value for every knob of every encoder: a knob that is missing here fails the test below.
CHANGES = {
    "bits": 3, "stochastic": "false", "packing": {"terngrad": "base_three"}, "clip": 2.5000001, "iterations": 3,
    "block": 32, "bucket": 32, "share": 0.201, "values": "sign", "positions": "huffman", "unbiased": "false",
    "sparsity": 1.5, "trade_off": 0.10000001, "rows": 5, "recovered": 0.5, "rank": 3,
    "maker": "fedsweep.encoders.custom:other",
    "rotation": {"drive": "fourier", "eden": "fourier", "uniform": "kashin encoder.bits=5"},
}  # fmt: skip
SCHEDULES = [
    "schedule=falling_loss", "schedule=plateau", "schedule=plateau schedule.patience=2",
    "schedule=plateau schedule.smoothing=0.5", "schedule=update_range",
    "schedule=update_range schedule.resolution=0.0050000001", "schedule=client_weight",
    "schedule=client_weight encoder.bits=3", "schedule=falling_loss encoder.bits=3",
    "schedule=falling_loss code=huffman",
]  # fmt: skip


def changed(name, key):
    """An override that gives the encoder's knob another value."""
    if key == "bits" and name == "natural":
        return "encoder.bits=8"
    value = CHANGES[key]
    if isinstance(value, dict):
        value = value.get(name, {"packing": "dense", "rotation": "kashin"}[key])
    return f"encoder.{key}={value}"


def test_labels_name_every_setting(config, monkeypatch):
    """Equal labels stand for equal encoders: plans, and so duplicates in sweeps, are compared by them."""
    from fedsweep.encoders import custom

    monkeypatch.setattr(custom, "other", custom.half_precision, raising=False)
    spec, labels = tf.TensorSpec([30, 40], tf.float32), []
    for name, section in schema.GROUPS["encoder"].items():
        if name == "identity":
            continue
        common = [f"encoder={name}", *(["encoder.values=uniform"] if name in ("top_k", "rand_k") else [])]
        labels.append(rule(config, *common)(spec)[0])
        for key in {field.name for field in dataclasses.fields(section)} - {"name", "threshold", "error_feedback"}:
            if key == "bits" and dataclasses.fields(section)[1].type == "float | None":
                continue  # without effect
            labels.append(rule(config, *common, *changed(name, key).split())(spec)[0])
    labels += [rule(config, f"code={code}")(spec)[0] for code in schema.CODES]
    labels += [rule(config, *text.split())(spec)[0] for text in SCHEDULES]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("name", some(ENCODERS, SHOWN))
def test_what_error_feedback_remembers_stays_bounded_with_every_encoder_that_it_accepts(config, name):
    """p = u + memory, memory = p - C(p), for 25 rounds of normal u: its norm settles instead of growing on."""
    overrides = ENCODERS[name][0].split()
    try:
        config(*overrides, "encoder.error_feedback=true")
    except UserError as refused:
        assert "what is remembered would grow" in str(refused)
        return
    through, memory, norms = channel(config, overrides, (2048,)), np.zeros(2048, np.float32), []
    for k in range(25):
        p = normal(2048, seed=k) + memory
        memory = p - through(p, seed=(3, k))[1]
        norms.append(np.linalg.norm(memory))
    # What is sent of it in a round is a tenth at least: it settles within a few tens of the update's norm.
    assert norms[-1] < 30 * np.sqrt(2048) and norms[-1] <= 2.5 * norms[9]


@pytest.mark.parametrize("name", ["uniform", "uniform encoder.rotation=hadamard", "hadamard", "fourier", "kashin"])
def test_at_the_least_width_that_is_accepted_a_sparse_update_is_not_lost_in_its_error(config, name):
    x = np.where(np.random.default_rng(1).random(20_000) < 0.01, normal(20_000), 0).astype(np.float32)
    overrides = ["encoder.packing=dense", *f"encoder={name}".split()]
    accepted = []
    for bits in range(1, 9):
        with contextlib.suppress(UserError):
            config(*overrides, f"encoder.bits={bits}", "encoder.error_feedback=true")
            accepted.append(bits)
    assert nmse(channel(config, [*overrides, f"encoder.bits={accepted[0]}"], x.shape, traced=False)(x)[1], x) < 1


def test_an_encoder_of_ones_own_is_named_by_its_function(config):
    spec = tf.TensorSpec([100], tf.float32)
    label, encoder = rule(config, "encoder=custom")(spec)
    assert label == "custom fedsweep.encoders.custom:half_precision" and isinstance(encoder, te.core.Encoder)
    for maker, says in {
        "no.such.module:f": "can be imported", "fedsweep.encoders.custom:nothing": "can be imported",
        "json:decoder": "is no function", "builtins:repr": "returned str",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=rf"encoder\.maker={maker}: .*{says}"):
            rule(config, "encoder=custom", f"encoder.maker={maker}")(spec)
        with pytest.raises(UserError, match=r"downlink\.maker="):
            encoders.downlink(config("downlink=custom", f"downlink.maker={maker}", "downlink.threshold=0"))(spec)


def test_equal_encoders_are_one_and_what_others_make_is_asked_for_anew(config):
    """A gather encoder is made once for a plan and its rounds; a label alone, which anybody may choose, does not find
    it."""
    spec = tf.TensorSpec([100], tf.float32)
    four, again, eight = (rule(config, f"encoder.bits={bits}", "encoder.packing=dense")(spec) for bits in (4, 4, 8))
    assert tree.gather(*four, spec) is tree.gather(*again, spec)
    sent = []
    for _, encoder in (four, eight):
        gathered = tree.gather("mine", encoder, spec)
        encoded, _ = gathered.encode(tf.zeros([100]), gathered.get_params(())[0])
        sent.append(coded.plain_bits(encoded))
    assert sent == [64 + 13 * 32, 64 + 25 * 32]
    own = [rule(config, "encoder=custom")(spec)[1] for _ in range(2)]
    assert own[0] is not own[1]


def test_a_code_refuses_a_tensor_whose_bits_it_could_not_count(config):
    with pytest.raises(UserError, match="at most 16,777,216 elements"):
        rule(config, "code=elias_gamma")(tf.TensorSpec([2**24 + 1], tf.float32))
    assert rule(config, "code=elias_gamma")(tf.TensorSpec([2**24], tf.float32))[0] == "uniform 8 bit > elias_gamma"


def test_stages_work_outside_a_stream_as_tensor_encodings_own_do(config):
    core = rule(config, "encoder=hadamard", "encoder.bits=8")(tf.TensorSpec([100], tf.float32))[1]
    simple = te.encoders.as_simple_encoder(core, tf.TensorSpec([100], tf.float32))
    encoded, _ = simple.encode(tf.constant(normal(100)), simple.initial_state())
    assert np.abs(simple.decode(encoded) - normal(100)).max() < 0.1


def test_every_encoder_of_the_configuration_is_held_to_the_contract():
    tested = {
        text.split("encoder=")[1].split()[0] if "encoder=" in text else "uniform" for text, _ in ENCODERS.values()
    }
    assert tested == set(schema.GROUPS["encoder"])
