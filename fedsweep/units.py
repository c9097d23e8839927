"""Bits for people."""

from __future__ import annotations

import re

UNITS = ("bit", "Kibit", "Mibit", "Gibit", "Tibit")


def format_bits(bits: float) -> str:
    """1024-based, as the tutorial counts: 153575360 -> "146.46 Mibit"."""
    size, unit = float(bits), 0
    while size >= 1024 and unit < len(UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.2f} {UNITS[unit]}" if unit else f"{bits:.0f} bit"


def parse_bits(text: str) -> int:
    """What `format_bits` writes, or a plain number of bits: "1.5 Gibit" -> 1610612736. Raises ValueError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if not match or (match[2] or "bit") not in UNITS:
        raise ValueError(f"{text}: a number of bits, or one with a unit ({', '.join(UNITS)})")
    return round(float(match[1]) * 1024 ** UNITS.index(match[2] or "bit"))
