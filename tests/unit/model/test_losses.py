"""Losses: worked numbers, plain loops, masked labels."""

from __future__ import annotations

import math

import pytest
import torch
from support.flexcare_reference import decorrelation as decorrelation_loop

from flexcare_model.models.losses import decorrelation, expected_load, prediction_loss, squared_variation


def worked_tokens() -> torch.Tensor:
    b, i, c = torch.arange(1, 3), torch.arange(1, 8), torch.arange(1, 9)
    return torch.sin(0.1 * b[:, None, None] * i[:, None] * c).double()


def test_decorrelation_of_the_worked_example():
    assert float(decorrelation(worked_tokens()).mean()) == pytest.approx(0.0492783, abs=1e-6)
    assert float(decorrelation(worked_tokens(), "mean_offdiag").mean()) == pytest.approx(0.0422386, abs=1e-6)


def test_decorrelation_equals_the_triple_loop():
    tokens = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for row, value in enumerate(decorrelation(tokens).tolist()):
        assert value == pytest.approx(decorrelation_loop(list(tokens[row])), abs=1e-12)


def test_decorrelation_of_uncorrelated_rows_is_zero():
    rows = torch.tensor([[1.0, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]).double().unsqueeze(0)
    assert float(decorrelation(rows)) == pytest.approx(0, abs=1e-15)
    assert float(decorrelation(rows * 2 + 7)) == pytest.approx(0, abs=1e-15)


def test_decorrelation_ignores_a_constant_per_token():
    tokens = worked_tokens()
    shift = torch.arange(7.0).double()[:, None] - 3
    torch.testing.assert_close(decorrelation(tokens + shift), decorrelation(tokens))


def test_decorrelation_of_available_pairs_only():
    tokens = worked_tokens()
    available = torch.tensor([[1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1]]).bool()
    value = decorrelation(tokens, available=available)
    torch.testing.assert_close(value[0], decorrelation(tokens[:1, :3])[0])
    assert value[1] == 0


def test_squared_variation():
    assert float(squared_variation(torch.tensor([1.0, 2, 3, 4]))) == pytest.approx(0.2666667, abs=1e-6)
    assert float(squared_variation(torch.tensor([5.0]))) == 0
    assert float(squared_variation(torch.zeros(4))) == 0


def test_expected_load_of_the_worked_example():
    clean = torch.tensor([[1, 0.8, 2, -0.5], [0.2, 0.5, 0, 1.5]])
    std = torch.full((2, 4), math.log(2) + 0.01)
    noisy = clean + torch.tensor([[0.5, -0.5, 0, 1], [1, 0, -1, 0]]) * std
    expected = torch.tensor([1.118424, 0.499597, 1.085824, 0.926741])
    torch.testing.assert_close(expected_load(noisy, clean, std, 2), expected, rtol=0, atol=1e-6)


def test_binary_loss():
    logits, labels = torch.tensor([[0.0], [2.0], [-1.0]]), torch.tensor([1, 0, 0])
    by_hand = (math.log(2) + math.log(1 + math.exp(2)) + math.log(1 + math.exp(-1))) / 3
    assert float(prediction_loss(logits, labels, "readmission")) == pytest.approx(by_hand, abs=1e-6)


def test_multi_class_loss():
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0]])
    by_hand = -(2 - math.log(math.e + math.e**2 + math.e**0.5) + 0 - math.log(2 + math.e**3)) / 2
    assert float(prediction_loss(logits, torch.tensor([1, 0]), "drg")) == pytest.approx(by_hand, abs=1e-6)


def test_diagnosis_loss_is_one_flat_mean_over_known_labels():
    logits = torch.tensor([[0.0, 5.0, -5.0, 2.0], [1.0, 7.0, 7.0, 7.0]], requires_grad=True)
    labels = torch.tensor([[1, -1, -2, 0], [1, -2, -2, -1]])
    loss = prediction_loss(logits, labels, "diagnosis")
    by_hand = (math.log(2) + math.log(1 + math.exp(2)) + math.log(1 + math.exp(-1))) / 3
    assert float(loss.detach()) == pytest.approx(by_hand, abs=1e-6)
    loss.backward()
    assert torch.equal(logits.grad != 0, labels > -1)


def test_diagnosis_loss_without_known_labels_is_zero_with_a_gradient():
    logits = torch.randn(2, 14, requires_grad=True)
    loss = prediction_loss(logits, torch.full((2, 14), -2), "diagnosis")
    loss.backward()
    assert loss == 0 and logits.grad.eq(0).all()


def test_large_logits_stay_finite():
    loss = prediction_loss(torch.tensor([[1e4], [-1e4]]), torch.tensor([0, 1]), "decompensation")
    assert float(loss) == pytest.approx(1e4)
