"""What a person sees while a sweep runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from fedsweep.sweep.board import Board
from fedsweep.sweep.engine import Run
from fedsweep.sweep.record import Record, Trial

RECORD = Record(
    {}, [{}], n_trials=4, replicates=2, objectives={}, sampling={}, config={}, digests={}, mlflow_run_id=None
)


def run(config, trial=0, replicate=0) -> Run:
    return Run(
        trial,
        replicate,
        f"trial {trial} replicate {replicate}",
        config("rounds=4", "evaluate_every=2"),
        Path("out"),
        Path("out"),
        {},
    )


def done(status="complete"):
    return {
        "status": status,
        "test_accuracy": 0.5,
        "total_bits": 2**20,
        "error": None if status == "complete" else "why",
    }


def test_without_a_terminal_there_are_plain_lines(config, capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    one = run(config)
    with Board(RECORD, 2) as board:
        board.begin(one)
        board.advance(one, 1, None, 100, 100)  # no evaluation, no line
        board.advance(one, 2, 0.25, 2**20, 2**21)
        board.finish(one, done())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("trial 0 replicate 0 round 2/4  accuracy 0.2500  up 1.00 Mibit  down 2.00 Mibit")
    assert lines[1].startswith(
        "trial 0 replicate 0: complete  accuracy 0.5000  1.00 Mibit  [1 complete, 7 to do; 0:00:0"
    )


def test_on_a_terminal_there_is_one_table_of_what_runs(config, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    first, second = run(config, 0), run(config, 1)
    with Board(RECORD, 2) as board:
        board.begin(first)
        board.begin(second)
        board.advance(first, 4, 0.75, 2**29, 2**29)
        board.tick()
        shown = capsys.readouterr().out
    assert "trial 0 replicate 0" in shown and "4/4" in shown and "0.7500" in shown and "1.00 Gibit" in shown
    assert "trial 1 replicate 0" in shown and "compiling" in shown and "8 to do" in shown
    assert "round 4/4" not in shown


def test_few_runs_are_followed_line_by_line_on_a_terminal_too(config, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Board(dataclasses.replace(RECORD, n_trials=2), 1) as board:
        board.begin(run(config))
        board.advance(run(config), 2, 0.5, 2**20, 2**20)
    assert "trial 0 replicate 0 round 2/4  accuracy 0.5000  up 1.00 Mibit  down 1.00 Mibit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("results", "says"),
    [
        ({0: done(), 1: done()}, "trial 3: complete, was there"),
        ({0: done("failed"), 1: {"status": "running"}}, "trial 3: goes on"),
        ({0: done("diverged"), 1: done("failed")}, "trial 3: failed, why"),
    ],
)
def test_a_resumed_trial_is_announced(capsys, results, says):
    with Board(RECORD, 1) as board:
        board.drawn(Trial(3, {}, 2, results))
        board.drawn(Trial(0, {}, 2))  # a new one is not
    assert capsys.readouterr().out.splitlines() == [says]
