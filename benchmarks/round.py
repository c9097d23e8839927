"""A round of fedsweep against a round written TFF's tutorial's way, measured in turn in one call.

    python benchmarks/round.py [--rounds 8] [--bits 8]

Workload: the tutorial's CNN (1,663,370 parameters), 10 writers of mnist_by_writer a round (about 115 digits each),
batches of 20, uniform quantization of tensors above 10,000 elements on the uplink. Columns, a process each:

  stock       a Keras model through tff.learning.algorithms.build_weighted_fed_avg, TFF's own context and environment
  tensorflow  plain TensorFlow without a framework and without encoding (plain_tensorflow.py), on its own defaults
  torch       the same in plain PyTorch (plain_torch.py); only where PEERS_PYTHON names a Python that has PyTorch
  identity    fedsweep, runtime=map_reduce (default), without encoding
  tff         fedsweep, runtime=tff
  map_reduce  fedsweep, runtime=map_reduce (default)

The processes take turns (stock, tensorflow, ..., stock, ...) on the same writers, so a slow moment of the machine hits
all; what counts is the median of the ratios within a turn. Memory is the high-water mark of a process's resident size
plus those of its children.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CLIENTS, BATCH, SEED, WARM_UP = 10, 20, 0, 2
PLAIN = ("tensorflow", "torch")
COLUMNS = ("stock", "tensorflow", "torch", "identity", "tff", "map_reduce")
RATE = 0.1
_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def stock_round(data, bits: int):
    """The tutorial's way: returns a function from a round's number to nothing."""
    import keras_cnn
    import tensorflow as tf
    import tensorflow_federated as tff

    from fedsweep.federated import cohort

    config = _config(bits, "map_reduce")  # for the cohort

    def model_fn():
        return tff.learning.models.from_keras_model(
            keras_cnn.build(),
            loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[tf.keras.metrics.SparseCategoricalAccuracy()],
            input_spec=(tf.TensorSpec([None, *data.spec.input_shape]), tf.TensorSpec([None], tf.int32)),
        )

    process = tff.learning.algorithms.build_weighted_fed_avg(
        model_fn,
        client_optimizer_fn=tff.learning.optimizers.build_sgdm(RATE),
        server_optimizer_fn=tff.learning.optimizers.build_sgdm(1.0),
        model_aggregator=tff.aggregators.MeanFactory(
            tff.aggregators.EncodedSumFactory.quantize_above_threshold(bits, 10_000)
        ),
    )
    state = process.initialize()

    def run(number: int) -> None:
        nonlocal state
        clients, _ = cohort.sample(data, config, number)
        sequences = [
            tf.data.Dataset.from_tensor_slices((c.inputs, c.labels)).shuffle(len(c.labels)).batch(BATCH)
            for c in clients
        ]
        state = process.next(state, sequences).state

    return run


def export(folder: Path, rounds: int) -> None:
    """The cohorts' examples as files, for processes that cannot import fedsweep."""
    import numpy as np

    from fedsweep import datasets
    from fedsweep.federated import cohort

    config = _config(8, "map_reduce")
    data = datasets.load(config.dataset, SEED)
    for number in range(1, rounds + 1):
        clients, _ = cohort.sample(data, config, number)
        np.savez(folder / f"{number}.npz", *(array for client in clients for array in (client.inputs, client.labels)))


def plain_round(folder: Path, name: str):
    """A loop without a framework on exported cohorts: returns a function from a round's number to nothing."""
    import numpy as np

    if name == "torch":
        import plain_torch as plain
    else:
        import plain_tensorflow as plain
    run = plain.start(RATE, BATCH)

    def read(number: int) -> list:
        with np.load(folder / f"{number}.npz") as arrays:
            flat = [arrays[f"arr_{k}"] for k in range(len(arrays.files))]
        return list(zip(flat[::2], flat[1::2], strict=True))

    return lambda number: run(read(number))


def _config(bits: int, name: str):
    import hydra

    from fedsweep import cli, schema

    with hydra.initialize_config_dir(cli.config_folder(), version_base="1.3"):
        runtime = "map_reduce" if name == "identity" else name
        overrides = ["dataset=mnist_by_writer", "model=cnn", f"encoder.bits={bits}", f"runtime={runtime}"]
        overrides += ["encoder=identity"] if name == "identity" else []
        overrides += [f"clients_per_round={CLIENTS}", f"client_batch_size={BATCH}", f"seed={SEED}"]
        return schema.check(hydra.compose("config", overrides))


