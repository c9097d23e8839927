"""A user's own data: IDX files and NumPy archives."""

from __future__ import annotations

import errno
import functools
import gzip
import io
import itertools
import os
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from formats import write_idx

from fedsweep import datasets
from fedsweep.datasets import idx, own
from fedsweep.errors import DamagedFile, UserError

RNG = np.random.default_rng(0)
ARRAYS = {
    "x_train": RNG.integers(0, 256, (60, 12, 12), dtype=np.uint8),
    "y_train": np.arange(60) % 3,
    "x_test": RNG.integers(0, 256, (12, 12, 12), dtype=np.uint8),
    "y_test": np.arange(12) % 3,
}

WIDE = np.finfo(np.longdouble).max / 2  # above a float64's range where the machine has wider floats
WIDEST = np.format_float_scientific(WIDE, precision=2, trim="-")


def arrays(config, path, *overrides, **changes):
    np.savez(path, **{name: array for name, array in (ARRAYS | changes).items() if array is not None})
    checked = config("dataset=arrays", f"dataset.file={path}", "dataset.clients=6", "clients_per_round=2", *overrides)
    return datasets.load(checked.dataset, 0)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_are_split_among_clients(config, tmp_path, suffix):
    names = {}
    for part in ("train", "test"):
        for kind, array in (("images", ARRAYS[f"x_{part}"]), ("labels", ARRAYS[f"y_{part}"].astype(np.uint8))):
            names[f"{part}_{kind}"] = tmp_path / f"{part}-{kind}{suffix}"
            write_idx(names[f"{part}_{kind}"], array)
    overrides = [f"dataset.{name}={path}" for name, path in names.items()]
    checked = config("dataset=idx", *overrides, "dataset.clients=6", "dataset.partition=iid", "clients_per_round=2")
    data = datasets.load(checked.dataset, 0)
    assert data.spec == datasets.spec(checked.dataset) == datasets.DataSpec((12, 12, 1), 3)
    assert data.sizes.tolist() == [10] * 6 and len(data.test) == 12
    images, labels = data.client(2)
    rows = data.members[2]
    assert np.allclose(images[..., 0], ARRAYS["x_train"][rows] / 255) and labels.tolist() == (rows % 3).tolist()
    names["test_labels"].unlink()
    datasets.own._idx_files.cache_clear()
    with pytest.raises(UserError, match=r"test-labels.*: cannot be read"):
        datasets.load(checked.dataset, 0)


def test_an_archive_without_clients_is_partitioned_and_its_floats_stay_as_they_are(config, tmp_path):
    floats = {name: ARRAYS[name] / 7 for name in ("x_train", "x_test")}
    data = arrays(config, tmp_path / "a.npz", "dataset.partition=shards", **floats)
    assert data.client(0)[0].dtype == np.float32 and np.allclose(
        data.client(0)[0][..., 0], floats["x_train"][data.members[0]]
    )
    assert data.test.clients is None and data.sizes.sum() == 60


def test_an_archive_can_say_whose_each_example_is(config, tmp_path):
    owners = {"client_train": np.array(["b", "a", "c"] * 20), "client_test": np.array([9, 5] * 6)}
    data = arrays(config, tmp_path / "a.npz", **owners)
    assert data.client_ids == ["a", "b", "c"] and data.client(0)[1].tolist() == [1] * 20
    assert data.test.clients.tolist() == [1, 0] * 6
    held = arrays(config, tmp_path / "b.npz", "dataset.validation_fraction=0.34", **owners)
    assert len(held.client_ids) == 2 and len(held.validation) == 20


