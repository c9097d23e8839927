"""Federated averaging with Flower: its `FedAvg` strategy and its simulation engine, PyTorch underneath.

Two cores: Ray runs two clients at once, each of them on a core of its own (`client_resources`).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch_fedavg import accuracy, cnn, epoch

sys.path.append(str(Path(__file__).resolve().parents[1]))
from turns import Turns

client = ClientApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """A client's part of a round, in one of Ray's processes."""
    config, place = message.content["config"], context.node_config["partition-id"]
    with np.load(Path(config["folder"]) / f"{config['server-round']}.npz") as arrays:  # only this client's examples
        examples = arrays[f"arr_{2 * place}"], arrays[f"arr_{2 * place + 1}"]
    model = cnn()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    loss = epoch(model, examples, config["rate"], config["batch"])
    metrics = MetricRecord({"loss": loss, "num-examples": len(examples[1])})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


@client.query()
def query(message: Message, context: Context) -> Message:
    """Says that it is there."""
    return Message(content=RecordDict(), reply_to=message)


def serve(grid: Grid, turns: Turns, arguments: argparse.Namespace) -> None:
    """The rounds; a round is what `Strategy.start` does in one."""
    nodes = list(grid.get_node_ids())  # Ray has started before the first round when all of them have answered
    grid.send_and_receive([Message(RecordDict(), node, MessageType.QUERY) for node in nodes])
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0)
    model = cnn()
    arrays = ArrayRecord(model.state_dict())
    options = {"folder": str(arguments.folder.resolve()), "rate": arguments.rate, "batch": arguments.batch}
    while (number := turns.wait()) is not None:
        messages = strategy.configure_train(number, arrays, ConfigRecord(options), grid)
        replies = list(grid.send_and_receive(messages))
        if any(reply.has_error() for reply in replies):
            raise RuntimeError(f"round {number}: {[reply.error for reply in replies if reply.has_error()]}")
        arrays, _ = strategy.aggregate_train(number, replies)
        if turns.evaluates(number):
            model.load_state_dict(arrays.to_torch_state_dict())
            print(f"round {number}: accuracy {accuracy(model, turns.test):.4f}", file=sys.stderr)
        turns.done()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=0.1, help="the clients' learning rate")
    parser.add_argument("--batch", type=int, default=20, help="the clients' batch size")
    turns, arguments = Turns.from_arguments(parser, reads=False)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    server = ServerApp()

    @server.main()
    def _(grid: Grid, context: Context) -> None:
        serve(grid, turns, arguments)

    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=len(turns.read(1)),
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": len(os.sched_getaffinity(0))},
        },
    )


if __name__ == "__main__":
    main()
