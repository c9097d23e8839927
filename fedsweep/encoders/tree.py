"""An encoder as a tree of tensor_encoding stages: each stage's output tensors may be encoded further by a child."""

from __future__ import annotations

import collections
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

import tensorflow as tf
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

IDENTITY = "identity"  # the label of tensors that go as they are


@dataclass(frozen=True)
class Node:
    """A stage, what plans call it, and the nodes that encode its compressible tensors further (key -> node).

    `text` names every setting of the stage that makes a difference to the tensor, and nothing else, so that equal
    encoders have equal words, whatever configuration asked for them: plans, and so duplicates, are compared by these.
    `decoded_once`, of a root: see `DecodedOnce`.
    """

    text: str
    stage: te.core.EncodingStageInterface | te.core.AdaptiveEncodingStageInterface
    children: Mapping[str, Node] = field(default_factory=dict)
    decoded_once: bool = False

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
        made = self._composer().add_parent(flat, flat.ENCODED_VALUES_KEY).make()
        return DecodedOnce(made.stage, made.children) if self.decoded_once else made

    def _composer(self) -> te.core.EncoderComposer:
        composer = te.core.EncoderComposer(self.stage)
        for key, child in self.children.items():
            child._attach(composer, key)
        return composer

    def _attach(self, parent: te.core.EncoderComposer, key: str) -> None:
        composer = parent.add_child(self.stage, key)
        for name, child in self.children.items():
            child._attach(composer, name)


class DecodedOnce(te.core.Encoder):
    """An encoder whose messages our aggregation adds up as they are, and decodes the sum.

    That is not what decoding each would give: an estimate from the sum (a sketch's largest elements, say) is meant.
    tensor_encoding has `commutes_with_sum` for stages where both are the same alone, so for anybody else this is an
    encoder that is decoded before the sum. The encoder has no state.
    """


def gather(
    label: str, encoder: te.core.Encoder, spec: tf.TensorSpec
) -> te.core.GatherEncoder | _AsItIs | _SummedMessages:
    """The encoder, of this label, for tensors like `spec`; to be used within the graph that somebody else traces."""
    return _AsItIs() if label == IDENTITY else _gathered(encoder, spec)


@functools.lru_cache(maxsize=128)  # it takes 0.1 s, and a run's plan needs the same ones as its rounds
def _gathered(encoder: te.core.Encoder, spec: tf.TensorSpec) -> te.core.GatherEncoder | _SummedMessages:
    with tf.Graph().as_default():  # making it tries it out, which would take a round's arithmetic
        made = te.encoders.as_gather_encoder(encoder, spec)
    return _SummedMessages(made) if isinstance(encoder, DecodedOnce) else made


class _SummedMessages:
    """A `DecodedOnce` as a gather encoder: all decoding, and its parameters, come after the sum."""

    state_update_aggregation_modes = ()

    def __init__(self, each: te.core.GatherEncoder):
        self._each = each

    def initial_state(self):
        return self._each.initial_state()

    def get_params(self, state):
        encode, *decode = self._each.get_params(state)
        return encode, (), tuple(decode)

    def encode(self, x, params):
        return self._each.encode(x, params)

    def decode_before_sum(self, encoded, params):
        del params  # none
        return encoded

    def decode_after_sum(self, part, params, num_summands):
        before, after = params
        return self._each.decode_after_sum(self._each.decode_before_sum(part, before), after, num_summands)

    def update_state(self, state, state_updates):
        return self._each.update_state(state, state_updates)


class _AsItIs:
    """Stands in for tensor_encoding's gather encoder of the identity, without its 0.1 s of tracing: most tensors of a
    model are small, and go as they are."""

    _KEY = "as_it_is"
    state_update_aggregation_modes = ()

    def initial_state(self):
        return ()

    def get_params(self, state):
        del state  # none
        return (), (), ()

    def encode(self, x, params):
        del params  # none
        return collections.OrderedDict([(self._KEY, x)]), ()

    def decode_before_sum(self, encoded, params):
        del params  # none
        return encoded[self._KEY]

    def decode_after_sum(self, part, params, num_summands):
        del params, num_summands  # none
        return part

    def update_state(self, state, state_updates):
        del state_updates  # none
        return state
