"""TFF's own loaders on files in their format, made of real digits and plays; the download against a local server."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import io
import lzma
import sqlite3
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from formats import write_emnist, write_tff

from fedsweep import datasets, schema
from fedsweep.datasets import download, tff_files
from fedsweep.errors import DamagedFile, UserError


@pytest.fixture(scope="session")
def digits(data_folder):
    """Real digits by writer."""
    return datasets.load(schema.WriterData("mnist_by_writer", 0.0, str(data_folder / "mnist_by_writer")), 0)


@pytest.fixture(scope="session")
def plays(data_folder):
    """Speaker -> speeches."""
    from fedsweep.datasets import tiny_shakespeare

    return tiny_shakespeare._speeches(data_folder / "tiny_shakespeare" / "input.txt.gz")


@pytest.fixture(scope="session")
def emnist_folder(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("emnist")
    write_emnist(folder, digits, 8)
    return folder


def load(config, *overrides, seed=0):
    return datasets.load(config(*overrides).dataset, seed)


def test_emnist_is_what_tffs_loader_reads(config, emnist_folder):
    data = load(config, "dataset=emnist", f"dataset.dir={emnist_folder}")
    train, _ = tff.simulation.datasets.emnist.load_data(cache_dir=str(emnist_folder))
    assert data.client_ids == train.client_ids and len(data.client_ids) == 8
    for k, writer in enumerate(train.client_ids):
        if "'" in writer:  # TFF's own query cannot read it
            continue
        theirs = list(train.create_tf_dataset_for_client(writer).as_numpy_iterator())
        images, labels = data.client(k)
        assert images.dtype == np.float32 and images.shape == (len(theirs), 28, 28, 1) == (data.sizes[k], 28, 28, 1)
        assert np.array_equal(images[..., 0], [example["pixels"] for example in theirs])
        assert labels.dtype == np.int32 and labels.tolist() == [example["label"] for example in theirs]
    assert len(data.test) == 8 * 5 and np.bincount(data.test.clients).tolist() == [5] * 8
    assert data.client(0, most=3)[0].shape == (3, 28, 28, 1)


def test_a_quote_in_a_clients_name_is_part_of_the_name(config, emnist_folder, digits):
    data = load(config, "dataset=emnist", f"dataset.dir={emnist_folder}")
    images, labels = data.client(data.client_ids.index("o'hara"))
    ours, known = digits.client(0)
    assert labels.tolist() == known[:-5].tolist() and np.allclose(1 - images, ours[:-5])


def test_letters_are_there_with_62_classes(config, emnist_folder):
    data = load(config, "dataset=emnist", "dataset.classes=62", f"dataset.dir={emnist_folder}")
    assert (
        data.spec
        == datasets.DataSpec((28, 28, 1), 62)
        == datasets.spec(config("dataset=emnist", "dataset.classes=62").dataset)
    )
    assert data.client(1)[1].max() == 61 and len(data.test) == 8 * 6


def test_clients_are_held_out_for_validation_and_test_examples_are_capped(config, emnist_folder):
    overrides = ["dataset=emnist", f"dataset.dir={emnist_folder}", "dataset.validation_fraction=0.25"]
    whole = load(config, *overrides)
    assert len(whole.client_ids) == len(whole.sizes) == 6 and len(set(whole.validation.clients)) == 2
    assert whole.client(5)[1].shape == (whole.sizes[5],)
    capped = load(config, *overrides, "dataset.test_examples=12")
    assert (
        len(capped.test) == len(capped.validation) == 12 and capped.test.clients.tolist() == [0] * 5 + [1] * 5 + [2] * 2
    )
    again, other = (
        load(config, *overrides, "dataset.test_examples=12"),
        load(config, *overrides, "dataset.test_examples=12", seed=1),
    )
    assert again.digest() == capped.digest() != other.digest()


def test_cifar100_keeps_bytes_and_scales_them(config, digits, tmp_path):
    images = np.pad(np.round(digits.client(0)[0][:6] * 255).astype(np.uint8), [(0, 0), (2, 2), (2, 2), (0, 0)])
    rows = [
        {"image": np.repeat(image, 3, -1), "label": [k + 94], "coarse_label": [k]} for k, image in enumerate(images)
    ]
    write_tff(tmp_path / "cifar100.sqlite", {"train": {"0": rows[:4]}, "test": {"0": rows[4:]}})
    data = load(config, "dataset=cifar100", f"dataset.dir={tmp_path}", "clients_per_round=1")
    pixels, labels = data.client(0)
    assert np.allclose(pixels, np.repeat(images[:4], 3, -1) / 255) and labels.tolist() == [94, 95, 96, 97]
    assert data.test.inputs.dtype == np.uint8 and data.test.labels.tolist() == [98, 99]


def test_shakespeare_predicts_each_character_from_those_before(config, plays, tmp_path):
    speakers = {"KING_LEAR": plays["KING HENRY VI"][:3], "A": ["Hark!"]}
    rows = {name: [{"snippets": speech} for speech in spoken] for name, spoken in speakers.items()}
    write_tff(tmp_path / "shakespeare.sqlite", {"train": rows, "test": {"A": rows["A"]}})
    data = load(config, "dataset=shakespeare", "model=char_lstm", f"dataset.dir={tmp_path}")
    assert data.spec == datasets.DataSpec((80,), 90, text=True)  # 86 characters and four tokens: Reddi et al. 2021
    inputs, labels = data.client(0)  # A: the beginning, five characters, the end
    assert inputs.shape == labels.shape == (1, 80) and np.count_nonzero(labels) == np.count_nonzero(inputs) == 6
    assert inputs[0, 0] == 88 and labels[0, 5] == 89 and np.array_equal(inputs[0, 1:6], labels[0, :5])
    inputs, labels = data.client(1)
    characters = sum(map(len, speakers["KING_LEAR"]))
    assert np.count_nonzero(labels) == characters + 3  # and three ends
    assert inputs.max() < 90 and not (labels == 87).any()  # every character of the plays is known


@pytest.fixture
def stackoverflow_folder(plays, tmp_path, monkeypatch):
    """Sentences of plays as Stack Overflow's; the ten most frequent words in TFF's archive of word counts."""
    fields = dict.fromkeys(("creation_date", "tags", "title", "type"), "") | {"score": [1]}
    users = {
        str(k): [{**fields, "tokens": " ".join(speech.lower().split())} for speech in plays[speaker][:9]]
        for k, speaker in enumerate(sorted(plays)[:12])
    }
    splits = {
        "train": dict(list(users.items())[:6]),
        "heldout": {"6": users["6"]},
        "test": dict(list(users.items())[7:]),
    }
    write_tff(tmp_path / "stackoverflow.sqlite", splits)
    content = "".join(
        f"{word} {100 - k}\n" for k, word in enumerate(["the", "and", "to", "of", "i", "you", "my", "a", "that", "in"])
    ).encode()
    archive = tmp_path / "datasets" / "stackoverflow.word_count.tar.bz2"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:bz2") as tar:
        member = tarfile.TarInfo("stackoverflow.word_count")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    # TFF knows the real archive's checksum, and so does fedsweep
    known = {"file_hash": hashlib.sha256(archive.read_bytes()).hexdigest()}
    monkeypatch.setattr(tff_files, "_WORD_COUNTS", known["file_hash"])
    get_file = tf.keras.utils.get_file
    monkeypatch.setattr(tf.keras.utils, "get_file", lambda *names, **settings: get_file(*names, **settings | known))
    tff_files._words.cache_clear()
    return tmp_path


def test_stackoverflow_predicts_words_and_leaves_unknown_ones_and_ends_out_of_accuracy(config, stackoverflow_folder):
    overrides = [
        "dataset=stackoverflow",
        "model=word_lstm",
        "dataset.vocabulary=10",
        f"dataset.dir={stackoverflow_folder}",
    ]
    data = load(config, *overrides, "dataset.test_examples=20")
    assert data.spec == datasets.spec(config(*overrides).dataset)
    assert (data.spec.classes, data.spec.uncounted) == (14, (11, 13))  # padding, ten words, unknown, beginning, end
    assert len(data.client_ids) == 6 and len(data.test) == 20
    inputs, labels = data.client(0)
    assert inputs.shape[1:] == (20,) and set(inputs[:, 0]) == {12}
    assert ((inputs == 0) == (labels == 0)).all()
    assert data.client(0, most=2)[0].shape[0] == 2
    with pytest.raises(UserError, match=r"dataset\.vocabulary=11: .*word_count\.tar\.bz2 has 10 words"):
        load(config, *overrides, "dataset.vocabulary=11")


def test_a_damaged_archive_of_word_counts_is_named_and_stays(stackoverflow_folder, monkeypatch):
    """Keras would delete it, then ask the network for it."""
    archive = stackoverflow_folder / "datasets" / "stackoverflow.word_count.tar.bz2"
    damaged = archive.read_bytes()[:-1]
    archive.write_bytes(damaged)
    monkeypatch.setattr(tf.keras.utils, "get_file", lambda *_, **__: archive.unlink())
    with pytest.raises(DamagedFile, match=r"word_count\.tar\.bz2: not TFF's archive of word counts \(its SHA-256 is"):
        tff_files._words(str(stackoverflow_folder), 10)
    assert archive.read_bytes() == damaged


def test_the_archive_of_word_counts_is_checked_as_tff_does(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(tf.keras.utils, "get_file", lambda *_, **settings: asked.update(settings) or "nowhere")
    with pytest.raises(OSError, match="word_count"):
        tff.simulation.datasets.stackoverflow.load_word_counts(cache_dir=str(tmp_path))
    assert (asked["hash_algorithm"], asked["file_hash"]) == ("sha256", tff_files._WORD_COUNTS)


_LOCK = """
import sqlite3, sys
sqlite3.connect(sys.argv[1], isolation_level=None).execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_file_that_another_process_locks_is_not_called_damaged(config, emnist_folder, monkeypatch):
    path = emnist_folder / "emnist_all.sqlite"
    data = load(config, "dataset=emnist", f"dataset.dir={emnist_folder}")
    source = tff_files._source(config("dataset=emnist").dataset, path.parent)
    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, timeout=0.01))
    reads = {
        "list": lambda: tff_files._sizes(path, "digits_only_train"),
        "open": lambda: tff_files._opened(source, path),
        "client": lambda: data.client(0),  # by TensorFlow
    }
    command = [sys.executable, "-c", _LOCK, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        for read in reads.values():
            with pytest.raises(UserError, match=r"emnist_all\.sqlite: .*cannot be read \(.*locked") as refused:
                read()
            assert not isinstance(refused.value, DamagedFile), refused.value
        other.communicate()
    assert len(data.client(0)[1]) == data.sizes[0]


def test_the_default_vocabulary_gives_reddis_10004_tokens(config):
    spec = datasets.spec(config("dataset=stackoverflow", "model=word_lstm").dataset)
    assert spec == datasets.DataSpec((20,), 10_004, text=True, uncounted=(10_001, 10_003))


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"hello" * 1000, "not a SQLite file in TFF's format"), (b"", "not a SQLite file in TFF's format")],
    ids=["no SQLite", "empty"],
)
def test_a_file_that_is_none_of_tffs_is_named(config, tmp_path, content, says):
    (tmp_path / "emnist_all.sqlite").write_bytes(content)
    with pytest.raises(UserError, match=rf"emnist_all\.sqlite: {says}"):
        load(config, "dataset=emnist", f"dataset.dir={tmp_path}")


