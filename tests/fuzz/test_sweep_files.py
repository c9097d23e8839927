"""The files of sweeps, damaged in thousands of ways: readers give exactly what was written, or say that they do not."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import optuna
import pytest
from examples import SWEEP_FILES, tries
from hypothesis import given
from hypothesis import strategies as st

from fedsweep import job
from fedsweep.errors import UserError
from fedsweep.pareto import load
from fedsweep.progress import Progress
from fedsweep.runtime import checkpoint
from fedsweep.sweep import study
from fedsweep.sweep.engine import Run
from fedsweep.sweep.record import Record
from fedsweep.tracking import run_folder

RESUMED = tries(SWEEP_FILES / 80)  # by a run that goes on, which takes half a second; three tests
READ = tries(SWEEP_FILES * (1 - 3 / 80) / 7)  # by a reader; seven tests
FINISHED = ("0/result.json", "sweep.yaml", "trials.csv", "1/rounds.csv")
OVERRIDES = (
    "rounds=6", "evaluate_every=2", "checkpoint_every=2", "model=2nn", "clients_per_round=2", "encoder.threshold=1000",
    "tracker=csv",
)  # fmt: skip
FOREIGN = (b"", b"{}", b"[]", b"null", b"a,b\n1,2\n", b"\xff\xfe\0x", b"{{{", b"- a\n- b\n", b"0")


@st.composite
def damages(draw, whole: bytes) -> bytes:
    """The bytes after an accident."""
    kind = draw(st.sampled_from(("flips", "cut", "nuls", "doubled", "swapped", "lost", "other bytes", "foreign")))
    at = draw(st.integers(0, max(0, len(whole) - 1)))
    lines = whole.splitlines(keepends=True)
    line, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    if kind == "flips":
        damaged = bytearray(whole)
        for place in [at, *draw(st.lists(st.integers(0, len(whole) - 1), max_size=3))]:
            damaged[place] ^= 1 << draw(st.integers(0, 7))
        return bytes(damaged)
    if kind == "cut":
        return whole[:at]
    if kind == "nuls":  # a power cut: a block that was never written
        return whole[:at] + bytes(draw(st.integers(1, 4096))) + draw(st.sampled_from((b"", whole[at:])))
    if kind == "doubled":
        return b"".join([*lines[: line + 1], *lines[line:]])
    if kind == "swapped":
        lines[line], lines[other] = lines[other], lines[line]
        return b"".join(lines)
    if kind == "lost":
        return b"".join(lines[:line] + lines[line + 1 :])
    if kind == "other bytes":
        return whole[:at] + draw(st.binary(min_size=1, max_size=20)) + whole[at + draw(st.integers(0, 20)) :]
    return draw(st.sampled_from(FOREIGN))


class _Until(Progress):
    """Interrupts a run after a round, as Ctrl-C does."""

    live = True

    def __init__(self, last: int | None = None):
        self._last = last

    def __enter__(self) -> _Until:
        return self

    def __exit__(self, *_) -> None:
        pass

    def say(self, line: str) -> None:
        print(line)

    warn = say

    def go_on(self, rounds: int) -> None:
        print(f"goes on after round {rounds}")

    def advance(self, round_number: int, accuracy: float | None, uplink_bits: int, downlink_bits: int) -> None:
        if round_number == self._last:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def finished(made_once) -> Path:
    """A real sweep that has ended."""
    command = [sys.executable, "-m", "fedsweep", "-m", *OVERRIDES, "encoder.bits=2,4", "hydra.sweep.dir=sweep"]
    return made_once("fuzz", lambda at: subprocess.run(command, cwd=at, check=True, capture_output=True)) / "sweep"


@pytest.fixture(scope="module")
def run_in(config, finished):
    """`run_in(sweep)`: trial 0 of the sweep, as a run of the sweep in that folder."""
    point = {"encoder.bits": "2"}
    chosen = config(*OVERRIDES, "encoder.bits=2")
    return lambda sweep: Run(0, 0, "trial 0", chosen, sweep / "0", sweep, point)


@pytest.fixture(scope="module")
def cut_off(finished, run_in, tmp_path_factory) -> Path:
    """The same sweep, cut off in trial 0, a round after a checkpoint."""
    sweep = tmp_path_factory.mktemp("cut") / "sweep"
    sweep.mkdir()
    shutil.copy(finished / "sweep.yaml", sweep)
    with pytest.raises(KeyboardInterrupt):
        job.run_trial(run_in(sweep), _Until(5))
    assert run_folder.read_result(sweep / "0")["status"] == "interrupted"
    return sweep


@contextlib.contextmanager
def damaged(folder: Path, name: str, content: bytes, tmp_path: Path):
    """A copy of the folder in which a file has other content."""
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    (copy / name).write_bytes(content)
    yield copy


def told(sweep: load.Sweep, trials: Iterable[int]) -> str:
    """All numbers of these trials that figures are made of, in an order of their own."""
    numbers = [
        (
            sorted(sweep.points[trial].items()),
            sorted((run, seed) for run, seed in sweep.seeds.items() if run[0] == trial),
            sweep.rounds[sweep.rounds.trial == trial].to_dict("list"),
            sweep.float32[trial],
            sorted(sweep.settings(trial).items()),
            sweep.plan(trial),
        )
        for trial in trials
    ]
    return repr((sweep.keys, numbers))


@pytest.mark.parametrize("name", FINISHED)
@READ
@given(data=st.data())
def test_a_finished_sweep_is_read_as_it_was_or_refused(finished, tmp_path, name, data):
    content = data.draw(damages((finished / name).read_bytes()))
    with damaged(finished, name, content, tmp_path) as folder:
        right = load.from_folder(finished)
        try:
            found = load.from_folder(folder)
            trials = sorted(found.points)
            numbers = told(found, trials)
        except UserError as error:
            assert len(str(error).splitlines()) == 1
        else:
            lost = len(right.points) - len(trials)  # runs whose rows are lost are left out, and that is said
            assert numbers == told(right, trials)
            assert found.left_out == ({"not in trials.csv": lost} if lost else {})


@READ
@given(data=st.data())
def test_a_record_is_what_was_written_or_refused(finished, tmp_path, data):
    content = data.draw(damages((finished / "sweep.yaml").read_bytes()))
    (tmp_path / "sweep.yaml").write_bytes(content)
    try:
        found = Record.read(tmp_path)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        right = Record.read(finished)
        assert {**vars(found), "mlflow_run_id": None} == {**vars(right), "mlflow_run_id": None}


@READ
@given(data=st.data())
def test_a_checkpoint_is_what_was_written_or_none(cut_off, tmp_path, data):
    path = cut_off / "0" / "checkpoint.npz"
    right = checkpoint.read(path)
    (tmp_path / path.name).write_bytes(data.draw(damages(path.read_bytes())))
    with contextlib.suppress(UserError):
        found = checkpoint.read(tmp_path / path.name)
        if found is not None:
            assert (found.round, len(found.state)) == (right.round, len(right.state))
            for ours, theirs in zip(found.state, right.state, strict=True):
                assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)


@READ
@given(data=st.data())
def test_a_journal_is_what_was_written_a_beginning_of_it_or_told_of(finished, tmp_path, data):
    (tmp_path / study.JOURNAL).write_bytes(data.draw(damages((finished / study.JOURNAL).read_bytes())))
    shutil.copy(finished / study.JOURNAL, tmp_path / "right")
    right = _trials(tmp_path / "right")
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        try:
            found = _trials(tmp_path / study.JOURNAL)
        except UserError as error:
            assert len(str(error).splitlines()) == 1
            return
    if not out.getvalue():
        for ours, theirs in zip(found, right, strict=False):
            whole = ours.params == theirs.params or (ours is found[-1] and ours.params.items() <= theirs.params.items())
            assert whole and ours.values in (theirs.values, None)
        assert len(found) <= len(right)


def _trials(path: Path) -> list[optuna.trial.FrozenTrial]:
    storage = study.journal(path)
    names = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=names[0], storage=storage).get_trials() if names else []


@pytest.mark.parametrize("name", ["0/checkpoint.npz", "0/rounds.csv", "0/result.json"])
@RESUMED
@given(data=st.data())
def test_a_run_goes_on_from_damaged_files_to_the_same_end(finished, cut_off, run_in, tmp_path, name, data):
    content = data.draw(damages((cut_off / name).read_bytes()))
    with damaged(cut_off, name, content, tmp_path) as folder:
        job.run_trial(run_in(folder), _Until())
        result, right = run_folder.read_result(folder / "0"), run_folder.read_result(finished / "0")
        assert result["error"] is None
        assert {**result, "mlflow_run_id": None} == {**right, "mlflow_run_id": None}
        assert _rounds(folder / "0") == _rounds(finished / "0")


def _rounds(folder: Path) -> list[str]:
    """The lines of rounds.csv without the seconds."""
    lines = (folder / "rounds.csv").read_text().splitlines()
    at = lines[0].split(",").index("seconds")
    return [",".join(cell for k, cell in enumerate(line.split(",")) if k != at) for line in lines]
