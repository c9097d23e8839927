"""The analysis on sweeps with known fronts, and the command as a person meets it."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import subprocess

import handmade
import matplotlib
import numpy as np
import pytest
from handmade import CLIENTS, FLOAT32
from PIL import Image
from scipy import stats

from fedsweep import schema, shown
from fedsweep.errors import UserError
from fedsweep.pareto import __main__ as command
from fedsweep.pareto import analysis, export, figures, labels, load, style, tables

BITS = {"1": 0.50, "2": 0.80, "4": 0.79, "8": 0.90}  # accuracy by width: 4 bits are dominated
SEEDS = (-0.02, 0.0, 0.01)


def by_width(point, replicate):
    return BITS[point["encoder.bits"]] + SEEDS[replicate], int(point["encoder.bits"]) * 1_000_000


@pytest.fixture
def widths(tmp_path):
    return handmade.sweep(tmp_path / "multirun_outputs" / "widths", [{"encoder.bits": b} for b in BITS], by_width, 3)


def ask(*folders, **question):
    return analysis.analyse([load.from_folder(folder) for folder in folders], analysis.Question(**question))


@pytest.fixture
def pareto(tmp_path, monkeypatch):
    """`pareto(*arguments)`: the command in this process, in an empty folder; the path of its output."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, out="out"):
        command.main([*map(str, arguments), "--out", out])
        return tmp_path / out

    return run


def test_means_intervals_and_front_are_the_known_ones(widths):
    answer = ask(widths, x="uplink")
    points = answer.points.set_index(answer.points.config.map(answer.configs["encoder.bits"]))
    assert points.on_front.to_dict() == {"1": True, "2": True, "4": False, "8": True}
    assert points.y.to_dict() == pytest.approx({b: a + np.mean(SEEDS) for b, a in BITS.items()})
    low, high = stats.t.interval(0.95, 2, np.mean(SEEDS), stats.sem(SEEDS))
    assert points.y_half.tolist() == pytest.approx([(high - low) / 2] * 4)
    assert points.x.tolist() == [4 * CLIENTS * b * 1_000_000 for b in (1, 2, 4, 8)] and (points.x_half == 0).all()
    # the seeds are paired: 4 bits never beat 2
    assert points.resampled.to_dict() == {"1": 1000, "2": 1000, "4": 0, "8": 1000}