def test_clients_that_cannot_be_read_are_named(config, emnist_folder, tmp_path):
    path = tmp_path / "emnist_all.sqlite"
    path.write_bytes((emnist_folder / "emnist_all.sqlite").read_bytes())
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE examples SET serialized_example_proto = x'00' WHERE client_id = 'f0003_3'"
            " AND split_name LIKE '%train'"
        )
        connection.execute("DELETE FROM client_metadata WHERE split_name = 'all_test'")
    connection.close()
    data = load(config, "dataset=emnist", f"dataset.dir={tmp_path}")
    with pytest.raises(UserError, match=r"emnist_all\.sqlite: client f0003_3: its examples cannot be read \(Could not"):
        data.client(data.client_ids.index("f0003_3"))
    with pytest.raises(UserError, match=r"emnist_all\.sqlite: holds no client in all_train or all_test"):
        load(config, "dataset=emnist", "dataset.classes=62", f"dataset.dir={tmp_path}")


def test_a_label_that_is_no_class_is_named_with_its_client(config, tmp_path):
    rows = [{"pixels": np.zeros((28, 28), np.float32), "label": [k]} for k in (3, 77)]
    write_tff(tmp_path / "emnist_all.sqlite", {"digits_only_train": {"a": rows}, "digits_only_test": {"a": rows[:1]}})
    data = load(config, "dataset=emnist", f"dataset.dir={tmp_path}")
    with pytest.raises(UserError, match=r"emnist_all\.sqlite: client a: labels from 3 to 77 where 0 to 9 belong"):
        data.client(0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("UPDATE client_metadata SET num_examples = 'many'", "client a in digits_only_train: has 'many' examples"),
        ("UPDATE client_metadata SET num_examples = -3", "client a in digits_only_train: has -3 examples"),
        ("UPDATE client_metadata SET num_examples = 1 << 62", "has 4611686018427387904 examples"),
        ("UPDATE client_metadata SET client_id = x'ff'", r"client b'\\xff' in digits_only_train: its name is no text"),
        ("UPDATE client_metadata SET client_id = CAST(x'ff' AS TEXT)", "not a SQLite file in TFF's format"),
        ("ALTER TABLE client_metadata DROP COLUMN num_examples", "not a SQLite file in TFF's format"),
        ("DROP TABLE examples", "not a SQLite file in TFF's format"),
    ],
    ids=["text", "negative", "huge", "bytes", "no UTF-8", "no column", "no table"],
)
def test_a_database_with_other_values_than_tffs_is_named(config, tmp_path, change, says):
    rows = [{"pixels": np.zeros((28, 28), np.float32), "label": [3]}]
    path = tmp_path / "emnist_all.sqlite"
    write_tff(path, {"digits_only_train": {"a": rows}, "digits_only_test": {"a": rows}})
    with sqlite3.connect(path) as connection:
        if "examples" in change.split()[2:]:
            connection.execute("DROP INDEX idx_examples")
        connection.execute(change)
    connection.close()
    with pytest.raises(DamagedFile, match=rf"emnist_all\.sqlite: .*{says}") as refused:
        load(config, "dataset=emnist", f"dataset.dir={tmp_path}")
    assert "\n" not in str(refused.value)


