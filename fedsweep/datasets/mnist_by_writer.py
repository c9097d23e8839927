"""MNIST's digits by the person who wrote them, from QMNIST's (or MNIST's) IDX files with extended labels.

Yadav and Bottou, "Cold Case: The Lost MNIST Digits", NeurIPS 2019, arXiv 1905.10498. A client is a writer, the natural
partition of Federated EMNIST; pixels are 0 = background (TFF's EMNIST has 1.0 = background).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs

from fedsweep import seeds
from fedsweep.datasets import idx
from fedsweep.datasets.federated import DataSpec, Examples, InMemory, members, numbered
from fedsweep.datasets.folders import place
from fedsweep.errors import UserError
from fedsweep.schema import WriterData

SPEC = DataSpec((28, 28, 1), classes=10)

_URL = "https://raw.githubusercontent.com/facebookresearch/qmnist/master/"
# MD5 sums as torchvision's loader of QMNIST publishes them.
_HASHES = {
    "qmnist-train-images-idx3-ubyte.gz": "md5:ed72d4157d28c017586c42bc6afe6370",
    "qmnist-train-labels-idx2-int.gz": "md5:0058f8dd561b90ffdd0f734c6a30e5e4",
    "qmnist-test-images-idx3-ubyte.gz": "md5:1394631089c404de565df7b7aeaf9412",
    "qmnist-test-labels-idx2-int.gz": "md5:5b5b05890a5e13444e108efe57b788aa",
}
_CLASS, _WRITER = 0, 2  # columns of the extended labels


@dataclass(frozen=True)
class _Names:
    train_images: str
    train_labels: str
    test_images: str
    test_labels: str


_QMNIST = _Names(*_HASHES)
_MNIST = _Names(
    "mnist-train-images-idx3-ubyte.gz",
    "mnist-train-labels-idx2-int.gz",
    "mnist-test10k-images-idx3-ubyte.gz",
    "mnist-test10k-labels-idx2-int.gz",
)


def spec(_: WriterData) -> DataSpec:
    """Shape and classes."""
    return SPEC


def load(config: WriterData, seed: int) -> InMemory:
    """Training digits by writer; the test set holds no digit of a training writer.

    The writers of a validation set, if one is asked for, are drawn from `seed`; they are no clients then.
    """
    everybody = _load(config.name, *_find(config))
    return everybody.hold_out(config.validation_fraction, seeds.generator(seed, seeds.Stream.SPLIT))


@functools.lru_cache(maxsize=1)  # for the next run in this process
def _load(name: str, folder: Path, names: _Names) -> InMemory:
    images, labels = _read(folder, names.train_images, names.train_labels)
    test_images, test_labels = _read(folder, names.test_images, names.test_labels)

    writers, writer_of = numbered(labels[:, _WRITER])
    unseen = ~np.isin(test_labels[:, _WRITER], writers)
    if not unseen.any():
        raise UserError(f"{folder / names.test_labels}: every test digit is by a training writer; none can be used")
    _, test_writer_of = numbered(test_labels[unseen, _WRITER])
    return InMemory(
        Examples(images, labels[:, _CLASS]),
        members(writer_of),
        name=name,
        spec=SPEC,
        client_ids=[int(writer) for writer in writers],
        test=Examples(test_images[unseen], test_labels[unseen, _CLASS], test_writer_of),
        validation=Examples(images[:0], labels[:0, _CLASS]),
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
    folder, named = place(config.name, config.dir, platformdirs.user_cache_path("fedsweep") / config.name)
    for names in (_QMNIST, _MNIST):
        present = [name for name in vars(names).values() if (folder / name).is_file()]
        # Of files that somebody put there, a missing one is named when it is read; our own downloads go on.
        if len(present) == 4 or (present and named):
            return folder, names
    from fedsweep.datasets import download  # with pooch and requests, which nobody needs whose files are there

    download.checked_files(_URL, folder, _HASHES, "QMNIST's four files")
    return folder, _QMNIST
