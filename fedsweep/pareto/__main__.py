"""From sweeps to the figure and the table of the paper.

  python -m fedsweep.pareto latest --out figures --venue neurips
  python -m fedsweep.pareto multirun_outputs/a multirun_outputs/b --x uplink --target 0.9,0.95 --budget 100Mibit,1Gibit

SWEEP is a sweep's folder, latest (of multirun_outputs), or the id of its parent run in MLflow. Several make one figure.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedsweep import cli
from fedsweep.errors import UserError
from fedsweep.units import parse_bits

_VENUES = ("neurips", "icml", "ieee", "aaai", "wide")
_METRICS = (
    *("test_accuracy", "test_accuracy_p10", "test_accuracy_p50", "test_accuracy_p90", "test_loss"),
    *("train_accuracy", "train_loss", "validation_accuracy", "validation_loss"),
)


def main(arguments: list[str] | None = None) -> None:
    """Does what `arguments` (default: the command line's) ask for."""
    given = sys.argv[1:] if arguments is None else arguments
    with cli.one_line_errors():
        options = _parser().parse_args(given)
        question = _question(options)
        formats = list(dict.fromkeys(options.formats.split(",")))
        from fedsweep.pareto import analysis, export, load, terminal

        export.check(formats)
        asked = analysis.Question(**question)
        needed = dict.fromkeys((asked.y, asked.validation))
        sweeps = [load.load(sweep, options.tracking_uri, tuple(needed)) for sweep in dict.fromkeys(options.sweeps)]
        answer = analysis.analyse(sweeps, asked)
        written = export.write(answer, options.out, options.venue, formats, ["python", "-m", "fedsweep.pareto", *given])
        terminal.show(answer)
        print(f"Files: {options.out}: {', '.join(path.name for path in written)}")


def _question(options: argparse.Namespace) -> dict[str, Any]:
    reference = None
    if options.reference is not None:
        bits, _, y = options.reference.partition(",")
        if not y:
            raise UserError(f"--reference {options.reference}: must be bits and a value, as 2Gibit,0.5")
        reference = (_value("--reference", bits, parse_bits), _value("--reference", y, float))
    return {
        "x": options.x,
        "y": options.y,
        "group": options.group,
        "points": options.points,
        "targets": _values("--target", options.target, float),
        "budgets": _values("--budget", options.budget, parse_bits),
        "reference": reference,
    }


def _values(name: str, text: str | None, kind: Callable[[str], Any]) -> tuple | None:
    """The values of a list; None where the option was not given, none where it is empty."""
    if text is None:
        return None
    return tuple(dict.fromkeys(_value(name, part, kind) for part in text.split(","))) if text else ()


def _value(name: str, text: str, kind: Callable[[str], Any]) -> Any:
    try:
        value = kind(text)
        if not math.isfinite(value) or (kind is parse_bits and value < 1):
            raise ValueError
        return value
    except ValueError:
        right = "bits, as 300Mibit or 314572800" if kind is parse_bits else "a number, as 0.95"
        raise UserError(f"{name} {text}: must be {right}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fedsweep.pareto", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweeps", nargs="+", metavar="SWEEP")
    parser.add_argument("--out", type=Path, default=Path("figures"), metavar="FOLDER", help="(%(default)s)")
    parser.add_argument("--venue", choices=_VENUES, default="wide", help="width, fonts (%(default)s)")
    parser.add_argument("--formats", default="pdf,png", help="of pdf, svg, png, pgf, html (%(default)s)")
    parser.add_argument(
        "--x", choices=("uplink", "downlink", "total"), default="total", help="whose bits (%(default)s)"
    )
    parser.add_argument("--y", choices=_METRICS, default="test_accuracy", metavar="METRIC",
                        help="test_accuracy (the default), test_loss, train_accuracy, ...")  # fmt: skip
    parser.add_argument("--group", default="encoder", metavar="KEY",
                        help="the key whose values get colours, markers and panels (%(default)s)")  # fmt: skip
    parser.add_argument("--target", metavar="Y,...", help="what bits are counted to, as 0.9,0.95")
    parser.add_argument("--budget", metavar="BITS,...", help="what metrics are read at, as 300Mibit,1Gibit")
    parser.add_argument("--points", choices=("final", "all"), default="final",
                        help="final: a run is its end; all: every evaluation (%(default)s)")  # fmt: skip
    parser.add_argument("--reference", metavar="BITS,Y",
                        help="of the hypervolume (float32 or the most bits, and 0 or the largest loss)")  # fmt: skip
    parser.add_argument("--tracking-uri", metavar="URI",
                        help="of MLflow (MLFLOW_TRACKING_URI, else multirun_outputs/mlflow.db)")  # fmt: skip
    return parser


if __name__ == "__main__":
    main()
