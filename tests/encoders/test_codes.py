import functools
import heapq
import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsweep.encoders.codes import CODES

RNG = np.random.default_rng(0)
TERNARY = "quartic_runs"
ANY = [name for name in CODES if name != TERNARY]
UNIVERSAL_HEADER = 12

SYMBOLS = {
    "empty": [],
    "one": [5],
    "one negative": [-(2**31)],
    "two": [7, -7],
    "constant": [3] * 1000,
    "negative": RNG.integers(-50, -40, 1001),
    "large": 2**31 - 1 - RNG.integers(0, 2**10, 500),
    "the ends of int32": -(2**31) + np.arange(17) ** 2,
    "far apart": [0, 2**20 + 12345, 3, 3, 3],
    "one sided": [0, 0, 0, 1, 2, 3, 900],
    "mode at the top": [9, 9, 9, 8, 1, -100],
    "geometric gaps": RNG.geometric(0.01, 20_000),
    "8-bit levels": np.clip(np.round(RNG.normal(0, 32, 20_000)), -128, 127),
    "sparse": RNG.integers(1, 9, 20_000) * (RNG.random(20_000) < 0.01),
    "two words end the range code": np.arange(121) % 3,  # the end takes one more often
    "all different": RNG.permutation(5_000),
}
TERNARIES = {
    "empty": [],
    "one": [-1],
    "zeros": [0] * 1234,
    "every group": np.stack(np.meshgrid(*[[-1, 0, 1]] * 5), -1).reshape(-1),
    **{f"a run of {groups}": [1] * 5 + [0] * 5 * groups + [-1] * 3 for groups in (1, 2, 13, 14, 15, 28, 29, 30)},
    "sparse": RNG.choice([-1, 0, 1], 20_001, p=[0.01, 0.98, 0.01]),
    "dense": RNG.integers(-1, 2, 20_002),
}


def int32(values):
    return np.asarray(values, np.int32)


@functools.cache
def bits_of(name):
    """`bits` as a graph that does not know the number of symbols."""
    return tf.function(CODES[name].bits, input_signature=[tf.TensorSpec([None], tf.int32)])


def check(name, symbols):
    symbols = int32(symbols)
    data = CODES[name].encode(symbols)
    assert isinstance(data, bytes)
    decoded = CODES[name].decode(data, len(symbols))
    assert decoded.dtype == np.int32 and np.array_equal(decoded, symbols)
    bits = bits_of(name)(symbols)
    assert bits.dtype == tf.int32 and bits.shape == () and bits == 8 * len(data)
    return data


def entropy(symbols):
    """Bits of the whole tensor by its own histogram."""
    counts = np.unique(symbols, return_counts=True)[1]
    return float(np.sum(counts * np.log2(len(symbols) / counts)))


def stream_bits(data, header):
    """The stream after the header as a text of 0 and 1."""
    return "".join(f"{octet:08b}" for octet in data[header:])


# What holds for every code


@pytest.mark.parametrize("symbols", SYMBOLS.values(), ids=SYMBOLS)
@pytest.mark.parametrize("name", ANY)
def test_symbols_survive_in_exactly_as_many_bits_as_the_graph_counts(name, symbols):
    check(name, symbols)


@pytest.mark.parametrize("symbols", TERNARIES.values(), ids=TERNARIES)
@pytest.mark.parametrize("name", CODES)
def test_ternary_symbols_survive_too(name, symbols):
    check(name, symbols)


@pytest.mark.parametrize("name", ANY)
@settings(max_examples=30, deadline=None)
@given(low=st.integers(-(2**31), 2**31 - 2**10), offsets=st.lists(st.integers(0, 6) | st.integers(0, 2**10 - 1)))
def test_any_list_of_integers_survives(name, low, offsets):
    check(name, low + np.array(offsets, np.int64))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-1, 1) | st.just(0)), st.integers(0, 400))
def test_any_ternary_list_survives(symbols, zeros):
    check(TERNARY, symbols + [0] * zeros + symbols)


@pytest.mark.parametrize("name", CODES)
def test_no_symbols_take_no_bits(name):
    assert CODES[name].encode(int32([])) == b""
    assert bits_of(name)(int32([])) == 0 and CODES[name].bits(tf.zeros([0], tf.int32)) == 0


@pytest.mark.parametrize("name", CODES)
def test_bits_can_be_serialized_as_a_tff_computation_of_a_known_size(name):
    counted = tff.tensorflow.computation(CODES[name].bits, tff.TensorType(np.int32, [7]))
    assert counted.type_signature.result == tff.TensorType(np.int32)


@pytest.mark.parametrize("name", CODES)
def test_bits_are_counted_without_python(name):
    graph = bits_of(name).get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    assert not [node.op for node in nodes if "PyFunc" in node.op]


