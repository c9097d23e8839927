"""The commands as a person meets them, each in a process of its own."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import psutil
import pytest
import yaml
from variations import some

from fedsweep import cli, schema

FAST = ("tracker=csv", "rounds=2", "evaluate_every=1", "model=2nn", "clients_per_round=3", "encoder.threshold=1000")


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["encoder.bits=99"], ["-m", "encoder.bits=2,99"]])
def test_nothing_heavy_is_imported_before_the_configuration_is_checked(tmp_path, arguments):
    program = (
        "import atexit, sys\n"
        "heavy = {'tensorflow', 'tensorflow_federated', 'mlflow', 'optuna', 'sklearn'}\n"
        "atexit.register(lambda: print('loaded:', sorted(heavy & set(sys.modules))))\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "from fedsweep.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "loaded: []", done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["encodr.bits=2"], "encodr"),
        (["encoder.bitz=2"], "encoder.bitz: no such key"),
        (["encoder=null"], "Config group override must be a string"),
        (["-m", "encoder.bits=glob(*)"], "the sweep has no point"),
        (["dataset=mnist_by_writer", "dataset.dir="], "dataset.dir"),
        (["tracker.uri=nosuch://x"], "tracker.uri=nosuch://x: cannot be used"),
        (["encoder=zip"], f"choose one of {', '.join(sorted(schema.GROUPS['encoder']))}"),
        (["encoder.bits=17"], "encoder.bits=17: must be from 1 to 16"),
        (["-m", "encoder.bits=2,17"], "encoder.bits=17: must be from 1 to 16"),
        (["-m", "encoder.bitz=2,4"], "encoder.bitz: no such key"),
        (["-m", "clients_per_round=10,21"], "clients_per_round=21: the data set digits has 20 clients"),
        (["dataset=mnist_by_writer", "dataset.dir=/dev/null"], "/dev/null"),
        (["tracker.uri=http://127.0.0.1:9"], "tracker.uri=http://127.0.0.1:9: cannot be used"),
        (["-m", "encoder.bits=2,4", "tracker.uri=http://127.0.0.1:9"], "tracker.uri=http://127.0.0.1:9"),
    ],
)
def test_bad_input_is_one_line_and_status_1_and_leaves_no_run(fedsweep, arguments, says):
    done = fedsweep(*arguments)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("fedsweep: ") and says in done.stderr
    assert not list(fedsweep.folder.rglob("*.*")), "something was written"


@pytest.mark.parametrize(
    "arguments", [["hydra.run.dir=/proc/run"], ["-m", "encoder.bits=2,4", "hydra.sweep.dir=/proc/run"]]
)
def test_a_folder_that_cannot_be_written_is_named(fedsweep, arguments):
    done = fedsweep(*arguments)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and "/proc/run" in done.stderr
    if (fedsweep.folder / "multirun_outputs" / "mlflow.db").exists():
        client = mlflow.MlflowClient(f"sqlite:///{fedsweep.folder}/multirun_outputs/mlflow.db")
        assert not client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])


def test_a_run_leaves_the_files_of_the_contract_and_refuses_to_be_overwritten(fedsweep):
    done = fedsweep(*FAST, "hydra.run.dir=out")
    assert done.returncode == 0, done.stderr
    folder = fedsweep.folder / "out"
    assert sorted(p.name for p in folder.iterdir()) == ["config.yaml", "environment.json", "result.json", "rounds.csv"]

    rows = list(csv.DictReader((folder / "rounds.csv").open()))
    assert ",".join(rows[0]) == (
        "round,train_loss,train_accuracy,test_loss,test_accuracy,uplink_bits,downlink_bits,total_bits,seconds"
    )
    assert [row["round"] for row in rows] == ["1", "2"]
    assert int(rows[1]["uplink_bits"]) == 2 * int(rows[0]["uplink_bits"])  # cumulative
    assert int(rows[1]["total_bits"]) == int(rows[1]["uplink_bits"]) + int(rows[1]["downlink_bits"])

    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "complete" and result["rounds"] == 2
    assert result["test_accuracy"] == float(rows[1]["test_accuracy"])
    assert result["total_bits"] == int(rows[1]["total_bits"])
    assert yaml.safe_load((folder / "config.yaml").read_text())["encoder"]["bits"] == 8
    assert json.loads((folder / "environment.json").read_text())["packages"]["tensorflow-federated"] == "0.87.0"
    assert "round 2/2" in done.stdout and "Mibit" in done.stdout  # plain progress lines, the table

    before = (folder / "rounds.csv").read_text()
    again = fedsweep(*FAST, "hydra.run.dir=out")
    assert again.returncode == 1 and "is there already" in again.stderr
    assert (folder / "rounds.csv").read_text() == before


def test_rounds_without_evaluation_have_empty_test_cells_and_the_last_round_is_evaluated(fedsweep):
    assert fedsweep(*FAST, "rounds=3", "evaluate_every=2", "hydra.run.dir=out").returncode == 0
    rows = list(csv.DictReader((fedsweep.folder / "out" / "rounds.csv").open()))
    assert [row["test_accuracy"] != "" for row in rows] == [False, True, True]


def test_equal_seeds_give_equal_rounds_and_other_seeds_others(fedsweep):
    done = fedsweep("-m", *FAST, "encoder.bits=3", "seed=5,6", "hydra.sweep.dir=a")
    assert done.returncode == 0, done.stderr
    assert fedsweep(*FAST, "encoder.bits=3", "seed=5", "hydra.run.dir=b", "runtime.threads=1").returncode == 0

    def rounds(folder):
        rows = list(csv.DictReader((fedsweep.folder / folder / "rounds.csv").open()))
        return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]

    # bit for bit, in another process and with another number of threads
    assert rounds("a/0") == rounds("b")
    assert rounds("a/0") != rounds("a/1")


def test_a_run_that_diverges_keeps_its_rounds_and_says_so(fedsweep):
    done = fedsweep(*FAST, "optimizer.client_lr=1e30", "rounds=5", "hydra.run.dir=out")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and "diverged" in done.stderr
    result = json.loads((fedsweep.folder / "out" / "result.json").read_text())
    rows = list(csv.DictReader((fedsweep.folder / "out" / "rounds.csv").open()))
    assert result["status"] == "diverged" and result["rounds"] == len(rows) < 5
    assert "round" in result["error"]


def test_a_plan_that_encodes_nothing_is_announced_before_training(fedsweep):
    done = fedsweep(*FAST, "encoder.threshold=10000000", "hydra.run.dir=out")
    announced, first_round = done.stdout.find("encodes nothing"), done.stdout.find("round 1/2")
    assert 0 <= announced < first_round


@pytest.mark.parametrize("name", ["config.yaml", "rounds.csv"])
def test_a_run_writes_over_no_file_of_somebody_elses(fedsweep, name):
    (fedsweep.folder / name).write_text("kept")
    done = fedsweep(*FAST, "hydra.run.dir=.")
    assert done.returncode == 1 and name in done.stderr
    assert (fedsweep.folder / name).read_text() == "kept"


def test_encoders_are_compared_on_the_same_clients_and_shuffles(fedsweep):
    """In round 1 clients train from the same weights, whatever they send afterwards; then training goes apart."""
    arguments = ("-m", *FAST, "encoder=identity,uniform,hadamard", "encoder.bits=1", "client_epochs=2")
    assert fedsweep(*arguments, "hydra.sweep.dir=out").returncode == 0
    first, second = zip(
        *[
            [row["train_loss"] for row in csv.DictReader((fedsweep.folder / "out" / str(n) / "rounds.csv").open())]
            for n in range(3)
        ],
        strict=True,
    )
    assert len(set(first)) == 1 and len(set(second)) == 3


@pytest.mark.usefixtures("ready_store")
def test_ctrl_c_in_a_sweep_shows_what_is_there_and_closes_its_runs(fedsweep):
    command = [sys.executable, "-m", "fedsweep", "-m", "rounds=3,100000", "evaluate_every=1", "hydra.sweep.dir=out"]
    running = subprocess.Popen(
        [*command, "model=2nn", "sweep.max_workers=1"], cwd=fedsweep.folder, stdout=subprocess.PIPE, text=True
    )
    try:
        _wait_for_two_rounds(running, fedsweep.folder / "out" / "1")
        running.send_signal(signal.SIGINT)
        output, _ = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130
    assert output.splitlines()[-1] == "Files: out/trials.csv"
    trials = list(csv.DictReader((fedsweep.folder / "out" / "trials.csv").open()))
    assert [row["status"] for row in trials] == ["complete", "interrupted"]
    client = mlflow.MlflowClient(f"sqlite:///{fedsweep.folder}/multirun_outputs/mlflow.db")
    parent = yaml.safe_load((fedsweep.folder / "out" / "sweep.yaml").read_text())["mlflow_run_id"]
    runs = [client.get_run(run_id) for run_id in (parent, *(row["mlflow_run_id"] for row in trials))]
    assert [run.info.status for run in runs] == ["KILLED", "FINISHED", "KILLED"]


def test_runs_started_together_in_a_fresh_folder_do_not_disturb_each_other(fedsweep):
    command = [sys.executable, "-m", "fedsweep", *FAST, "tracker=mlflow"]
    pair = [subprocess.Popen(command, cwd=fedsweep.folder, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(run.communicate()[1], run.returncode) for run in pair] == [("", 0), ("", 0)]
    assert len(list(fedsweep.folder.glob("multirun_outputs/runs/*/result.json"))) == 2


def test_an_interrupt_that_ends_as_another_error_is_one_line_all_the_same(capsys):
    with pytest.raises(SystemExit) as ended, cli.one_line_errors(), cli.one_line_errors():
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("cannot release un-acquired lock")
    assert (ended.value.code, capsys.readouterr().err) == (130, "fedsweep: interrupted\n")


@pytest.mark.parametrize("kind", some([signal.SIGINT, signal.SIGTERM, signal.SIGHUP], [signal.SIGTERM]))
def test_signals_leave_a_run_that_says_interrupted(fedsweep, kind):
    command = [
        sys.executable,
        "-m",
        "fedsweep",
        "tracker=csv",
        "rounds=100000",
        "evaluate_every=1",
        "hydra.run.dir=out",
    ]
    running = subprocess.Popen(
        command, cwd=fedsweep.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        _wait_for_two_rounds(running, fedsweep.folder / "out")
        running.send_signal(kind)
        _, errors = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130, errors
    assert json.loads((fedsweep.folder / "out" / "result.json").read_text())["status"] == "interrupted"


def test_a_signal_to_all_processes_of_a_run_leaves_no_worker_of_tffs(fedsweep):
    """As a terminal or a scheduler ends a run: the worker gets the signal too, and TFF starts another one."""
    command = [sys.executable, "-m", "fedsweep", "runtime=tff", "tracker=csv", "rounds=100000", "hydra.run.dir=out"]
    running = subprocess.Popen(
        command, cwd=fedsweep.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait_for_two_rounds(running, fedsweep.folder / "out")
        os.killpg(running.pid, signal.SIGTERM)
        assert running.wait(timeout=60) == 130
        time.sleep(2)
        assert not _session(running.pid)
    finally:
        for pid in _session(running.pid):
            os.kill(pid, signal.SIGKILL)


def _wait_for_two_rounds(running: subprocess.Popen, folder: Path) -> None:
    """Returns when the run in the folder has finished two rounds, or the process has ended."""
    rounds = folder / "rounds.csv"
    while running.poll() is None and (not rounds.exists() or len(rounds.read_text().splitlines()) < 3):
        time.sleep(0.1)


def _session(leader: int) -> list[int]:
    """The processes of a session that run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def test_the_plan_command_shows_the_bits_of_the_tutorials_cnn(fedsweep):
    done = fedsweep("encoder.bits=8", "model=cnn", "dataset=mnist_by_writer", "downlink=same", module="fedsweep.plan")
    assert done.returncode == 0, done.stderr
    assert "1,663,370 parameters" in done.stdout
    assert "3136x512" in done.stdout and "14,680,128" in done.stdout  # 32 * 458752 + 64 bits
    assert "uplink 146.46 Mibit, downlink 146.46 Mibit" in done.stdout
    refused = fedsweep("encoder.bits=99", module="fedsweep.plan")
    assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1


