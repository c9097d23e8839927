"""Encoders: what a tensor looks like on the wire. One file per family, all of them tensor_encoding stages.

`uplink(config)` and `downlink(config)` give the rule that chooses an encoder for each tensor: rotation, sparsifier,
quantizer, then a lossless code or plain packing (`fedsweep.encoders.tree`). Gather encoders serve both directions
(`fedsweep.federated.uplink`, `fedsweep.federated.downlink`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

from fedsweep import schema
from fedsweep.encoders import (
    codebooks,
    custom,
    levels,
    natural,
    rate_distortion,
    rotation,
    schedule,
    signs,
    sketches,
    sparse,
)
from fedsweep.encoders.codes import CODES, MOST_SYMBOLS
from fedsweep.encoders.codes.stage import CodeStage
from fedsweep.encoders.packing import WORD_BITS, PackingStage
from fedsweep.encoders.tree import IDENTITY, Node
from fedsweep.errors import UserError

__all__ = ["EncoderRule", "downlink", "uplink"]

# A tensor's spec -> (label, encoder). Equal labels stand for equal encoders; under `tree.IDENTITY` a tensor goes as it
# is, whatever the encoder.
EncoderRule = Callable[[tf.TensorSpec], tuple[str, te.core.Encoder]]


def uplink(config: schema.Config) -> EncoderRule:
    """What clients encode with."""
    return _rule("encoder", config.encoder, config.code.name, config.schedule)


def downlink(config: schema.Config) -> EncoderRule:
    """What the server encodes with: `code` serves both directions, `schedule` clients alone."""
    return _rule("downlink", config.downlink_encoder, config.code.name, schedule=None)


# One object for equal encoders, so that a run's plan and its rounds share what is made of it. (What `custom` makes may
# change under its name.)
_AS_IT_IS = (IDENTITY, te.encoders.identity())
_made: dict[tuple[str, tf.TensorSpec], te.core.Encoder] = {}


def _rule(group: str, encoder: schema.Encoder, code: str, schedule: schema.Schedule | None) -> EncoderRule:
    """The rule that maps a tensor's spec to (label, encoder); equal labels stand for equal encoders.

    Tensors with more than `threshold` elements get the configured encoder, the others travel as they are: small tensors
    (biases) are sensitive to error and cheap to send.
    """

    def rule(spec: tf.TensorSpec) -> tuple[str, te.core.Encoder]:
        if spec.shape.num_elements() <= encoder.threshold:
            return _AS_IT_IS
        request = _Request(encoder, code, schedule, spec)
        if encoder.name == "custom":
            return f"custom {encoder.maker}", custom.make(group, encoder.maker, spec)
        node = _FAMILIES[encoder.name](request)
        if node is None:
            return _AS_IT_IS
        return node.label, _made.setdefault((node.label, spec), node.encoder())

    return rule


@dataclass(frozen=True)
class _Request:
    """An encoder for a tensor: what the configuration says, and the tensor's spec."""

    encoder: schema.Encoder
    code: str
    schedule: schema.Schedule | None
    spec: tf.TensorSpec

    def integers(self, bits: int, packing: str = "dense", code: str = "none") -> Node:
        """The leaf for integers below 2**bits: the configured code, else `code`, else packing."""
        chosen = code if self.code == "none" else self.code
        if chosen == "none":
            return Node(packing, PackingStage(bits, WORD_BITS[packing]))
        return self.coded(chosen)

    def coded(self, code: str, dtype: tf.DType = tf.float32) -> Node:
        """The leaf for integers behind a lossless code."""
        size = self.spec.shape.num_elements()
        if size > MOST_SYMBOLS:
            raise UserError(
                f"code {code}: takes tensors of at most {MOST_SYMBOLS:,} elements, and one has {size:,};"
                " choose an encoder and positions without a code"
            )
        return Node(code, CodeStage(CODES[code], dtype))

    def rotated(self, node: Node) -> Node:
        """`node` after the configured rotation, the same for all clients of a round."""
        return node if self.encoder.rotation == "none" else self.shared(self.encoder.rotation, node)

    def shared(self, name: str, node: Node) -> Node:
        """`node` after a rotation."""
        name = self._called(name)
        stage = rotation.SharedRotationStage(rotation.TRANSFORMS[name])
        return Node(name, stage, {stage.ENCODED_VALUES_KEY: node})

    def own(self, node: Node) -> Node:
        """`node` after the configured rotation, another one for each client."""
        name = self._called(self.encoder.rotation)
        stage = rotation.OwnRotationStage(rotation.TRANSFORMS[name])
        return Node(f"own {name}", stage, {stage.ENCODED_VALUES_KEY: node})

    def _called(self, name: str) -> str:
        """Kashin's rotation is Hadamard's where padding leaves no room, and goes by that name there."""
        size = self.spec.shape.num_elements()
        full = name == "kashin" and rotation.TRANSFORMS[name].padded(size) == size
        return "hadamard" if full else name

    @property
    def quantized_size(self) -> int:
        """Elements that come to a quantizer: those of the tensor, after the configured rotation."""
        size, name = self.spec.shape.num_elements(), self.encoder.rotation
        return size if name == "none" else rotation.TRANSFORMS[name].padded(size)


