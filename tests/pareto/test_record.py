"""sweep.yaml and trials.csv through their readers: one line that names the file, or what was written."""

from __future__ import annotations

import dataclasses
import json
import re

import handmade
import pytest
import yaml

from fedsweep.errors import DamagedFile
from fedsweep.pareto import load
from fedsweep.sweep.record import Record, begun_trials, drawn, read_trials
from fedsweep.tracking.run_folder import write_result


@pytest.fixture
def folder(tmp_path):
    return handmade.sweep(tmp_path / "s", [{"encoder.bits": "2"}, {"encoder.bits": "4"}], lambda *_: (0.9, 10**6))


def edited(raw: bytes, **change) -> bytes:
    """A sweep.yaml as earlier versions wrote it, without a fingerprint, with other content."""
    content = yaml.safe_load(raw) | change
    del content["fingerprint"]
    return yaml.safe_dump(content).encode()


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
        *(lambda raw, change=change: edited(raw, **change) for change in (
            {"points": 5}, {"points": [1]}, {"points": [{"encoder.bits": 2}]}, {"space": {1: ["2"]}},
            {"space": {"encoder.bits": 2}}, {"config": {}}, {"config": {"seed": "0"}},
        )),
    ],
)  # fmt: skip
def test_a_sweep_file_that_is_not_what_was_written(folder, change):
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


def test_a_searchs_trials_are_found_by_their_runs_own_files(tmp_path):
    """A gap in trials.csv (a duplicate whose original has not ended has no row), or its loss, hides no trial."""
    points = [{"encoder.bits": "2"}, {"encoder.bits": "4"}, {"encoder.bits": "8"}]
    place = handmade.sweep(tmp_path / "s", points, lambda *_: (0.9, 10**6))
    record = dataclasses.replace(Record.read(place), points=None)
    for number, point in enumerate(points):
        result = json.loads((place / str(number) / "result.json").read_text()) | {"point": point}
        write_result(place / str(number), result if number else {"status": "running"})
    for content in (None, "trial,replicate", (place / "trials.csv").read_text()):
        (place / "trials.csv").unlink() if content is None else (place / "trials.csv").write_text(content)
        found = {trial.number: trial.point for trial in begun_trials(place, record)}
        assert {1: points[1], 2: points[2]}.items() <= found.items() and list(found) == [0, 1, 2]


def test_points_of_a_search_are_the_runs_own(tmp_path):
    """What trials.csv says of a sampled value must be what the run's sealed result says."""
    points = [{"encoder.bits": "2"}, {"encoder.bits": "4"}]
    place = handmade.sweep(tmp_path / "s", points, lambda *_: (0.9, 10**6))
    dataclasses.replace(Record.read(place), points=None).write(place)
    for number, point in enumerate(points):
        result = json.loads((place / str(number) / "result.json").read_text()) | {"point": point}
        write_result(place / str(number), result)
    assert load.from_folder(place).points == dict(enumerate(points))
    damaged(place / "trials.csv", lambda raw: raw.replace(b"0,0,complete,2,", b"0,0,complete,3,"))
    with pytest.raises(DamagedFile, match=r"its values are \{'encoder.bits': '2'\}"):
        load.from_folder(place)


def test_updates_that_were_dropped_are_in_no_ratio(tmp_path):
    place = handmade.sweep(tmp_path / "s", [{"encoder.bits": "2"}, {"encoder.bits": "4"}], lambda *_: (0.9, 10**6))
    whole = load.from_folder(place).float32
    path = place / "1"
    result = json.loads((path / "result.json").read_text())
    write_result(path, result | {"dropped_updates": 3})
    found = load.from_folder(place).float32
    assert found[0] == whole[0] and found[1].downlink == whole[1].downlink
    assert found[1].uplink == whole[1].uplink - 3 * result["plan"]["float32_uplink_bits"]