def test_a_pixel_that_is_no_number_is_named_with_its_client(config, tmp_path):
    rows = [{"pixels": np.full((28, 28), np.nan, np.float32), "label": [3]}]
    write_tff(tmp_path / "emnist_all.sqlite", {f"digits_only_{part}": {"a": rows} for part in ("train", "test")})
    with pytest.raises(DamagedFile, match=r"emnist_all\.sqlite: client a: a pixel is a NaN"):
        load(config, "dataset=emnist", f"dataset.dir={tmp_path}")


class _Server(http.server.SimpleHTTPRequestHandler):
    """Serves ranges and announces MD5 sums as Google's storage does; an answer can break off after `ends_after`."""

    ends_after: int | None = None
    announce: bytes | None = None
    ranges: list = []  # noqa: RUF012 (of a class that each test makes anew)

    def log_message(self, *_):
        pass

    def do_GET(self):
        content = Path(self.translate_path(self.path)).read_bytes()
        self.ranges.append(self.headers.get("Range"))
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if "Range" in self.headers else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header(
            "x-goog-hash",
            f"crc32c=AAAAAA==, md5={base64.b64encode(self.announce or hashlib.md5(content).digest()).decode()}",
        )
        self.end_headers()
        whole = type(self).ends_after is None
        self.wfile.write(content[start:] if whole else content[start : type(self).ends_after])
        type(self).ends_after = None

    def do_HEAD(self):
        content = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("x-goog-hash", "md5=" + base64.b64encode(hashlib.md5(content).digest()).decode())
        self.end_headers()


