"""The numbers of an analysis: pareto.csv for programs, pareto.tex for the paper, summary.json for both."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from fedsweep import shown
from fedsweep.pareto.analysis import RESAMPLES, Analysis
from fedsweep.units import format_bits


def csv(analysis: Analysis) -> str:
    """Every operating point: a row each; empty cells where there is nothing to say (one replicate, never reached)."""
    question, configs = analysis.question, analysis.configs
    points = analysis.points.join(configs, on="config")
    x, y = f"{question.x}_bits", question.y
    table = pd.DataFrame(
        {
            "sweep": points.sweep.map(lambda k: analysis.sweeps[k].name),
            "trial": points.trial,
            "dataset": points.task,
            "group": points.group,
            "label": points.label,
            **{key: points[key] for key in analysis.keys},
            "round": points["round"],
            "replicates": points.n,
            x: points.x,
            f"{x}_half_interval": points.x_half,
            y: points.y,
            f"{y}_half_interval": points.y_half,
            "selected_by": analysis.select,
            "float32_ratio": points.float32 / points.x if question.points == "final" else math.nan,
            "uncompressed": points.uncompressed,
            "on_front": points.on_front,
            f"on_front_of_{RESAMPLES}_resamples": points.resampled,
        }
    )
    for (budget,), found in analysis.budgets.groupby(["budget"]):
        table[f"{y}_within_{budget}_bits"] = points.config.map(found.set_index("config")["mean"])
    for (target,), found in analysis.targets.groupby(["target"]):
        table[f"{x}_to_{target:g}"] = points.config.map(found.set_index("config")["mean"])
        table[f"reached_{target:g}"] = points.config.map(found.set_index("config").reached)
    return shown.as_csv(table)


def summary(analysis: Analysis) -> dict:
    """Hypervolumes with what they are measured from, the front, how it was selected, and what was left out."""
    front = analysis.points[analysis.points.on_front]
    tasks = []
    for task in analysis.tasks:
        own = front[front.config.map(analysis.configs.task) == task.name].sort_values("x")
        seeds = pd.Series(list(task.seeds.values()), dtype=float)
        tasks.append(
            {
                "dataset": task.name,
                "front": [
                    {
                        "label": analysis.configs.label[point.config],
                        "round": int(point.round),
                        "bits": point.x,
                        analysis.question.y: point.y,
                    }
                    for point in own.itertuples()
                ],
                "hypervolume": {
                    "of_means": task.hypervolume,
                    "unit": f"decades of bits times {analysis.question.y}",
                    "reference_bits": task.reference[0],
                    f"reference_{analysis.question.y}": task.reference[1],
                    "seeds": task.seeds,
                    "mean_over_seeds": seeds.mean() if len(seeds) else None,
                    "deviation_over_seeds": seeds.std() if len(seeds) > 1 else None,
                },
                "float32_bits": task.float32_bits,
                "uncompressed": None if task.baseline is None else analysis.configs.label[task.baseline],
            }
        )
    return {
        "x": f"{analysis.question.x}_bits",
        "y": analysis.question.y,
        "points": analysis.question.points,
        "selection": analysis.selection,
        "tasks": tasks,
        "left_out": {sweep.name: dict(sweep.left_out) for sweep in analysis.sweeps},
    }


def latex(analysis: Analysis, configs: Sequence[int]) -> str:
    """A booktabs table of these configurations; a comment says how it is read."""
    question, rows = analysis.question, []
    points = analysis.points
    if question.points == "all":  # a row a configuration: its last point
        points = points.sort_values("round").drop_duplicates("config", keep="last")
    points = points.set_index("config")
    resampled = points.resampled.notna().any()
    tasks = len(analysis.tasks) > 1
    for config in configs:
        point, place = points.loc[config], analysis.configs.loc[config]
        cells = [shown.in_latex(place.task)] if tasks else []
        cells += [
            shown.in_latex(place.label),
            _bits(point.x, point.x_half),
            f"{place.float32 / point.x:.2f}",
            _number(point.y, point.y_half),
        ]
        for budget in sorted(analysis.budgets.budget.unique()):
            cells.append(_found(analysis.budgets, "budget", budget, config, _number, "--"))
        for target in sorted(analysis.targets.target.unique()):
            cells.append(_found(analysis.targets, "target", target, config, _bits, "not reached"))
        if resampled:
            cells.append(f"{point.resampled:.0f}" if point.resampled == point.resampled else "--")
        rows.append(" & ".join(cells) + r" \\")
    y = shown.in_latex(question.y.replace("_", " "))
    heads = (["data set"] if tasks else []) + ["configuration", f"{question.x} bits", "float32 ratio", y]
    heads += [f"{y} at {format_bits(budget)}" for budget in sorted(analysis.budgets.budget.unique())]
    heads += [f"bits to {target:g}" for target in sorted(analysis.targets.target.unique())]
    heads += [f"on the front (of {RESAMPLES})"] if resampled else []
    left = 2 if tasks else 1
    replicates = f"{int(points.n.min())} to {int(points.n.max())}" if points.n.nunique() > 1 else f"{points.n.iloc[0]}"
    means = f"Means over {replicates} seeds with 95 % intervals (Student's t)"
    if points.n.max() == 1:
        means = "Single seeds"
    return "\n".join(
        [
            f"% {means}; {shown.printable(analysis.selection)}.",
            *(
                f"% Without runs of {shown.printable(sweep.name)} that are not complete: {sweep.missing}."
                for sweep in analysis.sweeps
                if sweep.left_out
            ),
            "% At a budget: the last evaluation within it. To a target: bits at the first evaluation that reaches it;",
            "% (k/n): by k of n seeds, whose mean it is. Needs \\usepackage{booktabs}.",
            *(
                [f"% {len(analysis.configs) - len(configs)} more in pareto.csv."]
                * (len(configs) < len(analysis.configs))
            ),
            rf"\begin{{tabular}}{{{'l' * left}{'r' * (len(heads) - left)}}}",
            r"\toprule",
            " & ".join(heads) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _found(table: pd.DataFrame, name: str, value: float, config: int, text, nothing: str) -> str:
    found = table[(table[name] == value) & (table.config == config)].iloc[0]
    if not found.reached:
        return nothing
    return text(found["mean"], found.half) + (
        f" ({found.reached:.0f}/{found.n:.0f})" if found.reached < found.n else ""
    )


def _number(mean: float, half: float) -> str:
    return f"{mean:.4f}" + (rf" $\pm$ {half:.4f}" if half == half else "")


def _bits(mean: float, half: float) -> str:
    return format_bits(mean) + (rf" $\pm$ {format_bits(half)}" if half == half and half > 0 else "")
