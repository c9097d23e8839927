"""Secrets are planted in every key and variable that can hold one; then all that was written is searched for them."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import mlflow.server
import numpy as np
import psutil
import pytest
from mlflow.server import handlers
from variations import some
from werkzeug.serving import make_server

MARK = "hunter2"  # in all that is planted, and in nothing else
PASSWORD = f"{MARK}%40%20pass%3Aword%2F%27%22"  # percent-encoded: @, a blank, :, /, ' and "
NUMBER = "73190462"  # a secret, too
VARIABLES = {
    "MYSQL_PASSWORD_1": NUMBER,
    "MLFLOW_TRACKING_PASSWORD": f"{MARK}variable",
    "AWS_SECRET_ACCESS_KEY": f"{MARK}key",
    "HTTPS_PROXY": f"http://me:{MARK}proxy@127.0.0.1:9",
    "MLFLOW_REGISTRY_URI": f"sqlite:///registry.db?token={MARK}registry",
    "AZURE_STORAGE_CONNECTION_STRING": f"AccountName=me;AccountKey={MARK}azure;EndpointSuffix=core.windows.net",
}
# An experiment file that says how the tracker is reached, and what a run's own code would be given.
EXPERIMENT = f"""# @package _global_
tracker:
  uri: URI
hydra:
  job:
    env_set:
      FILES_TOKEN: {MARK}file
      FILES_PASSWORDS: 24681357
"""
# A user's own code that fails with everything it knows, and prints it.
MAKER = f"""
import inspect, os, sys, urllib.parse
from fedsweep.encoders.custom import half_precision
def make(spec):
    if not any(frame.function == "run_trial" for frame in inspect.stack()):  # the sweep's plan
        return half_precision(spec)
    known = [os.environ[name] for name in {list(VARIABLES)}] + [os.environ["PLANTED"]]
    known += [urllib.parse.unquote(one) for one in known]
    print("stdout:", *known)
    print("stderr:", *known, file=sys.stderr)
    raise RuntimeError(" and ".join(known))
"""
PORT = "a free one"
SMALL = ("rounds=1", "model=2nn", "clients_per_round=2")


@pytest.fixture(scope="module", autouse=True)
def _elsewhere(tmp_path_factory):
    """MLflow makes folders where it runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        yield


@pytest.fixture(scope="module")
def server(tmp_path_factory, migrated_database):
    """(address of a real MLflow server in this process, its folder); it takes any user and password."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "mlflow.db").write_bytes(migrated_database.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
        patch.setenv("_MLFLOW_SERVER_SERVE_ARTIFACTS", "true")
        patch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", str(folder / "artifacts"))
        for name in ("_tracking_store", "_model_registry_store", "_artifact_repo"):
            if hasattr(handlers, name):
                patch.setattr(handlers, name, None)
        handlers.initialize_backend_stores(f"sqlite:///{folder}/mlflow.db", None, "mlflow-artifacts:/")
        serving = make_server("127.0.0.1", 0, mlflow.server.app, threaded=True)
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{serving.server_port}", folder
        serving.shutdown()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    (folder / "planted.py").write_text(MAKER)
    (folder / "projectx").mkdir()  # data beside a file of credentials
    random = np.random.default_rng(1)
    images = {name: random.integers(0, 255, (size, 8, 8), np.uint8) for name, size in (("train", 60), ("test", 20))}
    arrays = {f"x_{name}": array for name, array in images.items()}
    labels = {f"y_{name}": np.arange(len(array)) % 3 for name, array in images.items()}
    np.savez(folder / "projectx" / "d.npz", **arrays, **labels)
    return folder


@pytest.fixture
def run(place, monkeypatch):
    """`run(*arguments, module=..., **variables)`: (status, both streams); no command line of a child has a secret."""

    def started(*arguments: str, module: str = "fedsweep", **variables: str) -> tuple[int, str]:
        environment = {
            **os.environ,
            **VARIABLES,
            "GOOGLE_APPLICATION_CREDENTIALS": f"{place}/projectx/service.json",
            "PYTHONPATH": f"{place}:{os.environ.get('PYTHONPATH', '')}",
            **variables,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", module, *(str(_free()) if one == PORT else one for one in arguments)],
            cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        lines: set[str] = set()
        reader = threading.Thread(target=lambda: lines.update(_children(process)))
        reader.start()
        output, _ = process.communicate(timeout=580)
        reader.join()
        assert not [line for line in lines if MARK in line or NUMBER in line]
        return process.returncode, output

    return started


def _children(process: subprocess.Popen) -> set[str]:
    found: set[str] = set()
    while process.poll() is None:
        try:
            for child in psutil.Process(process.pid).children(recursive=True):
                found.add(" ".join(child.cmdline()))
        except psutil.Error:
            pass
        time.sleep(0.1)
    return found


def leaks(*folders: Path) -> list[str]:
    """Files with the mark in them, except the maker's own (and bytecode of it)."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert files
    contents = {path: path.read_bytes() for path in files if path.stem.partition(".")[0] != "planted"}
    secret = [one.encode() for one in (MARK, NUMBER, "24681357")]
    return [str(path) for path, content in contents.items() if any(one in content for one in secret)]


