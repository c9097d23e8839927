import numpy as np

from fedsweep.pareto.front import on_front


def test_the_front_is_what_comparing_all_pairs_finds():
    rng = np.random.default_rng(0)
    for n in range(0, 40):
        accuracy, bits = rng.integers(0, 6, n) / 6, rng.integers(1, 6, n)
        brute = [
            not any(
                (accuracy[j] >= accuracy[i] and bits[j] < bits[i]) or (accuracy[j] > accuracy[i] and bits[j] <= bits[i])
                for j in range(n)
            )
            for i in range(n)
        ]
        assert on_front(np.stack([-accuracy, bits], axis=1)).tolist() == brute


def test_equal_points_are_on_the_front_together():
    assert on_front(np.array([[-0.9, 10], [-0.9, 10], [-0.8, 10]])).tolist() == [True, True, False]
