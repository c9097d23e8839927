"""The figures of an analysis. Each is a function of it; a task, which is a data set, has a panel of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedsweep import shown
from fedsweep.pareto import labels, style
from fedsweep.pareto.analysis import QUARTILES, Analysis, Task

NAMES = ("pareto", "curves", "attainment", "targets", "grid", "plans")
_FAINT = 0.3  # opacity of what is dominated
_MOST_NAMES = 12  # rows, curves and groups that a reader can tell apart
_MOST_INTERVALS = 200  # points whose intervals are drawn though they are dominated
_BASELINE = {"color": "black", "marker": "*"}


@dataclass(frozen=True)
class Look:
    """The venue, and what every figure of an analysis shares."""

    venue: style.Venue
    groups: dict[str, dict]  # colour and marker by group
    names: dict[str, str]  # what a group is called where there is little room
    tasks: dict[str, str]  # and a task


def draw(analysis: Analysis, venue: style.Venue) -> Iterator[tuple[str, Figure]]:
    """(name, figure), those that there is something to show in."""
    groups = list(analysis.configs.group.unique())
    tasks = shown.apart(task.name for task in analysis.tasks)
    look = Look(venue, style.styles(groups), shown.apart(groups), tasks)
    with matplotlib.rc_context(style.settings(venue)):
        yield "pareto", _pareto(analysis, look)
        yield "curves", _curves(analysis, look)
        if any(task.surface for task in analysis.tasks):
            yield "attainment", _attainment(analysis, look)
        if len(analysis.targets):
            yield "targets", _targets(analysis, look)
        if 1 < len(look.groups) <= 4 * _MOST_NAMES:
            yield "grid", _grid(analysis, look)
        yield "plans", _plans(analysis, look)


def y_name(analysis: Analysis) -> str:
    return analysis.question.y.replace("_", " ")


def x_name(analysis: Analysis) -> str:
    return {"uplink": "uplink", "downlink": "downlink", "total": "communicated"}[analysis.question.x] + " bits"


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, **keywords) -> tuple[Figure, np.ndarray]:
    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)  # labels are measured before they are placed
    return figure, figure.subplots(rows, columns, squeeze=False, **keywords)


def _task_panels(analysis: Analysis, look: Look, draw_one: Callable[[Axes, Task], None]) -> Figure:
    """A panel for each task, side by side as far as the width allows."""
    tasks, width = analysis.tasks, look.venue.width
    columns = min(len(tasks), max(1, int(width / 2.4)))
    rows = math.ceil(len(tasks) / columns)
    height = rows * max(2.2, width / columns * 0.62)
    figure, panels = _figure(width, min(height, 3 * width), rows, columns)
    for axes, task in zip(panels.flat, tasks, strict=False):
        if len(tasks) > 1:
            axes.set_title(look.tasks[task.name])
        axes.set_xlabel(x_name(analysis))
        axes.set_ylabel(y_name(analysis))
        draw_one(axes, task)
    for axes in panels.flat[len(tasks) :]:
        axes.set_visible(False)
    return figure


def _of(analysis: Analysis, task: Task) -> pd.DataFrame:
    """The points of a task, with what is known of their configurations."""
    points = analysis.points.join(analysis.configs[["task", "group", "label", "short", "uncompressed"]], on="config")
    return points[points.task == task.name]


def steps(analysis: Analysis, points: pd.DataFrame) -> pd.DataFrame:
    """The points on the front, by bits, one for each number of bits: where the staircase steps."""
    front = points[points.on_front].sort_values(["x", "y"], ascending=[True, analysis.question.sign > 0])
    return front.drop_duplicates("x")


def _pad(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """Limits with room for labels; a range without extent gets one."""
    low, high = math.log2(x.min()), math.log2(x.max())
    room = max(0.12 * (high - low), 0.25)
    axes.set_xlim(2 ** (low - room), 2 ** (high + room))
    low, high = float(y.min()), float(y.max())
    room = 0.1 * (high - low) or 0.02
    axes.set_ylim(low - room, high + room)
    axes.yaxis.get_major_formatter().set_useOffset(False)


def _intervals(axes: Axes, points: pd.DataFrame, **keywords) -> None:
    """Crosses of 95 % intervals; none where there is a single replicate."""
    known = points[points.y_half.notna()]
    axes.errorbar(
        known.x, known.y, xerr=np.minimum(known.x_half.fillna(0), 0.9 * known.x), yerr=known.y_half, fmt="none",
        elinewidth=0.7, **keywords,
    )  # fmt: skip


def _staircase(axes: Axes, front: pd.DataFrame, **keywords) -> np.ndarray:
    """The front as steps to the right edge; their corners."""
    corners = []
    for x, y in zip(front.x, front.y, strict=True):
        if corners:
            corners.append((x, corners[-1][1]))
        corners.append((x, y))
    corners.append((axes.get_xlim()[1], corners[-1][1]))
    line = np.array(corners)
    axes.plot(line[:, 0], line[:, 1], **{**style.FRONT, **keywords})
    return line


def _pareto(analysis: Analysis, look: Look) -> Figure:
    waiting, unnamed = [], set()

    def one(axes: Axes, task: Task) -> None:
        points = _of(analysis, task)
        axes.set_xscale("log", base=2)
        # Of two seeds an interval is six times as long as they are apart: the points set the scale.
        half = points.y_half.fillna(0).clip(upper=max(0.5 * np.ptp(points.y), 0.05))
        y = np.concatenate([points.y - half, points.y + half])
        if (points.y_half > half).any():
            axes.set_title(
                "long intervals are cut at the frame", loc="right", fontsize=look.venue.size - 2, color="0.4"
            )
        x = np.concatenate([points.x, [task.float32_bits] if _near(task, points) else []])
        _pad(axes, x, y)
        if analysis.question.points == "all":
            _paths(axes, points, look)
            points = points[points.on_front]
        for group, own in points.groupby("group", sort=False):
            colour = look.groups[group]
            for on_front, some in own.groupby("on_front"):
                marks = some[some.config != task.baseline]
                opacity = 1.0 if on_front else _FAINT
                if on_front or len(points) <= _MOST_INTERVALS:  # of thousands of points they are only a haze
                    _intervals(axes, some, color=colour["color"], alpha=opacity, zorder=2.5 + on_front)
                axes.plot(
                    marks.x, marks.y, linestyle="none", alpha=opacity, markeredgecolor="white", markeredgewidth=0.4,
                    zorder=3 + on_front, **colour,
                )  # fmt: skip
        base = points[points.config == task.baseline]
        axes.plot(base.x, base.y, linestyle="none", markersize=8, zorder=5, **_BASELINE)
        lines = [_staircase(axes, steps(analysis, points))]
        sure = points[points.on_front & points.y_half.notna()]
        lines += [np.array([[q.x, q.y - q.y_half], [q.x, q.y + q.y_half]]) for q in sure.itertuples()]
        if task.float32_bits:
            if base.empty and _near(task, points):
                axes.axvline(task.float32_bits, color="0.5", linewidth=0.7, linestyle=":")
                lines.append(np.array([[task.float32_bits] * 2, axes.get_ylim()]).T)
            if analysis.question.points == "final":  # a ratio is one of whole runs
                style.ratio_axis(axes, task.float32_bits)
        style.bits_axis(axes)
        waiting.append((axes, task, points, lines))

    figure = _task_panels(analysis, look, one)
    figure.draw_without_rendering()  # labels need the final layout
    for axes, task, points, lines in waiting:
        unnamed |= _label(analysis, look, axes, task, points, lines)
    _legend(figure, look, unnamed)
    return figure


def _near(task: Task, points: pd.DataFrame) -> bool:
    """Whether float32 is worth a place on the axis: known, and not so far away that everything else shrinks."""
    return bool(task.float32_bits) and points.x.max() <= task.float32_bits <= 16 * points.x.max()


def _paths(axes: Axes, lines: pd.DataFrame, look: Look) -> None:
    """Faint lines, one a configuration; a collection a group, since thousands of single lines take their time."""
    for group, own in lines.groupby("group", sort=False):
        own = own.sort_values(["config", "round"])
        paths = np.split(own[["x", "y"]].to_numpy(), np.flatnonzero(np.diff(own.config)) + 1)
        axes.add_collection(
            LineCollection(paths, colors=look.groups[group]["color"], alpha=_FAINT, linewidths=0.6, zorder=1.5)
        )


def _label(
    analysis: Analysis, look: Look, axes: Axes, task: Task, points: pd.DataFrame, lines: list[np.ndarray]
) -> set[str]:
    """Names the baseline, the groups and the points on the front; returns the groups for which there was no room."""
    size, wanted = look.venue.size - 1, []
    several = len(look.groups) > 1
    base = points[points.config == task.baseline]
    if len(base):
        wanted.append(labels.Label("uncompressed", _places(base), {"fontsize": size}))
    elif _near(task, points):
        top = axes.get_ylim()[1]
        at = [(task.float32_bits, top - share * (top - axes.get_ylim()[0])) for share in (0.1, 0.3, 0.5, 0.9)]
        wanted.append(labels.Label("float32", at, {"fontsize": size, "color": "0.4"}))
    named = points[points.config != task.baseline]
    if several:
        for group, own in named.groupby("group", sort=False):
            best = own.sort_values(["on_front", "s"], ascending=[False, analysis.question.sign > 0])
            text = {"fontsize": size, "fontweight": "bold", "color": look.groups[group]["color"]}
            wanted.append(labels.Label(group, _places(best), text))
    front = named[named.on_front].sort_values("x")
    for point in front.itertuples() if len(front) <= 2 * _MOST_NAMES else ():
        text = point.short if several else point.label
        if analysis.question.points == "all":
            text = f"{text} @{point.round:.0f}".strip()
        if text and not (several and text == point.group):
            colour = {"fontsize": size - 1, "color": look.groups[point.group]["color"]}
            wanted.append(labels.Label(text, [(point.x, point.y)], colour))
    left = labels.place(axes, wanted, points[["x", "y"]].to_numpy(), lines)
    return {label.text for label in left} & set(look.groups)


def _places(points: pd.DataFrame) -> list[tuple[float, float]]:
    return list(points[["x", "y"]].head(5).itertuples(index=False, name=None))


def _legend(figure: Figure, look: Look, names) -> None:
    """Of the groups that could not be named where they are."""
    handles = [
        Line2D([], [], linestyle="none", label=look.names[name], **look.groups[name])
        for name in look.groups
        if name in names
    ]
    if handles:
        columns = max(1, int(look.venue.width / (0.09 * max(len(h.get_label()) for h in handles) + 0.35)))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def chosen(analysis: Analysis, task: Task | None = None, most: int = _MOST_NAMES, whole: bool = False) -> list[int]:
    """The configurations that single figures and tables name: baselines, the front, then the best of the others.

    `most` of them, a share a task; of a longer front evenly spaced ones, with both ends, unless the `whole` is wanted.
    """
    found: list[int] = []
    tasks = [task] if task else analysis.tasks
    for one in tasks:
        points, share = _of(analysis, one), max(2, most // len(tasks))
        front = list(dict.fromkeys(points[points.on_front].sort_values("x").config))
        rest = points[~points.on_front].sort_values("s", ascending=analysis.question.sign > 0)
        own = [] if one.baseline is None else [one.baseline]
        if not whole and len(front) > share - len(own):
            front = [front[round(k)] for k in np.linspace(0, len(front) - 1, share - len(own))]
        own = list(dict.fromkeys([*own, *front]))
        found += list(dict.fromkeys([*own, *rest.config]))[: max(share, len(own))]
    return found


def _curves(analysis: Analysis, look: Look) -> Figure:
    def one(axes: Axes, task: Task) -> None:
        own = analysis.evaluations[analysis.evaluations.config.map(analysis.configs.task) == task.name]
        axes.set_xscale("log", base=2)
        _pad(axes, own.x.to_numpy(), own.y.to_numpy())
        style.bits_axis(axes)
        grouped = own.groupby(["config", "round"])
        mean = grouped[["x", "y"]].mean()
        low, high = grouped.y.min(), grouped.y.max()
        named = chosen(analysis, task, 6)
        faint = mean.drop(index=named, level="config").reset_index()
        _paths(axes, faint.assign(group=faint.config.map(analysis.configs.group)), look)
        for config in named:
            line = mean.loc[config]
            colour = _BASELINE if config == task.baseline else look.groups[analysis.configs.group[config]]
            axes.plot(line.x, line.y, color=colour["color"], zorder=3)
            axes.fill_between(line.x, low[config], high[config], color=colour["color"], alpha=0.15, linewidth=0)
            lines.setdefault(axes, []).append(line[["x", "y"]].to_numpy())
            ends.append((axes, config, line.x.iloc[-1], line.y.iloc[-1], colour))

    ends: list[tuple] = []
    lines: dict[Axes, list[np.ndarray]] = {}
    figure = _task_panels(analysis, look, one)
    figure.draw_without_rendering()
    for axes in dict.fromkeys(end[0] for end in ends):
        mine = [end for end in ends if end[0] is axes]
        wanted = []
        for _, config, x, y, colour in mine:
            text = "uncompressed" if colour is _BASELINE else analysis.configs.label[config]
            wanted.append(labels.Label(text, [(x, y)], {"fontsize": look.venue.size - 2, "color": colour["color"]}))
            axes.plot([x], [y], linestyle="none", markersize=4, zorder=4, **colour)
        labels.place(axes, wanted, np.array([(x, y) for _, _, x, y, _ in mine]), lines[axes])
    return figure


def _attainment(analysis: Analysis, look: Look) -> Figure:
    def one(axes: Axes, task: Task) -> None:
        points = _of(analysis, task)
        axes.set_xscale("log", base=2)
        if task.surface is None:
            axes.set_title(
                f"{look.tasks[task.name]}: no two seeds that every configuration has", fontsize=look.venue.size - 1
            )
            return
        x, surfaces = task.surface
        reached = surfaces[~np.isnan(surfaces)]
        _pad(axes, points.x.to_numpy(), np.concatenate([reached, points.y]))
        style.bits_axis(axes)
        x = np.append(x, axes.get_xlim()[1])
        many, median, few = (np.append(surface, surface[-1]) for surface in (surfaces[2], surfaces[1], surfaces[0]))
        axes.fill_between(x, many, few, step="post", color=style.COLOURS[0], alpha=0.2, linewidth=0)
        axes.step(x, median, where="post", color=style.COLOURS[0])
        axes.plot(points.x, points.y, ".", color="0.6", markersize=3, zorder=1)
        seeds = len(task.seeds)
        name = f"{look.tasks[task.name]}: " if len(analysis.tasks) > 1 else ""
        text = f"{name}{seeds} seeds: half attain the line, {QUARTILES[0]:.0%} and {QUARTILES[2]:.0%} the band's edges"
        axes.set_title(text, fontsize=look.venue.size - 2)

    return _task_panels(analysis, look, one)


def _row_figure(analysis: Analysis, look: Look, room: float) -> tuple[Figure, Axes, list[int]]:
    """A figure with a row a configuration, by their bits, the tasks apart; `room`: inches beside the rows."""
    bits = analysis.points.groupby("config").x.max()
    order = {task.name: place for place, task in enumerate(analysis.tasks)}
    configs = sorted(chosen(analysis), key=lambda config: (order[analysis.configs.task[config]], bits[config], config))
    figure, panels = _figure(look.venue.width, room + 0.2 * len(configs))
    axes = panels[0, 0]
    if len(configs) < len(analysis.configs):
        text = f"{len(configs)} of {len(analysis.configs)} configurations: the front, then the best"
        axes.set_title(text, loc="right", fontsize=look.venue.size - 2, color="0.4")
    return figure, axes, configs


def _row_names(analysis: Analysis, configs: list[int]) -> list[str]:
    several = len(analysis.tasks) > 1
    baselines = {task.baseline for task in analysis.tasks}
    names = []
    for config in configs:
        name = analysis.configs.label[config] + (" (uncompressed)" if config in baselines else "")
        names.append(f"{analysis.configs.task[config]}: {name}" if several else name)
    short = shown.apart(names)
    return [short[name] for name in names]


def _targets(analysis: Analysis, look: Look) -> Figure:
    figure, axes, configs = _row_figure(analysis, look, 0.7)
    targets = sorted(analysis.targets.target.unique())
    axes.set_xscale("log", base=2)
    reached = analysis.targets[analysis.targets.config.isin(configs) & (analysis.targets.reached > 0)]
    everything = reached["mean"] if len(reached) else analysis.points.x
    _pad(axes, everything.to_numpy(), np.array([0.0, len(configs) - 1]))
    style.bits_axis(axes, share=0.6)  # the names take the rest
    axes.set_ylim(len(configs) - 0.5, -0.5)
    axes.set_yticks(range(len(configs)), _row_names(analysis, configs))
    axes.set_xlabel(f"{x_name(analysis)} to reach a {y_name(analysis)}", loc="right")  # below the names, where they are
    looks = style.styles([f"{target:g}" for target in targets])
    missing: dict[int, list[str]] = {}
    for row, config in enumerate(configs):
        for target in targets:
            found = analysis.targets[(analysis.targets.config == config) & (analysis.targets.target == target)].iloc[0]
            if not found.reached:
                missing.setdefault(row, []).append(f"{target:g}")
                continue
            whole = found.reached == found.n
            half = 0.0 if math.isnan(found.half) else min(found.half, 0.9 * found["mean"])
            axes.errorbar(
                found["mean"], row, xerr=half, elinewidth=0.7, linestyle="none",
                markerfacecolor=looks[f"{target:g}"]["color"] if whole else "white", **looks[f"{target:g}"],
            )  # fmt: skip
    for row, names in missing.items():
        axes.annotate(
            f"{', '.join(names)} not reached", (1, row), xycoords=("axes fraction", "data"), ha="right", va="center",
            fontsize=look.venue.size - 2, color="0.4", zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    handles = [Line2D([], [], linestyle="none", label=name, **looks[name]) for name in looks]
    partly = (reached.reached < reached.n).any()
    if partly:
        handles.append(Line2D([], [], linestyle="none", marker="o", color="0.4", markerfacecolor="white",
                              label="not by every seed"))  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=max(2, int(look.venue.width / 0.9)))
    return figure


def _grid(analysis: Analysis, look: Look) -> Figure:
    """A panel for each value of the group: its own points, those of all others in grey, the common front."""
    cells = [
        (task, group)
        for task in analysis.tasks
        for group in look.groups
        if (analysis.configs.group[analysis.configs.task == task.name] == group).any()
    ]
    columns = min(len(cells), max(2, int(look.venue.width / 1.5)))
    rows = math.ceil(len(cells) / columns)
    width = look.venue.width
    figure, panels = _figure(
        width, 0.5 + rows * max(1.25, 0.75 * width / columns), rows, columns, sharex=True, sharey=True
    )
    everything = analysis.points
    _pad(panels[0, 0], everything.x.to_numpy(), everything.y.to_numpy())
    panels[0, 0].set_xscale("log", base=2)
    titles = [group if len(analysis.tasks) == 1 else f"{task.name}: {group}" for task, group in cells]
    short = shown.apart(titles, int(14 * width / columns))
    for place, (axes, (task, group)) in enumerate(zip(panels.flat, cells, strict=False)):
        points = _of(analysis, task)
        own, others = points[points.group == group], points[points.group != group]
        axes.plot(others.x, others.y, ".", color="0.8", markersize=2.5, zorder=1)
        _staircase(axes, steps(analysis, points), linewidth=0.7, color="0.6")
        if len(own) <= _MOST_INTERVALS:
            _intervals(axes, own, color=look.groups[group]["color"], zorder=2.5)
        marks = own[own.config != task.baseline]
        axes.plot(
            marks.x, marks.y, linestyle="none", markersize=4, zorder=3, markeredgecolor="white", markeredgewidth=0.3,
            **look.groups[group],
        )  # fmt: skip
        base = own[own.config == task.baseline]
        axes.plot(base.x, base.y, linestyle="none", markersize=6, zorder=4, **_BASELINE)
        axes.set_title(short[titles[place]], fontsize=look.venue.size - 1)
        if place + columns >= len(cells):
            axes.tick_params(labelbottom=True)
    for axes in panels.flat[len(cells) :]:
        axes.set_visible(False)
    style.ticks(panels[0, 0].xaxis, *panels[0, 0].get_xlim(), style.short_bits, 2)
    figure.supxlabel(x_name(analysis), fontsize=look.venue.size)
    figure.supylabel(y_name(analysis), fontsize=look.venue.size)
    return figure


def _plans(analysis: Analysis, look: Look) -> Figure:
    """What a client sends and receives in a round, tensor by tensor."""
    figure, axes, configs = _row_figure(analysis, look, 0.9)
    directions = ("uplink", "downlink") if analysis.question.x == "total" else (analysis.question.x,)
    rows = []
    for config in configs:
        place = analysis.configs.loc[config]
        plan = analysis.sweeps[place.sweep].plan(place.trial)
        rows.append({(d, part["tensor"]): part["bits"] for d in directions for part in plan[d]})
        coded = any(part["coded"] for d in directions for part in plan[d])
        if coded:
            total = sum(rows[-1].values())
            axes.annotate(" + code", (total, len(rows) - 1), va="center", fontsize=look.venue.size - 2, color="0.4")
    table = pd.DataFrame(rows).fillna(0)
    # The small ones together: biases are a pixel wide.
    share = table.div(table.sum(axis=1), axis=0).max()
    large = list(share[share >= 0.02].sort_values(ascending=False).index[:7])
    table = table[large].assign(others=table.drop(columns=large).sum(axis=1))
    left = np.zeros(len(table))
    names = shown.apart((tensor for _, tensor in large), 30)
    hatches = {"uplink": "", "downlink": "////"}
    for place, column in enumerate(table.columns):
        direction, tensor = column if isinstance(column, tuple) else ("uplink", None)
        name = "the others" if tensor is None else names[tensor]
        name = f"{name} ({direction})" if len(directions) > 1 and tensor is not None else name
        colour = "0.75" if column == "others" else style.COLOURS[place % len(style.COLOURS)]
        axes.barh(
            range(len(table)), table[column], left=left, height=0.7, color=colour, label=name,
            hatch=hatches[direction], edgecolor="white", linewidth=0.3,
        )  # fmt: skip
        left += table[column].to_numpy()
    axes.set_yticks(range(len(configs)), _row_names(analysis, configs))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.05 * left.max())
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(matplotlib.ticker.MultipleLocator(2 ** math.ceil(math.log2(left.max() / 5))))
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(style.short_bits))
    axes.set_xlabel(f"{' and '.join(directions)} bits of a client and round", loc="right")
    figure.legend(loc="outside lower center", ncols=max(1, int(look.venue.width / 1.7)))
    return figure
