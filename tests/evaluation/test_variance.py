"""The share of variance between actions, by hand and under chance."""

import numpy as np
import pytest

from sage_core.evaluation.variance import Decided, decided


def test_by_hand() -> None:
    """One situation, actions with wordings (0, 2) and (4, 6): means 1 and 5 around 3, so between =
    2 (4 + 4) = 16, within = 4, MS = 4 / 2 = 2. eta = 16 / 20, omega = (16 - 2) / (20 + 2). The
    labels can be dealt in 6 ways, of which 2 are as far apart."""
    scores = np.array([[[[0.0], [2.0]], [[4.0], [6.0]]]])
    found = decided(scores, permutations=5_999)
    assert found.eta_squared == pytest.approx(16 / 20)
    assert found.omega_squared == pytest.approx(14 / 22)
    assert found.p_value == pytest.approx(1 / 3, abs=0.03)
    assert (found.n, found.ci_low, found.ci_high) == (1, None, None)


def test_situations_are_no_effect_of_the_action() -> None:
    """A situation adds the same to all of its replies; embeddings add up over their numbers."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(6, 3, 4, 5))
    moved = scores + 100 * rng.normal(size=(6, 1, 1, 5))
    plain, shifted = decided(scores), decided(moved)
    assert plain.eta_squared == pytest.approx(shifted.eta_squared)
    assert plain.omega_squared == pytest.approx(shifted.omega_squared)
    doubled = decided(np.concatenate([scores, scores], axis=-1))
    assert doubled.eta_squared == pytest.approx(plain.eta_squared)
    assert decided(scores) == plain


def test_an_action_that_decides_nothing_is_zero_on_average_and_seldom_significant() -> None:
    """eta squared is (A - 1) / (A W - 1) = 3 / 11 by chance; omega squared is not."""
    rng = np.random.default_rng(1)
    found = [
        decided(rng.normal(size=(8, 4, 3, 1)), samples=400, permutations=199) for _ in range(60)
    ]
    assert np.mean([each.eta_squared for each in found]) == pytest.approx(3 / 11, abs=0.03)
    assert np.mean([each.omega_squared for each in found]) == pytest.approx(0, abs=0.04)
    assert sum((each.p_value or 0) < 0.05 for each in found) <= 8
    assert sum((each.ci_low or 0) > 0 for each in found) <= 12


def test_an_action_that_decides_much_is_found() -> None:
    rng = np.random.default_rng(2)
    scores = rng.normal(size=(8, 4, 3, 1)) + 2 * np.arange(4)[None, :, None, None]
    found = decided(scores, permutations=199)
    assert (found.omega_squared or 0) > 0.6
    assert found.p_value == pytest.approx(1 / 200)
    assert (found.ci_low or 0) > 0.5
    assert decided(np.zeros((8, 4, 3, 1)) + np.arange(4)[:, None, None]).omega_squared == 1.0


@pytest.mark.parametrize("shape", [(0, 2, 2, 1), (3, 1, 2, 1), (3, 2, 1, 1), (3, 2, 2, 1)])
def test_where_nothing_varies(shape: tuple[int, ...]) -> None:
    assert decided(np.ones(shape)) == Decided(shape[0], None, None, None, None, None)
