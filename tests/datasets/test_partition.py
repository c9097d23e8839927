import numpy as np
import pytest

from fedsweep import schema
from fedsweep.datasets import partition
from fedsweep.errors import UserError

LABELS = np.repeat(np.arange(10), 100)


def parts(kind, clients=20, alpha=1.0, shards=2, seed=0, labels=LABELS):
    settings = {"partition": kind, "clients": clients, "alpha": alpha, "shards": shards}
    return partition.make(schema.IdxData("idx", 0.0, **settings, **dict.fromkeys(FILES, "")), labels, seed)


FILES = ("train_images", "train_labels", "test_images", "test_labels")


def classes(split):
    """The mean number of classes that a client holds."""
    return np.mean([len(np.unique(LABELS[part])) for part in split])


@pytest.mark.parametrize("kind", schema.PARTITIONS)
@pytest.mark.parametrize("alpha", [0.01, 1.0, 1000.0])
def test_every_example_belongs_to_one_client_and_no_client_is_empty(kind, alpha):
    split = parts(kind, alpha=alpha)
    assert len(split) == 20 and min(map(len, split)) >= 1
    assert np.array_equal(np.sort(np.concatenate(split)), np.arange(len(LABELS)))
    assert all(np.array_equal(part, np.sort(part)) for part in split)


@pytest.mark.parametrize("kind", schema.PARTITIONS)
def test_the_partition_is_drawn_from_the_seed(kind):
    first, same, other = (parts(kind, seed=seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_dirichlet_clients_hold_few_classes_with_small_alpha_and_all_with_large():
    assert classes(parts("dirichlet", alpha=0.01)) < 2.5 < 9 < classes(parts("dirichlet", alpha=1000.0))


def test_iid_clients_are_alike_in_size_and_classes():
    split = parts("iid", clients=30)
    assert {len(part) for part in split} == {33, 34}
    assert classes(split) > 9


@pytest.mark.parametrize("each", [1, 2, 5])
def test_a_client_with_so_many_shards_holds_at_most_so_many_classes_and_all_the_same_number_of_examples(each):
    split = parts("shards", shards=each)  # a shard of 50, 25 or 10 examples lies within a class
    assert {len(part) for part in split} == {50}
    assert max(len(np.unique(LABELS[part])) for part in split) <= each


def test_quantity_skew_changes_sizes_and_not_classes():
    sizes = [np.sort([len(part) for part in parts("quantity", clients=10, alpha=alpha)]) for alpha in (0.3, 1000.0)]
    assert sizes[0][-1] > 10 * sizes[0][0] and sizes[1][-1] < 1.2 * sizes[1][0]
    largest = max(parts("quantity", clients=10, alpha=0.3), key=len)
    assert np.bincount(LABELS[largest]).min() > len(largest) / 20


@pytest.mark.parametrize("kind", schema.PARTITIONS)
def test_as_many_clients_as_examples_get_one_each_and_more_are_refused(kind):
    assert [len(part) for part in parts(kind, clients=1000, shards=1)] == [1] * 1000
    with pytest.raises(UserError, match=r"dataset\.clients=1001: 1000 examples"):
        parts(kind, clients=1001, shards=1)


def test_more_shards_than_examples_are_refused():
    with pytest.raises(UserError, match=r"dataset\.clients=20 with 51 shards each: 1000 examples"):
        parts("shards", shards=51)
