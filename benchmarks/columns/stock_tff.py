"""TFF as its tutorial on compression writes it: a Keras model, TFF's own context, quantized updates."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import keras_cnn
import psutil
import tensorflow as tf
import tensorflow_federated as tff

sys.path.append(str(Path(__file__).resolve().parents[1]))
from turns import Turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=0.1, help="the clients' learning rate")
    parser.add_argument("--batch", type=int, default=20, help="the clients' batch size")
    parser.add_argument("--bits", type=int, default=8, help="of the quantization")
    turns, arguments = Turns.from_arguments(parser)

    def model_fn():
        return tff.learning.models.from_keras_model(
            keras_cnn.build(),
            loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[tf.keras.metrics.SparseCategoricalAccuracy()],
            input_spec=(tf.TensorSpec([None, 28, 28, 1]), tf.TensorSpec([None], tf.int32)),
        )

    process = tff.learning.algorithms.build_weighted_fed_avg(
        model_fn,
        client_optimizer_fn=tff.learning.optimizers.build_sgdm(arguments.rate),
        server_optimizer_fn=tff.learning.optimizers.build_sgdm(1.0),
        model_aggregator=tff.aggregators.MeanFactory(
            tff.aggregators.EncodedSumFactory.quantize_above_threshold(arguments.bits, 10_000)
        ),
    )
    state = process.initialize()
    while (number := turns.wait()) is not None:
        sequences = [
            tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(labels)).batch(arguments.batch)
            for images, labels in turns.cohort
        ]
        state = process.next(state, sequences).state
        if turns.evaluates(number):
            model = keras_cnn.build()
            process.get_model_weights(state).assign_weights_to(model)
            model.compile(metrics=["sparse_categorical_accuracy"])
            images, labels = turns.test
            print(f"round {number}: accuracy {model.evaluate(images, labels, 500, verbose=0)[1]:.4f}", file=sys.stderr)
        turns.done()
    for child in psutil.Process().children(recursive=True):  # TFF leaves its worker running
        child.terminate()


if __name__ == "__main__":
    main()
