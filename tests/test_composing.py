"""How Hydra composes here: folders of any name, keys of swept choices, experiment files that count, no calls."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import composed
import hydra
import pytest
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from fedsweep import cli, composing, schema
from fedsweep.errors import UserError


@pytest.fixture
def load(tmp_path, monkeypatch):
    """`load(*overrides, experiment=text)`: what Hydra composes for a sweep, with the experiment file `mine`."""
    monkeypatch.chdir(tmp_path)

    def loaded(*overrides: str, experiment: str | None = None):
        search = []
        if experiment is not None:
            (tmp_path / "extra" / "experiment").mkdir(parents=True, exist_ok=True)
            (tmp_path / "extra" / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{experiment}")
            search = [f"hydra.searchpath=[{tmp_path / 'extra'}]", "+experiment=mine"]
        with hydra.initialize_config_dir(cli.config_folder(), version_base="1.3"):
            loader = hydra.core.global_hydra.GlobalHydra.instance().config_loader()
            return loader.load_configuration("config", [*search, *overrides], RunMode.MULTIRUN)

    return loaded


def test_without_an_experiment_fedsweeps_own_parts_of_hydra_are_chosen(load):
    choices = load().hydra.runtime.choices
    assert [choices[f"hydra/{part}"] for part in ("launcher", "sweeper", "job_logging", "hydra_logging")] == [
        "fedsweep_local", "fedsweep", "none", "none",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("group", "choice"),
    [
        ("hydra/launcher", "basic"),
        ("hydra/launcher", "joblib"),
        ("hydra/sweeper", "basic"),
        ("hydra/job_logging", "stdout"),
        ("hydra/hydra_logging", "default"),
        ("sweep/sampler", "nsga2"),
        ("sweep/pruner", "dominance"),
        ("tracker", "csv"),
        ("runtime", "tff"),
        ("downlink", "same"),
    ],
)
def test_what_an_experiment_file_overrides_counts_and_the_command_line_counts_more(load, group, choice):
    text = f"defaults:\n  - override /{group}: {choice}\n"
    assert load(experiment=text).hydra.runtime.choices[group] == choice
    other = {"hydra/launcher": "fedsweep_local", "tracker": "mlflow"}.get(group)
    if other:
        assert load(f"{group}={other}", experiment=text).hydra.runtime.choices[group] == other


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("hydra: {sweep: {dir: there}}", "hydra.sweep.dir", "there"),
        ("hydra: {run: {dir: there}}", "hydra.run.dir", "there"),
        ("hydra: {job: {env_set: {A: b}}}", "hydra.job.env_set.A", "b"),
        ("sweep: {n_trials: 3}", "sweep.n_trials", 3),
        ("sweep: {sampler: {n_startup_trials: 3}}", "sweep.sampler.n_startup_trials", 3),
        ("optimizer: {client_momentum: 0.5}", "optimizer.client_momentum", 0.5),
        ("tracker: {experiment: mine}", "tracker.experiment", "mine"),
        ("seed: 5", "seed", 5),
    ],
)
def test_what_an_experiment_file_sets_counts(load, text, key, value):
    assert composing.OmegaConf.select(load(experiment=text), key) == value


def test_a_choice_can_set_what_all_choices_of_its_group_have(load, tmp_path):
    folder = tmp_path / "extra" / "optimizer"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("name: fedavg\nclient_lr: 0.1\nserver_lr: 1\nclient_momentum: 0.9\n")
    found = load(f"hydra.searchpath=[{tmp_path / 'extra'}]", "optimizer=mine").optimizer
    assert (found.client_momentum, found.client_warmup) == (0.9, 0)


CALLS = {
    "+hydra.callbacks.x._target_": "os.system",
    "hydra.launcher._target_": "os.system",
    "hydra.sweeper._target_": "builtins.print",
    "+encoder._target_": "shutil.copyfile",
    "+dataset.more.list": "[{_target_:os.system}]",
    "+hydra.callbacks.y": "'${oc.create:\"{_target_: os.system}\"}'",
    "+hydra.callbacks.z._target_": "'${oc.decode:os.system}'",
    "+hydra.callbacks.v._target_": "hydra_pluginsevil.X",
    "+hydra.callbacks.w._target_": "hydra.utils.get_method",
    "+hydra.callbacks.u._target_": "hydra.experimental.callbacks.logging.os.mkdir",  # what a module has imported
    "+hydra.callbacks.t._target_": "hydra_plugins.fedsweep_sweeper.sweeper.OmegaConf",
}


@pytest.mark.parametrize("key", CALLS)
@pytest.mark.parametrize("mode", [[], ["-m"]])
def test_a_configuration_calls_nothing_but_hydras_plugins(key, mode, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fedsweep", *mode, f"{key}={CALLS[key]}", "hydra.run.dir=out"])
    from fedsweep import __main__

    monkeypatch.setattr("fedsweep.interrupts.handle", lambda *_: None)
    monkeypatch.setattr("fedsweep.job.run_single", lambda *_: pytest.fail("it ran"))
    monkeypatch.setattr("fedsweep.sweep.session.run", lambda *_: pytest.fail("it ran"))
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    line = capsys.readouterr().err
    assert ended.value.code == 1 and len(line.splitlines()) == 1
    assert "_target_=" in line and composing.ALLOWED in line
    assert list(tmp_path.iterdir()) == []


def test_an_experiment_file_calls_nothing_either(load):
    with pytest.raises(UserError, match=r"^hydra\.callbacks\.x\._target_=os\.system"):
        load(experiment="hydra: {callbacks: {x: {_target_: os.system, command: ls}}}")


@pytest.mark.parametrize("part", ["job_logging", "hydra_logging"])
@pytest.mark.parametrize(
    "handler",
    ["{(): os.mkdir, path: made}", "{class: os.mkdir, name: made}", "{class: logging.NullHandler, x: ext://os}"],
)
def test_logging_calls_nothing_but_its_own_handlers(load, part, handler):
    section = f"hydra: {{{part}: {{version: 1, handlers: {{y: {handler}}}}}}}"
    with pytest.raises(UserError, match=rf"^hydra\.{part}\.handlers\.y\."):
        load(experiment=section)
    for fine in ("logging.FileHandler", "logging.handlers.RotatingFileHandler", "logging.StreamHandler"):
        assert load(experiment=section.replace(handler, f"{{class: {fine}, stream: ext://sys.stdout}}"))


def test_a_logging_section_that_is_wrong_is_one_line(tmp_path):
    command = [sys.executable, "-m", "fedsweep", "hydra/job_logging=default", "hydra.job_logging.root.level=LOUD"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.startswith("fedsweep: hydra.job_logging, ") and "LOUD" in done.stderr


def test_interpolations_that_multiply_are_one_line(load):
    names = "abcdefgh"
    lists = ["+a=[1,1,1,1,1,1,1,1,1,1]"]
    lists += [f"+{new}=[{','.join(['${' + old + '}'] * 10)}]" for old, new in itertools.pairwise(names)]
    with pytest.raises(UserError, match="its interpolations make more than 100,000 values"):
        schema.check(load(*lists))


def test_a_program_that_imports_fedsweep_keeps_its_own_hydra():
    code = "import fedsweep.schema, hydra._internal.hydra as h; print(h.ConfigLoaderImpl.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "hydra._internal.config_loader_impl"


def test_what_the_user_allows_can_be_called(load, monkeypatch):
    override = "+hydra.callbacks.x._target_=my_package.callbacks.Told"
    for allowed in ("other", "my_pack", "my_package.callbacks.Told.more", ""):
        monkeypatch.setenv(composing.ALLOWED, allowed)
        with pytest.raises(UserError, match="my_package"):
            load(override)
    for allowed in ("my_package", "other, my_package.callbacks.Told"):
        monkeypatch.setenv(composing.ALLOWED, allowed)
        assert load(override)
    monkeypatch.delenv(composing.ALLOWED)
    assert load("+hydra.callbacks.x._target_=hydra.experimental.callbacks.LogJobReturnCallback")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("hydra.launcher._target_=hydra_plugins.none.Launcher", "is no launcher that is installed"),
        ("hydra.sweeper._target_=hydra._internal.core_plugins.basic_launcher.BasicLauncher", "is no sweeper"),
        ("~hydra/launcher", "hydra.launcher._target_=None: is no launcher"),
        ("tracker=[{}]", "tracker=[{}]: names no choice; choose of csv, mlflow, tensorboard"),
        ("runtime=[null]", "runtime=[null]: names no choice; choose of map_reduce, tff"),
        ("encoder=[[uniform]]", "encoder=[[uniform]]: names no choice"),
        ("hydra/launcher=[1]", "hydra/launcher=[1]: names no choice"),
        ("encoder=5", "Config group override must be a string or a list"),
        ("rounds=" + 5000 * "9", "cannot be read"),
    ],
)
def test_what_hydra_has_tracebacks_for_is_one_line(load, override, says):
    with pytest.raises(UserError) as refused:
        load(override)
    assert says in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("group", [*schema.GROUPS, "tracker"])
def test_a_list_that_names_no_choice_is_refused_in_every_group(config, group):
    with pytest.raises(UserError, match="names no choice"):
        config(f"{group}=[{{}}]")


def test_a_key_that_is_not_there_comes_with_those_that_look_like_it(config):
    with pytest.raises(UserError, match=r"^encoder\.bitz: no such key; did you mean encoder\.bits\?"):
        config("encoder.bitz=2")
    with pytest.raises(UserError, match=r"^qqq: no such key; python -m fedsweep --cfg job shows them all"):
        config("qqq=2")


@pytest.mark.parametrize("name", ["x${y}", "a${", "$HOME", "${oc.env:HOME}", "é =,\"b'", "c\\${d}", "%s{}"])
def test_a_folder_can_have_any_name(name, tmp_path, monkeypatch):
    place = tmp_path / name
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["fedsweep"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    seen = []

    @hydra.main(version_base="1.3", config_path=cli.config_folder(), config_name="config")
    def task(composed):
        schema.check(composed)
        seen.append(HydraConfig.get().runtime.output_dir)
        assert HydraConfig.get().runtime.cwd == str(Path.cwd()) == str(place)

    task()
    assert Path(seen[0]).is_dir() and seen[0].startswith(str(place))
    assert composed.sweep("encoder.bits=2,4").record.n_trials == 2


@pytest.mark.parametrize("text", ["plain", "x${y}", "x\\${y}", "\\\\${", "${", "a${b${c}}", "ends\\"])
def test_a_text_is_taken_as_it_is(text):
    assert composing.OmegaConf.create({"key": composing.literal(text)}).key == text


def test_a_folder_named_like_an_interpolation_can_be_given(config):
    assert config("dataset=mnist_by_writer", "dataset.dir='a\\${b}'").dataset.dir == "a${b}"
    assert composed.request("hydra.sweep.dir='x\\${y}'").folder == "x${y}"


@pytest.mark.parametrize(
    "options",
    [
        ["-m", "--cfg", "job"],
        ["--cfg", "hydra", "--info"],
        ["-m", "-r"],
        ["--resolve"],
        ["--shell-completion"],
        ["--experimental-rerun", "x"],
        ["-cp", "a.yaml"],
    ],
)
def test_options_that_do_not_go_together_are_one_line(options, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fedsweep", *options])
    with pytest.raises(UserError) as refused:
        cli.refuse_options()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("options", [["-m", "--help"], ["--cfg", "job", "--resolve"], ["--info"], ["-m", "a=b"], []])
def test_options_that_go_together_do(options, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fedsweep", *options])
    cli.refuse_options()


def test_python_without_assertions_is_told_of_where_hydra_needs_them():
    program = (
        "import composed, sys\n"
        "from fedsweep.errors import UserError\n"
        "print(len(composed.sweep('encoder.bits=2,4').configs))\n"
        "try: composed.sweep('encoder.bits=range(2,5)')\n"
        "except UserError as error: print(error)\n"
    )
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-O", "-c", program], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[0] == "2", done.stderr
    assert done.stdout.splitlines()[1].startswith("encoder.bits=range(2,5): cannot be read under python -O")


def test_an_experiment_files_launcher_runs_a_sweep_in_a_folder_of_any_name(tmp_path):
    place = tmp_path / "x${y}"
    (place / "extra" / "experiment").mkdir(parents=True)
    text = "# @package _global_\ndefaults:\n  - override /hydra/launcher: basic\n  - override /tracker: csv\n"
    (place / "extra" / "experiment" / "mine.yaml").write_text(text)
    arguments = ["hydra.searchpath=[extra]", "+experiment=mine", "hydra.sweep.dir=out", "rounds=1", "model=2nn"]
    follows = ["downlink=uniform", "encoder.bits=2,3", "downlink.bits=${encoder.bits}"]
    done = subprocess.run(
        [sys.executable, "-m", "fedsweep", "-m", *arguments, *follows, "clients_per_round=2"],
        cwd=place,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "workers with" not in done.stdout  # those of fedsweep_local
    for trial, bits in enumerate((2, 3)):
        run = yaml.safe_load((place / "out" / str(trial) / "config.yaml").read_text())
        assert (run["encoder"]["bits"], run["downlink"]["bits"]) == (bits, bits)
    assert "BasicLauncher" in (place / "out" / "multirun.yaml").read_text()
