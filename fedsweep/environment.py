"""What must be set before TensorFlow is imported, and what a run's environment was."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fedsweep import schema
from fedsweep.secrets import masked_tree

if TYPE_CHECKING:
    from fedsweep.datasets import FederatedDataset

PACKAGES = ("fedsweep", "tensorflow", "tensorflow-federated", "tensorflow-model-optimization", "numpy", "hydra-core")
_TENSORFLOW = (
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "TF_CPP_MIN_LOG_LEVEL",
)


def threads(runtime: schema.MapReduceRuntime | schema.TffRuntime) -> int:
    """Clients that train at the same time: the configured number, or the cores this process may use."""
    configured = runtime.threads if isinstance(runtime, schema.MapReduceRuntime) else None
    return configured or len(os.sched_getaffinity(0))


def configure(runtime: schema.MapReduceRuntime | schema.TffRuntime) -> None:
    """Sets TensorFlow's environment variables where the user has not; works only before TensorFlow is imported.

    oneDNN is off by default on CPUs without AVX-512 and makes convolutions up to 5 times faster there. One thread per
    operation and one client per core beats two threads inside each operation, and it makes sums repeat bit for bit.
    """
    os.environ.update(tensorflow_variables(threads(runtime)))


def tensorflow_variables(clients: int) -> dict[str, str]:
    """The variables for a process that trains so many clients at the same time; what the user has set stays."""
    values = zip(_TENSORFLOW, ("1", "1", str(clients), "3"), strict=True)
    return {name: os.environ.get(name, value) for name, value in values}


def describe(runtime: schema.MapReduceRuntime | schema.TffRuntime, dataset: FederatedDataset) -> dict:
    """What environment.json holds: versions, git commit, CPU, threads, command, and which data it was."""
    described = {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "git_commit": git_commit(),
        "cpu": cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads(runtime),
        "tensorflow_environment": {name: os.environ.get(name) for name in _TENSORFLOW},
        "command": sys.argv,
        "started_in": str(Path.cwd()),
        "data": {"description": dataset.summary(), "source": dataset.source, "sha256": dataset.digest()},
    }
    return masked_tree(described)


def git_commit() -> str | None:
    """The checkout's commit, with "-dirty" if it was changed; None for an installed wheel."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git, or no commit yet
        return None
    return described.stdout.strip()


def cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
