"""Rounds of fedsweep.

    fedsweep_rounds.py --folder DATA OVERRIDES

The cohorts are those of the files in DATA, since these are fedsweep's own (`--export` writes them).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import hydra
from turns import Turns, write

from fedsweep import cli, environment, schema


def configured(overrides: list[str]) -> schema.Config:
    with hydra.initialize_config_dir(cli.config_folder(), version_base="1.3"):
        return schema.check(hydra.compose("config", overrides))


def export(folder: Path, config: schema.Config, rounds: int) -> None:
    """The cohorts and the test set as files, for processes that cannot import fedsweep."""
    from fedsweep import datasets
    from fedsweep.federated import cohort

    data = datasets.load(config.dataset, config.seed)
    for number in range(1, rounds + 1):
        clients, _ = cohort.sample(data, config, number)
        write(folder / f"{number}.npz", [(client.inputs, client.labels) for client in clients])
    write(folder / "test.npz", [(data.scaled(data.test.inputs), data.test.labels)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="of the configuration")
    parser.add_argument("--export", type=int, metavar="ROUNDS", help="write so many cohorts into the folder, and end")
    turns, arguments = Turns.from_arguments(parser, reads=False)
    config = configured(arguments.overrides)
    if arguments.export:
        export(arguments.folder, config, arguments.export)
        return
    environment.configure(config.runtime)
    from fedsweep import datasets, evaluation, models, runtime
    from fedsweep.federated import cohort

    data = datasets.load(config.dataset, config.seed)
    model = models.build(config.model, data.spec)
    evaluator = evaluation.Evaluator(model, data, environment.threads(config.runtime))
    with runtime.start(config, model, len(data.client_ids)) as running:
        while (number := turns.wait()) is not None:
            if turns.trains:
                running.round(*cohort.sample(data, config, number))
            if turns.evaluates(number):
                found = evaluator.test(running.weights())
                print(f"round {number}: accuracy {found.accuracy:.4f}", file=sys.stderr)
            turns.done()


if __name__ == "__main__":
    main()