@pytest.fixture
def server(emnist_folder, tmp_path, monkeypatch):
    """(the handler's class, the published file): a server with EMNIST's compressed file in the place of TFF's."""
    published = tmp_path / "published"
    published.mkdir()
    archive = published / "emnist_all.sqlite.lzma"
    archive.write_bytes(lzma.compress((emnist_folder / "emnist_all.sqlite").read_bytes()))
    handler = type("Handler", (_Server,), {"ranges": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=published)) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        monkeypatch.setattr(tff_files, "_URL", f"http://127.0.0.1:{httpd.server_port}/")
        yield handler, archive
        httpd.shutdown()


def test_an_absent_file_is_downloaded_into_tffs_cache_and_tff_reads_it(server, config, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FEDSWEEP_DATA", raising=False)
    assert len(load(config, "dataset=emnist").client_ids) == 8
    assert [path.name for path in (tmp_path / ".tff").iterdir()] == ["emnist_all.sqlite"]


def test_a_download_that_breaks_off_goes_on_where_it_was(server, config, tmp_path):
    handler, archive = server
    handler.ends_after = 100_000
    folder = tmp_path / "cache"
    folder.mkdir()
    with pytest.raises(UserError, match=r"emnist_all\.sqlite: absent, and it cannot be downloaded"):
        load(config, "dataset=emnist", f"dataset.dir={folder}")
    assert [(path.name, path.stat().st_size) for path in folder.iterdir()] == [("emnist_all.sqlite.lzma.part", 2**16)]
    assert len(load(config, "dataset=emnist", f"dataset.dir={folder}").client_ids) == 8
    assert handler.ranges == [None, f"bytes={2**16}-"]
    (folder / "emnist_all.sqlite").rename(folder / "old")
    (folder / "emnist_all.sqlite.lzma.part").write_bytes(archive.read_bytes())  # cut off while it was decompressed
    assert len(load(config, "dataset=emnist", f"dataset.dir={folder}").client_ids) == 8


@pytest.mark.parametrize("damage", ["checksum", "content"])
def test_a_damaged_download_is_said_and_leaves_nothing_that_looks_whole(server, config, tmp_path, damage):
    handler, archive = server
    if damage == "checksum":
        handler.announce = hashlib.md5(b"something else").digest()
    else:
        archive.write_bytes(archive.read_bytes()[:-500])
    folder = tmp_path / "cache"
    folder.mkdir()
    with pytest.raises(UserError, match=r"emnist_all\.sqlite: what .* sent is (damaged|no whole LZMA file)"):
        load(config, "dataset=emnist", f"dataset.dir={folder}")
    assert not (folder / "emnist_all.sqlite").exists() and not list(folder.glob("*.lzma.part"))


def test_without_a_network_the_file_is_named(config, tmp_path, monkeypatch):
    monkeypatch.setattr(tff_files, "_URL", "http://127.0.0.1:9/")
    with pytest.raises(UserError, match=r"shakespeare\.sqlite: absent, .* dataset\.dir or FEDSWEEP_DATA") as refused:
        load(config, "dataset=shakespeare", "model=char_lstm", f"dataset.dir={tmp_path}")
    assert "\n" not in str(refused.value)


def test_what_is_there_is_not_downloaded_again(tmp_path):
    (tmp_path / "file").write_bytes(b"whole")
    download.lzma_file("http://127.0.0.1:9/file.lzma", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_a_split_with_very_many_clients_opens_without_reading_them(config, tmp_path):
    """Only names and sizes are in memory: the examples of all but two clients are no examples at all."""
    path = tmp_path / "emnist_all.sqlite"
    one = [{"pixels": np.zeros((28, 28), np.float32), "label": [3]}]
    write_tff(path, {"digits_only_train": {"a": one, "b": one}, "digits_only_test": {"a": one}})
    with sqlite3.connect(path) as connection:
        names = [(f"user{k:06}", "digits_only_train", 50) for k in range(20_000)]
        connection.executemany("INSERT INTO client_metadata VALUES (?, ?, ?)", names)
    connection.close()
    data = load(config, "dataset=emnist", f"dataset.dir={tmp_path}")
    assert len(data.client_ids) == 20_002 and data.sizes.sum() == 20_000 * 50 + 2
    assert data.client(1)[1].tolist() == [3]
