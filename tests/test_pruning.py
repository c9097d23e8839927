"""Pruning: a run stops when it is dominated, by the margin, for long enough, and not before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsweep import schema
from fedsweep.pruning import DominancePruner, Pruned
from fedsweep.tracking.run_folder import RoundRow


def curve(points):
    """Rounds with (accuracy, bits); None: no evaluation."""
    return [RoundRow(k, 1.0, 0.5, None, accuracy, 0, 0, bits, 0.1) for k, (accuracy, bits) in enumerate(points, 1)]


def pruner(others, margin=0.05, patience=2, min_rounds=1):
    config = schema.DominancePruner("dominance", margin, patience, min_rounds)
    return DominancePruner(config, map(curve, others))


def stops(judge, points) -> int | None:
    """The round after which a run with these points stops."""
    rows = curve(points)
    for k in range(1, len(rows) + 1):
        try:
            judge.check(rows[:k])
        except Pruned:
            return k
    return None


def test_a_run_behind_for_the_patience_stops():
    other = [[(0.5, 100), (0.9, 200)]]
    slow = [(0.4, 150), (0.5, 250), (0.6, 350)]
    assert stops(pruner(other), slow) == 2
    assert stops(pruner(other, patience=3), slow) == 3
    assert stops(pruner(other, min_rounds=3), slow) == 3
    assert stops(pruner(other, margin=0.45), slow) is None


def test_a_run_that_spends_fewer_bits_goes_on():
    other = [[(0.5, 100), (0.9, 200)]]
    assert stops(pruner(other), [(0.1, 50), (0.2, 90), (0.3, 99)]) is None


def test_one_good_evaluation_begins_the_patience_anew_and_rounds_without_one_do_not_count():
    other = [[(0.9, 100)]]
    points = [(0.5, 100), (0.88, 110), (0.5, 120), (None, 130), (None, 140), (0.5, 150)]
    assert stops(pruner(other), points) == 6


def test_without_others_nothing_stops():
    assert stops(pruner([]), [(0.0, 10**9)] * 5) is None


points = st.lists(st.tuples(st.integers(0, 20).map(lambda k: k / 20), st.integers(1, 50)), min_size=1, max_size=8)


@given(others=st.lists(points, max_size=4), bits=st.integers(0, 60))
def test_what_others_reached_is_the_best_for_no_more_bits(others, bits):
    within = [accuracy for points in others for accuracy, spent in points if spent <= bits]
    assert pruner(others).reached(bits) == (max(within) if within else float("-inf"))


def test_the_message_names_the_round():
    with pytest.raises(Pruned, match=r"round 2: accuracy 0.5000 where another trial reached 0.9000"):
        pruner([[(0.9, 10)]]).check(curve([(0.4, 10), (0.5, 20)]))
