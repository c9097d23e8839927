"""The configuration: every file composes, every bad value is refused with its key."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from hydra.errors import HydraException

from fedsweep import cli, schema
from fedsweep.errors import UserError

CHOICES = [
    (group, path.stem) for group in schema.GROUPS for path in sorted((Path(cli.config_folder()) / group).glob("*.yaml"))
]


FILES = [f"dataset.{part}_{what}={part}-{what}" for part in ("train", "test") for what in ("images", "labels")]
COMPANIONS = {  # what a choice cannot do without
    "shakespeare": ["model=char_lstm"],
    "tiny_shakespeare": ["model=char_lstm"],
    "stackoverflow": ["model=word_lstm"],
    "char_lstm": ["dataset=shakespeare"],
    "word_lstm": ["dataset=stackoverflow"],
    "idx": FILES,
    "arrays": ["dataset.file=data.npz"],
}


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_file_of_every_group_composes(config, group, choice):
    checked = functools.reduce(getattr, group.split("/"), config(f"{group}={choice}", *COMPANIONS.get(choice, [])))
    assert checked.name == choice
    assert isinstance(checked, schema.GROUPS[group][choice])


def test_trackers_are_used_one_or_several_at_once(config):
    used = {name: config(f"tracker={name}").tracker for name in ("mlflow", "tensorboard", "csv")}
    assert [(t.mlflow, t.tensorboard, t.csv) for t in used.values()] == [
        (True, False, False), (False, True, False), (False, False, True),
    ]  # fmt: skip
    both = config("tracker=[mlflow,tensorboard]", "tracker.uri=sqlite:///x.db").tracker
    assert both.mlflow and both.tensorboard and both.uri == "sqlite:///x.db"
    with pytest.raises(UserError, match=r"^tracker\.url: no such key"):
        config("+tracker.url=x")


def test_every_choice_of_the_schema_has_its_file():
    assert {(group, name) for group, choices in schema.GROUPS.items() for name in choices} == set(CHOICES)


def test_downlink_same_is_the_uplinks_encoder_with_its_settings(config):
    checked = config("encoder=hadamard", "encoder.bits=3", "downlink=same")
    assert checked.downlink_encoder == checked.encoder
    assert config("downlink=uniform", "downlink.bits=5").downlink_encoder.bits == 5


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("encoder.bits=0", "encoder.bits"),
        ("encoder.bits=17", "encoder.bits"),
        ("encoder.bits=2.5", "encoder.bits"),
        ("encoder.bits=many", "encoder.bits"),
        ("encoder.bits=null", "encoder.bits"),
        ("encoder.threshold=-1", "encoder.threshold"),
        ("encoder.packing=zip", "encoder.packing"),
        ("encoder.name=zip", "encoder=zip"),
        ("+encoder.levels=3", "encoder.levels"),
        ("+colour=red", "colour"),
        ("rounds=0", "rounds"),
        ("client_max_examples=0", "client_max_examples"),
        ("client_sampling=random", "client_sampling"),
        ("client_dropout=1", "client_dropout"),
        ("client_weighting=size", "client_weighting"),
        ("dataset.partition=pathological", "dataset.partition"),
        ("model=char_lstm", "model=char_lstm"),
        ("dataset=shakespeare", "model=cnn_small"),
        ("dataset=arrays", "dataset.file"),
        ("optimizer.client_clip=0", "optimizer.client_clip"),
        ("optimizer.client_weight_decay=-0.1", "optimizer.client_weight_decay"),
        ("optimizer.client_schedule=step", "optimizer.client_schedule"),
        ("optimizer.server_warmup=40", "optimizer.server_warmup"),
        ("sweep.objectives=[maximize test_accuracy_p10]", "sweep.objectives"),
        ("clients_per_round=0", "clients_per_round"),
        ("clients_per_round=21", "clients_per_round"),
        ("client_epochs=0", "client_epochs"),
        ("client_batch_size=0", "client_batch_size"),
        ("evaluate_every=0", "evaluate_every"),
        ("seed=-1", "seed"),
        ("optimizer.client_lr=0", "optimizer.client_lr"),
        ("optimizer.server_lr=nan", "optimizer.server_lr"),
        ("dataset.alpha=0", "dataset.alpha"),
        ("dataset.clients=0", "dataset.clients"),
        ("dataset.test_fraction=1", "dataset.test_fraction"),
        ("runtime.threads=0", "runtime.threads"),
        ("replicates=0", "replicates"),
        ("checkpoint_every=0", "checkpoint_every"),
        ("+sweep.workers=2", "sweep.workers"),
        ("sweep.n_trials=0", "sweep.n_trials"),
        ("sweep.max_workers=0", "sweep.max_workers"),
        ("sweep.in_flight=0", "sweep.in_flight"),
        ("sweep.retries=-1", "sweep.retries"),
        ("sweep.objectives=[]", "sweep.objectives"),
        ("sweep.objectives=[maximize luck]", "sweep.objectives"),
        ("sweep.objectives=[test_accuracy]", "sweep.objectives"),
        ("sweep.objectives=[maximize test_loss,minimize test_loss]", "sweep.objectives"),
        ("sweep.bit_budget=3 apples", "sweep.bit_budget"),
        ("sweep.bit_budget=0", "sweep.bit_budget"),
        ("sweep.sampler.n_startup_trials=0", "sweep.sampler.n_startup_trials"),
        ("+sweep.sampler.luck=1", "sweep.sampler.luck"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_names_the_key(config, override, key):
    with pytest.raises(UserError) as refused:
        config(override)
    assert str(refused.value).startswith(key)
    assert "\n" not in str(refused.value)


HUGE = str(10**30)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        *((f"{key}={HUGE}", key) for key in ("rounds", "client_batch_size", "encoder.threshold", "sweep.in_flight")),
        ("encoder=lloyd_max encoder.iterations=9223372036854775807", "encoder.iterations"),
        ("encoder=count_sketch encoder.rows=1000000", "encoder.rows"),
        ("encoder=low_rank encoder.rank=1000000000", "encoder.rank"),
        ("rounds=1000000 client_dropout=0.1", "rounds"),
        ("replicates=1000000", "replicates"),
        ("optimizer.client_lr=1e400", "optimizer.client_lr"),
        (f"optimizer.client_lr=1{400 * '0'}", "optimizer.client_lr"),
        ("encoder=identity encoder.bits=nan", "encoder.bits"),
        ("encoder.bits=true", "encoder.bits"),
        ("encoder.bits=[4]", "encoder.bits"),
        ("encoder.name=[uniform]", "encoder="),
        ("encoder.rotation=null", "encoder.rotation"),
        ("tracker.experiment=''", "tracker.experiment='': must be a text"),
        ("dataset=arrays dataset.file=", "dataset.file"),
        ("sweep.bit_budget=1e400", "sweep.bit_budget"),
        ("seed=${hydra:job.num}", "seed=${hydra:job.num}: Hydra's own values are not available"),
        ("seed=${foo:1}", "seed=${foo:1}"),
        ("seed=${nope}", "seed=${nope}"),
        ("seed=${rounds} rounds=${seed}", "rounds=${seed}: Recursive interpolation"),
        ("seed=${oc.env:FEDSWEEP_NOT_THERE}", "seed=${oc.env:FEDSWEEP_NOT_THERE}"),
        ("dataset=arrays seed=${dataset.file}", "seed=${dataset.file}"),
    ],
)
def test_no_value_is_too_wild_for_one_line(config, override, key):
    with pytest.raises(UserError) as refused:
        config(*override.split())
    assert str(refused.value).startswith(key) and "\n" not in str(refused.value) and len(str(refused.value)) < 400


def test_one_section_can_follow_another(config, monkeypatch):
    monkeypatch.setenv("FEDSWEEP_A_SEED", "7")
    found = config(
        "downlink=uniform", "downlink.bits=${encoder.bits}", "optimizer.server_lr=${optimizer.client_lr}",
        "encoder.bits=3", "seed=${oc.env:FEDSWEEP_A_SEED}", "rounds=${.seed}",
    )  # fmt: skip
    assert (found.downlink.bits, found.optimizer.server_lr, found.seed, found.rounds) == (3, 0.1, 7, 7)
    assert config("encoder=eden", "downlink='${encoder}'").downlink_encoder.name == "eden"


@pytest.mark.parametrize(
    "overrides",
    [
        ("optimizer=fedavgm", "optimizer.momentum=1"),
        ("optimizer=fedadam", "optimizer.epsilon=0"),
        ("downlink=uniform", "downlink.bits=0"),
        ("encoder=qsgd", "encoder.bits=1"),
        ("encoder=qsgd", "encoder.bucket=0"),
        ("encoder=eden", "encoder.bits=0"),
        ("encoder=eden", "encoder.rotation=none"),
        ("encoder=eden", "encoder.rotation=kashin"),
        ("encoder=sign", "encoder.rotation=round"),
        ("encoder=terngrad", "encoder.clip=-1"),
        ("encoder=terngrad", "encoder.packing=tensor_encoding"),
        ("encoder=natural", "encoder.bits=7"),
        ("encoder=lloyd_max", "encoder.bits=9"),
        ("encoder=lloyd_max", "encoder.iterations=0"),
        ("encoder=normal_float", "encoder.block=0"),
        ("encoder=top_k", "encoder.share=0"),
        ("encoder=top_k", "encoder.share=1.5"),
        ("encoder=top_k", "encoder.values=top_k"),
        ("encoder=top_k", "encoder.positions=guessed"),
        ("encoder=three_lc", "encoder.sparsity=2"),
        ("encoder=rate_distortion", "encoder.trade_off=0"),
        ("encoder=count_sketch", "encoder.rows=0"),
        ("encoder=low_rank", "encoder.rank=0"),
        ("downlink=dropout", "downlink.share=0"),
        ("schedule=plateau", "schedule.patience=0"),
        ("schedule=plateau", "schedule.smoothing=1"),
        ("schedule=update_range", "schedule.resolution=0"),
        ("sweep/sampler=nsga2", "sweep.sampler.population_size=1"),
        ("sweep/pruner=dominance", "sweep.pruner.margin=1"),
        ("sweep/pruner=dominance", "sweep.pruner.patience=0"),
        ("sweep/pruner=dominance", "sweep.pruner.min_rounds=0"),
        ("dataset=emnist", "dataset.classes=47"),
        ("dataset=emnist", "dataset.test_examples=0"),
        ("model=keras", "model.maker=perceptron"),
        ("optimizer=fedprox", "optimizer.proximal=-1"),
        ("optimizer=fedadagrad", "optimizer.epsilon=0"),
        ("optimizer=mime_lite", "optimizer.client_momentum=0.9"),
        ("optimizer=mime_lite", "encoder.error_feedback=true", "encoder=top_k"),
        ("optimizer=mime_lite", "downlink=dropout"),
    ],
)
def test_keys_that_only_some_choices_have_are_checked_too(config, overrides):
    with pytest.raises(UserError, match=overrides[1].partition("=")[0]):
        config(*overrides)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("encoder=low_rank code=huffman", "code=huffman: must be none, or the encoder one that sends"),
        ("encoder=top_k code=huffman", "code=huffman: must be none, or"),
        ("encoder=three_lc code=huffman", "code=huffman: must be none with three_lc"),
        ("encoder=sign schedule=falling_loss", "schedule=falling_loss: must be constant with encoder=sign"),
        ("encoder=rand_k encoder.error_feedback=true", "encoder.error_feedback=True: must be false with rand_k as"),
        ("encoder=count_sketch encoder.error_feedback=true", "encoder.error_feedback=True"),
        ("encoder.bits=2 encoder.error_feedback=true", "encoder.error_feedback=True: must be false with uniform as"),
        ("encoder=qsgd encoder.error_feedback=true", "encoder.error_feedback=True: must be false with qsgd as it is"),
        ("downlink=uniform downlink.bits=1 downlink.error_feedback=true", "downlink.error_feedback=True: must be"),
        ("downlink=eden downlink.bits=0.5", "downlink=eden: must be another encoder; below 1 bit"),
        ("encoder=top_k encoder.values=eden encoder.bits=9", "encoder.bits=9: must be from 1 to 8 with values=eden"),
        ("encoder=custom encoder.maker=mine", "encoder.maker=mine: must be module:function"),
        ("encoder=sign encoder.error_feedback=true runtime=tff", "encoder.error_feedback=True: must be false with ru"),
        ("code=huffman verify_wire=true runtime=tff", "verify_wire=True: must be false with runtime=tff"),
        ("downlink=top_k downlink.error_feedback=false", "downlink=top_k: must be another encoder"),
        ("encoder=stc downlink=same", "downlink=same encoder=stc: must be another encoder"),
        ("encoder=count_sketch downlink=same", "downlink=same encoder=count_sketch: must be another encoder; a sketch"),
        ("downlink=identity downlink.error_feedback=true", "downlink.error_feedback=True: must be false with"),
        ("downlink=drive downlink.error_feedback=false", "downlink=drive: must be another encoder; drive as it is set"),
        ("downlink=eden downlink.bits=1.5", "downlink=eden: must be another encoder; eden as it is set loses too much"),
        ("encoder=terngrad downlink=same", "downlink=same encoder=terngrad: must be another encoder; its error"),
        ("downlink=qsgd downlink.bucket=null", "downlink=qsgd: must be another encoder, or with a bucket below"),
        ("encoder=top_k schedule=falling_loss", "schedule=falling_loss: must be constant with encoder=top_k"),
        ("encoder=qsgd schedule=update_range", "schedule=update_range: must be another schedule; qsgd's steps"),
        ("encoder.error_feedback=true schedule=update_range", "encoder.error_feedback=True: must be false with"),
        ("encoder.error_feedback=true encoder.bits=4", "encoder.error_feedback=True: must be false with uniform"),
        ("downlink=rand_k downlink.unbiased=true", "downlink.error_feedback=True: must be false with rand_k as"),
        ("encoder=dropout", "encoder"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_one_line(config, overrides, words):
    with pytest.raises((UserError, HydraException)) as refused:
        config(*overrides.split())
    line = cli.one_line(refused.value)
    assert words in line and "\n" not in line


@pytest.mark.parametrize(
    "overrides",
    [
        "encoder=eden encoder.rotation=fourier code=huffman",
        "encoder=top_k encoder.values=uniform",
        "encoder=identity code=huffman schedule=plateau encoder.error_feedback=true",  # grids can hold identity
        "encoder=low_rank downlink=uniform code=range",  # the code serves the downlink
        "encoder=rand_k encoder.unbiased=false encoder.error_feedback=true",
        "encoder=stc encoder.error_feedback=true downlink=same",
        "schedule=client_weight encoder=qsgd code=elias_gamma",
    ],
)
def test_what_makes_sense_composes(config, overrides):
    assert config(*overrides.split())
