"""What a resumed run reads is what was written, or it is not believed: the end is that of a run that was left alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fedsweep import trial
from fedsweep.errors import NotWritten
from fedsweep.runtime import checkpoint
from fedsweep.tracking.run_folder import CHECKPOINTS, RunFolder, read_result, read_rounds

OVERRIDES = ("rounds=7", "evaluate_every=2", "checkpoint_every=2", "model=2nn", "tracker=csv", "clients_per_round=3")


class Lines:
    """A progress that keeps what is said."""

    live = False

    def __init__(self):
        self.warned: list[str] = []
        self.before = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def say(self, line):
        pass

    def warn(self, line):
        self.warned.append(line)

    def go_on(self, rounds):
        self.before = rounds

    def advance(self, *_):
        pass


def run(config, folder: Path) -> tuple[dict, Lines]:
    lines = Lines()
    place = trial.Place("sweep", None, 0, 0, {})
    return trial.run(config, folder, "run", lines, place), lines


def numbers(folder: Path) -> list[tuple]:
    """The rounds without their seconds."""
    return [
        (row.round, row.train_loss, row.test_accuracy, row.total_bits) for row in read_rounds(folder / "rounds.csv")
    ]


@pytest.fixture(scope="module")
def cut(config, tmp_path_factory):
    """(the folder of a run that was cut off in round 7, with checkpoints of rounds 4 and 6; of one left alone)"""
    base, checked = tmp_path_factory.mktemp("damage"), config(*OVERRIDES)
    result, _ = run(checked, base / "whole")
    assert result["status"] == "complete" and not list((base / "whole").glob("checkpoint*"))
    log = RunFolder.log_round

    def strike(self, row):
        log(self, row)
        if row.round == 7:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunFolder, "log_round", strike)
        run(checked, base / "cut")
    assert [checkpoint.read(base / "cut" / name).round for name in CHECKPOINTS] == [6, 4]
    return base / "cut", base / "whole"


def lines_of(change):
    """Damages the lines of rounds.csv; line 0 is the header."""

    def damage(folder: Path) -> None:
        path = folder / "rounds.csv"
        path.write_bytes(b"\n".join(change(path.read_bytes().split(b"\n"))))

    return damage


def flip(*names: str):
    def damage(folder: Path) -> None:
        for name in names:
            content = bytearray((folder / name).read_bytes())
            content[len(content) // 2] ^= 1
            (folder / name).write_bytes(content)

    return damage


def foreign(folder: Path) -> None:
    """The checkpoint of a run with another configuration, with the digest that its own rounds had."""
    saved = checkpoint.read(folder / CHECKPOINTS[0])
    checkpoint.write(folder / CHECKPOINTS[0], 6, [array * 0 for array in saved.state], "0" * 64)
    (folder / CHECKPOINTS[1]).unlink()


@pytest.mark.parametrize(
    ("damage", "before", "names"),
    [
        (lambda folder: None, 6, []),
        (lines_of(lambda lines: [*lines[:3], lines[2], *lines[3:]]), 0, ["rounds.csv"]),
        (lines_of(lambda lines: lines[:2] + lines[3:]), 0, ["rounds.csv"]),
        (lines_of(lambda lines: lines[:6] + lines[7:]), 4, ["rounds.csv"]),
        (lines_of(lambda lines: [*lines[:5], lines[5].replace(b"0.", b"0.9"), *lines[6:]]), 4, ["rounds.csv"]),
        (lines_of(lambda lines: [*lines[:7], lines[7][:9]]), 6, []),
        (lines_of(lambda lines: [*lines[:5], b"\0" * 40]), 4, ["rounds.csv"]),
        (lines_of(lambda lines: [*lines[:-1], b"\0" * 40]), 6, []),
        (lines_of(lambda lines: [b"round,loss", *lines[1:]]), 0, ["rounds.csv"]),
        (lines_of(lambda lines: [lines[0], b""]), 0, ["rounds.csv"]),
        (lambda folder: (folder / "rounds.csv").write_bytes(b"\xff\xfe\0"), 0, ["rounds.csv"]),
        (lambda folder: (folder / "rounds.csv").unlink(), 0, ["rounds.csv"]),
        (flip("checkpoint.npz"), 4, ["checkpoint.npz"]),
        (flip("checkpoint.before.npz"), 6, []),
        (flip(*CHECKPOINTS), 0, ["checkpoint.npz", "checkpoint.before.npz"]),
        (lambda folder: (folder / "checkpoint.npz").write_bytes(b""), 4, ["checkpoint.npz"]),
        (lambda folder: (folder / "checkpoint.npz").unlink(), 4, []),
        (foreign, 0, ["rounds.csv"]),
        (lambda folder: (folder / "result.json").write_text('{"status": "runn'), 6, []),
        (lambda folder: (folder / "result.json").write_text(""), 6, []),
    ],
    ids=[
        *("nothing", "doubled line", "lost row", "lost late row", "edited cell", "cut line", "NULs", "NUL tail"),
        *("header", "header only", "no text", "no rounds", "checkpoint", "checkpoint before", "both checkpoints"),
        *("empty checkpoint", "no last checkpoint", "foreign checkpoint", "cut result", "empty result"),
    ],
)  # fmt: skip
def test_a_run_goes_on_from_what_is_whole_and_says_what_is_not(config, cut, tmp_path, damage, before, names, capsys):
    interrupted, whole = cut
    folder = tmp_path / "run"
    shutil.copytree(interrupted, folder)
    damage(folder)
    result, lines = run(config(*OVERRIDES), folder)
    assert lines.before == before
    assert numbers(folder) == numbers(whole)
    told = read_result(whole)
    assert read_result(folder) == told and result["test_accuracy"] == told["test_accuracy"]
    assert len(lines.warned) == bool(names) and all(f"/run/{name}: " in lines.warned[0] for name in names)
    assert not list(folder.glob("checkpoint*"))


def test_a_full_disk_leaves_a_run_that_can_go_on(config, cut, tmp_path, monkeypatch):
    interrupted, whole = cut
    for place, name in ((checkpoint, "write"), (RunFolder, "log_round")):
        folder = tmp_path / name
        shutil.copytree(interrupted, folder)

        def full(*_):
            raise NotWritten(28, "No space left on device", "somewhere")

        with pytest.MonkeyPatch.context() as patch, pytest.raises(NotWritten):
            patch.setattr(place, name, full)
            flip(*CHECKPOINTS)(folder)
            run(config(*OVERRIDES), folder)
        assert read_result(folder)["status"] == "interrupted"
        result, _ = run(config(*OVERRIDES), folder)
        assert result["status"] == "complete" and numbers(folder) == numbers(whole)


def test_a_power_cut_between_two_checkpoints_leaves_one(cut, tmp_path, monkeypatch):
    interrupted, _ = cut
    for name in CHECKPOINTS:
        shutil.copy(interrupted / name, tmp_path / name)

    def struck(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write_atomically", struck)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write(tmp_path / CHECKPOINTS[0], 8, [])
    assert checkpoint.read(tmp_path / CHECKPOINTS[1]).round == 6
    monkeypatch.undo()
    checkpoint.write(tmp_path / CHECKPOINTS[0], 8, [])
    assert [checkpoint.read(tmp_path / name).round for name in CHECKPOINTS] == [8, 6]
