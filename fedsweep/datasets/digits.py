"""scikit-learn's 1,797 real handwritten digits (8x8), split into clients by a Dirichlet partition. No download.

Source: Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI, 1998 (the test part of that set).
"""

from __future__ import annotations

import numpy as np

from fedsweep import seeds
from fedsweep.datasets import partition
from fedsweep.datasets.federated import DataSpec, FederatedDataset
from fedsweep.errors import UserError
from fedsweep.schema import DigitsData

SPEC = DataSpec((8, 8, 1), classes=10)


def load(config: DigitsData, seed: int) -> FederatedDataset:
    """Digits with a held-out test set; split and partition are drawn from `seed`."""
    from sklearn.datasets import load_digits

    source = load_digits()
    images = source.images.astype(np.uint8)[..., None]  # 0 to 16
    labels = source.target.astype(np.int32)

    order = seeds.generator(seed, seeds.Stream.SPLIT).permutation(len(labels))
    held_out = round(config.test_fraction * len(labels))
    test, train = np.sort(order[:held_out]), np.sort(order[held_out:])
    if not 1 <= held_out <= len(labels) - config.clients:
        raise UserError(
            f"dataset.test_fraction={config.test_fraction} and dataset.clients={config.clients}: of {len(labels)}"
            f" digits {held_out} are held out and {len(train)} left; 1 for the test and 1 a client are needed"
        )
    members = partition.dirichlet(
        labels[train], config.clients, config.alpha, seeds.generator(seed, seeds.Stream.PARTITION)
    )
    return FederatedDataset(
        name=config.name,
        spec=SPEC,
        client_ids=tuple(range(config.clients)),
        members=tuple(train[part] for part in members),
        images=images,
        labels=labels,
        test_images=images[test],
        test_labels=labels[test],
        white=16,
        source="scikit-learn's load_digits",
    )
