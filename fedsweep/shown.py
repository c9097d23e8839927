"""Text of users as others show it: in a terminal, a table, a figure, a page, a paper. It stays the text that it is."""

from __future__ import annotations

import collections
import functools
import html
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # heavy
    import pandas as pd

_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # a spreadsheet would compute it (the apostrophes: ours, see `cell`)
_MARKDOWN = re.compile(r"([\\`*\[\]|~<>&]|(?<!\w)_|_(?!\w))")
_LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{c: f"{{{c}}}" for c in "[]*"},  # behind a line's end they would be its argument
    '"': r"\texttt{\char34}",  # straight in every font encoding, and none of babel's shorthands
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "\N{MINUS SIGN}": r"\ensuremath{-}",
}  # fmt: skip
_LIGATURES = re.compile("(?<=-)(?=-)|(?<=')(?=')|(?<=[`?!])(?=`)|(?<=,)(?=,)")  # dashes, quotation marks, Spanish ones


def printable(text: str) -> str:
    """One line: line breaks, other control characters and halves of characters as Python writes them (`\\n`)."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def value(override: str) -> str:
    """What a configuration has for the value of an override, without the quotes and escapes that Hydra's grammar needs.

    A point of a sweep (`space.Point`) keeps the grammar's text, which Hydra reads back; people are shown this one.
    """
    return printable(_unquoted(override) if any(c in override for c in "'\"\\") else override)


@functools.lru_cache(maxsize=2**14)  # the parser takes a millisecond, and a table is written after every run
def _unquoted(override: str) -> str:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return _plain(OverridesParser.create().parse_override(f"key={override}").value())
    except HydraException:  # of an earlier version, or nobody's grammar: it is shown as it is
        return override


def _plain(parsed: object) -> str:
    from hydra.core.override_parser.types import QuotedString, Transformer

    if isinstance(parsed, QuotedString):
        return parsed.text
    if isinstance(parsed, list):
        return f"[{','.join(map(_plain, parsed))}]"
    if isinstance(parsed, dict):
        return "{" + ",".join(f"{_plain(key)}:{_plain(held)}" for key, held in parsed.items()) + "}"
    return parsed if isinstance(parsed, str) else Transformer.str(parsed)


def point(overrides: Mapping[str, str]) -> dict[str, str]:
    """A point of a sweep with its values as they are shown."""
    return {key: value(text) for key, text in overrides.items()}


def cell(text: str) -> str:
    """A cell of a CSV file that no spreadsheet takes for a formula: such a text gets an apostrophe. Numbers stay."""
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def text_cell(held: object) -> object:
    """What a user wrote as a cell of one line; what is no text stays as it is."""
    return cell(printable(held)) if isinstance(held, str) else held


def as_csv(table: pd.DataFrame) -> str:
    """The table as CSV, its texts and its columns' names as `text_cell` has them."""
    table = table.copy(deep=False)
    for name in table.columns:
        if table[name].dtype.kind not in "biufc":
            table[name] = table[name].map(text_cell)
    return table.rename(columns=text_cell).to_csv(index=False, lineterminator="\n")


def from_cell(text: str) -> str:
    """What `cell` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip()


def in_html(text: str) -> str:
    """For plotly's texts, which may hold tags; it knows the entities of these three characters alone."""
    return html.escape(printable(text), quote=False)


def in_markdown(text: str) -> str:
    """For a cell of a table in MLflow's description."""
    return _MARKDOWN.sub(r"\\\1", printable(text)).replace(r"\<", "&lt;").replace(r"\>", "&gt;").replace(r"\&", "&amp;")


def in_code(text: str) -> str:
    """As code in MLflow's description: between more backticks than it holds in a row."""
    text = printable(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def in_latex(text: str) -> str:
    """For LaTeX's text mode, with whatever engine and font encoding."""
    return _LIGATURES.sub(r"\/", "".join(_LATEX.get(c, c) for c in printable(text)))


def shortened(text: str, most: int = 60) -> str:
    """At most so many characters, the first and the last ones: beside a mark in a figure there is no room for more."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def apart(texts: Iterable[str], most: int = 60) -> dict[str, str]:
    """text -> what it is `shortened` to. Of texts that would become one, the part where they begin to differ is kept;
    those that are still alike get numbers, so that different texts stay different."""
    alike = collections.defaultdict(list)
    for text in dict.fromkeys(texts):
        alike[shortened(text, most)].append(text)
    found = {group[0]: short for short, group in alike.items() if len(group) == 1}
    taken, numbers = set(found.values()), collections.Counter()
    for group in (group for group in alike.values() if len(group) > 1):
        differing = (k for k, characters in enumerate(zip(*group, strict=False)) if len(set(characters)) > 1)
        begin, head = next(differing, min(map(len, group))) - most // 6, most // 4
        for text in group:
            name = plain = f"{text[:head]}…{shortened(text[begin:], most - head - 1)}"
            while name in taken:
                numbers[plain] += 1
                number = f" ({numbers[plain] + 1})"
                name = f"{text[:head]}…{shortened(text[begin:], most - head - 1 - len(number))}{number}"
            taken.add(name)
            found[text] = name
    return found