@pytest.mark.parametrize("name", ANY)
def test_symbols_that_are_too_far_apart_are_refused(name):
    with pytest.raises(ValueError, match="16777216"):
        CODES[name].encode(int32([0, 2**24]))


# packed


@pytest.mark.parametrize(("greatest", "width"), [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (255, 8), (256, 9)])
def test_packed_takes_the_bits_of_the_greatest_difference_for_each_symbol(greatest, width):
    symbols = int32([greatest, 0] * 400) - 1000
    assert len(check("packed", symbols)) == 5 + 800 * width // 8


# Universal codes. With 0 as the mode and no negative symbols n is folded to n, and n + 1 is coded.

GAMMA = {1: "1", 2: "010", 3: "011", 4: "00100", 5: "00101", 7: "00111", 8: "0001000", 17: "000010001"}
DELTA = {1: "1", 2: "0100", 3: "0101", 4: "01100", 7: "01111", 8: "00100000", 16: "001010000", 17: "001010001"}


@pytest.mark.parametrize(("name", "codewords"), [("elias_gamma", GAMMA), ("elias_delta", DELTA)])
def test_elias_codewords_are_the_published_ones(name, codewords):
    for number, codeword in codewords.items():
        stream = stream_bits(check(name, [0, 0, number - 1]), UNIVERSAL_HEADER)
        expected = "11" + codeword if number > 1 else "111"
        assert stream.rstrip("0") == expected.rstrip("0") and len(stream) == math.ceil(len(expected) / 8) * 8


@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        ("elias_gamma", [1, 3, 3, 5, 5, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 9]),
        ("elias_delta", [1, 4, 4, 5, 5, 5, 5, 8, 8, 8, 8, 8, 8, 8, 8, 9]),
    ],
)
def test_elias_lengths_are_the_published_ones(name, lengths):
    for n, length in enumerate(lengths):
        # 8 codewords of each number, so no bit is padding; 16 zeros keep 0 the mode
        data = check(name, [0] * 16 + [n] * 8)
        assert len(data) == UNIVERSAL_HEADER + 16 // 8 + length


@pytest.mark.parametrize("name", ["elias_gamma", "elias_delta", "golomb_rice", "zero_run"])
def test_folding_keeps_symbols_near_the_mode_short_on_both_sides(name):
    around = RNG.permutation([0] * 40 + [1] * 20 + [-1] * 20 + [2] * 5 + [-2] * 5)
    assert len(check(name, 1000 + around)) == len(check(name, around))
    assert len(check(name, around)) == len(check(name, -around))


def test_a_one_sided_alphabet_pays_no_sign():
    for symbols in ([0] * 80 + [3] * 8, [0] * 80 + [-3] * 8):
        assert len(check("elias_gamma", symbols)) == UNIVERSAL_HEADER + 10 + 5  # n + 1 = 4: 5 bits
    # beyond the shorter side too: 5 is the 7th of 0, 1, -1, 2, 3, 4, 5
    assert len(check("elias_gamma", [0] * 79 + [-1] + [5] * 8)) == UNIVERSAL_HEADER + math.ceil((79 + 3 + 8 * 5) / 8)


def test_golomb_rice_is_near_the_entropy_of_geometric_gaps():
    for rate in (0.5, 0.1, 0.01, 0.001):
        gaps = RNG.geometric(rate, 30_000)
        h = 30_000 * (-rate * math.log2(rate) - (1 - rate) * math.log2(1 - rate)) / rate
        assert 0.97 * h < 8 * len(check("golomb_rice", gaps)) < 1.05 * h


def test_golomb_rice_writes_the_quotient_in_unary_and_the_remainder_in_k_bits():
    data = check("golomb_rice", [0, 10, 0, 11])
    assert data[UNIVERSAL_HEADER] == 2  # 16 bits; k = 1 and k = 3 need 18
    assert stream_bits(data, UNIVERSAL_HEADER + 1) == "100" + "00110" + "100" + "00111"


# zero_run


def test_zero_run_sends_a_run_before_each_other_symbol_and_after_the_last():
    # runs 3, 0, 2 around the symbols 1, 2 (folded alike): gamma of 4, 1, 1, 2, 3
    stream = stream_bits(check("zero_run", [0, 0, 0, 1, 2, 0, 0]), UNIVERSAL_HEADER)
    assert stream == "00100" + "1" + "1" + "010" + "011" + "000"


def test_a_long_run_costs_its_logarithm():
    assert len(check("zero_run", [4] * 2**16)) == UNIVERSAL_HEADER + 5  # 33 bits


# huffman