def _levels(request: _Request, text: str, quantizer: levels.Quantizer, packing: str) -> Node:
    """A quantizer with equally spaced levels, at a fixed or a scheduled width."""
    bits, follows = request.encoder.bits, _schedule(request)
    if follows is None:
        stage = levels.LevelsStage(quantizer, bits)
        return Node(f"{text} {bits} bit", stage, {stage.ENCODED_VALUES_KEY: request.integers(bits, packing)})
    stage = levels.ScheduledLevelsStage(quantizer, follows)
    leaf = request.integers(16, code="packed")
    return Node(f"{text} {follows.text}", stage, {stage.ENCODED_VALUES_KEY: leaf})


def _schedule(request: _Request) -> schedule.Schedule | None:
    settings, bits = request.schedule, request.encoder.bits
    if isinstance(settings, schema.Plateau):
        return schedule.Plateau(bits, settings.patience, settings.smoothing)
    if isinstance(settings, schema.UpdateRange):
        return schedule.UpdateRange(settings.resolution)
    plain = {"falling_loss": schedule.FallingLoss, "client_weight": schedule.ClientWeight}
    return plain[settings.name](bits) if settings and settings.name in plain else None


def _uniform(request: _Request) -> Node:
    """32 ceil(n bits / w) + 64 bits; w = 28 (tensor_encoding) or 32 (dense)."""
    encoder = request.encoder
    text = "uniform" if encoder.stochastic else "uniform nearest"
    return _levels(request, text, levels.Uniform(encoder.stochastic), encoder.packing)


def _qsgd(request: _Request) -> Node:
    """32 ceil(n bits / 32) + 32 bits for each bucket."""
    bucket = request.encoder.bucket
    if bucket is not None and bucket >= request.quantized_size:
        bucket = None  # one bucket for all
    text = "qsgd" if bucket is None else f"qsgd bucket {bucket}"
    return _levels(request, text, levels.Qsgd(bucket), "dense")


def _ternary(request: _Request) -> Node:
    """32 ceil(2 n / 32) + 32 bits, in base three 8 ceil(n / 5) + 32."""
    encoder = request.encoder
    stage = signs.TernaryStage("terngrad", encoder.clip)
    leaf = request.integers(2)
    if request.code == "none" and encoder.packing == "base_three":
        leaf = Node("base three", signs.BaseThreeStage())
    return Node(f"terngrad clip {encoder.clip}", stage, {stage.ENCODED_VALUES_KEY: leaf})


def _three_lc(request: _Request) -> Node:
    """32 bits and the code's: at most 1.6 an element."""
    factor = request.encoder.sparsity
    stage = signs.TernaryStage("three_lc", factor)
    leaf = request.coded("quartic_runs")
    return Node(f"three_lc {factor}", stage, {stage.ENCODED_VALUES_KEY: leaf})


def _sign(request: _Request) -> Node:
    """32 ceil(n / 32) + 32 bits."""
    stage = signs.SignStage("mean")
    return Node("sign", stage, {stage.ENCODED_VALUES_KEY: request.integers(1)})


