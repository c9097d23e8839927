"""Files that are never half written."""

from __future__ import annotations

import contextlib
import os
import pickle

import pytest

from fedsweep import files
from fedsweep.errors import DamagedFile, NotWritten, SweepFailed, UserError


def test_drafts_of_killed_writers_are_cleared_and_nothing_else(tmp_path):
    kept = {".lock", "result.json", ".hidden.txt", "1", ".hydra"}
    kept |= {".notes.2026-11.md", ".cache.1"}
    (tmp_path / ".cache.1").mkdir()
    for name in {*kept, ".result.json.123", f".checkpoint.npz.{os.getpid()}"} - {".cache.1"}:
        (tmp_path / name).write_text("x")
    files.clear_drafts(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_write_that_fails_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "trials.csv"
    files.write_atomically(path, "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with contextlib.suppress(OSError):
        files.write_atomically(path, "new, and much longer")
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    "error",
    [UserError("x"), SweepFailed("x"), DamagedFile("a/b", "is cut", "fetch it again"), NotWritten(28, "full", "a/b")],
    ids=repr,
)
def test_errors_pass_between_processes(error):
    found = pickle.loads(pickle.dumps(error))
    assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))


def test_an_error_of_a_full_disk_names_the_file(tmp_path):
    """/dev/full is a disk that is full; the error of an open file has no name of its own."""
    link = tmp_path / f".result.json.{os.getpid()}"
    link.symlink_to("/dev/full")
    with pytest.raises(NotWritten) as raised:
        files.write_atomically(tmp_path / "result.json", "text")
    assert (raised.value.errno, raised.value.filename) == (28, str(tmp_path / "result.json"))
    assert not list(tmp_path.iterdir())  # no draft, no half of a file


@pytest.mark.parametrize("content", [b"\xff\xfe", b"round\0"])
def test_text_is_utf_8_without_nuls(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DamagedFile, match=r"a\.csv: cannot be read .*; write it anew"):
        files.read_text(tmp_path / "a.csv", "write it anew")
