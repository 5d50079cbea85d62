"""Fitted lines beside the numbers that the data was drawn with, and beside scipy's minimum of the likelihood."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit

from ovdet.errors import InputError
from ovdet.evaluation.calibration import cross_validated, fit_line


def drawn(number: int = 4000, offsets=(0.8, -0.8, 0.0)):
    random = np.random.default_rng(0)
    scores, ids = random.uniform(0.02, 0.98, number), random.integers(0, len(offsets), number)
    found = random.random(number) < expit(1.7 * logit(scores) - 0.4 + np.array(offsets)[ids])
    return scores, found, ids


def test_a_line_is_the_likeliest():
    scores, found, ids = drawn(500)
    line = fit_line(scores, found, ids, 3, by_class=False)

    def loss(numbers):
        return np.logaddexp(0, -np.where(found, 1, -1) * (numbers[0] * logit(scores) + numbers[1])).sum()

    expected = minimize(loss, [1.0, 0.0]).x
    np.testing.assert_allclose([line.slope, line.offset], expected, atol=5e-3)
    assert not line.class_offsets.any()


def test_classes_get_offsets_of_their_own():
    scores, found, ids = drawn()
    line = fit_line(scores, found, ids, 4)  # of the last there is nothing
    assert line.slope == pytest.approx(1.7, abs=0.15)
    assert line.class_offsets[0] - line.class_offsets[1] == pytest.approx(1.6, abs=0.35)
    assert line.class_offsets[3] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(line(scores[:5], ids[:5]).mean(), found.mean(), atol=0.4)


def test_cross_validation_fits_to_other_photos():
    scores, found, ids = drawn(600)
    photos = np.arange(600) // 4
    probabilities = cross_validated(scores, found, ids, photos, 3)
    kept = photos % 5 != 2
    line = fit_line(scores[kept], found[kept], ids[kept], 3)
    np.testing.assert_allclose(probabilities[~kept], line(scores[~kept], ids[~kept]))


@pytest.mark.parametrize("found", [np.zeros(40, dtype=bool), np.ones(40, dtype=bool)])
def test_one_kind_alone_is_refused(found):
    with pytest.raises(InputError, match="one kind"):
        fit_line(np.linspace(0.1, 0.9, 40), found, np.zeros(40, dtype=int), 1)


def test_scores_that_fall_are_refused():
    scores = np.linspace(0.1, 0.9, 40)
    with pytest.raises(InputError, match="higher"):
        fit_line(scores, scores < 0.5, np.zeros(40, dtype=int), 1)
