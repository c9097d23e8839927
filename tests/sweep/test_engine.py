"""The order of trials, duplicates, replicates, budgets, failures: the engine with a real study and real plans."""

from __future__ import annotations

import csv
import dataclasses
import random

import pytest
from variations import some

from fedsweep import datasets, models, schema
from fedsweep.errors import SweepFailed, UserError
from fedsweep.federated import plan as planning
from fedsweep.files import write_json
from fedsweep.sweep import study as studies
from fedsweep.sweep.engine import Engine, _identity
from fedsweep.sweep.record import Record
from fedsweep.sweep.space import Choices, Interval
from fedsweep.tracking.run_folder import write_result

RATES = {"optimizer.client_lr": Interval(0.01, 1.0, log=True), "encoder.bits": Interval(1, 8, log=False)}


@pytest.fixture
def start(config, tmp_path):
    """`start(dimensions, points, *overrides)`: an engine in a folder; `points` None: a sampler draws."""

    def engine(dimensions, points, *overrides, n_trials=None, folder="sweep"):
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        first = config(*overrides)
        record = Record(
            space={key: list(getattr(d, "values", [])) for key, d in dimensions.items()},
            points=points,
            n_trials=n_trials or len(points),
            replicates=first.replicates,
            objectives=first.sweep.directions,
            sampling={},
            config={},
            digests={},
            mlflow_run_id=None,
        )
        storage = studies.journal(place / studies.JOURNAL)
        again = dataclasses.replace(first.sweep, resume="latest")
        study = studies.Study("sweep", storage, dimensions, again, first.seed)

        def plan(checked):
            model = models.build(checked.model, datasets.spec(checked.dataset))
            return planning.of(checked, model, lambda: checked.dataset.clients).as_dict()

        def configure(point):
            return config(*overrides, *(f"{key}={value}" for key, value in point.items()))

        return Engine(place, record, first.sweep, study, configure, plan)

    return engine


def result(run, accuracy=None, status="complete"):
    """What a run would have left, as a function of its configuration alone."""
    bits, rate = run.config.encoder.bits, run.config.optimizer.client_lr
    accuracy = 1 - (rate - 0.1) ** 2 - 1 / bits - run.config.seed / 100 if accuracy is None else accuracy
    found = {"status": status, "test_accuracy": accuracy, "uplink_bits": bits, "downlink_bits": 1}
    return found | {"total_bits": bits + 1, "error": None if status == "complete" else status}


def work(engine, workers, seed=0):
    """Runs to the end with so many runs under way, which end in a random order."""
    rng, waiting, running = random.Random(seed), [], []
    most = 0
    while not engine.done:
        while engine.may_draw():
            waiting += engine.runs(engine.draw())
        while waiting and len(running) < workers:
            running.append(waiting.pop(0))
            engine.begin(running[-1])
        most = max(most, len(running))
        if running:
            run = running.pop(rng.randrange(len(running)))
            engine.finish(run, result(run))
    engine.close()
    return most


def rows(engine) -> list[dict]:
    return list(csv.DictReader((engine.folder / "trials.csv").open()))


@pytest.mark.parametrize("sampler", some(["tpe", "nsga2", "random"], ["tpe"]))
def test_a_search_does_not_depend_on_workers_or_on_the_order_in_which_they_end(start, sampler):
    overrides = [f"sweep/sampler={sampler}", "sweep.in_flight=4", "replicates=2"]
    overrides += {"tpe": ["sweep.sampler.n_startup_trials=3"], "nsga2": ["sweep.sampler.population_size=3"]}.get(
        sampler, []
    )
    tables = []
    for workers, seed in ((1, 0), (2, 1), (8, 2), (8, 3)):
        engine = start(RATES, None, *overrides, n_trials=12, folder=f"{workers}-{seed}")
        most = work(engine, workers, seed)
        assert most == workers  # eight runs of four trials at once, no batch to wait for
        tables.append(rows(engine))
    assert len(tables[0]) == 24 and all(table == tables[0] for table in tables)


