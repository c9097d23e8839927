"""sweep.yaml and trials.csv through their readers: one line that names the file, or what was written."""

from __future__ import annotations

import re

import handmade
import pytest

from fedsweep.errors import DamagedFile
from fedsweep.sweep.record import Record, drawn, read_trials


@pytest.fixture
def folder(tmp_path):
    return handmade.sweep(tmp_path / "s", [{"encoder.bits": "2"}, {"encoder.bits": "4"}], lambda *_: (0.9, 10**6))


def damaged(path, change) -> None:
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: b"",
        lambda raw: b"[]",
        lambda raw: b"\xff" + raw,
        lambda raw: raw + b"\0\0",
        lambda raw: raw.replace(b"replicates: 1", b"replicates: one"),
        lambda raw: raw.replace(b"replicates: 1", b"replicates: 2"),
        lambda raw: raw.replace(b"seed: 0", b"seed: 1"),
        lambda raw: raw.replace(b"'4'", b"'5'"),
        lambda raw: raw.replace(b"n_trials: 2\n", b""),
        lambda raw: raw + b"more: 1\n",
        lambda raw: b"{" * 3000,
    ],
)
def test_a_sweep_file_that_is_not_what_was_written(folder, change):
    """(Broken once: without its fingerprint compared, another seed went through.)"""
    damaged(folder / "sweep.yaml", change)
    with pytest.raises(DamagedFile, match=r"/s/sweep\.yaml: .*; start another sweep") as raised:
        Record.read(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda raw: raw[:-9], "its last line is cut"),
        (lambda raw: raw[:40], "it has no column"),
        (lambda raw: b"", "it has no column trial"),
        (lambda raw: b"\xff" + raw, "not UTF-8"),
        (lambda raw: raw + b"\0\0", "NULs"),
        (lambda raw: raw.replace(b"encoder.bits", b"encoder.bit"), "it has no column encoder.bits"),
        (lambda raw: raw.replace(b"complete", b"completed"), "line 2 is no trial"),
        (lambda raw: raw.replace(b"1,0,complete", b"one,0,complete"), "line 3 is no trial"),
        (lambda raw: raw.replace(b"1,0,complete", b"0,0,complete"), "a run stands there twice"),
        (lambda raw: raw + b"2,0\r\n", "another number of cells"),
    ],
)
def test_a_table_of_trials_that_is_not_what_was_written(folder, change, says, capsys):
    path = folder / "trials.csv"
    assert [row["encoder.bits"] for row in read_trials(path, ["encoder.bits"])] == ["2", "4"]
    damaged(path, change)
    with pytest.raises(DamagedFile, match=rf"/s/trials\.csv: .*{re.escape(says)}") as raised:
        read_trials(path, ["encoder.bits"])
    assert "\n" not in str(raised.value)
    assert drawn(folder, Record.read(folder)) == [] and "/s/trials.csv: " in capsys.readouterr().out
