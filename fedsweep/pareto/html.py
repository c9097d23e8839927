"""pareto.html: the front and the curves to point at, in one page that needs nothing else."""

from __future__ import annotations

from fedsweep import shown
from fedsweep.errors import UserError
from fedsweep.pareto import figures, style
from fedsweep.pareto.analysis import Analysis
from fedsweep.units import format_bits

_SYMBOLS = dict(
    zip(
        style.MARKERS,
        (
            "circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "triangle-left",
            "triangle-right", "hexagon", "pentagon",
        ),
        strict=True,
    )
)  # fmt: skip


def page(analysis: Analysis) -> bytes:
    """Raises UserError without plotly."""
    try:
        from plotly import graph_objects as go
        from plotly.subplots import make_subplots
    except ImportError as error:
        raise UserError("--formats html: needs plotly; pip install 'fedsweep[html]'") from error
    looks = style.styles(list(analysis.configs.group.unique()))
    groups, tasks = shown.apart(looks, 30), shown.apart(task.name for task in analysis.tasks)
    labels = shown.apart(analysis.configs.label)
    titles = [f"{what}{shown.in_html(tasks[task.name])}" for task in analysis.tasks for what in ("front: ", "curves: ")]
    figure = make_subplots(rows=len(analysis.tasks), cols=2, subplot_titles=titles)
    named: set[str] = set()
    for row, task in enumerate(analysis.tasks, 1):
        points = analysis.points.join(analysis.configs[["task", "group", "label", "float32"]], on="config")
        points = points[points.task == task.name]
        front = figures.steps(analysis, points)
        line = {"color": "#555", "shape": "hv"}
        figure.add_trace(go.Scatter(x=front.x, y=front.y, mode="lines", line=line, showlegend=False,
                                    hoverinfo="skip"), row, 1)  # fmt: skip
        for group, own in points.groupby("group", sort=False):
            look = looks[group]
            text = [
                f"{shown.in_html(p.label)}<br>{format_bits(p.x)}{_ratio(analysis, p)}<br>"
                f"{figures.y_name(analysis)} {p.y:.4f}, {p.n} seeds, round {p.round:.0f}"
                for p in own.itertuples()
            ]
            marker = {
                "color": look["color"],
                "symbol": ["star" if config == task.baseline else _SYMBOLS[look["marker"]] for config in own.config],
                "size": 9,
                "opacity": [1.0 if on else 0.35 for on in own.on_front],
            }
            error_bars = {"array": own.y_half, "thickness": 1}
            figure.add_trace(
                go.Scatter(
                    x=own.x, y=own.y, error_y=error_bars, mode="markers", marker=marker,
                    name=shown.in_html(groups[group]),
                    legendgroup=shown.in_html(group), showlegend=group not in named, text=text, hoverinfo="text",
                ), row, 1,
            )  # fmt: skip
            named.add(group)
        evaluations = analysis.evaluations[analysis.evaluations.config.isin(points.config)]
        for config, own in evaluations.groupby("config"):
            mean = own.groupby("round")[["x", "y"]].mean()
            group = analysis.configs.group[config]
            figure.add_trace(
                go.Scatter(
                    x=mean.x, y=mean.y, mode="lines", line={"color": looks[group]["color"], "width": 1.2},
                    name=shown.in_html(labels[analysis.configs.label[config]]),
                    legendgroup=shown.in_html(group),
                    showlegend=False,
                ), row, 2,
            )  # fmt: skip
    every = analysis.evaluations.x
    places = style.tick_values(0.9 * every.min(), 1.1 * every.max(), 6)
    names = [style.short_bits(bits) for bits in places]
    figure.update_xaxes(type="log", title_text=figures.x_name(analysis), tickvals=places, ticktext=names)
    figure.update_yaxes(title_text=figures.y_name(analysis))
    figure.update_layout(
        template="plotly_white", height=480 * len(analysis.tasks), title_text=shown.in_html(analysis.selection)
    )
    return figure.to_html(include_plotlyjs=True, full_html=True, div_id="pareto").encode()


def _ratio(analysis: Analysis, point) -> str:
    """A ratio is one of whole runs."""
    return f", {point.float32 / point.x:.2f} times fewer than float32" if analysis.question.points == "final" else ""
