"""The figure: error against bits, a panel for each kind of vectors, a curve for each family of encoders."""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter

from fedsweep import shown
from fedsweep.pareto.style import COLOURS, MARKERS, saved

if TYPE_CHECKING:
    from fedsweep.lab.report import Row

_LINES = ("-", "--", ":", "-.")
_EXACT = 1e-12  # errors below are drawn at the lower edge
_FRONT = {"color": "0.75", "linewidth": 2.5, "solid_capstyle": "butt"}
_STYLE = {
    "font.size": 8, "axes.titlesize": 9, "axes.titlelocation": "left", "legend.fontsize": 7.5, "lines.linewidth": 1.2,
    "lines.markersize": 5.5, "axes.spines.top": False, "axes.spines.right": False,
    "pdf.fonttype": 42, "savefig.dpi": 200,
}  # fmt: skip


def draw(rows: Sequence[Row], formats: Sequence[str]) -> list[bytes]:
    """The picture in each of the formats ("png", "pdf")."""
    kinds = list(dict.fromkeys(row.vectors for row in rows))
    styles = _styles(rows)
    with plt.rc_context(_STYLE):
        columns = min(3, len(kinds))
        lines = math.ceil(len(kinds) / columns)
        entries = 4 if columns > 1 else 3
        legend_height = 0.17 * math.ceil((len(styles) + 1) / entries) + 0.2
        width = max(3.4 * columns, 5.2)
        figure, axes = plt.subplots(
            lines,
            columns,
            figsize=(width, 2.9 * lines + legend_height),
            squeeze=False,
            layout="constrained",
            sharex=True,
        )
        for kind, panel in zip(kinds, axes.flat, strict=False):
            _panel(panel, kind, [row for row in rows if row.vectors == kind], styles)
        for panel in axes.flat[len(kinds) :]:
            panel.set_visible(False)
        for place, panel in enumerate(axes.flat[: len(kinds)]):
            if place + columns >= len(kinds):  # nothing below it
                panel.set_xlabel("bits per element")
                panel.tick_params(labelbottom=True)
        for line in axes:
            line[0].set_ylabel("normalised squared error of the mean")
        names = shown.apart(curve for _, curve in styles)
        handles = [plt.Line2D([], [], label=names[curve], **style) for (_, curve), style in styles.items()]
        handles.append(plt.Line2D([], [], label="front", **_FRONT))
        legend = figure.legend(
            handles=handles, loc="outside lower center", ncols=entries, frameon=False, handlelength=2.6
        )
        for text in legend.get_texts():  # the axes' powers of ten are mathematics, a $ of a user's is a dollar
            text.set_parse_math(False)
        try:
            return [saved(figure, name) for name in formats]
        finally:
            plt.close(figure)


def _styles(rows: Sequence[Row]) -> dict[tuple[int, str], dict]:
    """By (argument, curve): a colour and a marker for the encoder; its curves differ in line and filling."""
    names = list(dict.fromkeys(row.choice.encoder for row in rows))
    styles: dict[tuple[int, str], dict] = {}
    drawn = dict.fromkeys(names, 0)
    points = collections.Counter((row.choice.argument, row.choice.curve, row.vectors) for row in rows)
    longest = {key: max(n for (*own, _), n in points.items() if tuple(own) == key) for key in {k[:2] for k in points}}
    for choice in (row.choice for row in rows):
        if (choice.argument, choice.curve) in styles:
            continue
        place, nth = names.index(choice.encoder), drawn[choice.encoder]
        drawn[choice.encoder] += 1
        colour = COLOURS[place % len(COLOURS)]
        styles[choice.argument, choice.curve] = {
            "color": colour,
            "marker": MARKERS[place % len(MARKERS)],
            "linestyle": _LINES[nth % len(_LINES)] if longest[choice.argument, choice.curve] > 1 else "none",
            **({"markerfacecolor": "white"} if nth % 2 else {"markeredgecolor": "white", "markeredgewidth": 0.5}),
        }
    return styles


def _panel(panel: plt.Axes, kind: str, rows: Sequence[Row], styles: dict[tuple[int, str], dict]) -> None:
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    seen = [row.measured.nmse for row in rows if _EXACT < row.measured.nmse < math.inf]
    floor = min(seen) / 3 if seen else 0.1
    for key, style in styles.items():
        own = [row.measured for row in rows if (row.choice.argument, row.choice.curve) == key]
        own = sorted((m for m in own if math.isfinite(m.nmse)), key=lambda m: m.bits)
        bits, errors = [m.bits for m in own], [max(m.nmse, floor) if m.nmse > _EXACT else floor for m in own]
        panel.plot(bits, errors, clip_on=False, zorder=3, **style)
    front = sorted((m.bits, max(m.nmse, floor)) for m in (row.measured for row in rows if row.on_front))
    panel.plot(*zip(*front, strict=True), drawstyle="steps-post", **_FRONT)
    exact = any(row.measured.nmse <= _EXACT for row in rows)
    panel.set_ylim(floor, (max(seen) if seen else 1) * 2)
    panel.set_title(f"{kind} (lower edge: no error)" if exact else kind)
    panel.xaxis.set_major_formatter(FuncFormatter(lambda bits, _: f"{bits:g}" if bits >= 1 else f"1/{1 / bits:g}"))
    panel.grid(color="0.92", linewidth=0.6)
    panel.set_axisbelow(True)
