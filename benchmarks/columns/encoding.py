"""What encoding costs by itself: a round with float32, and beside it what each encoder does with a round's updates.

    encoding.py --folder DATA [--case "8 bits=encoder.bits=8" ...] OVERRIDES

A case encodes the update of every client, decodes it and adds it up, in as many threads as the round trains in (in a
round, decoding and adding have a thread of their own, beside those that train). The answer holds the seconds of the
round and of each case; `float32` only adds up. No message is metered and nothing trains beside it: a lower bound.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
from fedsweep_rounds import configured
from turns import Turns

from fedsweep import environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="of the configuration")
    parser.add_argument("--case", action="append", default=[], help="NAME=OVERRIDES of an encoder")
    turns, arguments = Turns.from_arguments(parser, reads=False)
    cases = {"float32": "encoder=identity", **dict(case.split("=", 1) for case in arguments.case)}
    configs = {name: configured([*arguments.overrides, *more.split()]) for name, more in cases.items()}
    config = configs["float32"]
    environment.configure(config.runtime)
    import tensorflow as tf

    from fedsweep import datasets, encoders, models, runtime
    from fedsweep.encoders import randomness, tree
    from fedsweep.federated import cohort

    def adding(config, specs):
        """The function that adds an update, as it comes out of the encoders, to a total."""
        rule = encoders.uplink(config)
        gathered = [tree.gather(*rule(spec), spec) for spec in specs]

        @tf.function(autograph=False)
        def add(update, total, seed):
            sums = []
            for encoder, tensor, so_far in zip(gathered, update, total, strict=True):
                with randomness.stream(seed):
                    encode, before, after = encoder.get_params(encoder.initial_state())
                    encoded, _ = encoder.encode(tensor, encode)
                part = encoder.decode_before_sum(encoded, before)
                sums.append(so_far + encoder.decode_after_sum(part, after, 1))
            return sums

        return add

    data = datasets.load(config.dataset, config.seed)
    model = models.build(config.model, data.spec)
    specs = [weight.spec for weight in model.weights]
    update = [tf.random.stateless_normal(spec.shape, (1, k)) for k, spec in enumerate(specs)]
    adders = {name: adding(each, specs) for name, each in configs.items()}
    threads = environment.threads(config.runtime)
    with runtime.start(config, model, len(data.client_ids)) as running, ThreadPoolExecutor(threads) as pool:
        while (number := turns.wait()) is not None:
            started = time.monotonic()
            running.round(*cohort.sample(data, config, number))
            seconds = {"round": time.monotonic() - started}
            for name, add in adders.items():
                started = time.monotonic()
                seeds = [tf.constant([number, client]) for client in range(config.clients_per_round)]
                list(pool.map(lambda seed, add=add: add(update, update, seed), seeds))
                seconds[name] = time.monotonic() - started
            turns.done(**seconds)


if __name__ == "__main__":
    main()