def test_nothing_that_a_sweep_writes_has_a_secret_in_it(run, place, server, tmp_path):
    """One trial completes and one fails, in two trackers, with Hydra's own records; then pareto reads it from there."""
    address, store = server
    uri = f"http://me:{PASSWORD}@{address}"
    grids = "sweep.grids=[['encoder=identity'],['encoder=custom','encoder.maker=planted:make']]"
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "planted.yaml").write_text(EXPERIMENT.replace("URI", uri))
    given = f"{{MY_TOKEN:{MARK}token,MY_PASSWORD:{NUMBER},OTHER_TOKENS:[{MARK}list],THE_URL:'http://me:{MARK}url@h'}}"
    status, output = run(
        f"--config-dir={tmp_path}", "-m", *SMALL, grids, "sweep.max_failures=1", "sweep.max_workers=1",
        "tracker=[mlflow,tensorboard]", "+experiment=planted", f"+hydra.job.env_set={given}",
        "hydra.sweep.dir=multirun_outputs/a",
        "dataset=arrays", f"dataset.file={place}/projectx/d.npz", "dataset.clients=4", PLANTED=uri,
    )  # fmt: skip
    assert status == 0, output
    assert (
        NUMBER not in output
        and MARK not in output
        and f"MLflow: tracker.uri=http://***@{address}" in output
        and "failed" in output
    )
    assert leaks(place, store) == []

    folder = place / "multirun_outputs" / "a"
    written = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert "uri: http://***@" in written["0/config.yaml"].read_text()
    assert f"file: {place}/projectx/d.npz\n" in written["0/config.yaml"].read_text()
    assert "FILES_TOKEN: '***'" in written["multirun.yaml"].read_text()
    for name in ("multirun.yaml", "0/environment.json", "1/log.txt", "1/error.txt", "1/result.json", "trials.csv"):
        assert "***" in written[name].read_text(), name
    assert "***" in written["figures/provenance.json"].read_text()
    texts = [path for path in written.values() if path.suffix not in (".png", ".pdf")]  # compressed: any bytes
    opened = [path for path in texts if b"***" in path.read_bytes() and _is_open(path)]
    assert not opened and not _is_open(written["0/log.txt"]) and any("tensorboard" in name for name in written)

    (run_id,) = re.findall("^mlflow_run_id: (.*)$", written["sweep.yaml"].read_text(), re.MULTILINE)
    for way in ({"MLFLOW_TRACKING_URI": uri}, {}):
        options = () if way else ("--tracking-uri", uri)
        status, output = run(run_id, "--out", "out", "--formats", "png", *options, module="fedsweep.pareto", **way)
        assert status == 0 and MARK not in output, output
    assert "***" in (place / "out" / "provenance.json").read_text() and not _is_open(place / "out" / "provenance.json")
    status, output = run("--port", str(_free()), module="fedsweep.tracking.ui", MLFLOW_TRACKING_URI=uri)
    assert status == 0 and f"http://***@{address}" in output and MARK not in output
    assert leaks(place, store) == []


def _is_open(path: Path) -> bool:
    return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)


def _free() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


DEAD = f"postgresql://me:{MARK}@127.0.0.1:9/db?password={MARK} b"


