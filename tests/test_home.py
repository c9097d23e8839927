"""Users without a home folder: a number that passwd does not know, HOME unset or what Docker makes of it."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

from fedsweep import home
from fedsweep.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
NOBODY = 54321  # passwd has no such user
TURN_INTO = (
    f"import os, sys; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY}); os.execv(sys.argv[1], sys.argv[1:])"
)
SHOW = "import os, fedsweep; print(os.environ['HOME'])"


@pytest.fixture
def as_nobody():
    """`as_nobody(*arguments, **environment)`: Python with the number of a user who is not in passwd, in his folder."""
    if os.getuid() != 0:
        pytest.skip("only root can take another user's number")
    folder = Path(tempfile.mkdtemp(prefix="fedsweep-test-", dir="/tmp"))  # pytest's own folders are closed to others
    os.chown(folder, NOBODY, NOBODY)
    given = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR")}
    given |= {"PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}", "TMPDIR": str(folder)}

    def run(*arguments: str, python: str, **environment: str) -> subprocess.CompletedProcess:
        # Not subprocess's `user`: it forks, and gRPC's threads in the tests' process may end such a child with SIGSEGV.
        command = [sys.executable, "-I", "-S", "-c", TURN_INTO, python, *arguments]
        return subprocess.run(command, cwd=folder, env={**given, **environment}, capture_output=True, text=True)

    try:
        python = next(filter(None, (_usable(run, python) for python in (sys.executable, "/usr/bin/python3.11"))), None)
        if python is None:
            pytest.skip(f"{sys.executable} or {ROOT} is closed to other users")
        as_nobody = functools.partial(run, python=python)
        as_nobody.folder = folder
        yield as_nobody
    finally:
        shutil.rmtree(folder)


def _usable(run, python: str) -> str | None:
    """A Python of root's own (pyenv's, say) is closed to others."""
    return None if run("-c", "import fedsweep, numpy", python=python, HOME="/nowhere").returncode else python


@pytest.mark.parametrize("given", [{}, {"HOME": "/"}, {"HOME": ""}, {"HOME": "here"}], ids=str)
def test_one_who_has_no_home_gets_a_temporary_one_and_is_told_once(as_nobody, given):
    command = f"{SHOW}; import subprocess, sys; subprocess.run([sys.executable, '-c', {SHOW!r}])"  # a worker, say
    done = as_nobody("-c", command, **given)
    temporary = as_nobody.folder / f"fedsweep-{NOBODY}"
    assert done.stdout.split() == [str(temporary)] * 2
    assert done.stderr == f"fedsweep: there is no home folder; caches are in {temporary} (HOME names another)\n"
    assert temporary.stat().st_mode & 0o777 == 0o700 and temporary.stat().st_uid == NOBODY
    assert as_nobody("-c", SHOW, **given).stdout.split() == [str(temporary)]  # the same for the next command


def test_a_home_that_is_there_stays(as_nobody):
    done = as_nobody("-c", SHOW, HOME=str(as_nobody.folder))
    assert (done.stdout, done.stderr) == (f"{as_nobody.folder}\n", "")


def test_a_temporary_home_of_somebody_else_is_not_used(as_nobody):
    """Graphs from the cache run: a folder that others may write would be their way in."""
    taken = as_nobody.folder / f"fedsweep-{NOBODY}"
    for make in (lambda: taken.mkdir(mode=0o777), lambda: taken.symlink_to(ROOT)):
        make()  # root's
        used = Path(as_nobody("-c", SHOW).stdout.strip())
        assert used != taken and used.parent == as_nobody.folder and used.stat().st_uid == NOBODY
        taken.rmdir() if not taken.is_symlink() else taken.unlink()


def test_without_any_folder_it_is_one_line(as_nobody):
    os.chown(as_nobody.folder, 0, 0)
    command = "import tempfile; tempfile.tempdir = '/proc/none'; import fedsweep"
    done = as_nobody("-c", command)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "set HOME to a folder" in done.stderr


def test_a_run_with_every_library_needs_no_home(as_nobody):
    """TensorFlow, Keras, TFF, MLflow, matplotlib, the cache of graphs: nothing fails, nothing is named `~`."""
    run = (
        "-m",
        "fedsweep",
        "-m",
        "rounds=1",
        "model=2nn",
        "clients_per_round=2",
        "encoder.bits=2",
        "hydra.sweep.dir=out",
    )
    done = as_nobody(*run)
    assert done.returncode == 0, done.stderr
    temporary = as_nobody.folder / f"fedsweep-{NOBODY}"
    first, *others = done.stderr.splitlines()
    assert first == f"fedsweep: there is no home folder; caches are in {temporary} (HOME names another)"
    assert set(others) <= {"Matplotlib is building the font cache; this may take a moment."}  # of every new home
    assert {path.name for path in as_nobody.folder.iterdir()} == {"out", "multirun_outputs", temporary.name}
    assert (as_nobody.folder / "out" / "figures" / "pareto.png").exists()
    assert list((temporary / ".cache" / "fedsweep" / "graphs").iterdir())


def test_the_home_of_a_user_who_is_not_there_is_one_line():
    with pytest.raises(UserError, match=r"^dataset.dir=~no-such-user/data: ~no-such-user has no home folder; "):
        home.expanded("dataset.dir", "~no-such-user/data")
    assert home.expanded("dataset.dir", "~/data") == Path.home() / "data"
