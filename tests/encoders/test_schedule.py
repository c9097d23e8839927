"""Schedules and the vote: what the server makes of what clients observed."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf

from fedsweep.encoders import randomness, schedule
from fedsweep.encoders.codes import CODES
from fedsweep.encoders.rate_distortion import STEPS, RateDistortionStage

SEED = tf.constant([1, 2])


def play(plan, rounds):
    """The levels of a round's clients, round by round; a round is a list of clients (examples, loss, tensor)."""
    state, levels = plan.initial_state(), []
    for clients in rounds:
        sums, chosen = collections.Counter(), []
        for examples, loss, x in clients:
            x = tf.constant(x, tf.float32) * examples  # a client encodes its weighted update
            with randomness.stream(SEED, randomness.Facts(tf.constant(examples, tf.float32), tf.constant(loss))):
                chosen.append(int(plan.levels(x, plan.parameters(state))))
                for key, value in plan.observed(x).items():
                    sums[key] += value
        assert tuple(sums) == plan.sums
        state = plan.update(state, dict(sums))
        levels.append(chosen)
    return levels


def losses(*values):
    return [[(1.0, value, [0.0, 1.0])] for value in values]


def test_falling_loss_gives_more_levels_by_the_root_of_the_fall():
    """AdaQuantFL: 3 levels at first, sqrt(f0 / f) times as many then, and fewer when the loss rises."""
    levels = play(schedule.FallingLoss(2), losses(2.0, 0.5, 0.125, 0.03125, 2.0, 2.0, 0.0, 1.0))
    assert levels == [[3], [3], [6], [12], [24], [3], [3], [schedule.MAX_LEVELS]]


def test_falling_loss_weighs_clients_by_their_examples():
    x = [0.0, 1.0]
    first = [(1.0, 1.0, x), (3.0, 5.0, x)]  # mean 4
    levels = play(schedule.FallingLoss(2), [first, [(1.0, 1.0, x)], [(1.0, 1.0, x)]])
    assert levels[2] == [6]  # 3 sqrt(4 / 1)


def test_plateau_doubles_the_levels_when_the_loss_stalls_and_then_waits():
    plan = schedule.Plateau(1, patience=2, smoothing=0.0)
    levels = play(plan, losses(4.0, 3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0))
    assert [level for (level,) in levels] == [1, 1, 1, 1, 1, 2, 2, 2, 4, 4]


def test_plateau_smooths_the_loss():
    """A single bad round is no plateau with smoothing, and is one without."""
    bumpy = losses(4.0, 3.5, 3.0, 4.5, 2.0, 1.5)
    assert play(schedule.Plateau(1, 2, smoothing=0.9), bumpy)[-1] == [1]
    assert play(schedule.Plateau(1, 2, smoothing=0.0), bumpy)[-1] == [2]


@pytest.mark.parametrize(("spread", "levels"), [(0.5, 1), (2.9, 3), (3.1, 4), (255.0, 255), (1e9, 65535), (0, 1)])
def test_update_range_takes_a_level_for_each_resolution_in_the_range(spread, levels):
    """Of the update, not of its product with the client's weight, 7."""
    plan = schedule.UpdateRange(1.0)
    assert play(plan, [[(7.0, 1.0, [-spread / 2, spread / 2])]]) == [[levels]]


def test_client_weight_gives_heavy_clients_more_and_keeps_the_mean_error():
    """DAdaQuant's condition: sum (w_i / q_i)^2 over clients is that of equal levels; fewer levels in all."""
    weights = np.array([1.0, 4.0, 16.0, 64.0])
    clients = [(w, 1.0, [0.0, 1.0]) for w in weights]
    first, second = play(schedule.ClientWeight(8), [clients, clients])
    assert first == [255] * 4 and sum(second) < sum(first)
    assert second == sorted(second) and second[3] / second[1] == pytest.approx(16 ** (2 / 3), rel=0.02)
    assert np.sum((weights / second) ** 2) == pytest.approx(np.sum((weights / 255) ** 2), rel=0.02)


def vote(trade_off, x):
    stage = RateDistortionStage(trade_off, CODES["zero_run"])
    _, votes = stage.encode(tf.constant(x, tf.float32), {"step": tf.constant(1.0)})
    assert votes["votes"].numpy().sum() == 1
    return STEPS[int(np.argmax(votes["votes"]))]


def test_the_dearer_a_bit_the_larger_the_step_that_clients_vote_for():
    x = np.random.default_rng(0).normal(size=5000)
    steps = [vote(trade_off, x) for trade_off in (1e-4, 0.03, 0.2, 3.0)]
    assert steps == sorted(steps) and steps[0] < 0.3 and steps[-1] > 3


def test_a_vote_does_not_depend_on_where_the_small_elements_are():
    """The first rows of a kernel belong to the first inputs, which may hardly matter."""
    x = np.random.default_rng(0).normal(size=160_000)
    x[:70_000] *= 0.2
    assert vote(0.1, x) == vote(0.1, np.random.default_rng(1).permutation(x))


def test_a_vote_does_not_depend_on_the_scale_of_the_update():
    x = np.random.default_rng(0).normal(size=5000)
    assert vote(0.1, x) == vote(0.1, x * 1e20)


def test_the_majority_decides_the_next_step():
    stage = RateDistortionStage(0.1, CODES["zero_run"])
    votes = np.zeros(len(STEPS), np.int32)
    votes[1], votes[4] = 2, 3
    state = stage.update_state(stage.initial_state(), {"votes": tf.constant(votes)})
    assert float(stage.get_params(state)[0]["step"]) == STEPS[4]
