"""Walks over TFF types, in the order in which a computation's tensors are flattened."""

from __future__ import annotations

import tensorflow_federated as tff


def leaves(tff_type: tff.Type) -> list[tff.TensorType]:
    """The tensor types inside a type."""
    return [leaf for _, leaf in _walk(tff_type)]


def paths(tff_type: tff.Type) -> list[tuple[str | None, ...]]:
    """For each tensor inside a type, the names on the way to it; None where an element has no name."""
    return [path for path, _ in _walk(tff_type)]


def _walk(tff_type: tff.Type) -> list[tuple[tuple[str | None, ...], tff.TensorType]]:
    if isinstance(tff_type, tff.StructType):
        elements = tff.structure.iter_elements(tff_type)
        return [((name, *path), leaf) for name, element in elements for path, leaf in _walk(element)]
    return [((), tff_type)]
