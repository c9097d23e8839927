"""An encoder as a tree of tensor_encoding stages: each stage's output tensors may be encoded further by a child."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import tensorflow as tf
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

_TRACED = (
    "initial_state", "get_params", "encode", "decode", "decode_before_sum", "decode_after_sum", "update_state",
)  # fmt: skip


@dataclass(frozen=True)
class Node:
    """A stage, what plans call it, and the nodes that encode its compressible tensors further (key -> node).

    `text` names every setting of the stage: plans compare encoders by these words.
    """

    text: str
    stage: te.core.EncodingStageInterface | te.core.AdaptiveEncodingStageInterface
    children: Mapping[str, Node] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The whole tree in words: `hadamard > uniform 4 bit > dense`; equal labels stand for equal encoders."""
        inner = [child.label for child in self.children.values()]
        if len(inner) > 1:
            inner = ["; ".join(f"{key}: {child.label}" for key, child in self.children.items())]
        return " > ".join([self.text, *inner])

    def encoder(self) -> te.core.Encoder:
        """The tree for tensors of any shape."""
        flat = te.stages.FlattenEncodingStage()
        return _traced_plainly(self._composer().add_parent(flat, flat.ENCODED_VALUES_KEY).make())

    def _composer(self) -> te.core.EncoderComposer:
        composer = te.core.EncoderComposer(self.stage)
        for key, child in self.children.items():
            child._attach(composer, key)
        return composer

    def _attach(self, parent: te.core.EncoderComposer, key: str) -> None:
        composer = parent.add_child(self.stage, key)
        for name, child in self.children.items():
            child._attach(composer, name)


def identity() -> te.core.Encoder:
    """Tensors as they are."""
    return _traced_plainly(te.encoders.identity())


@contextlib.contextmanager
def inlined() -> Iterator[None]:
    """Within the block, tensor_encoding's functions become part of the graph that calls them.

    It makes a tf.function of each encoder's every method; tracing those apart, with AutoGraph, takes longer than all
    other tracing.
    """
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _traced_plainly(encoder: te.core.Encoder) -> te.core.Encoder:
    """tensor_encoding traces with AutoGraph, which has nothing to convert in stages and takes most of the time."""
    for name in _TRACED:
        setattr(encoder, name, tf.autograph.experimental.do_not_convert(getattr(encoder, name)))
    return encoder
