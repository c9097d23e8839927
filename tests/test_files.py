"""Files that are never half written."""

from __future__ import annotations

import contextlib
import os

from fedsweep import files


def test_drafts_of_killed_writers_are_cleared_and_nothing_else(tmp_path):
    kept = {".lock", "result.json", ".hidden.txt", "1", ".hydra"}
    for name in {*kept, ".result.json.123", f".checkpoint.npz.{os.getpid()}"}:
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
