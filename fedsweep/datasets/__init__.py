"""Federated data sets: `load(config.dataset, seed)` gives a `FederatedDataset`, one file per data set."""

from fedsweep.datasets import digits, mnist_by_writer
from fedsweep.datasets.federated import DataSpec, FederatedDataset
from fedsweep.schema import DigitsData, WriterData

__all__ = ["DataSpec", "FederatedDataset", "load", "population", "spec"]


def load(config: DigitsData | WriterData, seed: int) -> FederatedDataset:
    """The data set that the configuration names; `seed` draws splits, and a partition without natural clients."""
    if isinstance(config, DigitsData):
        return digits.load(config, seed)
    return mnist_by_writer.load(config, seed)


def spec(config: DigitsData | WriterData) -> DataSpec:
    """Shape and classes of the data set, without reading it."""
    return digits.SPEC if isinstance(config, DigitsData) else mnist_by_writer.SPEC


def population(config: DigitsData | WriterData, seed: int) -> int:
    """The number of clients in the data set, which is read if the configuration does not tell."""
    return config.clients if isinstance(config, DigitsData) else len(load(config, seed).client_ids)