def test_the_bootstrap_tells_a_sure_front_from_a_lucky_one(tmp_path):
    """Two configurations for the same bits, one better on average by less than it varies."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=[2, 8]) * 0.05
    noise -= noise.mean(axis=1, keepdims=True)
    folder = handmade.sweep(
        tmp_path / "s",
        [{"optimizer.client_lr": lr} for lr in ("0.1", "0.2", "0.3")],
        lambda p, k: (
            {"0.1": 0.8 + noise[0, k], "0.2": 0.805 + noise[1, k], "0.3": 0.2}[p["optimizer.client_lr"]],
            10**6,
        ),
        replicates=8,
        base={**handmade.BASE, "optimizer": {"name": "fedavg"}},
    )
    sure = ask(folder).points.resampled.tolist()
    assert 0 < sure[0] < 1000 and sure[0] + sure[1] == 1000 and sure[2] == 0


def test_sweeps_are_paired_by_the_seed_and_not_by_how_it_was_swept(tmp_path):
    """replicates=3 from seed 0 in one sweep, seed=0,1,2 in the other: the same three seeds."""
    a = handmade.sweep(tmp_path / "a", [{"encoder.bits": "2"}], lambda _, k: (0.5 + SEEDS[k], 2_000_000), 3)
    points = [{"seed": s, "encoder.bits": "8"} for s in "012"]
    b = handmade.sweep(tmp_path / "b", points, lambda p, _: (0.6 + SEEDS[int(p["seed"])], 8_000_000))
    answer = ask(a, b)
    assert set(answer.tasks[0].seeds) == {"0", "1", "2"} and answer.points.resampled.tolist() == [1000, 1000]
    other = {**handmade.BASE, "seed": 100}
    c = handmade.sweep(tmp_path / "c", [{"encoder.bits": "8"}], lambda *_: (0.6, 8_000_000), 3, base=other)
    assert ask(a, c).tasks[0].seeds == {} and ask(a, c).tasks[0].surface is None


def test_one_seed_says_nothing_about_chance_and_is_there_in_every_resample(tmp_path):
    a = handmade.sweep(tmp_path / "a", [{"encoder.bits": "2"}], lambda _, k: (0.5 + SEEDS[k], 2_000_000), 3)
    b = handmade.sweep(tmp_path / "b", [{"encoder.bits": "1"}], lambda *_: (0.9, 1_000_000))
    one, all_of_b = ask(a, b).points.resampled
    assert one == 0 and math.isnan(all_of_b)


def test_a_run_without_whole_float32_neighbours_gets_no_common_ratio(tmp_path):
    """Two and four rounds: float32 would send twice as much in one as in the other."""
    points = [{"rounds": r, "encoder.bits": b} for r in "24" for b in "28"]
    folder = handmade.sweep(tmp_path / "s", points, lambda p, _: (0.9, int(p["encoder.bits"]) * 1_000_000))
    answer = ask(folder, x="uplink")
    assert answer.tasks[0].float32_bits is None
    rows = list(csv.DictReader(tables.csv(answer).splitlines()))
    assert [float(row["float32_ratio"]) for row in rows] == [16, 4, 16, 4]


def test_the_table_has_the_whole_front_of_every_data_set(tmp_path):
    points = [{"dataset": d, "encoder.bits": str(b)} for d in ("digits", "mnist_by_writer") for b in range(1, 16)]
    folder = handmade.sweep(
        tmp_path / "s", points, lambda p, _: (int(p["encoder.bits"]) / 20, int(p["encoder.bits"]) * 10**6)
    )
    answer = ask(folder)
    assert set(figures.chosen(answer, most=20, whole=True)) == set(range(30))
    assert {answer.configs.task[config] for config in figures.chosen(answer)} == {"digits", "mnist_by_writer"}


def test_hypervolume_is_measured_from_its_declared_reference(widths):
    """Decades of bits times accuracy, by hand: a rectangle for each step of the front."""
    (task,) = ask(widths, x="uplink", reference=(4 * CLIENTS * 10_000_000, 0.4)).tasks
    heights = [a + np.mean(SEEDS) - 0.4 for a in (0.5, 0.8, 0.9)]
    spans = [math.log10(10 / b) for b in (1, 2, 8)]
    steps = [heights[0], heights[1] - heights[0], heights[2] - heights[1]]
    assert task.hypervolume == pytest.approx(np.dot(spans, steps))
    single = [[a + s - 0.4 for a in (0.5, 0.8, 0.9)] for s in SEEDS]
    assert task.seeds == pytest.approx({str(k): np.dot(spans, np.diff(h, prepend=0)) for k, h in enumerate(single)})
    (usual,) = ask(widths, x="uplink").tasks
    assert usual.reference == (4 * CLIENTS * FLOAT32, 0.0)


def test_targets_are_reached_at_the_first_evaluation_that_is_as_good(widths):
    answer = ask(widths, x="uplink", targets=(0.7, 0.895))
    found = {
        (answer.configs["encoder.bits"][row.config], row.target): (row.mean, row.reached)
        for row in answer.targets.itertuples()
    }
    curves = [[value >= 0.7 for value in handmade.curve(0.8 + s, 4)] for s in SEEDS]
    rounds = [reached.index(True) + 1 for reached in curves]
    assert found["2", 0.7] == (pytest.approx(np.mean(rounds) * CLIENTS * 2_000_000), 3)
    assert found["1", 0.7][1] == 0 and math.isnan(found["1", 0.7][0])
    assert found["8", 0.895] == (4 * CLIENTS * 8_000_000, 2)  # two of three seeds


def test_a_budget_buys_the_last_evaluation_within_it(widths):
    budget = 3 * CLIENTS * 8_000_000  # exactly three rounds at 8 bits
    answer = ask(widths, x="uplink", budgets=(budget, 1))
    found = answer.budgets.set_index(["config", "budget"])["mean"]
    eight = answer.configs.index[answer.configs["encoder.bits"] == "8"][0]
    assert found[eight, budget] == pytest.approx(np.mean([handmade.curve(0.9 + s, 4)[2] for s in SEEDS]))
    assert found[:, 1].isna().all()


def test_operating_points_along_a_run_count_too(widths):
    answer = ask(widths, x="uplink", points="all")
    assert len(answer.points) == 4 * 4
    two = answer.points[answer.points.config.map(answer.configs["encoder.bits"]) == "2"].set_index("round")
    assert two.y[3] == pytest.approx(np.mean([handmade.curve(0.8 + s, 4)[2] for s in SEEDS]))
    assert two.x[3] == 3 * CLIENTS * 2_000_000
    costs = np.column_stack([answer.points.x, -answer.points.y])
    brute = [not any((o <= c).all() and (o < c).any() for o in costs) for c in costs]
    assert answer.points.on_front.tolist() == brute


def test_selection_on_the_validation_set_is_reported_on_the_test_set_and_said(tmp_path):
    """4 bits win on the validation set and lose on the test set: they are on the front, with their test accuracy."""
    points = [{"encoder.bits": b} for b in "248"]
    folder = handmade.sweep(
        tmp_path / "s", points,
        lambda p, _: ({"2": 0.7, "4": 0.6, "8": 0.8}[p["encoder.bits"]], 10**6 * int(p["encoder.bits"])),
        validation=lambda p, _: ({"2": 0.5, "4": 0.9, "8": 0.85}[p["encoder.bits"]], 0),
    )  # fmt: skip
    answer = ask(folder)
    assert answer.points.on_front.tolist() == [True, True, False]
    assert answer.points.y.tolist() == [0.7, 0.6, 0.8]
    assert answer.selection == "selected by validation accuracy, reported by test accuracy"
    assert "selected by validation accuracy" in tables.latex(answer, [0, 1, 2])


def test_without_a_validation_set_it_is_said_that_there_is_none(widths):
    assert "no validation split was held out" in tables.summary(ask(widths))["selection"]


def test_the_uncompressed_run_is_the_reference(tmp_path):
    points = [{"encoder": "uniform"}, {"encoder": "identity"}]
    folder = handmade.sweep(
        tmp_path / "s", points, lambda p, _: (0.9, FLOAT32) if p["encoder"] == "identity" else (0.8, FLOAT32 // 8)
    )
    answer = ask(folder, x="uplink")
    (task,) = answer.tasks
    assert answer.configs.label[task.baseline] == "identity" and task.float32_bits == 4 * CLIENTS * FLOAT32
    rows = list(csv.DictReader(tables.csv(answer).splitlines()))
    assert [float(row["float32_ratio"]) for row in rows] == [8, 1]


def test_data_sets_are_analysed_apart(tmp_path):
    points = [{"dataset": d, "encoder.bits": b} for d in ("digits", "mnist_by_writer") for b in "24"]
    folder = handmade.sweep(
        tmp_path / "s", points, lambda p, _: (0.9 if p["dataset"] == "digits" else 0.5, int(p["encoder.bits"]) * 10**6)
    )
    answer = ask(folder)
    assert [task.name for task in answer.tasks] == ["digits", "mnist_by_writer"]
    assert answer.points.on_front.tolist() == [True, False, True, False]
    assert len(next(iter(figures.draw(answer, style.VENUES["neurips"])))[1].axes) >= 2


def test_several_sweeps_share_one_front_and_a_swept_seed_is_a_replicate(tmp_path):
    a = handmade.sweep(tmp_path / "a", [{"seed": s, "encoder.bits": "2"} for s in "123"], lambda p, _: (0.5, 2_000_000))
    b = handmade.sweep(
        tmp_path / "b", [{"encoder.bits": "2"}], lambda p, _: (0.6, 2_000_000),
        base={**handmade.BASE, "encoder": {"name": "eden", "bits": 2}},
    )  # fmt: skip
    answer = ask(a, b)
    assert answer.points.n.tolist() == [3, 1] and answer.points.on_front.tolist() == [False, True]
    assert answer.configs.group.tolist() == ["uniform", "eden"]


@pytest.mark.parametrize(
    ("points", "statuses"),
    [([{}], {}), ([{"encoder.bits": "2"}], {}), ([{"encoder.bits": "2"}, {"encoder.bits": "4"}], {1: "failed"})],
    ids=["nothing swept", "one run", "one left"],
)
def test_small_sweeps_get_their_figures(tmp_path, pareto, capsys, points, statuses):
    handmade.sweep(tmp_path / "s", points, lambda p, _: (0.9, 10**6), statuses=statuses)
    out = pareto(tmp_path / "s", "--formats", "png")
    assert {path.name for path in out.glob("*.png")} == {"pareto.png", "curves.png", "targets.png", "plans.png"}
    said = capsys.readouterr().out
    assert "Pareto front" in said and ("1 failed" in said) == bool(statuses)


def test_equal_bits_and_equal_accuracies_are_drawn(tmp_path, pareto):
    points = [{"encoder.threshold": t} for t in ("1", "2", "3")]
    handmade.sweep(tmp_path / "s", points, lambda p, _: (0.9, 10**6), replicates=2)
    assert (pareto(tmp_path / "s", "--formats", "png") / "pareto.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere: is no sweep; name a sweep's folder, latest, or the id"),
        (["latest", "--formats", "gif"], "--formats gif: choose from pdf, svg, png, pgf, html"),
        (["latest", "--target", "high"], "--target high: must be a number"),
        (["latest", "--target", "nan"], "--target nan: must be a number"),
        (["latest", "--budget", "3 apples"], "--budget 3 apples: must be bits"),
        (["latest", "--reference", "1Gibit"], "--reference 1Gibit: must be bits and a value"),
        (["latest", "--group", "encodr"], "encodr: widths has no such key; it sweeps encoder.bits"),
        (["latest", "--y", "validation_accuracy"], "--y validation_accuracy: no run has evaluated it"),
        (["0" * 32], "multirun_outputs/mlflow.db (the default): is not there"),
        (["0" * 32, "--tracking-uri", "sqlite:///store.db"], "--tracking-uri=sqlite:///store.db: cannot be read"),
        (["failed"], "failed: no run is complete (2 diverged); nothing to show"),
        (["empty"], "empty/sweep.yaml: is not there"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, widths, pareto, migrated_database, capsys, arguments, says):
    shutil.copy(migrated_database, tmp_path / "store.db")
    handmade.sweep(
        tmp_path / "failed",
        [{"seed": "1"}, {"seed": "2"}],
        lambda *_: (0.9, 10**6),
        statuses={0: "diverged", 1: "diverged"},
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as ended:
        pareto(*arguments)
    errors = capsys.readouterr().err
    assert ended.value.code == 1 and len(errors.splitlines()) == 1 and says in errors
    assert not (tmp_path / "out").exists()


def test_each_of_several_sweeps_says_why_it_has_nothing(tmp_path):
    ended = {"a": {0: "failed", 1: "failed"}, "b": {0: "failed", 1: "diverged"}}
    for name, statuses in ended.items():
        handmade.sweep(tmp_path / name, [{"seed": "1"}, {"seed": "2"}], lambda *_: (0.9, 10**6), statuses=statuses)
    with pytest.raises(UserError, match=r"a: no run is complete \(2 failed\); b: no run .* \(1 diverged, 1 failed\)"):
        ask(tmp_path / "a", tmp_path / "b")


def test_latest_is_there_only_when_a_sweep_is(pareto, capsys):
    with pytest.raises(SystemExit):
        pareto("latest")
    assert "holds no sweep" in capsys.readouterr().err


def test_damaged_files_are_named(widths):
    (widths / "1" / "0" / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"1/0/result\.json: cannot be read"):
        load.from_folder(widths)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("1/0/rounds.csv", lambda text: text.replace("\n3,", "\n4,"), "line 4 is of round 4"),
        ("1/0/rounds.csv", lambda text: text[: text.index("\n") + 1], "a complete run has rounds"),
        ("1/0/rounds.csv", lambda text: text.replace("\n2,1.0", "\n2,nan"), "round 2: train_loss is nan"),
        ("1/0/rounds.csv", lambda text: text.replace("\n2,1.0", "\n2,good"), "good"),
        ("1/0/rounds.csv", lambda text: text + "\0" * 9 + "\n", "cells"),
        ("1/0/rounds.csv", lambda text: "\n".join(text.split("\n")[:-2]) + "\n", "rounds is 4, rounds.csv ends at 3"),
        ("1/0/result.json", lambda text: text.replace('"rounds": 4', '"rounds": 3'), "rounds is 3"),
        ("1/0/result.json", lambda text: text.replace('"plan"', '"plans"'), "a complete run has a plan"),
        ("1/0/result.json", lambda text: text.replace('"clients": 10', '"clients": "ten"'), "no whole numbers"),
        ("1/0/result.json", lambda text: text.replace("complete", "failed"), "it is failed"),
        ("1/0/result.json", lambda text: "[]", "a list where an object belongs"),
        ("trials.csv", lambda text: text.replace("1,0,complete,4", "1,0,complete,8"), "the values of trial 1 are not"),
        ("trials.csv", lambda text: text.replace("1,0,complete", "1,0,failed"), "cannot be read as failed"),
        ("sweep.yaml", lambda text: text.replace("replicates: ", "replicates: 1"), "fingerprint"),
    ],
)
def test_files_that_contradict_each_other_are_one_line_and_no_figure(tmp_path, pareto, capsys, name, change, says):
    points = [{"encoder.bits": "2"}, {"encoder.bits": "4"}]
    folder = handmade.sweep(tmp_path / "s", points, lambda *_: (0.9, 10**6), replicates=2)
    whole = (folder / name).read_text()
    (folder / name).write_text(change(whole))
    assert (folder / name).read_text() != whole
    with pytest.raises(SystemExit):
        pareto(folder, "--formats", "png")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fedsweep: ") and says in line and f"{folder}/" in line


def test_runs_that_the_table_does_not_know_are_told_of(widths):
    lines = (widths / "trials.csv").read_text().splitlines(keepends=True)
    last = lines[-1].partition(",")[0]
    (widths / "trials.csv").write_text("".join(line for line in lines if not line.startswith(f"{last},")))
    gone = sum(line.startswith(f"{last},") for line in lines)
    assert load.from_folder(widths).left_out == {"not in trials.csv": gone}


def test_the_same_data_gives_the_same_bytes(widths, pareto):
    arguments = ["latest", "--formats", "pdf,svg,png,html", "--venue", "icml"]
    first, second = pareto(*arguments, out="a"), pareto(*arguments, out="b")
    names = {path.name for path in first.iterdir()}
    assert {
        f"{n}.{s}" for n in ("pareto", "curves", "attainment", "targets", "plans") for s in ("pdf", "svg", "png")
    } < names
    assert {"pareto.html", "pareto.csv", "pareto.tex", "summary.json", "provenance.json"} < names
    for name in names - {"provenance.json"}:  # it has the command, with the folder
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_an_export_can_be_made_again_over_the_old_one(widths, pareto):
    pareto("latest", "--formats", "png")
    assert (
        json.loads((pareto("latest", "--formats", "png", "--x", "uplink") / "summary.json").read_text())["x"]
        == "uplink_bits"
    )


def test_figures_of_an_earlier_export_do_not_stand_beside_the_provenance_of_a_later_one(widths, pareto, tmp_path):
    pareto("latest", "--formats", "png,html")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    out = pareto("latest", "--formats", "svg")
    assert not list(out.glob("*.png")) and not list(out.glob("*.html")) and (out / "notes.txt").exists()


def test_the_front_of_a_sweep_over_data_sets_is_one_for_each(tmp_path):
    points = [{"dataset": d, "encoder.bits": b} for d in ("digits", "mnist_by_writer") for b in "24"]
    folder = handmade.sweep(
        tmp_path / "s", points, lambda p, _: (0.9 if p["dataset"] == "digits" else 0.5, int(p["encoder.bits"]) * 10**6)
    )
    with (folder / "trials.csv").open() as file:
        assert [row["on_front"] for row in csv.DictReader(file)] == ["True", "False", "True", "False"]


@pytest.mark.parametrize("venue", style.VENUES)
def test_figures_have_the_venues_width_and_embed_their_fonts_as_type_42(widths, pareto, venue):
    out = pareto("latest", "--venue", venue)
    with Image.open(out / "pareto.png") as image:
        assert image.width == pytest.approx(200 * style.VENUES[venue].width, abs=1)
    for path in out.glob("*.pdf"):
        fonts = subprocess.run(["strings", path], capture_output=True, text=True, check=True).stdout
        assert "/Type3" not in fonts and re.search(r"/Subtype /(CIDFontType2|TrueType)", fonts), path


def test_pgf_is_written_with_a_latex(widths, pareto):
    if not any(map(shutil.which, export._LATEX)):
        pytest.skip("no LaTeX here, which measures the text: apt-get install texlive-latex-base texlive-pictures")
    out = pareto("latest", "--formats", "pgf")
    assert r"\begin{pgfpicture}" in (out / "pareto.pgf").read_text()


def test_pgf_without_latex_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(export.shutil, "which", lambda _: None)
    with pytest.raises(UserError, match="--formats pgf: needs LaTeX"):
        export.check(["pgf"])


def test_labels_do_not_collide(tmp_path):
    """Many points close together: no label on another, on a marker, or outside the axes; some have no room."""
    rng = np.random.default_rng(0)
    points = np.column_stack([2 ** rng.uniform(20, 24, 25), rng.uniform(0.5, 1, 25)])
    with matplotlib.rc_context(style.settings(style.VENUES["icml"])):
        figure, panels = figures._figure(3.25, 2.2)
        axes = panels[0, 0]
        axes.plot(*points.T, "o")
        style.bits_axis(axes)
        figure.draw_without_rendering()
        wanted = [labels.Label(f"configuration {k}", [tuple(point)], {"fontsize": 6}) for k, point in enumerate(points)]
        left = labels.place(axes, wanted, points, [])
        figure.draw_without_rendering()
        boxes = [matplotlib.text.Text.get_window_extent(text) for text in axes.texts]  # without the leader
        inside, centres = axes.get_window_extent(), axes.transData.transform(points)
    assert len(boxes) + len(left) == 25 and len(boxes) > 4
    for k, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:k])
        assert not any(box.contains(*centre) for centre in centres)
        assert inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1


def test_the_table_is_booktabs_with_what_is_not_reached(widths):
    answer = ask(widths, x="uplink", targets=(0.7, 0.895), budgets=(10**8,))
    text = tables.latex(answer, figures.chosen(answer))
    for word in (r"\toprule", r"\midrule", r"\bottomrule", "not reached", "(2/3)", r"$\pm$", "95.37 Mibit"):
        assert word in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({row.count("&") for row in rows}) == 1 and len(rows) == 5
    assert shown.in_latex("top_k 5% {x}") == r"top\_k 5\% \{x\}"


def test_provenance_names_runs_versions_and_the_command(widths, pareto):
    found = json.loads((pareto("latest", "--formats", "png") / "provenance.json").read_text())
    assert found["command"][:4] == ["python", "-m", "fedsweep.pareto", "latest"]
    assert found["packages"]["matplotlib"] == matplotlib.__version__
    assert found["sweeps"][0]["name"] == "widths" and found["sweeps"][0]["runs"] == 12


def test_what_the_command_offers_is_what_the_code_knows():
    assert set(command._VENUES) == set(style.VENUES)
    assert set(command._METRICS) == set(load.METRICS) == {m for m in schema.METRICS if not m.endswith("_bits")}
