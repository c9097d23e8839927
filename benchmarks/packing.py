"""Dense packing against a plain copy to int8, measured in turn in one call, on one thread.

    python benchmarks/packing.py [--bits 1 8 12] [--size 1605632] [--pairs 15]

Workload: n integers in a float32 tensor (n = 1,605,632: the largest layer of the tutorial's CNN), packed into 32-bit
words and unpacked into float32; the copy casts float32 to int8 and back. Above 24 bits, which float32 does not hold,
the integers are int32 and stay so. Each is repeated within one graph, since the cost of a call to TensorFlow (0.4 ms,
as much as the copy itself) would bring every ratio nearer to 1. Packing, unpacking and the copy take turns; what counts
is the median of the ratios within a turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

REPEATS, WARM_UP, BAR = 10, 2, 2.0


def seconds_of(function: Callable) -> Callable:
    """A function of the same argument that returns how long one run of `function` takes."""
    import tensorflow as tf

    @tf.function
    def graph(x):
        done = []
        for _ in range(REPEATS):
            with tf.control_dependencies(done):  # one after the other
                done = [function(tf.identity(x))]
        return done

    def seconds(x) -> float:
        started = time.perf_counter()
        graph(x)
        return (time.perf_counter() - started) / REPEATS

    return seconds


def measure(bits: int, size: int, pairs: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds of packing, unpacking and copying, turn by turn."""
    import numpy as np
    import tensorflow as tf

    from fedsweep.encoders import packing

    dtype = tf.float32 if bits <= 24 else tf.int32
    drawn = np.random.default_rng(bits).integers(0, 2**bits, size, dtype=np.uint32)
    x = tf.cast(tf.constant(drawn.view(np.int32)), dtype)
    packed = packing.pack(x, bits, 32)
    assert np.array_equal(packing.unpack(packed, bits, 32, size, dtype), x)

    turn = [
        (seconds_of(lambda x: packing.pack(x, bits, 32)), x),
        (seconds_of(lambda packed: packing.unpack(packed, bits, 32, size, dtype)), packed),
        (seconds_of(lambda x: tf.cast(tf.cast(x, tf.int8), tf.float32)), tf.cast(x, tf.float32)),
    ]
    turns = [[seconds(argument) for seconds, argument in turn] for _ in range(WARM_UP + pairs)]
    return tuple(zip(*turns[WARM_UP:], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", type=int, nargs="+", default=range(1, 33))
    parser.add_argument("--size", type=int, default=1_605_632)
    parser.add_argument("--pairs", type=int, default=15, help="measured turns, after two to warm up")
    arguments = parser.parse_args()

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf
    from rich.console import Console
    from rich.table import Table

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # it drops what is not returned

    table = Table(title=f"{arguments.size:,} values, {arguments.pairs} turns, one thread", title_justify="left")
    for heading in ("bits", "pack ms", "unpack ms", "copy ms", f"median ratio (bar {BAR})", "within"):
        table.add_column(heading, justify="right")
    for bits in arguments.bits:
        pack, unpack, copy = measure(bits, arguments.size, arguments.pairs)
        ratio = statistics.median((p + u) / c for p, u, c in zip(pack, unpack, copy, strict=True))
        milliseconds = (f"{1e3 * statistics.median(seconds):.2f}" for seconds in (pack, unpack, copy))
        table.add_row(str(bits), *milliseconds, f"{ratio:.2f}", "yes" if ratio <= BAR else "no")
    Console().print(table)


if __name__ == "__main__":
    main()