def test_equal_plans_are_run_once_and_their_values_shared(start, config):
    """Thresholds 10000 and 20000 encode the same tensors of the CNN; identity does not look at its bits."""
    points = [{"encoder": e, "encoder.threshold": t} for e in ("uniform", "identity") for t in ("10000", "20000", "9")]
    dimensions = {"encoder": Choices(("uniform", "identity")), "encoder.threshold": Choices(("10000", "20000", "9"))}
    engine = start(dimensions, points, "model=cnn", "dataset=mnist_by_writer", "encoder.bits=4")
    runs = []
    while engine.may_draw():
        runs += engine.runs(engine.draw())
    assert [run.trial for run in runs] == [0, 2, 3]
    for run in reversed(runs):
        engine.finish(run, result(run, accuracy=0.5 + run.trial / 10))
    assert engine.done
    table = rows(engine)
    assert [row["status"] for row in table] == [
        "complete",
        "duplicate",
        "complete",
        "complete",
        "duplicate",
        "duplicate",
    ]
    assert [row["test_accuracy"] for row in table] == ["0.5", "0.5", "0.7", "0.8", "0.8", "0.8"]
    assert table[1]["error"] == "same plan as trial 0"
    assert (engine.folder / "1" / "result.json").read_text()


TOP_K = "encoder=top_k encoder.share=0.01 encoder.positions=golomb_rice"
SAME = [
    ("encoder=stc", f"{TOP_K} encoder.values=sign"),
    ("encoder=hadamard", "encoder.rotation=hadamard"),
    ("encoder=eden downlink=same", "encoder=eden downlink=eden downlink.threshold=100"),
    (
        "encoder=identity",
        "encoder=identity encoder.error_feedback=true encoder.bits=3 schedule=falling_loss code=range",
    ),
    ("encoder=low_rank encoder.threshold=10000000", "encoder=identity"),
    ("encoder.error_feedback=true", "encoder.error_feedback=true encoder.threshold=101"),
]
OTHERS = [
    ("encoder=stc", f"{TOP_K} encoder.values=one_bit"),
    ("encoder=kashin", "encoder=hadamard"),
    ("encoder.error_feedback=true", "encoder.error_feedback=false"),
    ("downlink=uniform downlink.error_feedback=true", "downlink=uniform"),
    ("downlink=top_k", "downlink=dropout"),
    ("encoder=eden downlink=same", "encoder=eden"),
    ("on_bad_update=zero", "on_bad_update=drop"),
]


PAIRS = [(*pair, True) for pair in SAME] + [(*pair, False) for pair in OTHERS]


@pytest.mark.parametrize(
    "pair", some(PAIRS, PAIRS[:2] + PAIRS[6::2]), ids=lambda pair: f"{pair[0]}-{pair[1]}-{pair[2]}"
)
def test_duplicates_are_found_by_what_is_sent_under_any_words(config, pair):
    a, b, same = pair

    def identity(words):
        checked = config("encoder.threshold=100", *words.split())
        model = models.build(checked.model, datasets.spec(checked.dataset))
        return _identity(checked, planning.of(checked, model, lambda: checked.dataset.clients).as_dict())

    assert (identity(a) == identity(b)) == same


@pytest.mark.parametrize("key", ["seed", "rounds", "optimizer.client_lr", "clients_per_round"])
def test_what_is_not_in_the_plan_makes_no_duplicate(start, key):
    engine = start({key: Choices(("3", "4"))}, [{key: "3"}, {key: "4"}])
    assert [bool(engine.draw().twin) for _ in range(2)] == [False, False]


@pytest.mark.parametrize(("partition", "unused"), [("iid", {"alpha", "shards"}), ("shards", {"alpha"})])
def test_knobs_of_other_partitions_make_no_new_trial(start, partition, unused):
    base = {"dataset.alpha": "1", "dataset.shards": "2", "dataset.clients": "20"}
    changed = [{**base, key: "3"} for key in ("dataset.alpha", "dataset.shards")] + [{**base, "dataset.clients": "30"}]
    dimensions = {key: Choices(tuple(dict.fromkeys(p[key] for p in (base, *changed)))) for key in base}
    engine = start(dimensions, [base, *changed], f"dataset.partition={partition}")
    twins = [engine.draw().twin is not None for _ in range(4)]
    assert twins == [False, "alpha" in unused, "shards" in unused, False]