def _one_bit(request: _Request) -> Node:
    """32 ceil(n / 32) + 64 bits."""
    stage = signs.OneBitStage()
    return Node("one_bit", stage, {stage.ENCODED_VALUES_KEY: request.integers(1)})


def _drive(request: _Request) -> Node:
    """32 ceil(n2 / 32) + 32 + 64 (the rotation's seed) bits, n2 the rotated size."""
    stage = signs.SignStage("unbiased")
    node = Node("drive", stage, {stage.ENCODED_VALUES_KEY: request.integers(1)})
    return request.own(node)


def _eden(request: _Request) -> Node:
    """About n2 bits + 32 + 64 (the rotation's seed) bits, each part in whole words, n2 the rotated size.

    Below 1 bit 64 (the seed of the draw) more.
    """
    stage = codebooks.EdenStage(request.encoder.bits)
    counts = stage.counts(request.quantized_size)
    text = " and ".join(f"{bits} bit for {count}" for (_, bits), count in zip(stage.widths(), counts, strict=True))
    if request.encoder.bits == int(request.encoder.bits):
        text = f"{request.encoder.bits:g} bit"
    leaves = {key: request.integers(bits) for key, bits in stage.widths()}
    return request.own(Node(f"eden {text}", stage, leaves))


def _lloyd_max(request: _Request) -> Node:
    """32 ceil(n bits / 32) + 32 * 2**bits."""
    bits, iterations = request.encoder.bits, request.encoder.iterations
    stage = codebooks.LloydMaxStage(bits, iterations)
    leaf = request.integers(bits)
    return Node(f"lloyd_max {bits} bit {iterations} iterations", stage, {stage.ENCODED_VALUES_KEY: leaf})


def _normal_float(request: _Request) -> Node:
    """32 ceil(n bits / 32) + 32 ceil(n / block)."""
    bits, block = request.encoder.bits, min(request.encoder.block, request.quantized_size)
    stage = codebooks.NormalFloatStage(bits, block)
    leaf = request.integers(bits)
    return Node(f"normal_float {bits} bit block {block}", stage, {stage.ENCODED_VALUES_KEY: leaf})


def _natural(request: _Request) -> Node:
    """32 ceil(9 n / 32), or 32 ceil(8 n / 32) + 32."""
    bits = request.encoder.bits
    stage = natural.NaturalStage(bits)
    return Node(f"natural {bits} bit", stage, {stage.ENCODED_VALUES_KEY: request.integers(bits)})


def _rate_distortion(request: _Request) -> Node:
    """32 bits for the step, 32 len(STEPS) for the vote, and the code's (zero_run where none is chosen); 32 down."""
    trade_off = request.encoder.trade_off
    code = "zero_run" if request.code == "none" else request.code
    stage = rate_distortion.RateDistortionStage(trade_off, CODES[code])
    leaf = request.coded(code)
    return Node(f"rate_distortion {trade_off}", stage, {stage.ENCODED_VALUES_KEY: leaf})


def _values(request: _Request) -> dict[str, Node]:
    """The child of a sparsifier's values: an encoder with its defaults and `bits`; none for float32."""
    bits, values = request.encoder.bits, request.encoder.values
    common = (bits, 0, False)  # bits, threshold, error_feedback
    encoder = {
        "uniform": schema.UniformEncoder(values, *common, stochastic=True, packing="dense", rotation="none"),
        "qsgd": schema.QsgdEncoder(values, *common, rotation="none", bucket=None),
        "terngrad": schema.TernGradEncoder(values, *common, rotation="none", clip=2.5, packing="dense"),
        "natural": schema.BitsEncoder(values, 9, 0, False, rotation="none"),
        "drive": schema.RotatableEncoder(values, *common, rotation="hadamard"),
        "eden": schema.EdenEncoder(values, *common, rotation="hadamard"),
        "lloyd_max": schema.LloydMaxEncoder(values, *common, rotation="none", iterations=20),
        "normal_float": schema.NormalFloatEncoder(values, *common, rotation="none", block=64),
    }.get(values, schema.RotatableEncoder(values, *common, rotation="none"))
    node = _FAMILIES[values](dataclasses.replace(request, encoder=encoder))
    return {"values": node} if node else {}


