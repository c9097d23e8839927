"""Federated data sets: `load(config.dataset, seed)` gives a `FederatedDataset`, one file per kind of source."""

from types import ModuleType

from fedsweep import schema
from fedsweep.datasets.federated import PADDING, DataSpec, Examples, FederatedDataset

__all__ = ["PADDING", "DataSpec", "Examples", "FederatedDataset", "load", "population", "spec"]


def load(config: schema.Dataset, seed: int) -> FederatedDataset:
    """The data set that the configuration names; `seed` draws splits, and a partition without natural clients."""
    return _module(config).load(config, seed)


def spec(config: schema.Dataset) -> DataSpec:
    """What a model must fit; of a user's own data, as the files have it, of others without reading anything."""
    return _module(config).spec(config)


def population(config: schema.Dataset, seed: int) -> int:
    """The number of clients in the data set, which is read if the configuration does not tell."""
    return config.clients if isinstance(config, schema.DigitsData) else len(load(config, seed).client_ids)


def _module(config: schema.Dataset) -> ModuleType:
    """Imported when it is needed: TFF's loaders take TFF with them."""
    if isinstance(config, schema.DigitsData):
        from fedsweep.datasets import digits as module
    elif isinstance(config, schema.WriterData):
        from fedsweep.datasets import mnist_by_writer as module
    elif isinstance(config, schema.TinyShakespeareData):
        from fedsweep.datasets import tiny_shakespeare as module
    elif isinstance(config, schema.TffData):
        from fedsweep.datasets import tff_files as module
    else:
        from fedsweep.datasets import own as module
    return module
