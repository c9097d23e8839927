"""The wire meter: the size of what crosses between server and clients, by kind.

A message is measured by its tensors, number of elements times bits of the element type, nothing estimated. The paths of
its TFF type tell what each tensor is for.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence

import tensorflow as tf
import tensorflow_federated as tff

from fedsweep.runtime import types

UPLINK_KINDS = ("update", "weight", "metrics")


def kinds_of_uplink(message_type: tff.Type) -> list[str]:
    """For each tensor of a client's message, in flattened order, one of `UPLINK_KINDS`.

    The names are those the process gives its parts (`federated.uplink`, `federated.client_work`); what an encoder sends
    beside the values (its parameters, its state) counts as update.
    """
    kinds = []
    for path in types.paths(message_type):
        found = [kind for kind in UPLINK_KINDS if any(name and name.split("_")[0] == kind for name in path)]
        if len(found) != 1:
            raise ValueError(f"a client's message has a tensor at {path} that is none of {UPLINK_KINDS}")
        kinds.extend(found)
    return kinds


def bits_of_tensors(tensors: Sequence[tf.Tensor]) -> list[int]:
    """Bits of each tensor as it is: elements times the size of one."""
    return [int(tf.size(tensor)) * tensor.dtype.size * 8 for tensor in tensors]


def bits_of_type(message_type: tff.Type) -> list[int]:
    """Bits of each tensor of a message whose sizes the type fixes, in flattened order."""
    bits = []
    for leaf in types.leaves(message_type):
        if not tff.types.is_shape_fully_defined(leaf.shape):
            raise ValueError(f"the size of {leaf} is not known before it is sent; measure it with runtime=map_reduce")
        bits.append(tff.types.num_elements_in_shape(leaf.shape) * tf.as_dtype(leaf.dtype).size * 8)
    return bits


def by_kind(kinds: Sequence[str], bits: Sequence[int]) -> Mapping[str, int]:
    """Total bits of each kind."""
    totals: dict[str, int] = collections.Counter()
    for kind, count in zip(kinds, bits, strict=True):
        totals[kind] += count
    return dict(totals)
