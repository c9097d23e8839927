"""The data sets of TFF's own loaders: Federated EMNIST, CIFAR-100, Shakespeare, Stack Overflow.

TFF's loader opens the SQLite file in its cache folder; a client's examples are read when it takes part. TFF downloads
to the file's final name, so what it leaves when it is cut off looks whole: the download is ours (`download`), but for
Stack Overflow's small archive of word counts, whose checksum TFF knows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsweep import schema, seeds
from fedsweep.datasets import reading, text
from fedsweep.datasets.federated import DataSpec, Examples, FederatedDataset, held_out_clients
from fedsweep.datasets.folders import place
from fedsweep.errors import DamagedFile, UserError

_KIND, _AGAIN = "a SQLite file in TFF's format", "fetch it again"
_MOST = 2**31 - 1  # examples of a client: above it is damage
_URL = "https://storage.googleapis.com/tff-datasets-public/"
_WORD_COUNTS = (
    "1dc00256d6e527c54b9756d968118378ae14e6692c0b3b6cad470cdd3f0c519c"  # the archive's SHA-256, as TFF has it
)
_Features = Mapping[str, np.ndarray]  # of all examples of a client


@dataclass(frozen=True)
class _Source:
    """How one of the loaders is used."""

    load: Callable[..., Sequence[tff.simulation.datasets.ClientData]]  # of the folder: training first, test last
    splits: tuple[str, str]  # what the file calls them
    features: tuple[str, ...]  # those that are read
    examples: Callable[[_Features], tuple[np.ndarray, np.ndarray]]  # as stored inputs and labels
    white: float | None


def spec(config: schema.TffData) -> DataSpec:
    """Shapes and classes of the data set, without reading it."""
    if isinstance(config, schema.EmnistData):
        return DataSpec((28, 28, 1), config.classes)
    if isinstance(config, schema.ShakespeareData):
        return DataSpec((config.sequence_length,), text.CHARACTERS.size, text=True)
    if isinstance(config, schema.StackOverflowData):
        words = text.Vocabulary(map(str, range(config.vocabulary)))  # as many as there will be
        return DataSpec((config.sequence_length,), words.size, text=True, uncounted=(words.unknown, words.end))
    return DataSpec((32, 32, 3), 100)


def load(config: schema.TffData, seed: int) -> FederatedDataset:
    """Opens the data set, after its download if it is not there. `seed` draws the clients that are held out."""
    folder, _ = place(config.name, config.dir, Path.home() / ".tff")
    file = folder / _FILES[config.name]
    if not file.is_file():
        from fedsweep.datasets import download  # with pooch and requests, which nobody needs whose files are there

        download.lzma_file(f"{_URL}{file.name}.lzma", file)
    version = (file.stat().st_mtime_ns, file.stat().st_size)
    return _open(type(config), dataclasses.astuple(config), file, seed if config.validation_fraction else 0, version)


@functools.lru_cache(maxsize=1)  # for the next run in this process
def _open(kind: type, settings: tuple, file: Path, seed: int, version: tuple[int, int]) -> FederatedDataset:
    """`version` tells the file from one that has taken its place."""
    config = kind(*settings)
    return _Files(config, _source(config, file.parent), file, seed)


_FILES = {
    "emnist": "emnist_all.sqlite",
    "cifar100": "cifar100.sqlite",
    "shakespeare": "shakespeare.sqlite",
    "stackoverflow": "stackoverflow.sqlite",
}


def _source(config: schema.TffData, folder: Path) -> _Source:
    loaders = tff.simulation.datasets
    if isinstance(config, schema.EmnistData):
        digits = config.classes == 10
        load = functools.partial(loaders.emnist.load_data, only_digits=digits)
        which = "digits_only" if digits else "all"
        splits = (f"{which}_train", f"{which}_test")
        return _Source(load, splits, ("pixels", "label"), _emnist, None)
    if isinstance(config, schema.ShakespeareData):
        examples = functools.partial(_speeches, length=config.sequence_length)
        return _Source(loaders.shakespeare.load_data, ("train", "test"), ("snippets",), examples, None)
    if isinstance(config, schema.StackOverflowData):
        words = _words(str(folder), config.vocabulary)
        examples = functools.partial(_sentences, words=words, length=config.sequence_length)
        return _Source(loaders.stackoverflow.load_data, ("train", "test"), ("tokens",), examples, None)
    return _Source(loaders.cifar100.load_data, ("train", "test"), ("image", "label"), _cifar, 255)


def _emnist(features: _Features) -> tuple[np.ndarray, np.ndarray]:
    return features["pixels"][..., None], features["label"]


def _cifar(features: _Features) -> tuple[np.ndarray, np.ndarray]:
    return features["image"], features["label"].astype(np.int32)


def _speeches(features: _Features, length: int) -> tuple[np.ndarray, np.ndarray]:
    pieces = [text.CHARACTERS.numbers(speech.decode("utf-8", "replace")) for speech in features["snippets"]]
    return text.sequences(pieces, length)


def _sentences(features: _Features, words: text.Vocabulary, length: int) -> tuple[np.ndarray, np.ndarray]:
    pieces = [words.numbers(sentence.decode("utf-8", "replace").split()) for sentence in features["tokens"]]
    return text.sequences(pieces, length, most=length)


@functools.lru_cache(maxsize=1)
def _words(folder: str, size: int) -> text.Vocabulary:
    """The `size` words that most users have written."""
    archive = Path(folder) / "datasets" / "stackoverflow.word_count.tar.bz2"
    if archive.exists():  # Keras deletes one that is not TFF's, then asks the network for it
        with reading.opened(archive, "TFF's archive of word counts", _AGAIN) as file:
            if (found := hashlib.file_digest(file, "sha256").hexdigest()) != _WORD_COUNTS:
                what = f"not TFF's archive of word counts (its SHA-256 is {found}, not {_WORD_COUNTS})"
                raise DamagedFile(archive, what, "move it away, and TFF's is downloaded")
    try:
        counts = tff.simulation.datasets.stackoverflow.load_word_counts(cache_dir=folder, vocab_size=size)
    except OSError as error:
        raise UserError(f"{archive}: cannot be read or written ({error})") from error
    except ValueError as error:
        raise UserError(f"{archive}: holds something else than words and their counts ({error})") from error
    except Exception as error:  # Keras has no class of its own for "URL fetch failure"
        raise UserError(f"{archive}: absent or damaged, and it cannot be downloaded ({error}); put it there") from error
    if len(counts) < size:
        raise UserError(f"dataset.vocabulary={size}: {archive} has {len(counts)} words")
    return text.Vocabulary(counts)


class _Files(FederatedDataset):
    """Clients in one of TFF's SQLite files. Only their names and sizes are in memory, and the held-out examples."""

    def __init__(self, config: schema.TffData, source: _Source, path: Path, seed: int):
        train, test = _opened(source, path)
        sizes, test_sizes = (_sizes(path, split) for split in source.splits)
        self._path, self._source = path, source
        fitting = spec(config)
        self._train = _Reader(train, source, path, fitting.classes)
        rng = seeds.generator(seed, seeds.Stream.SPLIT)
        ids = train.client_ids
        kept, held = held_out_clients(len(ids), config.validation_fraction, rng)
        if len(held):
            validation = self._train.pooled([ids[k] for k in held], sizes, config.test_examples, rng)
        super().__init__(
            name=config.name,
            spec=fitting,
            client_ids=ids if len(kept) == len(ids) else [ids[k] for k in kept],
            sizes=np.fromiter((sizes.get(ids[k], 0) for k in kept), np.int64, len(kept)),
            # the same test set for every seed: replicates differ in training alone
            test=_Reader(test, source, path, fitting.classes).pooled(
                test.client_ids, test_sizes, config.test_examples, seeds.generator(0, seeds.Stream.SPLIT)
            ),
            validation=validation if len(held) else _nothing(fitting),
            source=str(path),
            white=source.white,
        )

    def stored(self, client: int, most: int | None = None) -> Examples:
        inputs, labels = self._train.read(self.client_ids[client], most)
        return Examples(inputs[:most], labels[:most])

    def digest(self) -> str:
        """Of the names and sizes of clients, of the held-out examples and of the file's size, not of what clients hold:
        the file can have gigabytes."""
        sha = hashlib.sha256(f"{self._path.name} {self._source.splits} {self._path.stat().st_size}".encode())
        sha.update("\n".join(self.client_ids).encode())
        for array in (self.sizes, *self.test.arrays(), *self.validation.arrays()):
            sha.update(np.ascontiguousarray(array))
        return sha.hexdigest()


