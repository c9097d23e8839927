"""Bits for people."""

from __future__ import annotations

_UNITS = ("bit", "Kibit", "Mibit", "Gibit", "Tibit")


def format_bits(bits: float) -> str:
    """1024-based, as the tutorial counts: 153575360 -> "146.46 Mibit"."""
    size, unit = float(bits), 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.2f} {_UNITS[unit]}" if unit else f"{bits:.0f} bit"