def test_a_duplicate_of_a_failed_trial_has_no_values(start):
    points = [{"encoder.threshold": "10"}, {"encoder.threshold": "20"}]
    engine = start({"encoder.threshold": Choices(("10", "20"))}, points)
    (run,) = engine.runs(engine.draw())
    assert engine.runs(engine.draw()) == [] and not engine.done
    engine.finish(run, {"status": "failed", "error": "no luck"})
    assert engine.done
    assert [(row["status"], row["test_accuracy"]) for row in rows(engine)] == [("failed", ""), ("duplicate", "")]
    assert rows(engine)[1]["error"] == "same plan as trial 0, which is failed"


def test_replicates_have_seeds_rows_and_a_mean_of_their_own(start):
    engine = start(
        {"encoder.bits": Choices(("2", "4"))}, [{"encoder.bits": "2"}, {"encoder.bits": "4"}], "replicates=3"
    )
    runs = engine.runs(engine.draw()) + engine.runs(engine.draw())
    assert [run.config.seed for run in runs] == [0, 1, 2, 0, 1, 2]
    assert len({run.folder for run in runs}) == 6
    for run, accuracy in zip(runs, [0.1, 0.9, 0.2, 0.3, 0.3, 0.3], strict=True):
        engine.finish(run, result(run, accuracy))
    assert engine.trials[0].objectives(["test_accuracy", "total_bits"]) == [pytest.approx(0.4), 3.0]
    table = rows(engine)
    assert [(row["trial"], row["replicate"]) for row in table] == [(t, r) for t in "01" for r in "012"]
    # the means decide: 0.4 for fewer bits beats 0.3, although two of its replicates are worse
    assert [row["on_front"] for row in table] == ["True"] * 3 + ["False"] * 3


def test_one_failed_replicate_fails_its_trial_alone(start):
    engine = start(
        {"encoder.bits": Choices(("2", "4"))}, [{"encoder.bits": "2"}, {"encoder.bits": "4"}], "replicates=2"
    )
    runs = engine.runs(engine.draw()) + engine.runs(engine.draw())
    for run, status in zip(runs, ["complete", "failed", "complete", "complete"], strict=True):
        engine.finish(run, result(run, status=status))
    assert [trial.status for trial in engine.trials] == ["failed", "complete"]
    assert engine.trials[0].objectives(["test_accuracy"]) is None
    assert [row["on_front"] for row in rows(engine)] == ["False", "False", "True", "True"]


def test_what_the_budget_forbids_is_not_trained(start):
    points = [{"encoder.bits": bits} for bits in ("2", "4", "8")]
    unlimited = start({"encoder.bits": Choices(("2", "4", "8"))}, points, folder="first")
    while unlimited.may_draw():
        unlimited.draw()
    totals = [sum(sent) for sent in unlimited.sent.values()]
    engine = start({"encoder.bits": Choices(("2", "4", "8"))}, points, f"sweep.bit_budget={totals[1]}")
    runs = [run for _ in range(3) for run in engine.runs(engine.draw())]
    assert [run.trial for run in runs] == [0, 1]
    for run in runs:
        engine.finish(run, result(run))
    assert [row["status"] for row in rows(engine)] == ["complete", "complete", "pruned"]
    assert "more than sweep.bit_budget" in rows(engine)[2]["error"]


def test_a_drawn_combination_that_is_refused_is_one_bad_trial(start, config):
    engine = start(RATES, None, n_trials=2)
    configure = engine._configure

    def refuse(point):
        if not engine.trials[1:]:
            raise UserError("encoder.bits=9: too many")
        return configure(point)

    engine._configure = refuse
    work(engine, 1)
    assert [row["status"] for row in rows(engine)] == ["failed", "complete"]
    assert rows(engine)[0]["error"] == "encoder.bits=9: too many"


