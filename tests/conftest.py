"""What tests share. TensorFlow's environment is set before any test imports it, as `python -m fedsweep` does."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import hydra
import mlflow
import platformdirs
import pytest

from fedsweep import cli, environment, schema, secrets, tracking

# Tests that run at the same time keep to a core each, with the sweeps that they start.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
environment.configure(schema.MapReduceRuntime("map_reduce", 2))
# A job in a shell's background ignores interrupts, one under nohup hang-ups, and so would all that it starts: tests
# send both to runs, and TFF interrupts its worker.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parents[1]
_PYTESTS_OWN = "PYTEST_CURRENT_TEST"


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with the real data sets: FEDSWEEP_DATA, or shared/data beside the checkout."""
    folder = Path(os.environ.get("FEDSWEEP_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "mnist_by_writer").is_dir():
        pytest.skip(f"no mnist_by_writer in {folder}; FEDSWEEP_DATA names the folder that has it")
    return folder


@contextlib.contextmanager
def _environment_restored() -> Iterator[None]:
    found = {name: value for name, value in os.environ.items() if name != _PYTESTS_OWN}
    yield
    for name in os.environ.keys() - found.keys() - {_PYTESTS_OWN}:
        del os.environ[name]
    os.environ.update(found)


@pytest.fixture(scope="module", autouse=True)
def environment_of_the_module() -> Iterator[None]:
    """What a module's fixtures put into the environment (MLflow's server does) is in no other module's."""
    with _environment_restored():
        yield


@pytest.fixture(autouse=True)
def environment_of_its_own(monkeypatch) -> Iterator[None]:
    """What a test, or a command that it calls in this process, puts into the environment is in no other's."""
    monkeypatch.setattr(secrets, "_known", {})  # nor is what it plants masked there
    with _environment_restored():
        yield


@pytest.fixture(scope="session")
def config():
    """`config("encoder.bits=4", ...)`: the checked configuration that the command line would give."""

    def checked(*overrides: str) -> schema.Config:
        with hydra.initialize_config_dir(cli.config_folder(), version_base="1.3"):
            return schema.check(hydra.compose("config", list(overrides)))

    return checked


@pytest.fixture
def fedsweep(tmp_path):
    """`fedsweep(*arguments)`: runs `python -m fedsweep` in an empty folder of its own; stdout and stderr as text."""
    folder = tmp_path / "work"
    folder.mkdir()

    def run(*arguments: str, module: str = "fedsweep", **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )

    run.folder = folder
    return run


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    """A folder that all processes of this test run share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session", autouse=True)
def temporary(tmp_path_factory) -> Path:
    """What this process's tests, and all that they start, see as the folder for temporary files."""
    folder = tmp_path_factory.getbasetemp() / "temporary"
    folder.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    return folder


@pytest.fixture(autouse=True)
def nothing_left(temporary) -> Iterator[None]:
    """A test fails that leaves a temporary file behind."""
    before = set(temporary.iterdir())
    yield
    left = {path.name for path in set(temporary.iterdir()) - before}
    assert not {name for name in left if not name.startswith("__autograph_generated_file")}  # TensorFlow's, until exit


@pytest.fixture(scope="session", autouse=True)
def cache(shared_folder) -> None:
    """What is cached is cached for this test run alone; but for matplotlib's fonts, which take long to find."""
    os.environ.setdefault("MPLCONFIGDIR", str(platformdirs.user_cache_path("matplotlib")))
    os.environ["XDG_CACHE_HOME"] = str(shared_folder / "cache")


@pytest.fixture(scope="session")
def made_once(shared_folder) -> Callable[[str, Callable[[Path], None]], Path]:
    """`made_once(name, make)`: a folder that `make` has filled, once for all processes of this test run."""
    root = shared_folder

    def folder(name: str, make: Callable[[Path], None]) -> Path:
        place, done = root / name, root / f"{name}.done"
        with filelock.FileLock(root / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
                make(place)
                done.touch()
        return place

    return folder


@pytest.fixture(scope="session")
def migrated_database(made_once) -> Path:
    """An MLflow database in which nothing has been tracked; making one takes MLflow seconds."""
    return made_once("store", lambda place: _migrate(place / "mlflow.db")) / "mlflow.db"


def _migrate(path: Path) -> None:
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()


@pytest.fixture
def ready_store(request, tmp_path, migrated_database) -> None:
    """The test's working folder holds the default tracking store already. (Others see its first use.)"""
    folder = request.getfixturevalue("fedsweep").folder if "fedsweep" in request.fixturenames else tmp_path
    (folder / "multirun_outputs").mkdir()
    shutil.copy(migrated_database, folder / "multirun_outputs" / "mlflow.db")


@pytest.fixture
def about(tmp_path) -> tracking.About:
    """What a tracker must know of a run, in the test's folder."""
    (tmp_path / "config.yaml").write_text("rounds: 2\n")
    data = {"description": "digits", "source": "here", "sha256": "0" * 64}
    bits = ("clients", "messages", "float32_uplink_bits", "float32_downlink_bits", "uplink_bits", "downlink_bits")
    environment = {"command": ["fedsweep"], "git_commit": None, "data": data}
    return tracking.About("run", tmp_path, environment, dict.fromkeys(bits, 1))