def test_examples_are_held_out_where_clients_are_made(config, tmp_path):
    data = arrays(config, tmp_path / "a.npz", "dataset.validation_fraction=0.25")
    assert len(data.validation) == 15 and data.sizes.sum() == 45


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"y_test": None}, "has no y_test; the arrays x_train, y_train, x_test, y_test belong in it"),
        ({"x_train": np.zeros((60, 144), np.uint8)}, r"x_train is uint8 \[60, 144\] where images"),
        ({"x_train": np.full((60, 12, 12), np.nan)}, "x_train holds a NaN"),
        ({"y_train": np.zeros(60)}, r"y_train is float64 \[60\] where classes"),
        ({"y_train": np.arange(59)}, "59 labels for the 60 images"),
        ({"y_train": np.arange(60) - 1}, "class -1 where 0 or more belongs"),
        ({"y_train": np.arange(60) + 2**32}, "class 4294967355, above the number of examples"),
        ({"y_test": np.full(12, 2**63, np.uint64)}, "y_test has class 9223372036854775808, above"),
        ({"x_train": np.zeros((60, 0, 12), np.uint8)}, r"x_train is uint8 \[60, 0, 12\]: images without a pixel"),
        ({"client_train": np.full(60, np.nan)}, "client_train is float64 where names or whole numbers belong"),
        ({"x_test": np.zeros((12, 9, 9), np.uint8)}, "x_test has images of another size"),
        ({"x_test": np.zeros((0, 12, 12), np.uint8), "y_test": np.zeros(0, int)}, "holds no example"),
        ({"client_train": np.arange(3)}, r"client_train has shape \[3\] where \[60\] belongs"),
        (
            {"x_train": np.array([None] * 60)},
            r"not a whole npz file of plain arrays \(x_train: it holds Python objects",
        ),
        ({"x_train": np.array(3, np.uint8)}, r"x_train is uint8 \[\] where images"),
        ({"x_train": np.zeros((60, 12, 12), int)}, r"x_train is int64 .* where images, uint8 or float"),
        ({"x_train": np.full((60, 12, 12), -1e39)}, r"x_train holds -1e\+39, which float32 cannot"),
        ({"x_train": np.full((60, 12, 12), WIDE)}, f"x_train holds {re.escape(WIDEST)}, which float32 cannot"),
        ({"client_train": np.array(["\ud800"] * 60)}, "client_train holds a name that is no text"),
        ({"client_train": np.full(60, 0x110000, np.uint32).view("<U1")}, "client_train holds a name that is no text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_named_with_the_reason(config, tmp_path, changes, says):
    with pytest.raises(UserError, match=rf"a\.npz: .*{says}|a\.npz: {says}") as refused:
        arrays(config, tmp_path / "a.npz", **changes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", [">f4", ">f8", "<f8", "f2", np.longdouble], ids=str)
def test_floats_of_any_width_and_byte_order_are_read(config, tmp_path, kind):
    floats = {name: (ARRAYS[name] / 8).astype(kind) for name in ("x_train", "x_test")}
    labels = {name: ARRAYS[name].astype(">i8") for name in ("y_train", "y_test")}
    data = arrays(config, tmp_path / "a.npz", **floats, **labels)
    assert data.examples.inputs.dtype == data.test.inputs.dtype == np.dtype("=f4")
    assert data.examples.labels.dtype == np.dtype("=i4") and data.examples.labels.tolist() == ARRAYS["y_train"].tolist()
    assert np.array_equal(data.examples.inputs[..., 0], (ARRAYS["x_train"] / 8).astype(kind).astype(np.float32))


def zipped(path, compression=zipfile.ZIP_STORED, **members):
    """An npz file whose members are the usual arrays, but for `members`, as bytes."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, array in ARRAYS.items():
            content = io.BytesIO()
            np.save(content, array)
            for data in members.get(name, [content.getvalue()]):
                archive.writestr(f"{name}.npy", data)


def npy(header, data=b"", version=1):
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(header)) + header.encode() + data


def header(shape, descr="|u1"):
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("member", "says"),
    [
        (npy("{{{"), "its header cannot be read"),
        (npy("{" * 5000), "its header cannot be read"),
        (npy("\t\n\\"), "its header cannot be read"),
        (npy(header("(6,)"), version=9), "its header cannot be read"),
        (npy(header((640_000_000_000_000,)), b"1234"), "640000000000000 bytes are announced"),
        (npy(header((2**32, 2**32)), b"1234"), "18446744073709551616 bytes are announced"),
        (npy(header((-2, -2)), b"1234"), r"4 bytes are announced for uint8 \[-2, -2\]"),
        (npy(header((2, 2)), b"12345"), "4 bytes are announced .* and 5 are there"),
        (npy(header((2**40,), "|V0")), "0 bytes are announced"),
        (npy(header((2,), "|O"), b"12345678" * 2), "it holds Python objects"),
        (b"no array", "its header cannot be read"),
        (b"", "its header cannot be read"),
    ],
    ids=itertools.count(),
)
def test_a_member_that_is_no_array_is_refused_before_memory_is_taken(tmp_path, member, says):
    zipped(tmp_path / "a.npz", x_train=[member])
    with pytest.raises(
        DamagedFile, match=rf"a\.npz: not a whole npz file of plain arrays \(x_train: .*{says}"
    ) as refused:
        own._archive(tmp_path / "a.npz")
    assert "\n" not in str(refused.value)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_np_savez_never_writes_are_refused_with_the_reason(tmp_path):
    one = npy(header((60, 12, 12)), bytes(60 * 144))
    zipped(tmp_path / "twice.npz", x_train=[one, one])
    with pytest.raises(DamagedFile, match="it holds x_train twice"):
        own._archive(tmp_path / "twice.npz")
    zipped(tmp_path / "bz2.npz", zipfile.ZIP_BZIP2)
    with pytest.raises(DamagedFile, match="x_train: it is compressed by method 12"):
        own._archive(tmp_path / "bz2.npz")
    zipped(tmp_path / "a.npz")
    whole = (tmp_path / "a.npz").read_bytes()
    place = whole.index(b"PK\x01\x02")  # the directory's first entry
    for name, at, value, says in (
        ("encrypted", 8, b"\x01\x00", "x_train: it is encrypted"),
        ("version", 6, b"\xff\x00", "zip file version 25.5"),
        ("bomb", 24, struct.pack("<I", 2**31), "x_train: 2147483648 bytes are announced, which a file of"),
    ):
        start = place + at
        (tmp_path / f"{name}.npz").write_bytes(whole[:start] + value + whole[start + len(value) :])
        with pytest.raises(DamagedFile, match=rf"{name}\.npz: not a whole npz file of plain arrays \(.*{says}"):
            own._archive(tmp_path / f"{name}.npz")
    (tmp_path / "sum.npz").write_bytes(whole.replace(ARRAYS["x_train"].tobytes()[:8], b"12345678"))
    with pytest.raises(DamagedFile, match=r"Bad CRC-32"):
        own._archive(tmp_path / "sum.npz")


def test_a_file_that_cannot_be_opened_says_why(config, tmp_path, monkeypatch):
    def said(name):
        with pytest.raises(UserError) as refused:
            datasets.load(config("dataset=arrays", f"dataset.file='{name}'").dataset, 0)
        return str(refused.value)

    (tmp_path / "folder").mkdir()
    assert said(tmp_path / "folder") == f"{tmp_path}/folder: cannot be read (Is a directory)"
    os.mkfifo(tmp_path / "pipe")
    assert "pipe: is a pipe or a device" in said(tmp_path / "pipe")
    assert "/dev/zero: is a pipe or a device" in said("/dev/zero")
    assert "cannot be read (File name too long)" in said("x" * 300)
    assert "~nobody_has_this has no home folder" in said("~nobody_has_this/a.npz")
    monkeypatch.setattr(Path, "open", functools.partialmethod(_full, Path.open))
    (tmp_path / "a.npz").touch()
    assert said(tmp_path / "a.npz") == f"{tmp_path}/a.npz: cannot be read (Too many open files)"


def _full(path, real, *arguments, **keywords):
    if path.name == "a.npz":
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
    return real(path, *arguments, **keywords)


def test_idx_images_without_a_pixel_are_refused(config, tmp_path):
    for part in ("train", "test"):
        write_idx(tmp_path / f"{part}_images", np.zeros((6, 28, 0), np.uint8))
        write_idx(tmp_path / f"{part}_labels", np.zeros(6, np.uint8))
    files = [
        f"dataset.{part}_{kind}={tmp_path}/{part}_{kind}" for part in ("train", "test") for kind in ("images", "labels")
    ]
    with pytest.raises(UserError, match=r"train_images is uint8 \[6, 28, 0\]: images without a pixel"):
        datasets.load(config("dataset=idx", *files, "dataset.clients=2", "clients_per_round=1").dataset, 0)


@pytest.mark.parametrize("name", ["plain", "zipped.gz"])
def test_idx_sizes_beside_a_0_that_no_array_has_are_named(tmp_path, name):
    header = bytes([0, 0, 8, 3]) + struct.pack(">3I", 0, 2**32 - 1, 2**32 - 1)
    (tmp_path / name).write_bytes(gzip.compress(header) if name.endswith(".gz") else header)
    with pytest.raises(DamagedFile, match=rf"{name}: its header announces the sizes \[0, 4294967295, 4294967295\]"):
        idx.read(tmp_path / name, np.uint8, (None, None, None))


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 and no more"], ids=["empty", "text", "broken"])
def test_a_file_that_is_no_archive_is_named(config, tmp_path, content):
    path = tmp_path / "mine.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"mine\.npz: not a whole npz file"):
        datasets.load(config("dataset=arrays", f"dataset.file={path}").dataset, 0)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match=r"mine\.npz: not a whole npz file"):
        datasets.load(config("dataset=arrays", f"dataset.file={path}").dataset, 0)
    path.unlink()
    with pytest.raises(UserError, match=r"mine\.npz: cannot be read \(No such file"):
        datasets.load(config("dataset=arrays", f"dataset.file={path}").dataset, 0)
