"""Real digits by writer, their file format, and the download against a server on this machine."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import threading

import numpy as np
import pytest
from formats import write_idx

from fedsweep import datasets, schema
from fedsweep.datasets import idx, mnist_by_writer
from fedsweep.errors import UserError


def write_split(folder, names, writers, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (len(writers), 28, 28), dtype=np.uint8)
    labels = np.zeros((len(writers), 8), np.int32)
    labels[:, 0], labels[:, 2] = rng.integers(0, 10, len(writers)), writers
    write_idx(folder / names[0], images)
    write_idx(folder / names[1], labels)
    return images, labels


@pytest.fixture
def folder(tmp_path):
    """QMNIST's four files, small: training writers 7, 3, 7, 5; test writers 9, 3, 8."""
    names = list(mnist_by_writer._HASHES)
    write_split(tmp_path, names[:2], [7, 3, 7, 5])
    write_split(tmp_path, names[2:], [9, 3, 8], seed=1)
    return tmp_path


def load(folder):
    folder.mkdir(exist_ok=True)
    return datasets.load(schema.WriterData("mnist_by_writer", 0.0, str(folder)), seed=0)


def test_the_real_data_has_539_writers_and_none_of_them_in_the_test_set(data_folder):
    data = load(data_folder / "mnist_by_writer")
    sizes = [len(rows) for rows in data.members]
    assert (len(sizes), min(sizes), int(np.median(sizes)), max(sizes), sum(sizes)) == (539, 19, 116, 131, 60000)
    assert len(data.test) == 10000
    assert data.client(0)[0].shape[1:] == data.spec.input_shape
    # MNIST's published class counts of the training set
    assert np.bincount(data.examples.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


def test_a_client_is_a_writer_and_test_digits_of_training_writers_are_left_out(folder):
    data = load(folder)
    assert data.client_ids == [3, 5, 7]
    assert [rows.tolist() for rows in data.members] == [[1], [3], [0, 2]]
    assert data.test.clients.tolist() == [1, 0]  # writers 9 and 8


def test_a_missing_file_is_named(folder):
    (folder / "qmnist-test-labels-idx2-int.gz").unlink()
    with pytest.raises(UserError, match=r"qmnist-test-labels-idx2-int\.gz: cannot be read \(No such file"):
        load(folder)


def test_a_truncated_file_is_named(folder):
    path = folder / "qmnist-train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"qmnist-train-images-idx3-ubyte\.gz: not a whole gzip file"):
        load(folder)


def test_labels_of_another_length_or_class_are_named(folder):
    names = list(mnist_by_writer._HASHES)
    labels = idx.read(folder / names[1], np.int32, (None, 8))
    write_idx(folder / names[1], labels[:-1])
    with pytest.raises(UserError, match=f"{names[1]}: 3 labels for the 4 images"):
        load(folder)
    labels[0, 0] = 10
    write_idx(folder / names[1], labels)
    with pytest.raises(UserError, match=f"{names[1]}: classes from .* to 10"):
        load(folder)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"hello", "not a whole gzip file"),
        (gzip.compress(b"hello"), "not an IDX file"),
        (gzip.compress(b""), "not an IDX file"),
        (gzip.compress(bytes([0, 0, 8, 3, 0, 0])), "announces"),
        (gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 9, 1, 2])), "announces"),
        (gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 2, 1, 2])), r"uint8 \[2\] where int32 \[any, 8\] belongs"),
        (bytes([0, 0, 13, 1, 0, 0, 0, 1, 0, 0, 0, 0]), r"float32 \[1\] where int32 \[any, 8\] belongs"),
        (bytes([0, 0, 14, 1, 0, 0, 0, 0]), r"float64 \[0\] where int32 \[any, 8\] belongs"),
        (bytes([0, 0, 8, 0, 7]), r"uint8 \[\] where int32 \[any, 8\] belongs"),
        (bytes([0, 0, 8, 255]) + bytes(1020), "uint8 of rank 255 where"),
        (bytes([0, 0, 8, 255, 1]), "5 bytes where its header of rank 255 announces 1024 for itself"),
        (bytes([0, 0, 8, 3]) + b"\x80\0\0\0" * 3 + b"12", "announces 9903520314283042199192993808 bytes"),
        (
            gzip.compress(bytes([0, 0, 12, 2]) + b"\x80\0\0\0" * 2),
            "announces 18446744073709551628 bytes, and it can hold",
        ),
        (bytes([0, 0, 8, 1, 0, 0, 0, 1, 1, 2]), "more bytes where its header announces 9"),
    ],
    ids=[
        "no gzip",
        "no IDX",
        "empty",
        "header cut off",
        "data cut off",
        "another type",
        "float32",
        "float64",
        "rank 0",
        "rank 255",
        "rank 255 cut off",
        "sizes of 2^31",
        "sizes of 2^31 in gzip",
        "more data",
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named_with_the_reason(tmp_path, content, says):
    path = tmp_path / "labels.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"labels.gz: .*{says}"):
        idx.read(path, np.int32, (None, 8))


def test_plain_idx_bytes_are_read_whatever_the_name_says(tmp_path):
    write_idx(tmp_path / "plain", np.arange(16, dtype=np.int32).reshape(2, 8))
    (tmp_path / "plain").rename(tmp_path / "plain.gz")
    assert idx.read(tmp_path / "plain.gz", np.int32, (None, 8)).tolist()[1] == list(range(8, 16))


@pytest.fixture
def server(folder, monkeypatch):
    """The small files on a server of this machine, with their checksums as the known ones."""
    quiet = type("Handler", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=folder)) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        sums = {
            name: "md5:" + hashlib.md5((folder / name).read_bytes()).hexdigest() for name in mnist_by_writer._HASHES
        }
        monkeypatch.setattr(mnist_by_writer, "_HASHES", sums)
        monkeypatch.setattr(mnist_by_writer, "_URL", f"http://127.0.0.1:{httpd.server_port}/")
        yield folder
        httpd.shutdown()


