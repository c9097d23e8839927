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
        ("cnn", DataSpec((28, 28, 1), classes=62), 1_690_046),
        ("logistic_regression", MNIST, 7_850),
        ("cnn_dropout", DataSpec((28, 28, 1), classes=62), 1_206_590),  # Reddi et al. 2021, table 4
        ("char_lstm", DataSpec((80,), 90, text=True), 820_522),  # ibid., table 5
        ("word_lstm", DataSpec((20,), 10_004, text=True), 4_050_748),  # ibid., table 9
        # torchvision's resnet18 has 11,689,512 with 1,000 classes; 513 a class less for 100
        ("resnet18", DataSpec((32, 32, 3), classes=100), 11_689_512 - 513 * 900),
    ],
)
def test_models_have_the_published_number_of_parameters(name, spec, parameters):
    assert models.build(schema.Model(name), spec).parameters == parameters


@pytest.mark.parametrize(
    "name", [name for name in schema.GROUPS["model"] if name not in (*schema.TEXT_MODELS, "keras")]
)
@pytest.mark.parametrize("spec", [MNIST, DataSpec((8, 8, 1), 10), DataSpec((9, 7, 3), 62)], ids=str)
def test_every_model_fits_every_image_and_depends_on_every_weight(name, spec):
    model = models.build(schema.Model(name), spec)
    weights = [tf.constant(w) for w in model.initial_weights(seed=0)]
    images = tf.random.stateless_uniform([5, *spec.input_shape], [1, 2])
    with tf.GradientTape() as tape:
        tape.watch(weights)
        logits = model.logits(weights, images)
        loss = tf.reduce_mean(logits**2)
    assert logits.shape == (5, spec.classes)
    assert [w.shape for w in weights] == [spec.shape for spec in model.weights]
    assert all(np.abs(gradient).max() > 0 for gradient in tape.gradient(loss, weights))


def test_initial_weights_are_glorot_and_drawn_from_the_seed():
    model = models.build(schema.Model("cnn"), MNIST)
    a, b, other = (model.initial_weights(seed) for seed in (0, 0, 1))
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert not any(np.array_equal(x, y) for x, y in zip(a[::2], other[::2], strict=True))  # kernels
    assert not any(bias.any() for bias in a[1::2])
    dense = a[4]
    limit = np.sqrt(6 / (3136 + 512))
    assert 0.99 * limit < np.abs(dense).max() <= limit and abs(dense.mean()) < 0.01 * limit


def test_the_default_model_has_tensors_above_the_default_threshold(config):
    default = config()
    model = models.build(default.model, datasets.spec(default.dataset))
    assert sum(spec.size > default.encoder.threshold for spec in model.weights) >= 2
