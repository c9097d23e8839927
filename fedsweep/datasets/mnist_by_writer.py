"""MNIST's digits by the person who wrote them, from QMNIST's (or MNIST's) IDX files with extended labels.

Yadav and Bottou, "Cold Case: The Lost MNIST Digits", NeurIPS 2019, arXiv 1905.10498. A client is a writer, the natural
partition of Federated EMNIST; pixels are 0 = background (TFF's EMNIST has 1.0 = background).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs

from fedsweep import seeds
from fedsweep.datasets import idx
from fedsweep.datasets.federated import DataSpec, FederatedDataset
from fedsweep.errors import UserError
from fedsweep.schema import WriterData

SPEC = DataSpec((28, 28, 1), classes=10)

_URL = "https://raw.githubusercontent.com/facebookresearch/qmnist/master/"
# MD5 sums as torchvision's loader of QMNIST publishes them.
_MD5 = {
    "qmnist-train-images-idx3-ubyte.gz": "ed72d4157d28c017586c42bc6afe6370",
    "qmnist-train-labels-idx2-int.gz": "0058f8dd561b90ffdd0f734c6a30e5e4",
    "qmnist-test-images-idx3-ubyte.gz": "1394631089c404de565df7b7aeaf9412",
    "qmnist-test-labels-idx2-int.gz": "5b5b05890a5e13444e108efe57b788aa",
}
_CLASS, _WRITER = 0, 2  # columns of the extended labels


@dataclass(frozen=True)
class _Names:
    train_images: str
    train_labels: str
    test_images: str
    test_labels: str


_QMNIST = _Names(*_MD5)
_MNIST = _Names(
    "mnist-train-images-idx3-ubyte.gz",
    "mnist-train-labels-idx2-int.gz",
    "mnist-test10k-images-idx3-ubyte.gz",
    "mnist-test10k-labels-idx2-int.gz",
)


def load(config: WriterData, seed: int) -> FederatedDataset:
    """Training digits by writer; the test set holds no digit of a training writer.

    The writers of a validation set, if one is asked for, are drawn from `seed`; they are no clients then.
    """
    everybody = _load(config.name, *_find(config))
    writers = len(everybody.members)
    held_out = min(round(config.validation_fraction * writers), writers - 1)
    if not held_out:
        return everybody
    order = seeds.generator(seed, seeds.Stream.SPLIT).permutation(writers)
    rows = np.concatenate([everybody.members[k] for k in np.sort(order[:held_out])])
    kept = np.sort(order[held_out:])
    return dataclasses.replace(
        everybody,
        client_ids=tuple(everybody.client_ids[k] for k in kept),
        members=tuple(everybody.members[k] for k in kept),
        validation_images=everybody.images[rows],
        validation_labels=everybody.labels[rows],
    )


@functools.lru_cache(maxsize=1)  # for the next run in this process
def _load(name: str, folder: Path, names: _Names) -> FederatedDataset:
    images, labels = _read(folder, names.train_images, names.train_labels)
    test_images, test_labels = _read(folder, names.test_images, names.test_labels)

    writers, writer_of = np.unique(labels[:, _WRITER], return_inverse=True)
    order = np.argsort(writer_of, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(writer_of))[:-1])

    unseen = ~np.isin(test_labels[:, _WRITER], writers)
    if not unseen.any():
        raise UserError(f"{folder / names.test_labels}: every test digit is by a training writer; none can be used")
    return FederatedDataset(
        name=name,
        spec=SPEC,
        client_ids=tuple(int(writer) for writer in writers),
        members=tuple(members),
        images=images,
        labels=labels[:, _CLASS],
        test_images=test_images[unseen],
        test_labels=test_labels[unseen, _CLASS],
        validation_images=images[:0],
        validation_labels=labels[:0, _CLASS],
        white=255,
        source=f"{folder} ({names.train_images}, ...)",
    )


def _read(folder: Path, images_name: str, labels_name: str) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [n, 28, 28, 1], extended labels int32 [n, 8])."""
    images = idx.read(folder / images_name, np.uint8, (None, 28, 28))[..., None]
    labels = idx.read(folder / labels_name, np.int32, (None, 8))
    if len(images) != len(labels):
        raise UserError(f"{folder / labels_name}: {len(labels)} labels for the {len(images)} images of {images_name}")
    if not len(labels):
        raise UserError(f"{folder / labels_name}: holds no example")
    low, high = int(labels[:, _CLASS].min()), int(labels[:, _CLASS].max())
    if low < 0 or high > 9:
        raise UserError(f"{folder / labels_name}: classes from {low} to {high} where 0 to 9 belong")
    return images, labels


def _find(config: WriterData) -> tuple[Path, _Names]:
    """The folder with the files, and which of the two sets of names they have; downloads QMNIST's if absent."""
    if config.dir is not None:
        folder = named = Path(config.dir).expanduser()
    elif os.environ.get("FEDSWEEP_DATA"):
        named = Path(os.environ["FEDSWEEP_DATA"]).expanduser()
        folder = named / config.name
    else:
        folder, named = platformdirs.user_cache_path("fedsweep") / config.name, None
    if named is not None and not os.path.isdir(named):  # noqa: PTH112 (Path's raises for names that are too long)
        key = "FEDSWEEP_DATA" if config.dir is None else "dataset.dir"
        raise UserError(f"{key}={named}: no such folder; name the one that holds {config.name}'s files")
    for names in (_QMNIST, _MNIST):
        present = [name for name in vars(names).values() if (folder / name).is_file()]
        # Of files that somebody put there, a missing one is named when it is read; our own downloads go on.
        if len(present) == 4 or (present and named is not None):
            return folder, names
    _download(folder)
    return folder, _QMNIST


def _download(folder: Path) -> None:
    """QMNIST's four files into `folder`: each with a progress bar, checked, and moved into place when it is whole."""
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")
    for name, md5 in _MD5.items():
        try:
            pooch.retrieve(_URL + name, known_hash=f"md5:{md5}", fname=name, path=folder, progressbar=True)
        except requests.RequestException as error:
            with contextlib.suppress(OSError):  # holds what came before
                folder.rmdir()
            raise UserError(
                f"{folder / name}: absent, and it cannot be downloaded ({type(error).__name__}); put QMNIST's four"
                f" files ({', '.join(_MD5)}) there, or name their folder with dataset.dir or FEDSWEEP_DATA"
            ) from error
        except OSError as error:
            raise UserError(f"{folder / name}: cannot be written ({error.strerror})") from error
        except ValueError as error:  # pooch: the hash of what arrived differs; it has removed the file
            raise UserError(f"{folder / name}: what {_URL} sent is not QMNIST's file ({error})") from error
