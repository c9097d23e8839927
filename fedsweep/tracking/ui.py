"""`make ui`: MLflow's pages on this machine, after runs whose processes were killed have been closed.

python -m fedsweep.tracking.ui --port 5000
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import mlflow

from fedsweep import cli
from fedsweep.errors import UserError
from fedsweep.tracking import mlflow_store


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fedsweep.tracking.ui", description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=5000)
    port = parser.parse_args().port
    with cli.one_line_errors():
        if not 1 <= port <= 65535:
            raise UserError(f"--port {port}: must be from 1 to 65535")
        uri = os.environ.get("MLFLOW_TRACKING_URI") or mlflow_store.default_uri()
        path = Path(uri.removeprefix("sqlite:///"))
        if uri.startswith("sqlite:///") and not path.exists():
            raise UserError(f"{path}: is not there; run a sweep first (make sweep), or start this where one was run")
        client = mlflow.MlflowClient(uri)
        if uri.startswith(("http://", "https://")):
            print(f"MLFLOW_TRACKING_URI names a server: open {uri}")
            return
        closed = mlflow_store.close_dead(client, [one.experiment_id for one in client.search_experiments()])
        if closed:
            print(f"{closed} runs of processes that were killed are now failed")
        print(f"Open http://127.0.0.1:{port} and choose the experiment fedsweep; Ctrl-C ends it.", flush=True)
    server = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, [*server, "--backend-store-uri", uri])


if __name__ == "__main__":
    main()
