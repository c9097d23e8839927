"""What is swept, checked before anything is written: keys of swept choices, interpolations, sizes."""

from __future__ import annotations

import time

import composed
import pytest

from fedsweep import cli
from fedsweep.errors import UserError
from fedsweep.sweep import resume


def encoders(*arguments: str) -> list[tuple]:
    return [(c.encoder.name, getattr(c.encoder, "share", None)) for c in composed.sweep(*arguments).configs.values()]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["encoder=top_k,rand_k", "encoder.share=0.1"], [("top_k", 0.1), ("rand_k", 0.1)]),
        (["encoder.share=0.1", "encoder=top_k,rand_k"], [("top_k", 0.1), ("rand_k", 0.1)]),
        (
            ["encoder=top_k,rand_k", "encoder.share=0.1,0.2"],
            [("top_k", 0.1), ("top_k", 0.2), ("rand_k", 0.1), ("rand_k", 0.2)],
        ),
        (["sweep.grids=[['encoder=top_k'],['encoder=stc']]", "encoder.share=0.3"], [("top_k", 0.3), ("stc", 0.3)]),
        (["encoder=stc,top_k", "~encoder.positions=fixed"], None),
        (["encoder=identity,sign", "+encoder.bits=2"], [("identity", None), ("sign", None)]),
    ],
)
def test_a_key_that_every_trial_has_is_taken(arguments, found):
    if found is None:  # refused, if at all, for what a trial is and not for what the default is
        with pytest.raises(UserError, match="encoder="):
            composed.sweep(*arguments)
        return
    assert encoders(*arguments) == found


def test_keys_of_several_groups_are_taken(monkeypatch):
    monkeypatch.setattr("fedsweep.sweep.check._check_clients", lambda _: None)  # there are no such files
    checked = composed.sweep(
        "dataset=arrays", "dataset.file=a.npz,b.npz", "optimizer=fedadam,fedyogi", "optimizer.beta_1=0.5"
    )
    assert {(c.dataset.file, c.optimizer.beta_1) for c in checked.configs.values()} == {("a.npz", 0.5), ("b.npz", 0.5)}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["encoder=top_k,uniform", "encoder.share=0.1"], "all (at encoder=uniform encoder.share=0.1)"),
        (["encoder=top_k,rand_k", "encoder.shar=0.1"], "encoder.shar: no such key; did you mean encoder.share?"),
        (["encoder.bits=2,4", "encoder.share=0.1"], "encoder.share: no such key"),
        (
            ["sweep.grids=[['encoder=stc'],['encoder=sign']]", "encoder.share=0.3"],
            "(at encoder.share=0.3 encoder=sign)",
        ),
    ],
)
def test_a_key_that_some_trial_lacks_is_refused_with_that_trial(arguments, says):
    with pytest.raises(UserError) as refused:
        composed.sweep(*arguments)
    assert says in cli.one_line(refused.value)


def test_what_interpolates_a_swept_key_follows_it():
    checked = composed.sweep("encoder.bits=2,4", "downlink=uniform", "downlink.bits=${encoder.bits}")
    assert [(c.encoder.bits, c.downlink.bits) for c in checked.configs.values()] == [(2, 2), (4, 4)]
    assert checked.follows == {"downlink.bits"}
    assert len(set(checked.record.digests.values())) == 2


def test_a_sweep_is_extended_though_another_key_follows_the_swept_one():
    line = ("downlink=uniform", "downlink.bits=${encoder.bits}")
    old, new = composed.sweep("encoder.bits=2,4", *line), composed.sweep("encoder.bits=8,16", *line)
    merged = resume.merge(old.record, new.record, extend=True, follows=new.follows)
    assert merged.space == {"encoder.bits": ["2", "4", "8", "16"]}
    other = composed.sweep("encoder.bits=8,16", *line, "rounds=41")
    with pytest.raises(UserError, match="rounds was 40, is 41"):
        resume.merge(old.record, other.record, extend=True, follows=other.follows)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["encoder.bits=2,4", "seed=${hydra:job.num}"], "Hydra's own values are not available here; seed=0,1,2 sweeps"),
        (["encoder.bits=2,4", "seed=${nope}"], "Interpolation key 'nope' not found"),
        (["replicates=2", "optimizer.server_warmup=${seed}"], "optimizer.server_warmup: cannot follow seed"),
        (["encoder.threshold=range(0,inf)"], "starts, stops and steps at finite numbers"),
        (["encoder.threshold=range(nan,4)"], "starts, stops and steps at finite numbers"),
        (["encoder.threshold=range(0,1e12)"], "say how many trials to draw"),
        (["sweep.grids=[['encoder.bits=range(1,9000)','encoder.threshold=range(1,9000)']]"], "80,982,001 points"),
        (["encoder.threshold=range(0,1e12)", "sweep.n_trials=1000000", "replicates=2"], "more than 1,000,000 runs"),
        (["sweep.grids=5"], "sweep.grids=5: must be a list of lists"),
        (["sweep.grids={a:b}"], "must be a list of lists"),
        (["sweep.grids=[5]"], "must be a list of lists"),
        (["sweep.grids=[[5]]"], "must be a list of lists"),
    ],
)
def test_what_cannot_be_swept_is_one_line_at_once(arguments, says):
    started = time.monotonic()
    with pytest.raises(UserError) as refused:
        composed.sweep(*arguments)
    assert says in cli.one_line(refused.value) and "\n" not in cli.one_line(refused.value)
    assert time.monotonic() - started < 60
