import numpy as np
import pytest

from fedsweep.datasets import partition

LABELS = np.repeat(np.arange(10), 100)


def parts(alpha, seed=0, clients=20):
    return partition.dirichlet(LABELS, clients, alpha, np.random.default_rng(seed))


@pytest.mark.parametrize("alpha", [0.01, 1.0, 1000.0])
def test_every_example_belongs_to_one_client_and_no_client_is_empty(alpha):
    split = parts(alpha)
    assert len(split) == 20 and min(map(len, split)) >= 1
    assert np.array_equal(np.sort(np.concatenate(split)), np.arange(len(LABELS)))


def test_small_alpha_makes_clients_of_few_classes_and_large_alpha_makes_them_alike():
    def classes(alpha):
        return np.mean([len(np.unique(LABELS[part])) for part in parts(alpha)])

    assert classes(0.01) < 2.5 < 9 < classes(1000.0)


def test_the_partition_is_drawn_from_the_seed():
    same, other = parts(1.0), parts(1.0, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(parts(1.0), same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(same, other, strict=True))


def test_as_many_clients_as_examples_get_one_each_and_more_are_refused():
    assert [len(part) for part in parts(0.01, clients=1000)] == [1] * 1000
    with pytest.raises(ValueError, match="1001 clients"):
        parts(1.0, clients=1001)
