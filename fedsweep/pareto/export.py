"""From an analysis to files: figures in every format, tables, summary and provenance."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedsweep import environment, files, secrets
from fedsweep.errors import UserError
from fedsweep.pareto import figures, html, style, tables
from fedsweep.pareto.analysis import Analysis
from fedsweep.pareto.load import BITS

FORMATS = ("pdf", "svg", "png", "pgf", "html")
_LATEX = ("xelatex", "lualatex", "pdflatex")
_PACKAGES = ("fedsweep", "matplotlib", "numpy", "pandas", "scipy", "plotly")


def check(formats: Sequence[str]) -> None:
    """Raises UserError for a format that is none, or that cannot be made here."""
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"--formats {name}: choose from {', '.join(FORMATS)}")
    if "pgf" in formats and not any(map(shutil.which, _LATEX)):
        raise UserError(f"--formats pgf: needs LaTeX to measure text ({', '.join(_LATEX)}), and none is on the PATH")


def write(analysis: Analysis, folder: Path, venue: str, formats: Sequence[str], command: Sequence[str]) -> list[Path]:
    """Writes everything into the folder, each file by rename; removes an earlier export's. Returns the paths."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name, content in _files(analysis, venue, formats, command):
            files.write_atomically(folder / name, content)
            written.append(folder / name)
        for stale in (folder / f"{name}.{suffix}" for name in figures.NAMES for suffix in FORMATS):
            if stale not in written:  # of an earlier export: it would stand beside the provenance of this one
                stale.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another folder with --out") from error
    return written


def _files(
    analysis: Analysis, venue: str, formats: Sequence[str], command: Sequence[str]
) -> Iterator[tuple[str, str | bytes]]:
    """(name, content)"""
    import matplotlib

    matplotlib.use("Agg")
    if "pgf" in formats:
        found = next(name for name in _LATEX if shutil.which(name))
        matplotlib.rcParams["pgf.texsystem"] = found
    drawn = [name for name in formats if name != "html"]
    for name, figure in figures.draw(analysis, style.VENUES[venue]) if drawn else ():
        for suffix in drawn:
            yield f"{name}.{suffix}", style.saved(figure, suffix)
    if "html" in formats:
        yield "pareto.html", html.page(analysis)
    yield "pareto.csv", tables.csv(analysis)
    yield "pareto.tex", tables.latex(analysis, figures.chosen(analysis, most=20, whole=True))
    yield "summary.json", files.as_json(tables.summary(analysis))
    yield "provenance.json", files.as_json(provenance(analysis, command))


def provenance(analysis: Analysis, command: Sequence[str]) -> dict:
    """What the figures were made from and with."""
    used = ["trial", "replicate", "round", analysis.question.y, analysis.select, *BITS]
    return {
        "command": secrets.masked_tree(command),
        "git_commit": environment.git_commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "sweeps": [
            {
                "name": sweep.name,
                "mlflow_run_ids": list(sweep.run_ids),
                "runs": len(sweep.rounds.groupby(["trial", "replicate"])),
                "left_out": dict(sweep.left_out),
                # so that two exports of the same data can be told to be that
                "rounds_sha256": hashlib.sha256(sweep.rounds[used].to_csv(index=False).encode()).hexdigest(),
            }
            for sweep in analysis.sweeps
        ],
        "selection": analysis.selection,
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
