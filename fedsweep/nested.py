"""Nested mappings by dotted keys, as overrides name them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def items(tree: Mapping, above: str = "") -> Iterator[tuple[str, Any]]:
    """`{"encoder": {"bits": 8}}` as ("encoder.bits", 8) pairs; `above` stands before every key."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from items(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