def test_results_that_are_there_are_not_made_again(start):
    """Whatever was finished when a sweep was cut off, the end is the same."""
    overrides = ["sweep.sampler.n_startup_trials=3", "replicates=2"]
    whole = start(RATES, None, *overrides, n_trials=8, folder="whole")
    work(whole, 2)
    for steps in range(0, 16, 3):
        cut = start(RATES, None, *overrides, n_trials=8, folder=f"cut{steps}")
        waiting, done = [], 0
        while done < steps:
            while cut.may_draw():
                waiting += cut.runs(cut.draw())
            run = waiting.pop(done % len(waiting))
            run.folder.mkdir(parents=True, exist_ok=True)
            left = result(run)
            write_json(run.folder / "result.json", left)
            cut.finish(run, left)
            done += 1
        for run in waiting[:2]:  # under way at the moment of the crash
            run.folder.mkdir(parents=True, exist_ok=True)
            write_json(run.folder / "result.json", {"status": "running"})
        again = start(RATES, None, *overrides, n_trials=8, folder=f"cut{steps}")
        made = []
        while not again.done:
            while again.may_draw():
                made += [(run, again.begin(run)) for run in again.runs(again.draw())]
            run = next(r for r, _ in made if again.trials[r.trial].results[r.replicate]["status"] == "running")
            again.finish(run, result(run))
        assert len(made) == 16 - steps
        assert rows(again) == rows(whole)


def finished(start):
    """(the folder of a sweep whose three trials are complete, the trials that it runs if it is resumed)"""
    points = [{"encoder.bits": bits} for bits in ("2", "4", "8")]
    choices = {"encoder.bits": Choices(("2", "4", "8"))}

    def runs():
        engine = start(choices, points)
        return engine, [run for _ in points for run in engine.runs(engine.draw())]

    engine, made = runs()
    for run in made:
        run.folder.mkdir()
        write_result(run.folder, {**result(run), "configuration": schema.digest(run.config)})
        engine.finish(run, result(run))
    return engine.folder, lambda: [run.trial for run in runs()[1]]


def test_a_finished_run_whose_result_is_damaged_is_made_again_and_no_other(start, capsys):
    folder, again = finished(start)
    path = folder / "1" / "result.json"
    path.write_text(path.read_text().replace('"complete"', '"failed"'))
    assert again() == [1]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{path}: ") and line.endswith("kept as result.json.damaged, and the run is made again")
    assert not path.exists() and path.with_name("result.json.damaged").exists()


def test_results_in_folders_that_were_exchanged_are_made_again(start, capsys):
    folder, again = finished(start)
    for old, new in (("0", "aside"), ("1", "0"), ("aside", "1")):
        (folder / old).rename(folder / new)
    assert again() == [0, 1]
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(folder / k / "result.json") for k in "01"]
    assert all("is the result of another configuration; kept as result.json.damaged" in line for line in lines)


def test_a_mark_of_a_duplicate_that_is_none_is_no_result(start):
    points = [{"encoder.bits": bits} for bits in ("2", "4")]
    engine = start({"encoder.bits": Choices(("2", "4"))}, points)
    (engine.folder / "1").mkdir()
    write_result(engine.folder / "1", {"status": "duplicate", "duplicate_of": 0})
    assert [run.trial for _ in points for run in engine.runs(engine.draw())] == [0, 1]


def test_the_front_uses_the_objectives_that_are_asked_for(start):
    points = [{"encoder.bits": "2"}, {"encoder.bits": "4"}]
    overrides = ["sweep.objectives=[minimize uplink_bits]"]
    engine = start({"encoder.bits": Choices(("2", "4"))}, points, *overrides)
    for run in [*engine.runs(engine.draw()), *engine.runs(engine.draw())]:
        engine.finish(run, result(run))
    assert [row["on_front"] for row in rows(engine)] == ["True", "False"]
    assert dataclasses.asdict(engine.record)["objectives"] == {"uplink_bits": "minimize"}


def test_a_sweep_that_cannot_plan_stops_and_blames_no_trial(start):
    engine = start({"encoder.bits": Choices(("2", "4"))}, [{"encoder.bits": "2"}, {"encoder.bits": "4"}])

    def lost(_):
        raise SweepFailed("workers end over a plan")

    engine._plan = lost
    with pytest.raises(SweepFailed):
        engine.draw()
    engine.close()
    engine.write()
    assert rows(engine) == [] and not (engine.folder / "0").exists()
