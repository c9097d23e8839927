import numpy as np
import optuna
import pytest
from optuna._hypervolume import compute_hypervolume

from fedsweep.pareto.front import attainment, hypervolume, on_front


def brute_front(costs):
    return [
        not any((other <= one).all() and (other < one).any() for other in costs)
        for one in costs
    ]  # fmt: skip


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_front_is_what_comparing_all_pairs_finds(k):
    rng = np.random.default_rng(0)
    for n in range(40):
        costs = rng.integers(0, 6, [n, k]) / 6  # many equal ones
        assert on_front(costs).tolist() == brute_front(costs)


def test_the_front_is_optunas():
    rng = np.random.default_rng(1)
    study = optuna.create_study(directions=["minimize", "maximize"])
    points = rng.random([60, 2])
    for x, y in points:
        study.add_trial(optuna.create_trial(values=[x, y]))
    best = {trial.number for trial in study.best_trials}
    assert set(np.flatnonzero(on_front(points * [1, -1]))) == best


def test_equal_points_are_on_the_front_together():
    assert on_front(np.array([[-0.9, 10], [-0.9, 10], [-0.8, 10]])).tolist() == [True, True, False]


def test_infinitely_bad_points_are_dominated_by_any_other():
    assert on_front(np.array([[1.0, np.inf], [2.0, np.inf], [3.0, 5.0]])).tolist() == [True, False, True]


def test_a_hypervolume_by_hand():
    """Two rectangles, 3 x 1 and 1 x 2 below it, up to (4, 4)."""
    assert hypervolume(np.array([[1.0, 3.0], [3.0, 1.0]]), [4, 4]) == 3 * 1 + 1 * 2
    assert hypervolume(np.array([[1.0, 3.0], [3.0, 1.0], [3.5, 3.5]]), [4, 4]) == 5
    assert hypervolume(np.array([[5.0, 0.0], [0.0, 4.0]]), [4, 4]) == 0 == hypervolume(np.zeros([0, 2]), [4, 4])


def test_hypervolumes_are_optunas_and_those_of_counted_cells():
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 40):
        costs = rng.integers(0, 20, [n, 2]).astype(float)
        reference = np.array([16.0, 17.0])
        cells = [(a, b) for a in range(16) for b in range(17) if any(p[0] <= a and p[1] <= b for p in costs)]
        inside = costs[(costs < reference).all(axis=1)]
        assert hypervolume(costs, reference) == len(cells)
        assert hypervolume(costs, reference) == pytest.approx(
            compute_hypervolume(inside, reference) if len(inside) else 0
        )


def test_attainment_is_what_counting_seeds_finds():
    rng = np.random.default_rng(0)
    seeds = [rng.integers(0, 8, [rng.integers(1, 6), 2]).astype(float) for _ in range(5)]
    shares = (0.2, 0.5, 1.0)
    first, second = attainment(seeds, shares)
    for share, surface in zip(shares, second, strict=True):
        for x, y in zip(first, surface, strict=True):
            attained = [
                level
                for level in [*np.arange(8.0), np.inf]
                if sum(any(p[0] <= x and p[1] <= level for p in seed) or level == np.inf for seed in seeds) >= share * 5
            ]
            assert y == min(attained)


def test_one_seeds_surface_is_its_staircase():
    first, (surface,) = attainment([np.array([[1.0, 5.0], [2.0, 6.0], [3.0, 1.0]])], [0.5])
    assert first.tolist() == [1, 2, 3] and surface.tolist() == [5, 5, 1]
