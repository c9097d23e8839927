"""The front in a terminal: a table and a small plot."""

from __future__ import annotations

import math
import sys

import plotext
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedsweep import shown
from fedsweep.pareto.analysis import Analysis, Task
from fedsweep.pareto.style import short_bits
from fedsweep.units import format_bits

_MOST_ROWS = 15


def show(analysis: Analysis) -> None:
    """Prints, for each task, its front and where the points lie."""
    for sweep in analysis.sweeps:
        if sweep.left_out:
            print(f"{sweep.name}: without runs that are not complete ({sweep.missing})")
    console = Console(width=None if sys.stdout.isatty() else 110, emoji=False, markup=False)
    for task in analysis.tasks:
        console.print(_table(analysis, task))
        if (analysis.points.config.map(analysis.configs.task) == task.name).sum() > 1:
            console.print(Text(_plot(analysis, task)))


def _table(analysis: Analysis, task: Task) -> Table:
    question = analysis.question
    points = analysis.points.join(analysis.configs[["task", "label", "float32"]], on="config")
    front = points[(points.task == task.name) & points.on_front].sort_values("x")
    title = "Pareto front" + (f" on {task.name}" if len(analysis.tasks) > 1 else "")
    volume = f"hypervolume {task.hypervolume:.4g} (from {format_bits(task.reference[0])}, {task.reference[1]:g})"
    more = f"{len(front) - _MOST_ROWS} more in pareto.csv; " if len(front) > _MOST_ROWS else ""
    table = Table(title=title, title_justify="left", caption=f"{more}{volume}; {analysis.selection}",
                  caption_justify="left")  # fmt: skip
    table.add_column("configuration")
    for column in (f"{question.x} bits", "float32/bits", question.y.replace("_", " "), "seeds"):
        table.add_column(column, justify="right")
    if question.points == "all":
        table.add_column("round", justify="right")
    for point in front.head(_MOST_ROWS).itertuples():
        sign = "±" if _can_print("±") else "+-"
        half = "" if math.isnan(point.y_half) else f" {sign} {point.y_half:.4f}"
        ratio = f"{point.float32 / point.x:.2f}" if question.points == "final" else ""
        cells = [point.label, format_bits(point.x), ratio, f"{point.y:.4f}{half}", str(point.n)]
        table.add_row(*cells, *([str(point.round)] if question.points == "all" else []))
    return table


def markdown(analysis: Analysis) -> str:
    """The fronts as a table for MLflow's description."""
    question, lines = analysis.question, []
    points = analysis.points.join(analysis.configs[["task", "label"]], on="config")
    for task in analysis.tasks:
        front = points[(points.task == task.name) & points.on_front].sort_values("x").head(_MOST_ROWS)
        lines += [f"Pareto front on {shown.in_markdown(task.name)} ({analysis.selection}):", ""]
        lines += [f"| configuration | {question.x} bits | {question.y} |", "|---|---|---|"]
        lines += [f"| {shown.in_markdown(p.label)} | {format_bits(p.x)} | {p.y:.4f} |" for p in front.itertuples()]
    return "\n".join(lines)


def _plot(analysis: Analysis, task: Task) -> str:
    points = analysis.points[analysis.points.config.map(analysis.configs.task) == task.name]
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plot_size(72, 16)
    marks = ("·", "●") if _can_print("·●┌┤") else (".", "o")
    for on_front, marker, label in ((False, marks[0], "dominated"), (True, marks[1], "on the front")):
        some = points[points.on_front == on_front]
        if len(some):
            plotext.scatter([math.log2(x) for x in some.x], list(some.y), marker=marker, label=label)
    low, high = math.log2(points.x.min()), math.log2(points.x.max())
    places = [low + (high - low) * k / 3 for k in range(4)] if high > low else [low]
    plotext.xticks(places, [short_bits(2**place) for place in places])
    plotext.xlabel(f"{analysis.question.x} bits")
    plotext.ylabel(analysis.question.y.replace("_", " "))
    drawn = plotext.uncolorize(plotext.build())
    return drawn if _can_print(drawn) else drawn.translate(_PLAIN)


_PLAIN = str.maketrans("┌┐└┘├┤┬┴┼─│", "+++++++++-|")


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
