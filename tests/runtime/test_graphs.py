"""Graphs in one process: what is used no more is gone, however many runs a worker has had."""

from __future__ import annotations

import gc

from tensorflow.python.eager import context

from fedsweep import datasets, models, runtime
from fedsweep.federated import cohort


def test_graphs_that_are_used_no_more_leave_no_function_behind(config):
    """More graphs than a process keeps, again and again: 17 functions of each stayed in TensorFlow."""
    registered = []
    for _ in range(3):
        for bits in (2, 3, 4):
            checked = config(
                "model=2nn", "encoder.threshold=1000", "clients_per_round=2", f"encoder.bits={bits}", "tracker=csv"
            )
            data = datasets.load(checked.dataset, 0)
            with runtime.start(checked, models.build(checked.model, data.spec), len(data.client_ids)) as running:
                running.round(*cohort.sample(data, checked, 1))
            del running
        gc.collect()
        registered.append(len(context.context().list_function_names()))
    assert registered[2] == registered[1]