FAILING = [  # module, arguments, variables
    ("fedsweep", (*SMALL, f"tracker.uri='{DEAD}'"), {}),
    ("fedsweep", (*SMALL, f"tracker.uri='{DEAD}'"), {"HYDRA_FULL_ERROR": "1"}),
    ("fedsweep", ("-m", "tracker=csv", f"sweep.storage='{DEAD}'"), {"HYDRA_FULL_ERROR": "1"}),
    ("fedsweep", (f"tracker.uri=http://me:{MARK} b@h",), {}),  # Hydra cannot parse it
    ("fedsweep", (f"tracker.url=me:{MARK}@h",), {}),
    ("fedsweep", (f"+hydra.job.env_set={{MY_TOKEN:{MARK}a,OTHER_TOKENS:[{MARK}b", "rounds=1"), {}),  # nor this
    ("fedsweep", (f"tracker={{uri:'http://me:{MARK}@h',unknown:1}}",), {}),
    ("fedsweep", (f"tracker.uri=me:{MARK}@h", "--cfg", "job"), {}),
    ("fedsweep.plan", (f"tracker.uri=http://me:{MARK}@h", f"--password={MARK}"), {}),
    ("fedsweep.pareto", ("0" * 32, "--tracking-uri", f"ftp://me:{MARK}@h"), {"HYDRA_FULL_ERROR": "1"}),
    ("fedsweep.pareto", ("0" * 32, f"--tracking-url={DEAD}"), {}),
    ("fedsweep.pareto", ("0" * 32,), {"MLFLOW_TRACKING_URI": DEAD}),
    ("fedsweep.tracking.ui", ("--port", PORT), {"MLFLOW_TRACKING_URI": DEAD, "HYDRA_FULL_ERROR": "1"}),
    ("fedsweep.tracking.ui", ("--port", PORT), {"MLFLOW_TRACKING_URI": f"me:{MARK}@h"}),
]


@pytest.mark.parametrize("failing", some(FAILING, [*FAILING[1:12:2], FAILING[12]]))
def test_no_error_has_a_secret_in_it(run, place, failing):
    module, arguments, variables = failing
    status, output = run(*arguments, module=module, **variables)
    assert MARK not in output
    assert (status == 0) == ("--cfg" in arguments), output
    if "HYDRA_FULL_ERROR" not in variables:
        assert "Traceback" not in output
    assert leaks(place) == []


def test_hydras_own_records_are_masked(run, place):
    status, output = run(
        *SMALL, "hydra.output_subdir=.hydra", "hydra.run.dir=one", f"tracker.uri=http://me:{MARK}@127.0.0.1:9",
    )  # fmt: skip
    assert status == 1 and "cannot be used" in output and MARK not in output
    records = {path.name: path for path in (place / "one" / ".hydra").iterdir()}
    assert set(records) == {"config.yaml", "hydra.yaml", "overrides.yaml"}
    assert all("***" in path.read_text() and not _is_open(path) for path in records.values())
    assert leaks(place) == []


def test_ctrl_c_ends_the_pages_and_a_port_in_use_is_said_first(place, migrated_database):
    (place / "ui").mkdir()
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{place}/ui/mlflow.db"}
    (place / "ui" / "mlflow.db").write_bytes(migrated_database.read_bytes())
    port = _free()
    command = [sys.executable, "-m", "fedsweep.tracking.ui", "--port", str(port)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    pages = subprocess.Popen(command, cwd=place, env=environment, **streams)
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(pages.stderr))  # a full pipe would stop the server
    reader.start()
    try:
        printed = iter(pages.stdout.readline, "")
        line = next(line for line in printed if "Open" in line)
        assert line.startswith(f"Open http://127.0.0.1:{port} ")
        with socket.create_connection(("127.0.0.1", port), timeout=5):  # it answers already
            pass
        second = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
        assert (second.returncode, second.stdout) == (1, "") and len(second.stderr.splitlines()) == 1
        assert f"--port {port}" in second.stderr and "in use" in second.stderr
    finally:
        children = psutil.Process(pages.pid).children(recursive=True)
        pages.send_signal(signal.SIGINT)
        pages.wait(60)
    reader.join()
    assert pages.returncode == 0 and "Traceback" not in "".join(errors)
    assert children and not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
