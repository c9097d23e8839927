"""Federated averaging in plain PyTorch: what a researcher would write without a framework. Nothing is encoded."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[1]))
from turns import Examples, Turns


def cnn() -> nn.Sequential:
    """The tutorial's CNN: 1,663,370 parameters, first drawn as Keras draws them.

    Channels last: as the images are, and faster on a CPU.
    """
    layers = nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(7 * 7 * 64, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )
    for layer in layers:
        if hasattr(layer, "weight"):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return layers.to(memory_format=torch.channels_last)


def tensors(examples: Examples) -> tuple[torch.Tensor, torch.Tensor]:
    """Images as PyTorch indexes them, and labels."""
    images, labels = examples
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels).long()


def epoch(model: nn.Module, examples: Examples, rate: float, batch: int) -> float:
    """One epoch of SGD over a client's examples in an order of its own; their mean loss."""
    images, labels = tensors(examples)
    optimizer, loss_of, total = torch.optim.SGD(model.parameters(), rate), nn.CrossEntropyLoss(), 0.0
    for rows in torch.randperm(len(labels)).split(batch):
        optimizer.zero_grad()
        loss = loss_of(model(images[rows]), labels[rows])
        loss.backward()
        optimizer.step()
        total += len(rows) * loss.item()
    return total / len(labels)


@torch.no_grad()
def accuracy(model: nn.Module, examples: Examples) -> float:
    """The share of the examples that the model gets right."""
    images, labels = tensors(examples)
    right = [(model(x).argmax(1) == y).sum() for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return int(sum(right)) / len(labels)


def average(model: nn.Module, clients: Sequence[Examples], rate: float, batch: int) -> float:
    """One round: the clients' models, weighted by examples, become the model; the clients' mean loss."""
    server = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    total, loss = {name: torch.zeros_like(tensor) for name, tensor in server.items()}, 0.0
    examples = sum(len(labels) for _, labels in clients)
    for client in clients:
        model.load_state_dict(server)
        weight = len(client[1]) / examples
        loss += weight * epoch(model, client, rate, batch)
        for name, tensor in model.state_dict().items():
            total[name].add_(tensor, alpha=weight)
    model.load_state_dict(total)
    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=0.1, help="the clients' learning rate")
    parser.add_argument("--batch", type=int, default=20, help="the clients' batch size")
    turns, arguments = Turns.from_arguments(parser)
    model = cnn()
    while (number := turns.wait()) is not None:
        if turns.trains:
            average(model, turns.cohort, arguments.rate, arguments.batch)
        if turns.evaluates(number):
            print(f"round {number}: accuracy {accuracy(model, turns.test):.4f}", file=sys.stderr)
        turns.done()


if __name__ == "__main__":
    main()
