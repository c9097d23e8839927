"""An encoder of one's own: a function of a tensor's spec that returns a tensor_encoding Encoder; with an example.

python -m fedsweep encoder=custom encoder.maker=fedsweep.encoders.custom:half_precision
"""

from __future__ import annotations

import collections

import tensorflow as tf
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

from fedsweep import importing
from fedsweep.encoders.numeric import normalized
from fedsweep.errors import UserError


def make(group: str, maker: str, spec: tf.TensorSpec) -> te.core.Encoder:
    """Calls the function named `module:function` by `<group>.maker`; what goes wrong inside it is its own.

    Raises:
      UserError: there is no such function, or it returns no Encoder.
    """
    encoder = importing.function(f"{group}.maker", maker)(spec)
    if not isinstance(encoder, te.core.Encoder):
        raise UserError(f"{group}.maker={maker}: returned {type(encoder).__name__}, not a tensor_encoding Encoder")
    return encoder


def half_precision(spec: tf.TensorSpec) -> te.core.Encoder:
    """16 n + 32 bits."""
    del spec  # the same for every tensor
    return te.core.EncoderComposer(HalfPrecisionStage()).make()


@te.core.tf_style_encoding_stage
class HalfPrecisionStage(te.core.EncodingStageInterface):
    """float32 of any shape as float16, after division by the largest magnitude: float32 [], which is sent, too."""

    name = "half_precision"
    ENCODED_VALUES_KEY, SCALE_KEY = "half", "scale"
    compressible_tensors_keys = ()
    commutes_with_sum = False
    decode_needs_input_shape = False

    def get_params(self):
        return collections.OrderedDict(), collections.OrderedDict()

    def encode(self, x, encode_params):
        del encode_params  # none
        unit, largest = normalized(x)
        return collections.OrderedDict(
            [(self.ENCODED_VALUES_KEY, tf.cast(unit, tf.float16)), (self.SCALE_KEY, largest)]
        )

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        del decode_params, num_summands, shape  # none; never summed before it is decoded
        return tf.cast(encoded_tensors[self.ENCODED_VALUES_KEY], tf.float32) * encoded_tensors[self.SCALE_KEY]
