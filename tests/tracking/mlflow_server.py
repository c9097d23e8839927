"""A real MLflow server that can be taken away and brought back."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil


class Server:
    """`mlflow server` on a database in a folder; always at the same address."""

    def __init__(self, folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri, self._folder, self._process = f"http://127.0.0.1:{self.port}", folder, None

    def start(self) -> None:
        command = ["server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        store = ["--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"]
        store += ["--artifacts-destination", str(self._folder / "artifacts")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command, *store],
            cwd=self._folder,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=(self._folder / "server.log").open("ab"),
        )
        deadline = time.monotonic() + 300
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.kill()
                raise AssertionError((self._folder / "server.log").read_text())
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=5)
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """It and what it has started are gone when this returns."""
        if self._process is None or self._process.poll() is not None:
            return
        everything = [*psutil.Process(self._process.pid).children(recursive=True), psutil.Process(self._process.pid)]
        for process in everything:
            process.kill()
        psutil.wait_procs(everything, timeout=20)
        self._process.wait()
