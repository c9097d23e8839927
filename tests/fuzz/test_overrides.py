"""Anything may stand on the command line: it passes every check, or is refused in one line."""

from __future__ import annotations

from unittest import mock

import composed
import hydra
from examples import OVERRIDES, tries
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedsweep import cli, schema
from fedsweep.errors import UserError

HALF = tries(OVERRIDES / 2)


def _flat(tree: dict, above: str = "") -> list[str]:
    keys = []
    for key, value in tree.items():
        keys += [f"{above}{key}", *(_flat(value, f"{above}{key}.") if isinstance(value, dict) else ())]
    return keys


def _keys() -> list[str]:
    with hydra.initialize_config_dir(cli.config_folder(), version_base="1.3"):
        plain = OmegaConf.to_container(hydra.compose("config"))
    more = ["encoder.share", "encoder.iterations", "encoder.rows", "encoder.rank", "encoder.block", "dataset.dir"]
    return [*_flat(plain), *schema.GROUPS, *more]


KEYS = _keys()
CHOICES = sorted({choice for choices in schema.GROUPS.values() for choice in choices})
NUMBERS = [
    "0",
    "-1",
    "1",
    "0.5",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e-320",
    "9" * 30,
    "9223372036854775807",
    "2147483648",
]
WORDS = [
    "",
    "null",
    "true",
    "''",
    "'4'",
    "' '",
    "???",
    "[]",
    "{}",
    "[{}]",
    "[[1]]",
    "{a:1}",
    "é",
    "'日本'",
    "a/b",
    "'a b'",
]
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
references = st.sampled_from([*KEYS, "nope", "hydra:job.num", "oc.env:NOPE", "foo:1", ".bits", "oc.create:[1]"])
values = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(WORDS),
    st.sampled_from(CHOICES),
    references.map(lambda name: f"${{{name}}}"),
    st.integers().map(str),
    st.floats().map(str),
    texts,
    texts.map(lambda text: "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"),
)
swept = st.one_of(
    st.lists(values, min_size=2, max_size=3).map(",".join),
    st.tuples(
        st.sampled_from(["range", "interval", "choice", "shuffle", "glob"]), st.sampled_from(NUMBERS), values
    ).map(lambda parts: f"{parts[0]}({parts[1]},{parts[2]})"),
)


def overrides(value):
    return st.builds(
        lambda sign, key, text: f"{sign}{key}={text}",
        st.sampled_from(["", "", "", "", "+", "++", "~"]),
        st.sampled_from(KEYS),
        value,
    )


def _passes_or_is_one_line(check, arguments: list[str]) -> None:
    try:
        check(*arguments)
    except (UserError, HydraException, OmegaConfBaseException) as error:  # what the commands show as one line
        line = cli.one_line(error)
        assert line.strip() and len(line.splitlines()) == 1, line


@HALF
@given(st.lists(overrides(values), min_size=1, max_size=2))
def test_a_run_is_checked_or_refused_in_one_line(config, arguments):
    _passes_or_is_one_line(config, arguments)


@HALF
@given(st.lists(overrides(st.one_of(values, swept)), min_size=1, max_size=2))
def test_a_sweep_is_checked_or_refused_in_one_line(arguments):
    with mock.patch("fedsweep.sweep.check._check_clients"):  # data sets are not downloaded for this
        _passes_or_is_one_line(composed.sweep, [*arguments, "sweep.n_trials=3"])
