"""Federated averaging with Apple's pfl-research: `FederatedAveraging` on a `SimulatedBackend`, PyTorch underneath.

pfl divides a cohort among processes, here one for each core, which is faster than one process with as many threads.
`PFL_WORKER_RANK=0` in the environment leaves it at one process.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

if "PFL_WORKER_RANK" not in os.environ:  # here because pfl joins its processes when it is imported
    with socket.create_server(("localhost", 0)) as server:
        addresses = [f"localhost:{server.getsockname()[1]}"] * len(os.sched_getaffinity(0))
    os.environ |= {"PFL_WORKER_ADDRESSES": ",".join(addresses), "PFL_WORKER_RANK": "0", "OMP_NUM_THREADS": "1"}
    for rank in range(1, len(addresses)):
        environment = os.environ | {"PFL_WORKER_RANK": str(rank)}
        subprocess.Popen([sys.executable, *sys.argv], env=environment, stdin=subprocess.DEVNULL)

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDatasetBase
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.internal.ops.pytorch_ops import distributed
from pfl.metrics import Metrics, StringMetricName, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import nn
from torch_fedavg import cnn, tensors

sys.path.append(str(Path(__file__).resolve().parents[1]))
from turns import Examples, Turns

NEVER = 10**9


class Classifier(nn.Module):
    """The CNN with the two functions that pfl asks of a module."""

    def __init__(self):
        super().__init__()
        self.cnn = cnn()

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(self.cnn(images), labels)

    @torch.no_grad()
    def metrics(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Weighted]:
        return {"accuracy": Weighted(int((self.cnn(images).argmax(1) == labels).sum()), len(labels))}


class Cohorts(FederatedDatasetBase):
    """Gives, as its users, this process's share of the clients of a round."""

    def __init__(self):
        super().__init__()
        self.clients: list[Examples] = []

    def get_cohort(self, cohort_size: int) -> Iterator[tuple[PyTorchTensorDataset, int]]:
        for client in self.clients[distributed.global_rank :: distributed.world_size]:
            images, labels = tensors(client)
            order = torch.randperm(len(labels))  # pfl's data sets go through their batches in the order they have
            yield PyTorchTensorDataset((images[order], labels[order])), self._get_seed()

    def __next__(self) -> tuple[PyTorchTensorDataset, int]:
        raise NotImplementedError("users come as cohorts")


class TakeTurns(TrainingProcessCallback):
    """Begins each of pfl's central iterations when it is its turn, and ends the training when there are no more.

    The first process speaks with the conductor and tells the others.
    """

    def __init__(self, turns: Turns, cohorts: Cohorts):
        self._turns, self._cohorts = turns, cohorts
        self.number = self._next()

    def _next(self) -> int | None:
        number = self._turns.wait() if distributed.global_rank == 0 else None
        if distributed.world_size > 1:
            torch.distributed.broadcast_object_list(told := [number])
            (number,) = told
        if number is not None:
            first = distributed.global_rank == 0
            self._cohorts.clients = self._turns.cohort if first else self._turns.read(number)
            if distributed.world_size > 1:
                torch.distributed.barrier()  # all have read
            self._turns.begin()
        return number

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        if distributed.global_rank == 0:
            self._finish(model)
        self.number = self._next()
        return self.number is None, Metrics()

    def _finish(self, model: PyTorchModel) -> None:
        if self._turns.evaluates(self.number):
            test = PyTorchTensorDataset(tensors(self._turns.test))
            metrics = model.evaluate(test, eval_params=NNEvalHyperParams(local_batch_size=500))
            accuracy = metrics[StringMetricName("accuracy")].overall_value
            print(f"round {self.number}: accuracy {accuracy:.4f}", file=sys.stderr)
        self._turns.done()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=0.1, help="the clients' learning rate")
    parser.add_argument("--batch", type=int, default=20, help="the clients' batch size")
    turns, arguments = Turns.from_arguments(parser)
    torch.manual_seed(0)  # all processes start from the same weights
    classifier = Classifier()
    model = PyTorchModel(
        model=classifier,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(classifier.parameters(), 1.0),  # the average as it is
    )
    cohorts = Cohorts()
    backend = SimulatedBackend(cohorts, cohorts, postprocessors=[WeightByDatapoints()])
    take_turns = TakeTurns(turns, cohorts)
    if take_turns.number is None:
        return
    FederatedAveraging().run(
        # Without evaluation on users (which pfl does in its first iteration whatever the frequency).
        NNAlgorithmParams(
            central_num_iterations=NEVER, evaluation_frequency=NEVER, train_cohort_size=1, val_cohort_size=None
        ),
        backend,
        model,
        NNTrainHyperParams(local_num_epochs=1, local_learning_rate=arguments.rate, local_batch_size=arguments.batch),
        callbacks=[take_turns],
    )


if __name__ == "__main__":
    main()
