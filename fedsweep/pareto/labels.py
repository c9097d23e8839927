"""Direct labels: text beside points, where it hides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes

from fedsweep import shown

_DIRECTIONS = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))
_DISTANCES = (4.0, 8.0, 13.0, 19.0, 26.0)  # points, between a marker's centre and its text
_LEADER = 10.0  # from here on a thin line joins them


@dataclass(frozen=True)
class Label:
    """A text and the points that it may stand beside, the best one first; in data coordinates."""

    text: str
    anchors: Sequence[tuple[float, float]]
    style: dict = field(default_factory=dict)


def place(axes: Axes, labels: Sequence[Label], points: np.ndarray, lines: Sequence[np.ndarray]) -> list[Label]:
    """Draws the labels, the first ones first; returns those for which there is no room.

    A label never lies on another one, on a marker or outside the axes; it crosses a line only where nothing better is
    left.

    Args:
      axes: with its limits and its scale set, in a figure that has been laid out.
      labels: what to write.
      points: markers, [n, 2], data coordinates.
      lines: polylines, [m, 2] each, data coordinates.
    """
    figure = axes.figure
    pixels = figure.dpi / 72
    renderer = figure.canvas.get_renderer()
    radius = 0.6 * 5.0 * pixels
    centres = axes.transData.transform(points) if len(points) else np.zeros([0, 2])
    markers = np.column_stack([centres - radius, centres + radius])
    segments = [np.column_stack([line[:-1], line[1:]]) for line in map(axes.transData.transform, lines)]
    segments = np.concatenate(segments) if segments else np.zeros([0, 4])
    inside, taken, left = axes.bbox.extents, np.zeros([0, 4]), []
    texts = shown.apart(label.text for label in labels)
    for label in labels:
        measured = axes.text(0, 0, texts[label.text], **label.style).get_window_extent(renderer)
        axes.texts[-1].remove()
        size = np.array([measured.width, measured.height]) + 2
        best = None
        for rank, anchor in enumerate(axes.transData.transform(np.array(label.anchors))):
            for distance in _DISTANCES:
                for direction in _DIRECTIONS:
                    offset = np.array(direction) * distance * (0.75 if all(direction) else 1.0)
                    low = anchor + offset * pixels + (np.array(direction) - 1) / 2 * size
                    box = np.concatenate([low, low + size])
                    if (low < inside[:2]).any() or (box[2:] > inside[2:]).any():
                        continue
                    if _overlaps(box, taken).any() or _overlaps(box, markers).any():
                        continue
                    cost = distance + 12 * _crossed(box, segments).sum() + 6 * rank
                    if best is None or cost < best[0]:
                        best = cost, anchor, offset, direction, box, distance
        if best is None:
            left.append(label)
            continue
        _, anchor, offset, direction, box, distance = best
        taken = np.vstack([taken, box])
        _draw(axes, texts[label.text], label.style, anchor, offset, direction, distance)
    return left


def _draw(axes: Axes, text: str, style: dict, anchor, offset, direction, distance: float) -> None:
    leader = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.4, "shrinkA": 0, "shrinkB": 2}
    axes.annotate(
        text,
        axes.transData.inverted().transform(anchor),
        xytext=offset,
        textcoords="offset points",
        ha=("right", "center", "left")[direction[0] + 1],
        va=("top", "center", "bottom")[direction[1] + 1],
        arrowprops=leader if distance >= _LEADER else None,
        **style,
    ).set_in_layout(False)


def _overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which of the boxes [n, 4] (left, bottom, right, top) share a point with the box."""
    return ((boxes[:, :2] < box[2:]) & (boxes[:, 2:] > box[:2])).all(axis=1)


def _crossed(box: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Which of the segments [n, 4] meet the box; steps are axis-parallel, so their own boxes tell."""
    low, high = np.minimum(segments[:, :2], segments[:, 2:]), np.maximum(segments[:, :2], segments[:, 2:])
    return ((low <= box[2:]) & (high >= box[:2])).all(axis=1)
