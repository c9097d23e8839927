"""The lossless codes as a tensor_encoding stage: symbols, and the bits that their code takes.

A graph cannot hold a message whose length is a surprise, so the stage hands on the symbols themselves beside the exact
length of their code; the wire meter (`fedsweep.runtime.wire`) charges the length and not the symbols, and can have the
bytes made.
"""

from __future__ import annotations

import collections

import tensorflow as tf
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

from fedsweep.encoders.codes.code import Code

SYMBOLS, LENGTH = "coded_symbols", "coded_bits"  # the keys begin so; the code's name follows: "coded_bits.huffman"


@te.core.tf_style_encoding_stage
class CodeStage(te.core.EncodingStageInterface):
    """A lossless code for integers, float32 or int32 [n].

    On the wire: the code's bytes, and their number in bits, int32: 32 bits.
    """

    name = "lossless_code"
    compressible_tensors_keys = ()
    commutes_with_sum = False
    decode_needs_input_shape = False

    def __init__(self, code: Code, dtype: tf.DType):
        self._code, self._dtype = code, dtype

    def get_params(self):
        return collections.OrderedDict(), collections.OrderedDict()

    def encode(self, x, encode_params):
        del encode_params  # none
        symbols = tf.cast(x, tf.int32)
        length = self._code.bits(symbols)
        return collections.OrderedDict(
            [(f"{SYMBOLS}.{self._code.name}", symbols), (f"{LENGTH}.{self._code.name}", length)]
        )

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        del decode_params, num_summands, shape  # none; never summed before it is decoded
        return tf.cast(encoded_tensors[f"{SYMBOLS}.{self._code.name}"], self._dtype)