def heap_huffman_bits(counts):
    """The bits of all symbols by Huffman's own algorithm: the sum of all merged weights."""
    heap, total = list(counts), 0
    heapq.heapify(heap)
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    return total


def huffman_lengths(counts):
    """The table of codeword lengths that is sent for symbols 0, 1, ... with these counts."""
    symbols = np.repeat(np.arange(len(counts)), counts)
    return list(check("huffman", symbols)[8 : 8 + len(counts)])


def test_huffman_lengths_of_a_textbook_example():
    # Cormen, Leiserson, Rivest and Stein, Introduction to Algorithms, section 15.3: a to f
    assert huffman_lengths([45, 13, 12, 16, 9, 5]) == [1, 3, 3, 3, 4, 4]


def test_a_symbol_that_does_not_occur_has_no_codeword():
    assert huffman_lengths([1, 0, 1]) == [1, 0, 1]


@pytest.mark.parametrize("kind", ["uniform", "geometric", "gauss", "zipf", "random"])
def test_huffman_is_optimal_and_within_a_bit_of_the_entropy(kind):
    symbols = {
        "uniform": RNG.integers(0, 100, 3000),
        "geometric": RNG.geometric(0.3, 3000),
        "gauss": np.round(RNG.normal(0, 20, 3000)),
        "zipf": np.minimum(RNG.zipf(1.3, 3000), 2000),
        "random": np.repeat(np.arange(40), RNG.integers(1, 50, 40)),
    }[kind]
    table = int(np.ptp(symbols)) + 1
    counts = np.unique(symbols, return_counts=True)[1].tolist()
    optimal = heap_huffman_bits(counts)
    assert entropy(symbols) <= optimal < entropy(symbols) + len(symbols)
    assert len(check("huffman", symbols)) == 8 + table + math.ceil(optimal / 8)


def test_huffman_codewords_are_never_longer_than_24_bits():
    fibonacci = [1, 1]
    while len(fibonacci) < 27:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])  # Huffman's own tree is as deep as it can be: 26
    lengths = huffman_lengths(fibonacci)
    assert max(lengths) == 24 and sum(2.0**-length for length in lengths) == 1
    bits = np.dot(lengths, fibonacci)
    assert heap_huffman_bits(fibonacci) < bits < 1.0001 * heap_huffman_bits(fibonacci)


# range


@pytest.mark.parametrize("kind", ["8-bit", "2-bit", "ternary", "sparse", "uniform", "sorted"])
def test_range_is_within_half_a_percent_of_the_entropy_and_its_table(kind):
    gauss = np.clip(np.round(RNG.normal(0, 32, 100_000)), -128, 127)
    symbols = {
        "8-bit": gauss,
        "2-bit": gauss // 64,
        "ternary": np.sign(gauss // 40),
        "sparse": np.int32(RNG.random(100_000) < 0.02),
        "uniform": np.arange(100_000) % 256,  # powers of 2 keep the coder in step: the range is always at its ends
        "sorted": np.sort(gauss),
    }[kind]
    bits, table = 8 * len(check("range", symbols)), 64 + 32 * (int(np.ptp(symbols)) + 1)
    assert entropy(symbols) + table <= bits <= 1.005 * entropy(symbols) + table + 64


# quartic_runs


def test_fourteen_groups_of_zeros_are_one_byte():
    # 3LC: "a hypothetical compression ratio of 280x for a zero-filled tensor"
    for k in (1, 2, 100):
        zeros = np.zeros(70 * k, np.float32)
        assert zeros.nbytes / len(check(TERNARY, zeros)) == 280


def test_five_symbols_are_a_byte_at_most():
    for share in (0.01, 0.3, 1.0):
        symbols = RNG.choice([-1, 1], 9999) * (RNG.random(9999) < share)
        assert 8 * len(check(TERNARY, symbols)) <= 1.6 * 9999 + 8


def test_quartic_bytes_are_those_of_3lc():
    # the first symbol has the weight 81; 121 is all zeros; 243 and 255 are runs of 2 and 14 of these
    assert check(TERNARY, [-1] * 5 + [1] * 5 + [1, 0, 0, 0, 0]) == bytes([0, 242, 202])
    assert check(TERNARY, [0] * 5) == bytes([121])
    assert check(TERNARY, [0] * 10) == bytes([243])
    assert check(TERNARY, [0] * 70) == bytes([255])
    assert check(TERNARY, [0] * 75) == bytes([255, 121])
    assert check(TERNARY, [0] * 80) == bytes([255, 243])


def test_symbols_that_are_not_ternary_are_refused():
    with pytest.raises(ValueError, match="from -1 to 2"):
        CODES[TERNARY].encode(int32([-1, 2]))
