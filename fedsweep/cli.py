"""What the commands share: where the configuration lies, and how an error looks to a person."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedsweep import composing, interrupts, secrets, shown, streams
from fedsweep.errors import NotWritten, UserError
from fedsweep.files import write_atomically

composing.install()


def config_folder() -> str:
    """The folder `conf`: inside the package in an installed wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "conf"
    return str(installed if installed.is_dir() else package.parent / "conf")


# HYDRA_FULL_ERROR=1 asks for tracebacks. It is set below for Hydra's own sake, so the wish is read once, here.
_TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1"


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """What every command runs in: streams cost no run, no secret reaches them, errors are one line."""
    streams.guard()
    with secrets.guarded(), _one_line_errors():
        yield


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """Ends the program with status 1 and one line on stderr for what a person can mend; 130 after Ctrl-C.

    Anything else keeps its traceback: it is a defect of fedsweep. HYDRA_FULL_ERROR=1 shows tracebacks for all.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing several lines of its own
    try:
        with _interrupts_as_such():
            yield
    except KeyboardInterrupt:
        print("fedsweep: interrupted", file=sys.stderr)
        sys.exit(130)
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        if _TRACEBACKS:
            raise
        print(f"fedsweep: {one_line(error)}", file=sys.stderr)
        sys.exit(getattr(error, "exit_status", 1))
    except ValueError as error:
        if _TRACEBACKS or not str(error).startswith("Unable to configure"):  # the words of logging.config
            raise
        print(f"fedsweep: hydra.job_logging, hydra.hydra_logging: {error} ({error.__cause__})", file=sys.stderr)
        sys.exit(1)


@contextlib.contextmanager
def _interrupts_as_such() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if interrupts.behind(error):
            raise KeyboardInterrupt from error
        raise


def refuse_options() -> None:
    """Refuses options of Hydra's that do not go together; it has tracebacks for them."""
    options = get_args_parser().parse_args()
    if options.experimental_rerun is not None:
        raise UserError(
            "--experimental-rerun: reads a pickle, which can run any code; give the run's overrides instead"
        )
    if options.help or options.hydra_help:
        return
    chosen = {
        "--run": options.run,
        "--multirun": options.multirun,
        "--cfg": options.cfg is not None,
        "--info": options.info is not None,
        "--shell-completion": options.shell_completion,
    }
    if len(both := [name for name, is_there in chosen.items() if is_there]) > 1:
        raise UserError(f"{' with '.join(both)}: only one of them at a time")
    if options.resolve and options.cfg is None:
        raise UserError("--resolve: goes with --cfg, as in --cfg job --resolve")
    kinds = ("install=", "uninstall=", "query=")
    if options.shell_completion and sum(text.startswith(kinds) for text in options.overrides) != 1:
        raise UserError("--shell-completion: takes one of install, uninstall and query, as in install=bash")
    if options.config_path and options.config_path.endswith((".yaml", ".yml")):
        raise UserError(f"--config-path {options.config_path}: must be a folder; --config-name names a file in it")


def refuse_chdir(hydra_config: DictConfig) -> None:
    """Relative paths (of sweeps, data, the MLflow database) mean the folder that the command was started in."""
    if hydra_config.job.chdir:
        raise UserError("hydra.job.chdir=true: must stay false; a run's files are in hydra.run.dir all the same")


def refuse_subdir(hydra_config: DictConfig) -> None:
    """A trial's folder is its number: resume, trials.csv and the figures rely on it."""
    subdir = OmegaConf.to_container(hydra_config.sweep, resolve=False)["subdir"]
    if subdir != "${hydra.job.num}":
        raise UserError(f"hydra.sweep.subdir={subdir}: must stay ${{hydra.job.num}}, the trial's number")


_ROOM = {
    errno.ENOSPC: "free some space on its disk",
    errno.EDQUOT: "free some space, or have the quota raised",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.EROFS: "its disk is mounted to be read only",
}


def _one_line_of_a_file(error: OSError) -> str:
    """The file, if the error knows it, what is wrong with it, and what helps."""
    parts = [f"{error.filename}: {error.strerror}" if error.filename else error.strerror]
    if error.errno in _ROOM:
        parts.append(_ROOM[error.errno])
    elif error.filename and _is_output(str(error.filename)):
        parts.append("hydra.run.dir or hydra.sweep.dir names the output folder")
    if isinstance(error, NotWritten) and {"-m", "--multirun"} & set(sys.argv):
        parts.append("then sweep.resume=latest goes on")
    return "; ".join(parts)


def _is_output(name: str) -> bool:
    """Whether the path lies in an output folder, or above one that could not be made."""
    keys = ("hydra.run.dir=", "hydra.sweep.dir=")
    folders = [argument.partition("=")[2] for argument in sys.argv if argument.startswith(keys)]
    path = Path(name).absolute()
    places = [Path(folder).absolute() for folder in (*folders, "multirun_outputs")]
    return any(path.is_relative_to(place) or place.is_relative_to(path) for place in places)


def mask_hydras(hydra_config: DictConfig) -> None:
    """Masks what Hydra has just written of the configuration, where `hydra.output_subdir` asks for it."""
    if hydra_config.output_subdir is None:
        return
    for path in (Path(hydra_config.runtime.output_dir) / hydra_config.output_subdir).glob("*.yaml"):
        content = OmegaConf.to_container(OmegaConf.load(path))
        secrets.learn(content)
        if (masked := secrets.masked_tree(content)) != content:
            write_atomically(path, OmegaConf.to_yaml(OmegaConf.create(masked)))


def one_line(error: Exception) -> str:
    """An error's own words in one line, without what only repeats or decorates them."""
    return shown.printable(secrets.masked(_one_line(error)))  # in this order: an escaped secret is not recognized


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return _one_line_of_a_file(error)
    if isinstance(error, MissingConfigException) and error.options:
        return f"{error.missing_cfg_file}: no such choice; choose one of {', '.join(error.options)}"
    if unknown := re.match(r"Could not override '(.+?)'", str(error)):
        return f"{unknown[1]}: no such key; python -m fedsweep --cfg job shows them all"
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    return "; ".join(line for line in lines if not line.startswith(("full_key:", "object_type=", "reference_type=")))