def _positions(request: _Request) -> Node:
    """Positions as they are, ceil(log2 n) bits each, or their gaps through a lossless code."""
    code = request.encoder.positions
    if code == "fixed":
        width = max(1, math.ceil(math.log2(max(2, request.spec.shape.num_elements()))))
        return Node(f"{width} bit dense", PackingStage(width, 32, tf.int32))
    stage = sparse.GapsStage()
    return Node("gaps", stage, {stage.ENCODED_VALUES_KEY: request.coded(code, tf.int32)})


def _part(share: float, request: _Request) -> str:
    """What a share comes to: two shares that keep as many elements are one encoder."""
    size = request.spec.shape.num_elements()
    return f"{sparse.kept(share, size)} of {size}"


def _top_k(request: _Request) -> Node:
    """k = share * n: k values of 32 bits, or as their encoder has it, and k positions."""
    share = request.encoder.share
    children = {**_values(request), "positions": _positions(request)}
    return Node(f"top_k {_part(share, request)}", sparse.TopKStage(share), children)


def _stc(request: _Request) -> Node:
    """Top-k with the mean magnitude and a sign each: k (1 + the position's bits) + 32."""
    share = request.encoder.share
    children = {"values": _sign(request), "positions": _positions(request)}
    return Node(f"top_k {_part(share, request)}", sparse.TopKStage(share), children)


def _rand_k(request: _Request) -> Node:
    """k = share * n: k values of 32 bits, or as their encoder has it, + 64 (the seed)."""
    share, unbiased, size = request.encoder.share, request.encoder.unbiased, request.spec.shape.num_elements()
    unbiased = unbiased or sparse.kept(share, size) == size  # nothing to scale
    text = f"rand_k {_part(share, request)}{'' if unbiased else ' unscaled'}"
    return Node(text, sparse.RandKStage(share, unbiased), _values(request))


def _dropout(request: _Request) -> Node:
    """k = share * n weights of 32 bits + 64 (the seed)."""
    share = request.encoder.share
    return Node(f"dropout {_part(share, request)}", sparse.RandKStage(share, unbiased=False))


def _count_sketch(request: _Request) -> Node:
    """32 rows * columns, columns = ceil(share * n / rows)."""
    encoder = request.encoder
    stage = sketches.CountSketchStage(encoder.share, encoder.rows, encoder.recovered)
    sketch = f"{encoder.rows} x {stage.columns(request.spec.shape.num_elements())}"
    text = f"count_sketch {sketch} recovered {_part(encoder.recovered, request)}"
    return Node(text, stage, decoded_once=True)


def _low_rank(request: _Request) -> Node | None:
    """32 rank (n + m) for a matrix [n, m]; vectors, and what would not get smaller, travel as they are."""
    rank, shape = request.encoder.rank, request.spec.shape
    size, columns = shape.num_elements(), shape[-1]
    if len(shape) < 2 or rank * (size // columns + columns) >= size:
        return None
    return Node(f"low_rank {rank}", sketches.LowRankStage(rank, columns))


_FAMILIES: dict[str, Callable[[_Request], Node | None]] = {
    "identity": lambda request: None,
    "uniform": lambda request: request.rotated(_uniform(request)),
    "hadamard": lambda request: request.shared("hadamard", _uniform(request)),
    "fourier": lambda request: request.shared("fourier", _uniform(request)),
    "kashin": lambda request: request.shared("kashin", _uniform(request)),
    "qsgd": lambda request: request.rotated(_qsgd(request)),
    "terngrad": lambda request: request.rotated(_ternary(request)),
    "sign": lambda request: request.rotated(_sign(request)),
    "one_bit": lambda request: request.rotated(_one_bit(request)),
    "drive": _drive,
    "eden": _eden,
    "lloyd_max": lambda request: request.rotated(_lloyd_max(request)),
    "normal_float": lambda request: request.rotated(_normal_float(request)),
    "natural": lambda request: request.rotated(_natural(request)),
    "top_k": _top_k,
    "rand_k": _rand_k,
    "stc": _stc,
    "three_lc": _three_lc,
    "rate_distortion": _rate_distortion,
    "count_sketch": _count_sketch,
    "low_rank": _low_rank,
    "dropout": _dropout,
}
