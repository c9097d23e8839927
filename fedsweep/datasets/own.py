"""A user's own data: IDX files or one NumPy archive, split into clients by a partition."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedsweep import home, schema, seeds
from fedsweep.datasets import idx, npz, partition, reading
from fedsweep.datasets.federated import DataSpec, Examples, FederatedDataset, InMemory, members, numbered
from fedsweep.errors import UserError

_Arrays = Mapping[str, np.ndarray]  # x_train, y_train, x_test, y_test and, possibly, client_train and client_test


def spec(config: schema.IdxData | schema.ArraysData) -> DataSpec:
    """Shape and classes, as the files have them."""
    arrays = _read(config)
    classes = 1 + max(int(arrays["y_train"].max()), int(arrays["y_test"].max()))
    return DataSpec(arrays["x_train"].shape[1:], max(classes, 2))


def load(config: schema.IdxData | schema.ArraysData, seed: int) -> FederatedDataset:
    """The data with the partition that the configuration names. The validation set, if one is asked for, is drawn from
    `seed`: examples, or clients where the archive says whose each example is."""
    arrays = _read(config)
    images, labels = arrays["x_train"], arrays["y_train"]
    rng = seeds.generator(seed, seeds.Stream.SPLIT)
    tested = numbered(arrays["client_test"])[1] if "client_test" in arrays else None
    about = {
        "name": config.name,
        "spec": spec(config),
        "test": Examples(arrays["x_test"], arrays["y_test"], tested),
        "source": ", ".join(map(str, paths(config))),
        "white": 255 if images.dtype == np.uint8 else None,
    }
    if "client_train" in arrays:
        ids, owners = numbered(arrays["client_train"])
        about |= {"client_ids": ids.tolist(), "validation": Examples(images[:0], labels[:0])}
        everybody = InMemory(Examples(images, labels), members(owners), **about)
        return everybody.hold_out(config.validation_fraction, rng)
    order = rng.permutation(len(labels))
    validation, train = map(np.sort, np.split(order, [round(config.validation_fraction * len(labels))]))
    parts = [train[part] for part in partition.make(config, labels[train], seed)]
    about |= {"client_ids": range(config.clients), "validation": Examples(images[validation], labels[validation])}
    return InMemory(Examples(images, labels), parts, **about)


def paths(config: schema.IdxData | schema.ArraysData) -> list[Path]:
    """The files that the data is read from."""
    if isinstance(config, schema.ArraysData):
        return [home.expanded("dataset.file", config.file)]
    keys = ("train_images", "train_labels", "test_images", "test_labels")
    return [home.expanded(f"dataset.{key}", getattr(config, key)) for key in keys]


def _read(config: schema.IdxData | schema.ArraysData) -> _Arrays:
    return (_archive if isinstance(config, schema.ArraysData) else _idx_files)(*paths(config))


@functools.lru_cache(maxsize=1)  # for the next run in this process
def _idx_files(train_images: Path, train_labels: Path, test_images: Path, test_labels: Path) -> _Arrays:
    arrays = {}
    for part, images, labels in (("train", train_images, train_labels), ("test", test_images, test_labels)):
        pixels = idx.read(images, np.uint8, (None, None, None))
        classes = idx.read(labels, np.uint8, (None,)).astype(np.int32)
        _check_part(pixels, classes, images, labels)
        arrays[f"x_{part}"], arrays[f"y_{part}"] = pixels[..., None], classes
    if arrays["x_test"].shape[1:] != arrays["x_train"].shape[1:]:
        raise UserError(f"{test_images}: images of another size than those of {train_images}")
    return arrays


_NEEDED, _CLIENTS = ("x_train", "y_train", "x_test", "y_test"), ("client_train", "client_test")


@functools.lru_cache(maxsize=1)
def _archive(path: Path) -> _Arrays:
    arrays = npz.read(path, _NEEDED, _CLIENTS)
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.ndim not in (3, 4) or (x.dtype.kind != "f" and x.dtype != np.uint8):
            needs = "images, uint8 or float, [n, height, width] or [n, height, width, channels] belong"
            raise UserError(f"{path}: x_{part} is {x.dtype} {list(x.shape)} where {needs}")
        if y.ndim == 2 and y.shape[1] == 1:  # Keras's CIFAR
            y = y[:, 0]
        if y.ndim != 1 or y.dtype.kind not in "iu":
            raise UserError(f"{path}: y_{part} is {y.dtype} {list(y.shape)} where classes, integers [n], belong")
        _check_part(x, y, f"{path}: x_{part}", f"{path}: y_{part}")
        if y.max() >= len(arrays["y_train"]) + len(arrays["y_test"]):  # one stray label would size the model
            raise UserError(f"{path}: y_{part} has class {y.max()}, above the number of examples; number them from 0")
        if y.min() < 0:
            raise UserError(f"{path}: y_{part} has class {y.min()} where 0 or more belongs")
        x = x[..., None] if x.ndim == 3 else x
        if x.dtype.kind == "f":
            x = _as_float32(x, f"{path}: x_{part}")
        arrays[f"x_{part}"], arrays[f"y_{part}"] = x, y.astype(np.int32)
        if (clients := arrays.get(f"client_{part}")) is not None:
            _check_clients(clients, y, f"{path}: client_{part}")
    if arrays["x_test"].shape[1:] != arrays["x_train"].shape[1:] or arrays["x_test"].dtype != arrays["x_train"].dtype:
        raise UserError(f"{path}: x_test has images of another size or type than x_train")
    return arrays


def _as_float32(x: np.ndarray, where: str) -> np.ndarray:
    """Floats of any width and byte order in the machine's own, as they are."""
    if not np.isfinite(x).all():
        raise UserError(f"{where} holds a NaN or an infinity")
    with np.errstate(over="ignore"):  # it is said below
        narrow = x.astype(np.float32, copy=False)
    if not np.isfinite(narrow).all():
        most = np.format_float_scientific(x.flat[np.abs(x).argmax()], precision=2, trim="-")  # of longdouble, too
        raise UserError(f"{where} holds {most}, which float32 cannot; scale it")
    return narrow


def _check_clients(clients: np.ndarray, y: np.ndarray, where: str) -> None:
    if clients.dtype.kind not in "iuUS":
        raise UserError(f"{where} is {clients.dtype} where names or whole numbers belong")
    if clients.shape != y.shape:
        raise UserError(f"{where} has shape {list(clients.shape)} where {list(y.shape)} belongs")
    if clients.dtype.kind == "U":
        try:
            "\n".join(np.unique(clients).tolist()).encode()
        except (ValueError, SystemError) as error:  # half a character, or none: NumPy's own check comes too late
            raise UserError(f"{where} holds a name that is no text ({reading.reason(error)})") from error


def _check_part(x: np.ndarray, y: np.ndarray, images: object, labels: object) -> None:
    """`images` and `labels` are where they come from."""
    if 0 in x.shape[1:]:
        raise UserError(f"{images} is {x.dtype} {list(x.shape)}: images without a pixel")
    if len(x) != len(y):
        raise UserError(f"{labels}: {len(y)} labels for the {len(x)} images of {images}")
    if not len(y):
        raise UserError(f"{labels}: holds no example")
