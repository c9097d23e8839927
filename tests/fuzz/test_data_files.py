"""Damaged data files, thousands of ways: each is read as it is, or refused in one line that names the file."""

from __future__ import annotations

import gzip
import io
import struct
import warnings
import zipfile

import numpy as np
import pytest
from examples import DATA_FILES, tries
from formats import write_idx, write_tff
from hypothesis import given
from hypothesis import strategies as st

from fedsweep import datasets, schema
from fedsweep.datasets import idx, own, tff_files
from fedsweep.errors import UserError

FORMATS = ("npz", "npz.compressed", "npz.header", "idx", "idx.gz", "sqlite", "txt", "txt.gz")
RNG = np.random.default_rng(0)
ARRAYS = {
    "x_train": RNG.integers(0, 256, (6, 2, 3), dtype=np.uint8),
    "y_train": np.arange(6) % 3,
    "x_test": RNG.integers(0, 256, (3, 2, 3), dtype=np.uint8),
    "y_test": np.arange(3) % 3,
    "client_train": np.array(["a", "b", "c"] * 2),
}
PLAY = "ROMEO:\nO, speak again!\n\nJULIET:\nO Romeo!\n\nROMEO:\nShall I hear more?\n\nROMEO:\nAh.\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Format -> the bytes of a whole small file."""
    folder = tmp_path_factory.mktemp("whole")
    np.savez(folder / "a.npz", **ARRAYS)
    np.savez_compressed(folder / "b.npz", **ARRAYS)
    for name in ("idx", "idx.gz"):
        write_idx(folder / name, ARRAYS["x_train"])
    rows = [{"pixels": np.zeros((28, 28), np.float32), "label": [k]} for k in range(2)]
    write_tff(folder / "sqlite", {f"digits_only_{part}": {"a": rows, "b": rows[:1]} for part in ("train", "test")})
    for name in ("txt", "txt.gz"):
        write_text(folder / name, PLAY)
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    return found | {"npz": found["a.npz"], "npz.compressed": found["b.npz"], "npz.header": b""}


def write_text(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def with_header(header: bytes, data: bytes = b"\0" * 36) -> bytes:
    """An npz file, whole as a zip, whose first array has this header."""
    text = io.BytesIO()
    with zipfile.ZipFile(text, "w") as archive:
        for name, array in ARRAYS.items():
            content = io.BytesIO()
            np.save(content, array)
            if name == "x_train":
                content = io.BytesIO(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data)
            archive.writestr(f"{name}.npy", content.getvalue())
    return text.getvalue()


def read(kind, folder, content):
    """What the readers give for a file with these bytes; UserError is the one exception there is."""
    name = {"sqlite": "emnist_all.sqlite", "txt": "input.txt", "txt.gz": "input.txt.gz"}.get(kind, kind)
    path = folder / name
    path.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if kind.startswith("npz"):
                own._archive.cache_clear()
                return own._archive(path)["x_train"]
            if kind.startswith("idx"):
                return idx.read(path, np.uint8, (None, None, None))
            if kind == "sqlite":
                return everything(schema.EmnistData("emnist", 0.0, str(folder), None, 10))
            return everything(schema.TinyShakespeareData("tiny_shakespeare", 0.0, str(folder), 20, 0.3))
    except UserError as error:
        said = str(error)
        assert "\n" not in said and said.isprintable() and len(said) < len(str(path)) + 400
        assert name in said or said.startswith("dataset.")
        return None
    finally:
        path.unlink()


def everything(config):
    tff_files._open.cache_clear()
    data = datasets.load(config, 0)
    return data.summary(), data.digest(), [data.client(k) for k in range(len(data.client_ids))]


@st.composite
def damaged(draw, content: bytes):
    """The bytes with some changed, put in, left out, or cut off."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(("flip", "byte", "cut", "insert", "remove", "number", "text")))
        if kind == "flip":
            changed = bytes([content[place] ^ 1 << draw(st.integers(0, 7))]) if content else b""
        elif kind == "byte":
            changed = draw(st.binary(min_size=1, max_size=1))
        elif kind == "number":
            changed = draw(
                st.sampled_from((b"\xff" * 4, b"\x7f" + b"\xff" * 3, b"\0" * 8, b"\x80\0\0\0", b"\0\0\0\x80"))
            )
        elif kind == "text":
            changed = draw(st.sampled_from(WORDS))
        else:
            changed = draw(st.binary(min_size=1, max_size=40)) if kind == "insert" else b""
        stop = {"cut": len(content), "insert": place, "remove": place + draw(st.integers(1, 40))}
        content = content[:place] + changed + content[stop.get(kind, place + len(changed)) :]
    return content


DESCRS = ["'|u1'", "'>f4'", "'<f8'", "'|O'", "'|V0'", "'<U0'", "'<M8'", "[('a','<f4')]", "'x'", "1", "'i1,' * 9"]
SHAPES = [
    *("(6, 2, 3)", "(36,)", "()", "6", "(1.5,)", "(0,)", "(True, 6, 6)", "(6, 6, 1, 1)", "(" + "1, " * 40 + ")"),
    *("(2**40,)", "(-1, 2, 3)", "(-6, -6)", "(640000000000000,)", "(9999999999999999999999, 0, 2)", "(None,)"),
]
NESTED = ("{", "(", "[", "-", "not ", "1+", "'", "\\", "{'a':", "\t", "\n ")
HEADERS = st.one_of(
    st.builds(
        "{{'descr': {}, 'fortran_order': {}, 'shape': {}, }}".format,
        st.sampled_from(DESCRS), st.sampled_from(("False", "True", "None", "2")), st.sampled_from(SHAPES),
    ),
    st.text(max_size=60),
    st.builds(lambda part, times: part * times, st.sampled_from(NESTED), st.sampled_from((1, 3, 100, 900))),
)  # fmt: skip
WORDS = (b"{{{", b"((((", b"'", b"|O", b"-1", b"9" * 18, b"\xff\xfe", b"\\")


SQLITE = DATA_FILES / 64  # TFF takes a fifth of a second to open one
OTHERS = [kind for kind in FORMATS if kind != "sqlite"]


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "npz.header"])
def test_a_whole_file_is_read(kind, whole, tmp_path):
    assert read(kind, tmp_path, whole[kind]) is not None


@pytest.mark.parametrize("kind", OTHERS)
@tries((DATA_FILES - SQLITE) / len(OTHERS))
@given(data=st.data())
def test_damage_of_any_kind_is_one_line(kind, whole, tmp_path, data):
    headers = HEADERS.map(lambda text: with_header(text.encode()))
    read(kind, tmp_path, data.draw(headers if kind == "npz.header" else damaged(whole[kind])))


@tries(SQLITE)
@given(data=st.data())
def test_damage_of_sqlite_is_one_line(whole, tmp_path, data):
    read("sqlite", tmp_path, data.draw(damaged(whole["sqlite"])))