def _nothing(spec: DataSpec) -> Examples:
    return Examples(np.zeros([0, *spec.input_shape], np.float32), np.zeros([0], np.int32))


class _Reader:
    """Reads clients of one split through TFF's ClientData, with a graph that is traced once for all clients."""

    def __init__(self, data: tff.simulation.datasets.ClientData, source: _Source, path: Path, classes: int):
        self._source, self._path, self._classes = source, path, classes

        @tf.function(input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)])
        def features(client_id, most):
            examples = data.serializable_dataset_fn(client_id).take(most)
            examples = examples.map(lambda example: {name: example[name] for name in source.features})
            return examples.batch(2**40).get_single_element()

        self._features = features

    def read(self, client_id: str, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Stored inputs and labels of a client's `most` first rows."""
        quoted = client_id.replace("'", "''")  # it becomes part of TFF's query
        try:
            features = self._features(quoted, -1 if most is None else most)
        except tf.errors.OpError as error:
            noise = ("Graph execution error", "Detected at node", "<stack traces", 'File "')
            lines = [line.strip() for line in str(error.message).splitlines() if line.strip()]
            what = next((line for line in lines if not line.startswith(noise)), type(error).__name__)
            code = re.search(r" failed: \[(\d+)\] ", what)  # SQLite's, as TensorFlow words it
            if code and int(code[1]) & 0xFF in reading.ELSEWHERE:
                raise UserError(f"{self._path}: client {client_id}: cannot be read ({what})") from error
            what = f"client {client_id}: its examples cannot be read ({what})"
            raise DamagedFile(self._path, what, _AGAIN) from error
        inputs, labels = self._source.examples({name: tensor.numpy() for name, tensor in features.items()})
        if len(labels) and not 0 <= labels.min() <= labels.max() < self._classes:
            found = f"labels from {labels.min()} to {labels.max()} where 0 to {self._classes - 1} belong"
            raise DamagedFile(self._path, f"client {client_id}: {found}", _AGAIN)
        if inputs.dtype.kind == "f" and not np.isfinite(inputs).all():
            raise DamagedFile(self._path, f"client {client_id}: a pixel is a NaN or an infinity", _AGAIN)
        return inputs, labels

    def pooled(
        self, ids: Sequence[str], sizes: Mapping[str, int], most: int | None, rng: np.random.Generator
    ) -> Examples:
        """The examples of these clients; with `most`, of as many clients, in random order, as it takes for so many."""
        order, found, owners, count = range(len(ids)), [], [], 0
        if most is not None and most < sum(sizes.get(client, 0) for client in ids):
            order = rng.permutation(len(ids))
        for owner in order:
            if most is not None and count >= most:
                break
            found.append(self.read(ids[owner], None if most is None else most - count))
            owners.append(owner)
            count += len(found[-1][1])
        inputs, labels = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        clients = np.repeat(np.arange(len(owners), dtype=np.int32), [len(labels) for _, labels in found])
        return Examples(inputs, labels, clients).rows(slice(most))


def _opened(source: _Source, path: Path) -> tuple[tff.simulation.datasets.ClientData, ...]:
    """TFF's training and test data; a third split, which Stack Overflow has, is not used."""
    with reading.opened(path, _KIND, _AGAIN):
        try:
            train, *_, test = source.load(cache_dir=str(path.parent))
        except StopIteration as error:
            what = f"holds no client in {' or '.join(source.splits)}"
            raise DamagedFile(path, what, _AGAIN) from error
    return train, test


def _sizes(path: Path, split: str) -> dict[str, int]:
    """client -> its number of rows."""
    with (
        reading.content_of(path, _KIND, _AGAIN),
        contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection,
    ):
        query = "SELECT client_id, num_examples FROM client_metadata WHERE split_name = ?"
        sizes = dict(connection.execute(query, [split]).fetchall())
    for client, size in sizes.items():
        if not isinstance(client, str) or not client or "\0" in client:
            raise DamagedFile(path, f"client {client!r} in {split}: its name is no text", _AGAIN)
        if not isinstance(size, int) or not 0 < size <= _MOST:
            raise DamagedFile(path, f"client {client} in {split}: has {size!r} examples", _AGAIN)
    return sizes
