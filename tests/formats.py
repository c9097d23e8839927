"""Writes data in the formats that data sets are read from."""

from __future__ import annotations

import gzip
import sqlite3
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from fedsweep.datasets import FederatedDataset


def write_idx(path: Path, array: np.ndarray) -> None:
    """An IDX file, compressed if its name ends in .gz."""
    code = {np.dtype(np.uint8): 8, np.dtype(np.int32): 12}[array.dtype]
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.astype(array.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_tff(path: Path, splits: Mapping[str, Mapping[str, Sequence[Mapping[str, object]]]]) -> None:
    """A SQLite file as TFF publishes them: split -> client -> examples, each a mapping of features."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE examples (split_name TEXT NOT NULL, client_id TEXT NOT NULL,"
            " serialized_example_proto BLOB NOT NULL)"
        )
        connection.execute(
            "CREATE TABLE client_metadata (client_id TEXT NOT NULL, split_name TEXT NOT NULL,"
            " num_examples INTEGER NOT NULL)"
        )
        for split, clients in splits.items():
            for client, examples in clients.items():
                rows = [(split, client, _serialized(example)) for example in examples]
                connection.executemany("INSERT INTO examples VALUES (?, ?, ?)", rows)
                connection.execute("INSERT INTO client_metadata VALUES (?, ?, ?)", (client, split, len(rows)))
        connection.execute("CREATE INDEX idx_examples ON examples (split_name, client_id)")
    connection.close()


def write_emnist(folder: Path, digits: FederatedDataset, writers: int) -> None:
    """Federated EMNIST of the first writers of real digits: 1.0 is background; the last 5 digits of each are its test
    digits. With letters each has the same one more in both splits. One writer's name has a quote in it."""
    splits = {name: {} for name in ("digits_only_train", "digits_only_test", "all_train", "all_test")}
    for k in range(writers):
        images, labels = digits.client(k)
        rows = [{"pixels": 1 - image, "label": [label]} for image, label in zip(images, labels, strict=True)]
        letters = [{"pixels": 1 - images[0], "label": [61]}]
        writer = f"f{k:04}_{k}" if k else "o'hara"
        splits["digits_only_train"][writer], splits["digits_only_test"][writer] = rows[:-5], rows[-5:]
        splits["all_train"][writer], splits["all_test"][writer] = rows[:-5] + letters, rows[-5:] + letters
    write_tff(folder / "emnist_all.sqlite", splits)


def _serialized(example: Mapping[str, object]) -> bytes:
    features = {name: _feature(value) for name, value in example.items()}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def _feature(value: object) -> tf.train.Feature:
    if isinstance(value, str):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
    array = np.asarray(value)
    if array.dtype.kind == "f":
        return tf.train.Feature(float_list=tf.train.FloatList(value=array.ravel()))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=array.ravel()))
