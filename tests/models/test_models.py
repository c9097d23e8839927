import numpy as np
import pytest
import tensorflow as tf

from fedsweep import datasets, models, schema
from fedsweep.datasets import DataSpec

MNIST = DataSpec((28, 28, 1), classes=10)


@pytest.mark.parametrize(
    ("name", "spec", "parameters"),
    [
        ("cnn", MNIST, 1_663_370),  # McMahan et al. 2017, section 3
        ("2nn", MNIST, 199_210),  # ibid.
        ("cnn_small", DataSpec((8, 8, 1), classes=10), 151_306),
    ],
)
def test_models_have_the_published_number_of_parameters(name, spec, parameters):
    assert models.build(name, spec).parameters == parameters


@pytest.mark.parametrize("name", schema.GROUPS["model"])
@pytest.mark.parametrize("spec", [MNIST, DataSpec((8, 8, 1), 10), DataSpec((9, 7, 3), 62)], ids=str)
def test_every_model_fits_every_image_and_depends_on_every_weight(name, spec):
    model = models.build(name, spec)
    weights = [tf.constant(w) for w in model.initial_weights(seed=0)]
    images = tf.random.stateless_uniform([5, *spec.image_shape], [1, 2])
    with tf.GradientTape() as tape:
        tape.watch(weights)
        logits = model.logits(weights, images)
        loss = tf.reduce_mean(logits**2)
    assert logits.shape == (5, spec.classes)
    assert [w.shape for w in weights] == [spec.shape for spec in model.weights]
    assert all(np.abs(gradient).max() > 0 for gradient in tape.gradient(loss, weights))


def test_initial_weights_are_glorot_and_drawn_from_the_seed():
    model = models.build("cnn", MNIST)
    a, b, other = (model.initial_weights(seed) for seed in (0, 0, 1))
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert not any(np.array_equal(x, y) for x, y in zip(a[::2], other[::2], strict=True))  # kernels
    assert not any(bias.any() for bias in a[1::2])
    dense = a[4]
    limit = np.sqrt(6 / (3136 + 512))
    assert 0.99 * limit < np.abs(dense).max() <= limit and abs(dense.mean()) < 0.01 * limit


def test_the_default_model_has_tensors_above_the_default_threshold(config):
    default = config()
    model = models.build(default.model.name, datasets.spec(default.dataset))
    assert sum(spec.size > default.encoder.threshold for spec in model.weights) >= 2
