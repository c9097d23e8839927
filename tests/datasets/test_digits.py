import numpy as np
import pytest
from sklearn.datasets import load_digits

from fedsweep import datasets
from fedsweep.errors import UserError


def test_all_digits_are_there_once_in_clients_or_test_set(config):
    data = datasets.load(config("dataset.clients=30").dataset, seed=0)
    assert len(data.members) == len(data.client_ids) == 30
    source = load_digits()
    train = np.concatenate([data.client(k)[0] for k in range(30)])
    everything = np.concatenate([train, data.scaled(data.test.inputs)])
    assert len(everything) == 1797 and len(data.test) == round(0.2 * 1797)
    assert np.array_equal(
        np.sort(everything.sum((1, 2, 3))), np.sort(source.images.sum((1, 2)) / 16).astype(np.float32)
    )


def test_images_and_labels_stay_together(config):
    data = datasets.load(config().dataset, seed=3)
    source = load_digits()
    known = {image.tobytes(): label for image, label in zip(source.images.astype(np.uint8), source.target, strict=True)}
    for k in range(3):
        images, labels = data.client(k)
        assert images.dtype == np.float32 and images.shape[1:] == data.spec.input_shape and images.max() <= 1
        pixels = np.round(images[..., 0] * 16).astype(np.uint8)
        assert [known[image.tobytes()] for image in pixels] == list(labels)


def test_the_seed_draws_split_and_partition(config):
    a, b, other = (datasets.load(config().dataset, seed) for seed in (1, 1, 2))
    assert np.array_equal(a.test.labels, b.test.labels) and np.array_equal(a.members[0], b.members[0])
    assert not np.array_equal(a.test.inputs, other.test.inputs)


def test_more_clients_than_digits_are_refused(config):
    with pytest.raises(UserError, match=r"dataset\.clients=1700"):
        datasets.load(config("dataset.clients=1700", "clients_per_round=10").dataset, seed=0)
