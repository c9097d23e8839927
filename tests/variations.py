"""Tests of many variations show some of them in `make test`, and all in `make test-all`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def some(variations: Iterable[Any], shown: Iterable[Any]) -> list:
    """The parameters of a test; those that are not `shown` in `make test` have the marker `exhaustive`."""
    shown = list(shown)
    return [one if one in shown else pytest.param(one, marks=pytest.mark.exhaustive) for one in variations]
