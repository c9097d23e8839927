"""A data set of a million clients in TFF's format: seconds and memory to open it, milliseconds to read a client.

  python benchmarks/population.py [--clients 1000000]

Stack Overflow has 342,477 training clients. Names and sizes stand for all clients; some have examples, as many as
Stack Overflow's have on average (397 sentences), so that a round can be read.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

WITH_EXAMPLES, SENTENCES, COHORT = 60, 397, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=1_000_000)
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from formats import write_tff

    from fedsweep import datasets, schema
    from fedsweep.datasets import text, tff_files

    words = [f"word{k}" for k in range(10_000)]
    tff_files._words = lambda folder, size: text.Vocabulary(words[:size])  # the archive of word counts is TFF's own
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stackoverflow.sqlite"
        rng = np.random.default_rng(0)
        fields = {**dict.fromkeys(("creation_date", "tags", "title", "type"), ""), "score": [1]}
        users = {
            f"{k:08}": [{**fields, "tokens": " ".join(rng.choice(words, 14))} for _ in range(SENTENCES)]
            for k in range(WITH_EXAMPLES)
        }
        tests = dict(list(users.items())[:50])
        write_tff(path, {"train": users, "heldout": dict(list(users.items())[:1]), "test": tests})
        with sqlite3.connect(path) as connection:
            more = ((f"{k:08}", "train", SENTENCES) for k in range(WITH_EXAMPLES, options.clients))
            connection.executemany("INSERT INTO client_metadata VALUES (?, ?, ?)", more)
        connection.close()

        config = schema.StackOverflowData("stackoverflow", 0.0, folder, 10_000, 20, 10_000)
        datasets.load(dataclasses.replace(config, test_examples=1), 0)  # imports, traces
        before, started = psutil.Process().memory_info().rss, time.monotonic()
        data = datasets.load(config, 0)
        seconds, grown = time.monotonic() - started, psutil.Process().memory_info().rss - before
        print(f"{len(data.client_ids):,} clients: opened in {seconds:.1f} s, {grown / 2**20:.0f} MiB more memory")

        started = time.monotonic()
        for client in range(COHORT):
            data.client(client, 256)
        per_client = (time.monotonic() - started) / COHORT
        print(f"a client of {SENTENCES} sentences, the first 256 read: {1000 * per_client:.1f} ms")


if __name__ == "__main__":
    main()
