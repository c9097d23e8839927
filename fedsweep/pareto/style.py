"""How figures look: venues, colours, bits on an axis. And how they are saved: the same data gives the same bytes."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from fedsweep import shown
from fedsweep.errors import UserError
from fedsweep.units import UNITS

# Okabe and Ito's colours without yellow, which is faint on white. Colours are not needed to tell markers apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p")
FRONT = {"color": "0.35", "linewidth": 1.0, "zorder": 2.0}


@dataclass(frozen=True)
class Venue:
    """The size of a figure in a paper."""

    width: float  # inches
    font: str
    size: float  # points


VENUES = {
    "neurips": Venue(5.5, "STIXGeneral", 9),  # the text's width
    "icml": Venue(3.25, "STIXGeneral", 8),  # a column's
    "ieee": Venue(3.5, "STIXGeneral", 8),
    "aaai": Venue(3.3, "STIXGeneral", 8),
    "wide": Venue(8.0, "DejaVu Sans", 10),  # slides, pages
}


def settings(venue: Venue) -> dict:
    """matplotlib's rc parameters."""
    return {
        "font.family": venue.font,
        "mathtext.fontset": "stix" if venue.font.startswith("STIX") else "dejavusans",
        "font.size": venue.size,
        "axes.labelsize": venue.size,
        "axes.titlesize": venue.size,
        "axes.titlelocation": "left",
        "xtick.labelsize": venue.size - 1,
        "ytick.labelsize": venue.size - 1,
        "legend.fontsize": venue.size - 1,
        "legend.frameon": False,
        "lines.linewidth": 1.1,
        "lines.markersize": 5.0,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "0.92",
        "grid.linewidth": 0.5,
        "figure.dpi": 200,
        "savefig.dpi": 200,
        "pdf.fonttype": 42,  # TrueType: submission systems refuse Type 3
        "ps.fonttype": 42,
        "svg.hashsalt": "fedsweep",  # identifiers are random without
        "text.parse_math": False,  # a $ of a user's is a dollar
        "pgf.rcfonts": False,  # the paper's own fonts
    }


# What would make two files of the same figure differ.
_METADATA = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {"Software": None}}


def saved(figure: Figure, name: str) -> bytes:
    """The figure as pdf, svg, png or pgf."""
    if name == "pgf":
        text = io.StringIO()
        with _text_for_latex():
            figure.savefig(text, format=name)
        return text.getvalue().encode()
    content = io.BytesIO()
    figure.savefig(content, format=name, metadata=_METADATA[name])
    return content.getvalue()


@contextlib.contextmanager
def _text_for_latex() -> Iterator[None]:
    """matplotlib's own escaping leaves $, #, &, ... to LaTeX, and there is no setting for it."""
    from matplotlib.backends import backend_pgf

    theirs = getattr(backend_pgf, "_tex_escape", None)
    if theirs is None:
        raise UserError(
            f"--formats pgf: text cannot be escaped for LaTeX with matplotlib {matplotlib.__version__}, which has no"
            " backend_pgf._tex_escape; choose another format"
        )
    backend_pgf._tex_escape = shown.in_latex
    try:
        yield
    finally:
        backend_pgf._tex_escape = theirs


def styles(names: Sequence[str]) -> dict[str, dict]:
    """A colour and a marker for each name; the pairs repeat after 77."""
    pairs = zip(names, itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=False)
    return {name: {"color": colour, "marker": marker} for name, colour, marker in pairs}


def bits_axis(axes: Axes, share: float = 1.0) -> None:
    """A logarithmic x axis in bits, which has this share of its part of the figure."""
    axes.set_xscale("log", base=2)
    ticks(axes.xaxis, *axes.get_xlim(), short_bits, max(2, int(share * _room(axes))))


def ratio_axis(axes: Axes, float32_bits: float) -> None:
    """How many times fewer bits than float32, along the top."""

    def turned(values):
        with_zeros = values == 0
        return float32_bits / (values + with_zeros)

    top = axes.secondary_xaxis("top", functions=(turned, turned))
    top.set_xlabel("compression ratio to float32")
    low, high = axes.get_xlim()
    text = "{:g}\N{MULTIPLICATION SIGN}"
    ticks(top.xaxis, float32_bits / high, float32_bits / low, lambda ratio, _: text.format(ratio), _room(axes))


def _room(axes: Axes) -> int:
    """How many numbers of bits fit below an axis of this width."""
    inches = axes.figure.get_figwidth() / axes.get_subplotspec().get_gridspec().ncols - 0.6
    return max(2, int(inches / 0.85))


def ticks(axis: Axis, low: float, high: float, text: Callable[[float, int | None], str], most: int) -> None:
    """At powers of two, in between too where there are few, at most `most` of them."""
    axis.set_major_locator(FixedLocator(tick_values(low, high, most)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(text))


def tick_values(low: float, high: float, most: int) -> list[float]:
    """Where `ticks` are."""
    first, last = math.floor(math.log2(low)), math.ceil(math.log2(high))
    for parts in (1, 2, 4, 8, 16):
        found = [2.0**k * (1 + part / parts) for k in range(first, last + 1) for part in range(parts)]
        found = [value for value in found if low <= value <= high]
        if len(found) >= 3:
            break
    return found[:: max(1, math.ceil(len(found) / most))]


def short_bits(bits: float, _: int | None = None) -> str:
    """1610612736 -> "1.5 Gibit"."""
    power = min(max(int(math.log2(bits)) // 10, 0), len(UNITS) - 1) if bits >= 1 else 0
    return f"{bits / 1024**power:.4g} {UNITS[power]}"