def fedsweep_round(data, bits: int, name: str):
    from fedsweep import environment

    config = _config(bits, name)
    environment.configure(config.runtime)
    from fedsweep import models, runtime
    from fedsweep.federated import cohort

    running = runtime.start(config, models.build(config.model, data.spec), len(data.client_ids))
    return lambda number: running.round(*cohort.sample(data, config, number))


def worker(column: str, bits: int, folder: Path) -> None:
    """Runs one round for each line of standard input, and answers with its seconds and the memory held."""
    import psutil

    started = time.monotonic()
    if column in PLAIN:
        run = plain_round(folder, column)
    else:
        from fedsweep import datasets, schema

        data = datasets.load(schema.WriterData("mnist_by_writer", 0.0, None), SEED)
        run = stock_round(data, bits) if column == "stock" else fedsweep_round(data, bits, column)
    print(json.dumps({"start": time.monotonic() - started}), flush=True)
    for line in sys.stdin:
        started = time.monotonic()
        run(int(line))
        seconds = time.monotonic() - started
        me = psutil.Process()
        memory = sum(_peak_memory(process.pid) for process in [me, *me.children(recursive=True)])
        print(json.dumps({"seconds": seconds, "memory": memory}), flush=True)
    for child in psutil.Process().children(recursive=True):  # TFF leaves its worker running
        child.terminate()


def _peak_memory(pid: int) -> int:
    """Bytes: the kernel's high-water mark of a process's resident memory."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8, help="measured rounds, after two to warm up")
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--worker", choices=COLUMNS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--export", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker, arguments.bits, arguments.folder)
        return
    if arguments.export:
        export(arguments.folder, arguments.rounds)
        return

    if _SHARED.is_dir():
        os.environ.setdefault("FEDSWEEP_DATA", str(_SHARED))
    peers = os.environ.get("PEERS_PYTHON")
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryDirectory() as folder:
        more = ["--folder", folder, "--bits", str(arguments.bits), "--rounds", str(arguments.rounds + WARM_UP)]
        subprocess.run([sys.executable, __file__, *more, "--export"], check=True, env=quiet)
        processes = {
            column: subprocess.Popen(
                [peers if column == "torch" else sys.executable, __file__, *more, "--worker", column],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=quiet,
            )
            for column in COLUMNS
            if column != "torch" or peers
        }
        try:
            measure(processes, arguments.rounds)
        finally:
            for process in processes.values():
                process.stdin.close()  # the worker ends with its input
                process.wait()


def measure(processes: dict[str, subprocess.Popen], rounds: int) -> None:
    from rich.console import Console
    from rich.table import Table

    def answer(process: subprocess.Popen) -> dict:
        line = process.stdout.readline()
        if not line:
            sys.exit("a worker ended early; its error is above")
        return json.loads(line)

    for process in processes.values():
        answer(process)  # ready
    turns = []
    for number in range(1, WARM_UP + rounds + 1):
        turn = {}
        for column, process in processes.items():
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            turn[column] = answer(process)
        turns.append(turn)
        print(f"round {number}: " + "  ".join(f"{c} {t['seconds']:.2f} s" for c, t in turn.items()), flush=True)

    measured = turns[WARM_UP:]
    table = Table(title=f"{rounds} rounds after {WARM_UP} to warm up, {os.cpu_count()} cores", title_justify="left")
    for heading in ("", "median s/round", "median ratio to stock", "first round s", "peak memory GB"):
        table.add_column(heading, justify="right" if heading else "left")
    for column in processes:
        table.add_row(
            column,
            f"{statistics.median(turn[column]['seconds'] for turn in measured):.2f}",
            f"{statistics.median(turn[column]['seconds'] / turn['stock']['seconds'] for turn in measured):.2f}",
            f"{turns[0][column]['seconds']:.2f}",
            f"{max(turn[column]['memory'] for turn in turns) / 1e9:.2f}",
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    main()
