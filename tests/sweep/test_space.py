"""Override strings become the points that Hydra's own sweeper would run, each once."""

from __future__ import annotations

import itertools

import hydra
import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from fedsweep import cli
from fedsweep.errors import UserError
from fedsweep.sweep import space as spaces


@pytest.fixture(scope="module")
def parse():
    """Hydra's parser, with the project's groups for globs."""
    with hydra.initialize_config_dir(cli.config_folder(), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        yield OverridesParser.create(config_loader=loader).parse_overrides


def lines(parse, arguments: list[str]) -> list[list[str]]:
    space = spaces.parse(parse(arguments))
    return [space.arguments(point) for point in space.points()]


numbers = st.integers(-50, 50)
words = st.sampled_from(["uniform", "hadamard", "null", "true", "1e-3", "a b", "'q,u'", '"x=y"', "[1,2]", "{a:1}", ""])
floats = st.sampled_from([0.1, 0.25, -0.3, 1.0, 2.5, 1e-3])
choices = st.lists(st.one_of(numbers.map(str), words), min_size=2, max_size=4).map(",".join)
explicit = st.lists(st.one_of(numbers.map(str), words.filter(bool)), min_size=1, max_size=4)


def ranges(kind, steps):
    return st.builds(lambda a, count, step: (a, a + count * step, step), kind, st.integers(1, 6), steps).map(
        lambda r: f"range({r[0]},{r[1]},{r[2]})"
    )


sweeps = st.one_of(
    choices,
    explicit.map(lambda values: f"choice({','.join(values)})"),
    explicit.map(lambda values: f"tag(some,choice({','.join(values)}))"),
    ranges(numbers, st.sampled_from([1, 2, 7, -1, -3])),
    ranges(floats, st.sampled_from([0.1, 0.5, -0.25])),
    st.lists(numbers.map(str), min_size=2, max_size=4).map(lambda v: f"float({','.join(v)})"),
    st.lists(numbers.map(str), min_size=2, max_size=4).map(lambda v: f"sort({','.join(v)},reverse=true)"),
    st.sampled_from(["glob(*)", "glob([h*,u*,c*])", "glob(*,exclude=id*)"]),
)
keys = st.sampled_from(["encoder", "downlink", "model", "+extra.key", "++other", "rounds", "optimizer.client_lr"])
fixed = st.one_of(numbers.map(str), words)


@st.composite
def command_lines(draw):
    arguments = []
    for _ in range(draw(st.integers(1, 4))):
        key = draw(keys)
        value = draw(st.one_of(sweeps, fixed))
        if "glob" in value and key not in ("encoder", "downlink", "model"):
            key = "encoder"
        arguments.append(f"{key}={value}")
    return arguments


@given(arguments=command_lines())
@settings(max_examples=300, deadline=None)
def test_points_are_those_of_hydras_basic_sweeper(parse, arguments):
    try:
        overrides = parse(arguments)
    except OverrideParseException:  # no such line in Hydra's grammar
        reject()
    ours = spaces.parse(overrides)
    (theirs,) = BasicSweeper.split_arguments(parse(arguments), max_batch_size=None)
    unique = list(dict.fromkeys(map(tuple, theirs)))  # ours are there once
    assert [tuple(ours.arguments(point)) for point in ours.points()] == unique
    assert ours.size == len(unique)
    for line in unique[:3]:
        parse(list(line))  # every value can be read back


@given(values=st.lists(numbers, min_size=2, max_size=8, unique=True), whole=st.booleans())
def test_a_shuffle_has_every_value_once_and_repeats(parse, values, whole):
    inner = f"range({min(values)},{max(values)})" if whole else ",".join(map(str, values))
    shuffled = lines(parse, [f"rounds=shuffle({inner})", "seed=1,2"])
    (theirs,) = BasicSweeper.split_arguments(parse([f"rounds=shuffle({inner})", "seed=1,2"]), max_batch_size=None)
    assert sorted(shuffled) == sorted(theirs)
    assert shuffled == lines(parse, [f"rounds=shuffle({inner})", "seed=1,2"])
    assert lines(parse, ["rounds=shuffle(range(0,9))"]) != lines(parse, ["rounds=range(0,9)"])


def test_the_order_is_fixed_and_the_last_key_varies_fastest(parse):
    assert lines(parse, ["encoder.bits=2,4", "tracker=csv", "encoder=uniform,hadamard"]) == [
        [f"encoder.bits={bits}", "tracker=csv", f"encoder={name}"]
        for bits, name in itertools.product("24", ["uniform", "hadamard"])
    ]


def test_a_deletion_is_passed_on(parse):
    assert lines(parse, ["~encoder.bits", "seed=1,2"]) == [["~encoder.bits", "seed=1"], ["~encoder.bits", "seed=2"]]


@pytest.mark.parametrize(
    ("text", "low", "high", "log", "whole"),
    [
        ("interval(0,1)", 0.0, 1.0, False, False),
        ("tag(log,interval(0.001,1))", 0.001, 1.0, True, False),
        ("int(interval(1,8))", 1, 8, False, True),
        ("tag(log,int(interval(1,16)))", 1, 16, True, True),
    ],
)
def test_intervals_have_no_end_of_points(parse, text, low, high, log, whole):
    space = spaces.parse(parse([f"encoder.bits={text}", "seed=1,2"]))
    dimension = space.dimensions["encoder.bits"]
    assert (dimension.low, dimension.high, dimension.log, dimension.whole) == (low, high, log, whole)
    assert space.size == float("inf")
    assert {point["encoder.bits"] for point in space.probes()} == {str(low), str(high)}


def test_a_long_range_is_never_listed(parse):
    space = spaces.parse(parse(["seed=range(0,1000000000,5)"]))
    assert space.size == 200_000_000
    assert [point["seed"] for point in space.probes()] == ["0", "999999995"]


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("a=interval(1,0)", "the first number must be the smaller one"),
        ("a=tag(log,interval(0,1))", "starts above 0"),
        ("a=range(5,1)", "no value to sweep over"),
        ("encoder=glob(x*)", "no value to sweep over"),
    ],
)
def test_a_dimension_without_values_is_refused(parse, argument, says):
    with pytest.raises(UserError, match=says):
        spaces.parse(parse([argument]))


