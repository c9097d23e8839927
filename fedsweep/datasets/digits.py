"""scikit-learn's 1,797 real handwritten digits (8x8), split into clients by a partition. No download.

Source: Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI, 1998 (the test part of that set).
"""

from __future__ import annotations

import numpy as np

from fedsweep import seeds
from fedsweep.datasets import partition
from fedsweep.datasets.federated import DataSpec, Examples, FederatedDataset, InMemory
from fedsweep.errors import UserError
from fedsweep.schema import DigitsData

SPEC = DataSpec((8, 8, 1), classes=10)


def spec(_: DigitsData) -> DataSpec:
    """Shape and classes."""
    return SPEC


def load(config: DigitsData, seed: int) -> FederatedDataset:
    """Digits with a held-out test set and, if asked for, a validation set; all is drawn from `seed`."""
    from sklearn.datasets import load_digits

    source = load_digits()
    images = source.images.astype(np.uint8)[..., None]  # 0 to 16
    labels = source.target.astype(np.int32)

    order = seeds.generator(seed, seeds.Stream.SPLIT).permutation(len(labels))
    held_out = round(config.test_fraction * len(labels))
    validated = round(config.validation_fraction * (len(labels) - held_out))
    test, validation, train = map(np.sort, np.split(order, [held_out, held_out + validated]))
    if held_out < 1 or len(train) < config.clients:
        raise UserError(
            f"dataset.test_fraction={config.test_fraction}, dataset.validation_fraction={config.validation_fraction}"
            f" and dataset.clients={config.clients}: of {len(labels)} digits {held_out} and {validated} are held out,"
            f" {len(train)} left; 1 for the test and 1 a client are needed"
        )
    members = partition.make(config, labels[train], seed)
    return InMemory(
        Examples(images, labels),
        [train[part] for part in members],
        name=config.name,
        spec=SPEC,
        client_ids=range(config.clients),
        test=Examples(images[test], labels[test]),
        validation=Examples(images[validation], labels[validation]),
        white=16,
        source="scikit-learn's load_digits",
    )