def test_the_main_job_trains_on_real_digits_by_writer(fedsweep, data_folder):
    done = fedsweep(
        "dataset=mnist_by_writer", "model=cnn", "rounds=2", "clients_per_round=4", "tracker=csv", "hydra.run.dir=out",
        FEDSWEEP_DATA=str(data_folder),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "539 clients with 19 to 131 examples (median 116), 10000 test examples" in done.stdout


def test_the_wheel_runs_from_an_empty_folder(tmp_path):
    """Installs the built wheel beside the dependencies, without the checkout on the path."""
    root = Path(__file__).resolve().parents[1]
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", root],
        check=True,
        capture_output=True,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (dependencies,) = {p for p in sys.path if p.endswith("site-packages")}
    (site / "dependencies.pth").write_text(f"{dependencies}\n")  # adds the folder, but not the checkout that it links
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel],
        check=True,
        capture_output=True,
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    done = subprocess.run(
        [tmp_path / "env" / "bin" / "python", "-m", "fedsweep", "-m", *FAST, "encoder.bits=2,4", "rounds=1"],
        cwd=empty,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (trials,) = empty.glob("multirun_outputs/*/trials.csv")
    assert [row["encoder.bits"] for row in csv.DictReader(trials.open())] == ["2", "4"]
    commit = json.loads(next(empty.glob("multirun_outputs/*/0/environment.json")).read_text())["git_commit"]
    assert commit is None  # it ran from the wheel, not from the checkout
