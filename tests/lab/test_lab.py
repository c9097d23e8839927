"""The lab: constants that are known, and the command as a person meets it."""

from __future__ import annotations

import csv
import math
import subprocess
import sys

import numpy as np
import pytest

from fedsweep import datasets, models, schema
from fedsweep.federated import plan as planning
from fedsweep.lab import __main__ as command
from fedsweep.lab import choices, measure, report, updates, vectors


@pytest.fixture(scope="module")
def measured(config):
    """`measured("encoder=drive", kind=..., dimension=..., clients=..., repeats=...)`"""

    def one(*overrides, kind="gaussian", dimension=4096, clients=1, repeats=10, seed=0):
        drawn = vectors.make(kind, dimension, clients, seed)
        return measure.Lab(repeats, seed).measure(config("encoder.threshold=0", *overrides), drawn)

    return one


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """`lab(*arguments)`: the command in this process, its cache and its working folder the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        command.main([*arguments])

    return run


def rows_of(folder):
    with (folder / "lab.csv").open() as file:
        return list(csv.DictReader(file))


def test_identity_loses_nothing_and_sends_32_bits(measured):
    m = measured("encoder=identity", kind="laplace", dimension=1000, clients=7, repeats=2)
    assert (m.bits, m.nmse, m.interval, m.bias, m.noise) == (32, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("overrides", "bits", "nmse"),
    [
        (["encoder=drive"], 1 + 96 / 4096, math.pi / 2 - 1),  # Vargaftik et al. 2021, theorem 2
        (["encoder=sign"], 1 + 32 / 4096, 1 - 2 / math.pi),  # E|x|^2 = 2/pi of a normal's variance
        (["encoder=eden", "encoder.bits=2"], 2 + 96 / 4096, 1 / (1 - 0.1175) - 1),  # 0.1175: Max 1960, table I
        (["encoder=rand_k", "encoder.share=0.125"], 4 + 64 / 4096, 8 - 1),
    ],
)
def test_errors_on_gaussian_vectors_are_the_known_constants(measured, overrides, bits, nmse):
    m = measured(*overrides)
    assert m.bits == bits
    assert m.nmse == pytest.approx(nmse, rel=0.05)


def test_an_unbiased_encoder_errs_less_with_more_clients_and_a_biased_one_shows_its_bias(measured):
    unbiased = [measured("encoder=drive", dimension=1024, clients=n, repeats=20) for n in (1, 8)]
    assert unbiased[1].nmse == pytest.approx(unbiased[0].nmse / 8, rel=0.1)
    assert all(m.bias == pytest.approx(m.noise, rel=0.25) for m in unbiased)
    biased = measured("encoder=top_k", "encoder.share=0.1", dimension=1024, clients=8, repeats=3)
    assert biased.noise == 0 and biased.bias > 0.5


def test_bits_an_element_are_those_of_the_plan(config):
    """A kernel that is encoded and padded, and a bias below the threshold."""
    settings = config("model=2nn", "encoder=hadamard", "encoder.bits=3", "encoder.threshold=20000")
    model = models.build(settings.model, datasets.spec(settings.dataset))
    rng = np.random.default_rng(0)
    layer = slice(2, 4)
    one = vectors.Vectors("", [[rng.normal(size=w.shape).astype(np.float32) for w in model.weights[layer]]])
    m = measure.Lab(1, 0).measure(settings, one)
    plan = planning.of(settings, model, lambda: 20)
    assert m.elements == 200 * 200 + 200
    assert m.bits == sum(tensor.bits for tensor in plan.uplink[layer]) / m.elements
    assert 0 < m.nmse < 0.5 and math.isnan(m.interval) and math.isnan(m.noise)


def test_a_lossless_code_is_charged_its_length_and_an_adaptive_encoder_has_adapted(measured):
    plain, coded = (
        measured("encoder=qsgd", "encoder.bits=6", f"code={code}", dimension=1000, repeats=1)
        for code in ("none", "huffman")
    )
    assert coded.nmse == plain.nmse and 1 < coded.bits < 0.75 * plain.bits
    coarse = measured("encoder=rate_distortion", "encoder.trade_off=1", dimension=1000, repeats=1)
    assert coarse.nmse > 0.2  # the first round's step, one root mean square, would give 1 / 12


@pytest.mark.parametrize("kind", ["gaussian", "laplace", "lognormal", "sparse"])
def test_vectors_are_each_clients_own_and_those_of_their_distribution(kind):
    two, three = vectors.make(kind, 50_000, 2, seed=5), vectors.make(kind, 50_000, 3, seed=5)
    (a,), (b,) = two.clients
    assert a.dtype == np.float32 and not np.array_equal(a, b)
    assert np.array_equal(b, three.clients[1][0])
    power = {"gaussian": 1, "laplace": 2, "lognormal": math.e**2, "sparse": 0.01}[kind]
    assert np.mean(a.astype(float) ** 2) == pytest.approx(power, rel=0.15)
    assert abs(a.mean()) < 5 * math.sqrt(power / a.size)
    if kind == "sparse":
        assert np.count_nonzero(a) == 500


def test_lists_of_overrides_become_choices_with_short_names():
    chosen, refused = choices.read(
        ["encoder=uniform encoder.bits=1,17 encoder.packing=dense", "encoder=top_k encoder.share=0.1,0.2 code=none"]
    )
    assert [choice.label for choice in chosen] == [
        "uniform bits=1 packing=dense", "top_k share=0.1 code=none", "top_k share=0.2 code=none",
    ]  # fmt: skip
    assert [choice.curve for choice in chosen] == ["uniform packing=dense", "top_k code=none", "top_k code=none"]
    assert all(choice.config.encoder.threshold == 0 for choice in chosen)
    (line,) = refused
    assert line.startswith("encoder=uniform encoder.bits=17 ") and "from 1 to 16" in line
    (choice,), _ = choices.read(["encoder=uniform encoder.threshold=7"])
    assert choice.config.encoder.threshold == 7


def test_without_arguments_every_encoder_is_a_choice():
    assert set(choices.every_encoder().removeprefix("encoder=").split(",")) == set(schema.GROUPS["encoder"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--vectors", "cauchy"], "cauchy"),
        (["--dimension", "0"], "--dimension 0: must be at least 1"),
        (["--clients", "-1"], "--clients -1"),
        (["--repeats", "0"], "--repeats 0"),
        (["--seed", "-1"], "--seed -1"),
        (["--vectors", "gaussian", "--run", "model=cnn"], "--run"),
        (["encoder=zip"], "zip"),
        (["encoder=uniform encoder.bits=17"], "encoder.bits=17: must be from 1 to 16"),
        (["encoder=uniform encoder.bits=17,18"], "nor can the 1 other"),
        (["encoder=eden encoder.bits=interval(0,1)"], "list at most 1000"),
        (["encoder=uniform encoder.bits=["], "encoder.bits=[: no list"),
        (["encoder=uniform", "--out", "/dev/null/lab"], "/dev/null/lab"),
        (["encoder=uniform", "--clients", "21"], "--clients 21: the data set digits has 20"),
        (["encoder=uniform", "--run", "model=zip"], "zip"),
        (["encoder=uniform", "--run", "encoder=eden"], "before they are encoded"),
    ],
)
def test_bad_input_is_one_line_and_status_1(lab, capsys, arguments, says):
    with pytest.raises(SystemExit) as ended:
        lab(*arguments)
    errors = capsys.readouterr().err
    assert ended.value.code == 1 and len(errors.splitlines()) == 1 and errors.startswith("fedsweep: ")
    assert says in errors


@pytest.mark.parametrize("arguments", [["--help"], ["encoder=uniform encoder.bits=99"]])
def test_nothing_heavy_is_imported_before_the_input_is_checked(tmp_path, arguments):
    program = (
        "import atexit, sys\n"
        "heavy = {'tensorflow', 'tensorflow_federated', 'matplotlib', 'scipy', 'sklearn'}\n"
        "atexit.register(lambda: print('loaded:', sorted(heavy & set(sys.modules))))\n"
        "from fedsweep.lab.__main__ import main\n"
        f"main({arguments!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "loaded: []", done.stderr


def test_the_command_writes_the_same_numbers_for_the_same_seed_and_refuses_to_write_over_them(
    lab, measured, tmp_path, capsys
):
    options = ["--dimension", "300", "--clients", "2", "--repeats", "2", "--seed", "1"]
    lab(
        "encoder=uniform encoder.bits=1,99",
        "encoder=sign encoder.bits=1,2",
        *options,
        "--vectors=sparse,gaussian",
        "--out=a",
    )
    said = capsys.readouterr()
    assert "skipped encoder=uniform encoder.bits=99: encoder.bits=99: must be" in said.err
    assert "sign bits=2: the same as sign bits=1 on sparse" in said.out
    rows = rows_of(tmp_path / "a")
    assert tuple(rows[0]) == report.COLUMNS
    assert [(row["label"], row["vectors"]) for row in rows] == [
        (label, kind) for kind in ("sparse", "gaussian") for label in ("uniform bits=1", "sign bits=1")
    ]
    assert all(float(row["encode_ms"]) > 0 for row in rows)
    assert (tmp_path / "a" / "lab.png").read_bytes().startswith(b"\x89PNG")
    pdf = (tmp_path / "a" / "lab.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"/Type3" not in pdf and b"/CIDFontType2" in pdf

    again, other = (
        measured("encoder=uniform", "encoder.bits=1", dimension=300, clients=2, repeats=2, seed=seed) for seed in (1, 2)
    )
    keys = ("bits_per_element", "nmse", "nmse_interval", "bias", "bias_noise")
    assert [float(rows[2][key]) for key in keys] == [again.bits, again.nmse, again.interval, again.bias, again.noise]
    assert other.nmse != again.nmse

    with pytest.raises(SystemExit):
        lab("encoder=uniform", *options, "--vectors=gaussian", "--out", "a")
    assert "lab.csv: is there already" in capsys.readouterr().err


def test_updates_are_those_of_the_run_cached_and_made_again_when_damaged(tmp_path, monkeypatch, config):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings, said = config("encoder=identity", "model=2nn", "clients_per_round=3"), []
    first = updates.load(settings, 3, said.append)
    assert len(said) == 1 and "Training 3 rounds (2nn, digits)" in said[0]
    path = updates.cached(settings, 3)
    made, content = path.stat().st_mtime_ns, path.read_bytes()
    assert [tensor.shape for tensor in first.clients[2]] == [(64, 200), (200, 200)]

    # a step of the client's optimizer is lr * gradient, whatever the client's number of examples
    assert all(1e-3 < np.linalg.norm(client[0]) < 10 for client in first.clients)
    assert not np.array_equal(first.clients[0][0], first.clients[1][0])

    def equal(a, b):
        return all(map(np.array_equal, sum(a.clients, []), sum(b.clients, [])))  # noqa: RUF017

    assert equal(updates.load(settings, 3, said.append), first)
    assert len(said) == 1 and path.stat().st_mtime_ns == made
    for damaged in (content[: len(content) // 2], content[:5000] + b"?" * 100 + content[5100:], b""):
        path.write_bytes(damaged)
        assert equal(updates.load(settings, 3, said.append), first)
        assert path.read_bytes() != damaged
    assert len(said) == 4 and not list(path.parent.glob(".*"))


def test_updates_depend_on_what_makes_them(config):
    base = config("encoder=identity")
    others = [config("encoder=identity", text) for text in ("seed=1", "model=2nn", "client_epochs=2")]
    names = [updates.cached(base, 10), updates.cached(base, 9), *(updates.cached(other, 10) for other in others)]
    assert len(set(names)) == len(names)
    assert updates.cached(config("encoder=identity", "rounds=7"), 10) == names[0]
