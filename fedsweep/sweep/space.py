"""The space of a sweep: which overrides vary, over what. Hydra parses them; here they become points.

A point is a value for each swept key, as text that Hydra's grammar reads back: {"encoder.bits": "2"}.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer

from fedsweep import seeds
from fedsweep.errors import UserError

Point = dict[str, str]

_LONGEST = 10_000  # a range with more values is never listed


@dataclass(frozen=True)
class Choices:
    """A list of values: choices, groups, globs."""

    values: tuple[str, ...]

    @property
    def count(self) -> int:
        return len(self.values)

    def __str__(self) -> str:
        return ",".join(self.values)


@dataclass(frozen=True)
class Range:
    """Numbers at equal steps; `values` lists them where they are not too many."""

    start: int | float
    step: int | float
    count: int
    values: tuple[str, ...] | None

    def text(self, index: int) -> str:
        """The value at the index, counted in order of size of the steps."""
        if self.values is not None:
            return self.values[index]
        return Transformer.str(self.start + index * self.step)

    def __str__(self) -> str:
        last = self.start + (self.count - 1) * self.step
        return ",".join(self.values) if self.values is not None else f"{self.start} to {last} step {self.step}"


@dataclass(frozen=True)
class Interval:
    """All numbers between two (whole numbers: both ends included)."""

    low: float
    high: float
    log: bool

    count = math.inf

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int)

    def __str__(self) -> str:
        text = f"int(interval({self.low},{self.high}))" if self.whole else f"interval({self.low},{self.high})"
        return f"tag(log,{text})" if self.log else text


Dimension = Choices | Range | Interval


Grid = dict[str, tuple[str, ...]]  # key -> its values


@dataclass(frozen=True)
class Space:
    """What the command line (and hydra.sweeper.params) says: fixed overrides, and dimensions by key.

    With `grids` (sweep.grids) the space is the union of grids that vary different keys: each point is one of the
    dimensions `shared` by all, and one of some grid; keys of other grids are not in it.
    """

    overrides: dict[str, str | None]  # in order; None: the key is a dimension
    dimensions: dict[str, Dimension]
    orders: dict[str, tuple[int, ...]]  # of shuffled dimensions: indices in the order of enumeration
    grids: tuple[Grid, ...] = ()

    @property
    def size(self) -> float:
        """The number of points; infinite with an interval."""
        if self.grids:
            return len(list(self.points()))
        return math.prod(dimension.count for dimension in self.dimensions.values())

    def points(self) -> Iterator[Point]:
        """Every point of a finite space exactly once: the last key varies fastest, as in Hydra's own sweeper."""
        own = {key for grid in self.grids for key in grid}
        shared = {
            key: [dimension.values[k] for k in self.orders[key]] if key in self.orders else dimension.values
            for key, dimension in self.dimensions.items()
            if key not in own
        }
        seen = set()
        for grid in self.grids or ({},):
            axes = {**shared, **grid}
            for values in itertools.product(*axes.values()):
                point = dict(zip(axes, values, strict=True))
                if (items := frozenset(point.items())) not in seen:
                    seen.add(items)
                    yield point

    def probes(self) -> list[Point]:
        """Points that together hold every value of short dimensions and the ends of long ones, for early checks."""
        if self.grids:
            return list(self.points())
        ends = {key: _ends(dimension) for key, dimension in self.dimensions.items()}
        first = {key: values[0] for key, values in ends.items()}
        return [first, *({**first, key: value} for key, values in ends.items() for value in values[1:])]

    def arguments(self, point: Mapping[str, str]) -> list[str]:
        """All overrides with the point's values."""
        return [
            f"{key}={point[key]}" if text is None else text
            for key, text in self.overrides.items()
            if text is not None or key in point
        ]

    def describe(self) -> dict[str, list[str] | str]:
        """For sweep.yaml: the values of each dimension, or what they lie between."""
        return {
            key: list(values) if (values := getattr(dimension, "values", None)) is not None else str(dimension)
            for key, dimension in self.dimensions.items()
        }


def _ends(dimension: Dimension) -> list[str]:
    if isinstance(dimension, Interval):
        return [Transformer.str(dimension.low), Transformer.str(dimension.high)]
    if isinstance(dimension, Range):
        return list(dict.fromkeys([dimension.text(0), dimension.text(dimension.count - 1)]))
    return list(dimension.values)


