"""Graphs in one process: what is used no more is gone, however many runs a worker has had."""

from __future__ import annotations

import gc

import tensorflow as tf
import tensorflow_federated as tff
from tensorflow.python.eager import context

from fedsweep.runtime.graphs import as_function


@tff.tensorflow.computation(tf.float32)
def _with_inner_functions(x):
    doubled = tf.function(lambda y: tf.while_loop(lambda k, _: k < 3, lambda k, z: (k + 1, z * 2), (0, y))[1])
    numbers = tf.data.Dataset.range(3).map(lambda number: tf.cast(number, tf.float32))
    return doubled(x) + numbers.reduce(0.0, lambda total, number: total + number)


def test_a_graph_that_is_used_no_more_leaves_no_function_behind():
    """TensorFlow kept five of this one each time; a worker that makes graphs for each trial grew by 0.4 MB a trial."""
    registered = []
    for _ in range(3):
        function = as_function(_with_inner_functions)
        assert float(function(tf.constant(1.0))[0]) == 11.0
        del function
        gc.collect()
        registered.append(len(context.context().list_function_names()))
    assert registered[0] == registered[1] == registered[2]
