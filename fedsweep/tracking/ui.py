"""`make ui`: MLflow's pages on the store that runs use (MLFLOW_TRACKING_URI, else that of the current folder)."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import psutil

from fedsweep import cli, interrupts, secrets, store
from fedsweep.errors import UserError
from fedsweep.tracking import mlflow_store

_PATIENCE = 120.0  # seconds for the pages to answer


def main() -> None:
    with cli.one_line_errors():
        parser = argparse.ArgumentParser(prog="python -m fedsweep.tracking.ui", description=__doc__.splitlines()[0])
        parser.add_argument("--port", type=int, default=5000, help="(%(default)s)")
        parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s: this machine)")
        options = parser.parse_args()
        interrupts.handle(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # a shell's background job ignores the first
        try:
            _show(options.host, options.port)
        except KeyboardInterrupt:
            print()  # behind the terminal's ^C


def _show(host: str, port: int) -> None:
    if not 1 <= port <= 65535:
        raise UserError(f"--port {port}: must be from 1 to 65535")
    uri = store.chosen(None) or store.default_uri()
    if uri.startswith(("http://", "https://")):
        print(f"{store.VARIABLE} names a server: open {secrets.masked(secrets.visible(uri))}")
        return
    _refuse_used(host, port)
    with mlflow_store.reading(None, store.VARIABLE, f"{store.VARIABLE} names another store") as client:
        closed = mlflow_store.close_dead(client, [one.experiment_id for one in client.search_experiments()])
    if closed:
        print(f"{closed} runs of processes that were killed are now failed")
    print(f"MLflow: {store.named(None)}", flush=True)
    _serve(host, port, uri)


def _refuse_used(host: str, port: int) -> None:
    """Raises `UserError` if nobody can listen there."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            trial.bind(address)
            trial.listen(1)
    except (OSError, UnicodeError) as error:  # the second: a name that no host can have
        right = "choose another (--port; make ui PORT=...), or another --host"
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} --port {port}: cannot be listened on ({reason}); {right}") from error


def _serve(host: str, port: int, uri: str) -> None:
    """Runs MLflow's server until a signal comes, or until it ends, which it should not."""
    command = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port)]
    # One person's pages. Several workers are ended and started for ever where importing MLflow takes them over 5 s.
    command += ["--workers", "1"]
    with tempfile.TemporaryDirectory(prefix="fedsweep-ui-") as temporary:  # it leaves a lock file behind
        server = subprocess.Popen(
            command,
            # the address of the store: command lines can be read by everybody
            env={**os.environ, "MLFLOW_BACKEND_STORE_URI": uri, "TMPDIR": temporary},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for this process, which ends the server
        )
        try:
            threading.Thread(target=_repeat, args=(server,), daemon=True).start()
            _wait(server, host, port)
            address = f"[{host}]" if ":" in host else host
            print(f"Open http://{address}:{port} and choose the experiment fedsweep; Ctrl-C ends it.", flush=True)
            if not _is_loopback(host):
                print(
                    f"--host {host}: there is no password; everybody who reaches this machine can read and delete the"
                    " runs",
                    file=sys.stderr,
                )
            raise UserError(f"MLflow's server ended with status {server.wait()}")
        finally:
            _end(server)


def _repeat(server: subprocess.Popen) -> None:
    """Shows what the server prints, masked as all that this process prints."""
    for line in server.stdout:
        sys.stderr.write(line)


def _wait(server: subprocess.Popen, host: str, port: int) -> None:
    """Returns when the pages can be opened."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise UserError(f"MLflow's server ended with status {server.returncode}; it says above why")
        connection = http.client.HTTPConnection(reached, port, timeout=5)
        try:
            connection.request("GET", "/health")
            # Another one that was started at the same time may have been quicker; then this one is about to end.
            if connection.getresponse().status == http.HTTPStatus.OK and _listens(server, port):
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.2)
    raise UserError(f"MLflow's server has not answered for {_PATIENCE:.0f} seconds; it says above why")


def _listens(server: subprocess.Popen, port: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(server.pid)
        for one in (process, *process.children(recursive=True)):
            if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in one.net_connections()):
                return True
    return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _end(server: subprocess.Popen) -> None:
    """The server and its workers are gone when this returns."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, kind)
            server.wait(5)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


if __name__ == "__main__":
    main()
