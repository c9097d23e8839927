"""The files of a run through their readers: whatever is not what was written is one line that names the file."""

from __future__ import annotations

import json
import re

import pytest

from fedsweep.errors import DamagedFile
from fedsweep.files import write_json
from fedsweep.tracking.run_folder import read_result, read_rounds, trusted_result, write_result

ROUNDS = """round,train_loss,train_accuracy,test_loss,test_accuracy,uplink_bits,downlink_bits,total_bits,seconds
1,2.5,0.1,,,10,20,30,0.5
2,nan,0.2,1.5,0.25,20,40,60,0.5
"""
WHOLE = ROUNDS.replace("nan", "2.4")  # of a complete run
LAST = WHOLE.splitlines(keepends=True)[-1]
PLAN = {"clients": 1}
RESULT = {
    "status": "complete", "test_accuracy": 0.25, "test_loss": 1.5, "uplink_bits": 20, "downlink_bits": 40,
    "total_bits": 60, "rounds": 2, "mlflow_run_id": None, "error": None, "plan": PLAN,
}  # fmt: skip


def assert_one_line(error: DamagedFile, name: str) -> None:
    assert "\n" not in str(error) and re.match(rf"/.*/{re.escape(name)}: .*; ", str(error)), error


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (ROUNDS.replace("2,nan", "1,nan"), "line 3 is of round 1, where round 2 belongs"),
        (ROUNDS.replace("1,2.5", "2,2.5"), "line 2 is of round 2"),
        (ROUNDS.replace("10,20,30", "10,20,31"), "total_bits is not uplink_bits"),
        (ROUNDS.replace("10,20,30", "25,20,45"), "cumulative bits become fewer"),
        (ROUNDS.replace("10,20,30", "-10,20,10"), "uplink_bits is '-10'"),
        (ROUNDS.replace("10,20,30", "inf,20,inf"), "uplink_bits is 'inf'"),
        (ROUNDS.replace("10,20,30", "10.0,20,30"), "uplink_bits is '10.0'"),
        (ROUNDS.replace("10,20,30", ",20,20"), "uplink_bits is ''"),
        (ROUNDS.replace("0.25", "good"), "good"),
        (ROUNDS.replace("0.25,", ""), "line 3 has 8 cells, its header 9"),
        (ROUNDS.replace("0.25", "0.2\0"), "0.2"),
        (ROUNDS.replace(",seconds", ",minutes"), "rounds.csv has no column called 'minutes'"),
        (ROUNDS.replace(",seconds", "").replace(",0.5", ""), "the column seconds is missing"),
        (ROUNDS.replace("train_loss", "seconds"), "twice"),
        ("\n", "cannot be read"),
        (b"\0" * 90 + b"\n", "cannot be read"),
        (b"\xff\xfe\n", "utf-8"),
    ],
)
def test_rounds_that_cannot_have_been_written(tmp_path, content, says):
    path = tmp_path / "rounds.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DamagedFile, match=re.escape(says)) as raised:
        read_rounds(path)
    assert_one_line(raised.value, "rounds.csv")


def test_what_a_power_cut_leaves_at_the_end_of_rounds_is_no_row(tmp_path):
    path = tmp_path / "rounds.csv"
    assert read_rounds(path) == []
    for tail in ("", "3,2.5", "\0\0\0\0"):
        path.write_text(ROUNDS + tail)
        assert [row.round for row in read_rounds(path)] == [1, 2]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "rounds.csv").write_text(WHOLE)
    write_result(tmp_path, RESULT)
    assert read_result(tmp_path) == RESULT
    return tmp_path


def test_every_flipped_byte_of_a_result_is_found_or_changes_nothing(folder):
    path = folder / "result.json"
    whole = path.read_bytes()
    for k in range(len(whole)):
        path.write_bytes(whole[:k] + bytes([whole[k] ^ 4]) + whole[k + 1 :])
        try:
            assert read_result(folder).items() >= RESULT.items()
        except DamagedFile as error:
            assert_one_line(error, "result.json")
    for k in range(1, len(whole) - 1):
        path.write_bytes(whole[:k])
        with pytest.raises(DamagedFile):
            read_result(folder)


@pytest.mark.parametrize(
    "content",
    [
        "{}", "[]", "null", "3", '"complete"', "{" * 5000, "\0" * 20, "NaN",
        *(json.dumps({**RESULT, key: value}) for key, value in {
            "status": "finished", "test_accuracy": "0.25", "test_loss": float("inf"), "total_bits": -1, "rounds": 2.0,
            "plan": [], "mlflow_run_id": 3, "error": 1,
        }.items()),
        *(json.dumps({**RESULT, key: value}) for key, value in {
            "status": None, "test_accuracy": 0.5, "total_bits": 61, "rounds": 1, "plan": None,
        }.items()),
    ],
)  # fmt: skip
def test_a_result_without_a_digest_must_make_sense_beside_its_rounds(folder, content):
    (folder / "result.json").write_text(content)
    with pytest.raises(DamagedFile) as raised:
        read_result(folder)
    assert_one_line(raised.value, "result.json")
    write_json(folder / "result.json", RESULT)  # as earlier versions wrote it
    assert read_result(folder) == RESULT


@pytest.mark.parametrize(
    "content", [WHOLE.replace("0.25", "0.95"), WHOLE + LAST, WHOLE.removesuffix(LAST), WHOLE + "\0", None]
)
def test_the_rounds_of_a_run_that_is_over_stay_as_they_were(folder, content, capsys):
    """What is not is set aside, and said in one line: the run is made again."""
    if content is None:
        (folder / "rounds.csv").unlink()
    else:
        (folder / "rounds.csv").write_text(content)
    with pytest.raises(DamagedFile) as raised:
        read_result(folder)
    assert_one_line(raised.value, "rounds.csv")
    assert trusted_result(folder, dry=True) is None and (folder / "result.json").exists()
    capsys.readouterr()
    assert trusted_result(folder) is None
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{folder}/rounds.csv: ") and line.endswith("and the run is made again")
    kept = {"result.json.damaged"} | ({"rounds.csv.damaged"} if content else set())
    assert {path.name for path in folder.iterdir()} == kept