def test_absent_files_are_downloaded_checked_and_moved_into_place(server, tmp_path):
    target = tmp_path / "cache"
    assert load(target).client_ids == [3, 5, 7]
    assert sorted(p.name for p in target.iterdir()) == sorted(mnist_by_writer._HASHES)


def test_a_download_with_another_checksum_is_refused_and_leaves_no_file(server, tmp_path):
    (server / "qmnist-test-labels-idx2-int.gz").write_bytes(b"something else")
    target = tmp_path / "cache"
    with pytest.raises(UserError, match=r"qmnist-test-labels-idx2-int\.gz"):
        load(target)
    assert not (target / "qmnist-test-labels-idx2-int.gz").exists()


def test_without_a_network_the_folder_and_the_files_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist_by_writer, "_URL", "http://127.0.0.1:9/")
    with pytest.raises(UserError, match=r"cannot be downloaded.*dataset\.dir or FEDSWEEP_DATA"):
        load(tmp_path / "cache")


def test_a_folder_that_is_not_there_is_named_and_not_made(tmp_path, monkeypatch):
    absent = tmp_path / "absent"
    with pytest.raises(UserError, match=r"dataset\.dir=.*absent: no such folder"):
        datasets.load(schema.WriterData("mnist_by_writer", 0.0, str(absent)), seed=0)
    monkeypatch.setenv("FEDSWEEP_DATA", str(absent))
    with pytest.raises(UserError, match=r"FEDSWEEP_DATA=.*absent: no such folder"):
        datasets.load(schema.WriterData("mnist_by_writer", 0.0, None), seed=0)
    assert not absent.exists()


def test_data_is_found_below_fedsweep_data_and_its_digest_tells_data_apart(folder, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mnist_by_writer").symlink_to(folder)
    monkeypatch.setenv("FEDSWEEP_DATA", str(tmp_path / "data"))
    first = datasets.load(schema.WriterData("mnist_by_writer", 0.0, None), seed=0)
    assert first.client_ids == [3, 5, 7] and "qmnist-train-images" in first.source
    write_split(folder, list(mnist_by_writer._HASHES)[2:], [9, 3, 8], seed=2)
    assert load(folder).digest() != first.digest() == first.digest()
