"""Federated averaging in plain PyTorch: what a researcher would write without a framework. Nothing is encoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn


def start(rate: float, batch: int) -> Callable[[Sequence[tuple[np.ndarray, np.ndarray]]], float]:
    """The tutorial's CNN; the function trains one round on clients' (images, labels) and gives their mean loss."""
    model = nn.Sequential(
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
    loss_of = nn.CrossEntropyLoss()

    def round_of(clients: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
        server = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        total, losses = {name: torch.zeros_like(tensor) for name, tensor in server.items()}, []
        for images, labels in clients:
            model.load_state_dict(server)
            optimizer = torch.optim.SGD(model.parameters(), rate)
            inputs = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
            targets = torch.from_numpy(labels).long()
            for rows in torch.randperm(len(labels)).split(batch):
                optimizer.zero_grad()
                loss = loss_of(model(inputs[rows]), targets[rows])
                loss.backward()
                optimizer.step()
                losses.append(float(loss))
            for name, tensor in model.state_dict().items():
                total[name] += len(labels) * tensor
        examples = sum(len(labels) for _, labels in clients)
        model.load_state_dict({name: tensor / examples for name, tensor in total.items()})
        return sum(losses) / len(losses)

    return round_of
