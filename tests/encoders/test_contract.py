"""tensor_encoding's own contract test, over every stage of the package."""

from __future__ import annotations

import importlib
import pkgutil

import numpy as np
import pytest
import tensorflow as tf
from channel import normal, rule
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te
from tensorflow_model_optimization.python.core.internal.tensor_encoding.testing.test_utils import BaseEncodingStageTest

from fedsweep import encoders
from fedsweep.encoders import (
    codebooks,
    custom,
    levels,
    natural,
    packing,
    rate_distortion,
    rotation,
    schedule,
    signs,
    sketches,
    sparse,
    tree,
)
from fedsweep.encoders.codes import CODES
from fedsweep.encoders.codes.stage import CodeStage

SIZE = 96
INTEGERS = (np.arange(SIZE) % 3).astype(np.float32)
UNIFORM = levels.Uniform(stochastic=True)
# name: (makes the stage, its input)
STAGES = {
    "rotation-hadamard": (lambda: rotation.SharedRotationStage(rotation.TRANSFORMS["hadamard"]), normal(SIZE)),
    "rotation-fourier": (lambda: rotation.SharedRotationStage(rotation.TRANSFORMS["fourier"]), normal(SIZE)),
    "rotation-kashin": (lambda: rotation.SharedRotationStage(rotation.TRANSFORMS["kashin"]), normal(SIZE)),
    "rotation-kashin-roomy": (lambda: rotation.SharedRotationStage(rotation.TRANSFORMS["kashin"]), normal(65)),
    "own_rotation": (lambda: rotation.OwnRotationStage(rotation.TRANSFORMS["hadamard"]), normal(SIZE)),
    "levels": (lambda: levels.LevelsStage(UNIFORM, 4), normal(SIZE)),
    "scheduled_levels": (lambda: levels.ScheduledLevelsStage(UNIFORM, schedule.FallingLoss(4)), normal(SIZE)),
    "sign": (lambda: signs.SignStage("mean"), normal(SIZE)),
    "one_bit": (lambda: signs.OneBitStage(), normal(SIZE)),
    "ternary": (lambda: signs.TernaryStage("terngrad", 2.5), normal(SIZE)),
    "base_three": (lambda: signs.BaseThreeStage(), INTEGERS),
    "eden": (lambda: codebooks.EdenStage(2.5), normal(SIZE)),
    "lloyd_max": (lambda: codebooks.LloydMaxStage(3, 5), normal(SIZE)),
    "normal_float": (lambda: codebooks.NormalFloatStage(4, 32), normal(SIZE)),
    "natural": (lambda: natural.NaturalStage(9), normal(SIZE)),
    "top_k": (lambda: sparse.TopKStage(0.2), normal(SIZE)),
    "rand_k": (lambda: sparse.RandKStage(0.2, True), normal(SIZE)),
    "gaps": (lambda: sparse.GapsStage(), np.arange(3, SIZE, 7, dtype=np.int32)),
    "rate_distortion": (lambda: rate_distortion.RateDistortionStage(0.1, CODES["zero_run"]), normal(SIZE)),
    "count_sketch": (lambda: sketches.CountSketchStage(0.6, 3, 0.2), normal(SIZE)),
    "count_sketch-rows": (lambda: sketches.CountSketchStage(0.6, 3, 1.0), normal(SIZE)),
    "count_sketch-recovered": (lambda: sketches.CountSketchStage(0.6, 1, 0.2), normal(SIZE)),
    "count_sketch-linear": (lambda: sketches.CountSketchStage(0.6, 1, 1.0), normal(SIZE)),
    "low_rank": (lambda: sketches.LowRankStage(2, 12), normal(SIZE)),
    "half_precision": (lambda: custom.HalfPrecisionStage(), normal(SIZE)),
    "packing": (lambda: packing.PackingStage(2, 32), INTEGERS),
    "code": (lambda: CodeStage(CODES["huffman"], tf.float32), INTEGERS),
}  # fmt: skip
COMMUTE = {"rotation-hadamard", "rotation-fourier", "rotation-kashin", "rotation-kashin-roomy", "count_sketch-linear"}


def contract(make, x):
    class Contract(BaseEncodingStageTest):
        is_lossless = False

        def default_encoding_stage(self):
            return make()

        def default_input(self):
            return tf.constant(x)

        def common_asserts_for_test_data(self, data):
            self.assertEqual(data.x.shape, data.decoded_x.shape)

    return Contract


@pytest.mark.parametrize("name", STAGES)
def test_stages_keep_tensor_encodings_contract(name):
    make, x = STAGES[name]
    case = contract(make, x)
    # test_one_to_many_encode_decode compares arrays with (), which this NumPy refuses.
    names = ["test_default_encoding_stage", "test_encoding_stage_name", "test_basic_encode_decode"]
    for method in names:
        case(method).debug()


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_says_that_it_commutes_with_sums_only_where_it_does(name):
    """Of three tensors: what the sum of their messages decodes to is the sum of what each decodes to."""
    make, x = STAGES[name]
    case, stage = contract(make, x)("test_many_to_one_encode_decode"), make()
    assert stage.commutes_with_sum == (name in COMMUTE)
    if name in COMMUTE:
        with tf.Graph().as_default():
            values = [x * scale + shift for scale, shift in ((1, 0), (-2, 3), (0.5, x[::-1]))]
            data, parameters = case.run_many_to_one_encode_decode(stage, [value.astype(np.float32) for value in values])
            case.assert_commutes_with_sum(data, stage, parameters, x.shape)


def test_every_stage_of_the_package_is_held_to_the_contract():
    interfaces = (te.core.EncodingStageInterface, te.core.AdaptiveEncodingStageInterface)
    found = set()
    for module in pkgutil.walk_packages(encoders.__path__, "fedsweep.encoders."):
        names = vars(importlib.import_module(module.name)).values()
        found |= {value for value in names if isinstance(value, type) and issubclass(value, interfaces)}
    assert found == {type(make()) for make, _ in STAGES.values()}


def test_sketches_are_summed_by_us_and_decoded_one_by_one_by_everybody_else(config):
    """Elements that are recovered from the sum alone: 1 and 1 in each of two tensors, whose larger ones cancel."""
    x, y = np.zeros([2, 600], np.float32)
    x[[1, 7]], y[[2, 7]] = [5, 1.5], [0, 1.5]
    y[1] = -5
    spec = tf.TensorSpec([600], tf.float32)
    label, encoder = rule(
        config, "encoder=count_sketch", "encoder.share=0.9", "encoder.rows=3", "encoder.recovered=0.001"
    )(spec)

    def mean(gather):
        encode, before, after = gather.get_params(gather.initial_state())
        parts = [gather.decode_before_sum(gather.encode(tf.constant(t), encode)[0], before) for t in (x, y)]
        return gather.decode_after_sum(tf.nest.map_structure(tf.add, *parts), after, 2).numpy()

    assert isinstance(encoder, te.core.Encoder)
    assert np.allclose(mean(tree.gather(label, encoder, spec)), x + y, atol=1e-5)
    assert np.allclose(mean(te.encoders.as_gather_encoder(encoder, spec)), 0, atol=1e-5)  # of each only 5 is seen