def grids(parse, arguments, *texts):
    space = spaces.parse(parse(arguments), [parse(text.split()) for text in texts])
    assert space.size == len(list(space.points()))
    return space, [space.arguments(point) for point in space.points()]


def test_a_union_of_grids_has_the_points_of_each_with_the_keys_of_each(parse):
    space, found = grids(
        parse,
        ["rounds=3", "seed=1,2"],
        "encoder=identity",
        "encoder=eden,drive encoder.rotation=fourier",
        "encoder=sign",
    )
    assert found[:3] == [
        ["rounds=3", "seed=1", "encoder=identity"],
        ["rounds=3", "seed=2", "encoder=identity"],
        ["rounds=3", "seed=1", "encoder=eden", "encoder.rotation=fourier"],
    ]
    assert len(found) == 2 + 4 + 2 == len(set(map(tuple, found)))
    assert space.describe() == {
        "seed": ["1", "2"], "encoder": ["identity", "eden", "drive", "sign"], "encoder.rotation": ["fourier"],
    }  # fmt: skip
    assert space.probes() == list(space.points())


def test_an_empty_grid_is_the_configuration_as_it_is(parse):
    space, found = grids(parse, [], "", "encoder.bits=2,4")
    assert next(space.points()) == {} and found == [[], ["encoder.bits=2"], ["encoder.bits=4"]]


def test_a_point_of_two_grids_is_there_once(parse):
    _, found = grids(parse, [], "encoder=eden,drive", "encoder=drive,sign")
    assert found == [["encoder=eden"], ["encoder=drive"], ["encoder=sign"]]


def test_what_the_command_line_says_of_a_key_counts_in_every_grid(parse):
    _, found = grids(parse, ["encoder.bits=3"], "encoder=eden encoder.bits=1,2,4", "encoder=uniform encoder.bits=8")
    assert found == [["encoder.bits=3", "encoder=eden"], ["encoder.bits=3", "encoder=uniform"]]


@pytest.mark.parametrize(
    ("argument", "grid", "says"),
    [
        ("optimizer.client_lr=interval(0.1,1)", "encoder=eden", "sweep.grids are enumerated"),
        ("seed=range(0,20000)", "encoder=eden", "sweep.grids are enumerated"),
        ("rounds=3", "~encoder.threshold", "a grid names values"),
        ("rounds=3", "optimizer.client_lr=interval(0.1,1)", "is no list of values"),
        ("rounds=3", "seed=range(0,100000)", "is no list of values"),
    ],
)
def test_grids_have_an_end(parse, argument, grid, says):
    with pytest.raises(UserError, match=says):
        grids(parse, [argument], grid)
