"""The linear probe against its formula minimized by scipy, and on what is no usual input."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize

from ovdet.learning.probe import BACKGROUND, fit_probe


def drawn(num_examples: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1] * (num_examples // 2) + [BACKGROUND] * 60)
    features = torch.randn(len(labels), 5, generator=generator) * 3 + 7
    features[labels == 0, 0] += 6
    features[labels == 1, 1] += 6
    return features, labels, torch.rand(len(labels), generator=generator) + 0.5


def test_it_is_regularized_logistic_regression():
    """scipy's BFGS in float64 on the formula, a class at a time."""
    features, labels, weights = drawn()
    rows, biases = fit_probe(features, labels, weights, 2, blocks=(2, 3), penalty=0.3, max_steps=300)
    x = features.double().numpy()
    background = (labels == BACKGROUND).numpy()
    mean = x[background].mean(0)
    variance = ((x[background] - mean) ** 2).mean(0)
    scale = np.sqrt(np.repeat([variance[:2].sum(), variance[2:].sum()], (2, 3)))
    share = 5 * weights[labels >= 0].double().sum().item() / background.sum()
    each = np.where(background, share, weights.double().numpy())
    for class_id in (0, 1):
        signs = np.where(labels.numpy() == class_id, 1, -1)

        def loss(v, signs=signs):
            logits = (x - mean) / scale @ v[:-1] + v[-1]
            return (each * np.logaddexp(0, -signs * logits)).sum() + 0.3 * (v[:-1] ** 2).sum()

        best = minimize(loss, np.zeros(6), options={"gtol": 1e-8}).x
        logits = (x - mean) / scale @ best[:-1] + best[-1]
        assert np.allclose(features @ rows[class_id] + biases[class_id], logits, atol=1e-2)


def test_without_background_it_is_finite():
    features, labels, weights = (part[:12] for part in drawn())
    rows, biases = fit_probe(features, labels, weights, 2)
    assert torch.isfinite(rows).all() and torch.isfinite(biases).all()
    assert ((features @ rows.T + biases).argmax(1) == labels).float().mean() > 0.8


def test_features_of_one_value_are_no_trouble():
    features, labels, weights = drawn()
    features[:, 4] = 1.0
    rows, _ = fit_probe(features, labels, weights, 2, blocks=(4, 1))
    assert torch.isfinite(rows).all()