def parse(overrides: Sequence[Override], grids: Iterable[Sequence[Override]] = ()) -> Space:
    """The space of parsed overrides. Of two for the same key the later counts, in the earlier's place.

    `grids` are those of sweep.grids; what `overrides` say of a key counts in all of them.

    Raises:
      UserError: a dimension is empty, upside down, or logarithmic where it cannot be; grids are to be searched.
    """
    texts: dict[str, str | None] = {}
    dimensions: dict[str, Dimension] = {}
    orders: dict[str, tuple[int, ...]] = {}
    for override in overrides:
        key = override.get_key_element()
        dimensions.pop(key, None)
        orders.pop(key, None)
        if not override.is_sweep_override():
            texts[key] = override.input_line if override.is_delete() else f"{key}={override.get_value_element_as_str()}"
            continue
        texts[key] = None
        dimensions[key] = _dimension(key, override)
        if getattr(override.value(), "shuffle", False) and getattr(dimensions[key], "values", None):
            # by the key: a shuffle that repeats, so a sweep can be resumed
            rng = np.random.default_rng([seeds.Stream.SEARCH, *key.encode()])
            orders[key] = tuple(int(k) for k in rng.permutation(dimensions[key].count))
    shared = {key: dimensions[key] for key, text in texts.items() if text is None}
    found = [_grid(grid, known=texts) for grid in grids]
    endless = [key for key, dimension in shared.items() if getattr(dimension, "values", None) is None]
    if found and endless:
        raise UserError(f"{endless[0]}={shared[endless[0]]}: is no list of values; sweep.grids are enumerated")
    own = {key for grid in found for key in grid}
    common = math.prod(dimension.count for key, dimension in shared.items() if key not in own) if found else 0
    if (size := common * sum(math.prod(map(len, grid.values())) for grid in found)) > _LONGEST:
        raise UserError(f"sweep.grids: {size:,} points; all are enumerated, so they must be at most {_LONGEST:,}")
    values: dict[str, dict[str, None]] = {}
    for grid in found:
        for key, own in grid.items():
            values.setdefault(key, {}).update(dict.fromkeys(own))
    union = {key: Choices(tuple(own)) for key, own in values.items()}
    return Space(texts | dict.fromkeys(union), shared | union, orders, tuple(found))


def _grid(overrides: Sequence[Override], known: Mapping[str, str | None]) -> Grid:
    """One grid of sweep.grids, without the keys that are known from elsewhere."""
    grid = {}
    for override in overrides:
        key = override.get_key_element()
        if override.is_delete():
            raise UserError(f"sweep.grids: {override.input_line}: a grid names values; delete on the command line")
        if key in known:
            continue
        if not override.is_sweep_override():
            grid[key] = (override.get_value_element_as_str(),)
        elif (values := getattr(_dimension(key, override), "values", None)) is not None:
            grid[key] = values
        else:
            raise UserError(f"sweep.grids: {override.input_line}: is no list of values")
    return grid


def _dimension(key: str, override: Override) -> Dimension:
    value = override.value()
    if isinstance(value, IntervalSweep):
        log = "log" in value.tags
        if not value.start < value.end:
            raise UserError(f"{key}={override.input_line.partition('=')[2]}: the first number must be the smaller one")
        if log and value.start <= 0:
            raise UserError(f"{key}={override.input_line.partition('=')[2]}: a logarithmic interval starts above 0")
        return Interval(value.start, value.end, log)
    if getattr(value, "shuffle", False):
        override = dataclasses.replace(override, _value=dataclasses.replace(value, shuffle=False))
    if isinstance(value, RangeSweep):
        return _range(key, override, value)
    values = tuple(dict.fromkeys(override.sweep_string_iterator()))
    if not values:
        raise UserError(f"{override.input_line}: no value to sweep over; the sweep has no point")
    return Choices(values)


def _range(key: str, override: Override, value: RangeSweep) -> Range:
    if value.step == 0:
        raise UserError(f"{override.input_line}: the step must not be 0")
    if not all(math.isfinite(number) for number in (value.start, value.stop, value.step)):
        raise UserError(f"{override.input_line}: starts, stops and steps at finite numbers")
    listed = tuple(itertools.islice(override.sweep_string_iterator(), _LONGEST + 1))
    if not listed:
        raise UserError(f"{override.input_line}: no value to sweep over; the sweep has no point")
    if len(listed) <= _LONGEST:
        return Range(value.start, value.step, len(listed), listed)
    return Range(value.start, value.step, math.ceil((value.stop - value.start) / value.step), None)
