"""The wire meter: the size of what crosses between server and clients, by kind.

A message is measured by its tensors, number of elements times bits of the element type, nothing estimated. The paths of
its TFF type tell what each tensor is for. Behind a lossless code (`encoders.codes.stage`) the bytes of the code cross
and not its symbols: the exact number of their bits, which stands beside the symbols, is charged; `verify` makes the
bytes.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsweep.encoders.codes import CODES
from fedsweep.encoders.codes.stage import LENGTH, SYMBOLS
from fedsweep.federated import coded
from fedsweep.runtime import types

# What each tensor of a message is for, by the names that the process gives its parts (`federated.uplink`,
# `federated.client_work`, `federated.downlink`); what an encoder sends beside the values, its parameters and its state,
# counts as update. What stays where it is, is no message: a client's memory, whether its update was bad, the model that
# clients hold already.
UPLINK_KINDS = ("update", "weight", "metrics", "memory", "bad")
DOWNLINK_KINDS = ("model", "difference", "held", "momentum", "parameters")
_STAYS = ("memory", "bad", "held")


class Meter:
    """Reads the bits off messages of one TFF type."""

    def __init__(self, message_type: tff.Type, kinds: Sequence[str]):
        paths = types.paths(message_type)
        self._kinds = [_kind(path, kinds) for path in paths]
        names = [str(path[-1]).split("/")[-1] for path in paths]
        self._symbols = [name.removeprefix(SYMBOLS + ".") if name.startswith(SYMBOLS) else None for name in names]
        self._length = [_place_of_length(paths, place) if code else None for place, code in enumerate(self._symbols)]
        self._types = types.leaves(message_type)

    def bits(self, message: Sequence[tf.Tensor]) -> Mapping[str, int]:
        """Bits of a message, flattened as its type is, by kind."""
        sizes = [coded.plain_bits(tensor) for tensor in message]
        for place, length in enumerate(self._length):
            if length is not None:
                sizes[place] = int(message[length])
        return self._by_kind(sizes)

    def fixed_bits(self) -> Mapping[str, int]:
        """What every message of the type has: all but the bytes of lossless codes."""
        sizes = []
        for leaf, code in zip(self._types, self._symbols, strict=True):
            if not tff.types.is_shape_fully_defined(leaf.shape):
                raise ValueError(f"the size of {leaf} is not known before it is sent; measure it with map_reduce")
            bits = tff.types.num_elements_in_shape(leaf.shape) * tf.as_dtype(leaf.dtype).size * 8
            sizes.append(0 if code else bits)
        return self._by_kind(sizes)

    def parts(self, message: Sequence, kind: str) -> list:
        """The tensors of one kind."""
        return [tensor for tensor, own in zip(message, self._kinds, strict=True) if own == kind]

    def verify(self, message: Sequence[tf.Tensor]) -> None:
        """Makes the bytes of the message and reads them again; raises RuntimeError if they are not as charged."""
        sent = []
        for tensor, code, length in zip(message, self._symbols, self._length, strict=True):
            array = tensor.numpy()
            data = CODES[code].encode(array) if code else array.tobytes()
            if code:
                charged = int(message[length])
                if 8 * len(data) != charged:
                    raise RuntimeError(f"{code}: {8 * len(data)} bits were sent and {charged} charged")
                back = CODES[code].decode(data, array.size)
            else:
                back = np.frombuffer(data, array.dtype).reshape(array.shape)
            if not np.array_equal(back, array, equal_nan=array.dtype.kind == "f"):
                raise RuntimeError(f"{code or array.dtype}: what was decoded is not what was sent")
            sent.append(8 * len(data))
        if self._by_kind(sent) != self.bits(message):
            raise RuntimeError(f"{self._by_kind(sent)} bits were sent and {self.bits(message)} charged")

    def _by_kind(self, sizes: Sequence[int]) -> Mapping[str, int]:
        totals: dict[str, int] = collections.Counter()
        for kind, size in zip(self._kinds, sizes, strict=True):
            if kind not in _STAYS:
                totals[kind] += size
        return dict(totals)


def _place_of_length(paths: Sequence[Sequence[str | None]], place: int) -> int:
    """Where the length of the code stands whose symbols stand at `place`: the last tensor before it, by alphabet, whose
    path differs in that word alone. (Tensors of a tuple have no names, so a path may occur for each of them.)"""
    wanted = tuple(str(part).replace(SYMBOLS, LENGTH) for part in paths[place])
    return max(k for k in range(place) if tuple(map(str, paths[k])) == wanted)


def _kind(path: Sequence[str | None], kinds: Sequence[str]) -> str:
    found = [kind for kind in kinds if any(name and name.split("_")[0] == kind for name in path)]
    if len(found) != 1:
        raise ValueError(f"a message has a tensor at {path} that is none of {', '.join(kinds)}")
    return found[0]
