"""Metrics: worked numbers, ties, one class only, no positives; and scikit-learn on random data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from flexcare_model.training.metrics import (
    auprc,
    auroc,
    average_precision,
    compute,
    macro_f1,
    micro_f1,
    one_class,
    written,
)

LABELS = np.array([0, 0, 1, 0, 1, 0, 0, 1, 0, 0])
SCORES = np.array([0.1, 0.4, 0.35, 0.8, 0.7, 0.2, 0.2, 0.9, 0.5, 0.05])


def test_binary_metrics_of_the_worked_example():
    assert compute("in_hospital_mortality", LABELS, SCORES) == {
        "auroc": pytest.approx(0.809524, abs=1e-6),
        "auprc": pytest.approx(0.677778, abs=1e-6),
        "average_precision": pytest.approx(0.722222, abs=1e-6),
    }


def test_a_constant_predictor():
    labels = np.r_[1, np.zeros(9)]
    found = compute("readmission", labels, np.full(10, 0.3))
    assert found == {"auroc": 0.5, "auprc": pytest.approx(0.55), "average_precision": pytest.approx(0.1)}


def test_one_class_only():
    """No metric of ranks exists, so none is 0.5, 0 or 1."""
    for labels in (np.zeros(4), np.ones(4)):
        found = compute("readmission", labels, SCORES[:4])
        assert list(found) == ["auroc", "auprc", "average_precision"]
        assert np.isnan(list(found.values())).all()
        assert written(found) == {"auroc": None, "auprc": None, "average_precision": None}
        assert one_class("readmission", labels) == ["label"]
    assert one_class("readmission", LABELS) == [] == one_class("length_of_stay", np.zeros(4))


def test_f1_of_the_worked_example():
    labels, predictions = np.array([0, 0, 1, 2, 2, 9]), np.array([0, 1, 1, 2, 3, 9])
    assert micro_f1(labels, predictions) == pytest.approx(0.666667, abs=1e-6)
    assert macro_f1(labels, predictions) == pytest.approx(0.6, abs=1e-12)
    found = compute("length_of_stay", labels, np.eye(10)[predictions])
    assert found == {"micro_f1": pytest.approx(2 / 3), "macro_f1": pytest.approx(0.6)}


def test_multi_label_columns_of_one_class_are_left_out_of_the_mean():
    labels = np.array([[1, 0, -1], [0, 0, 1], [1, 0, 1], [0, -1, 0]])
    scores = np.array([[0.9, 0.1, 0.5], [0.1, 0.2, 0.5], [0.8, 0.3, 0.5], [0.3, 0.9, 0.5]])
    found = compute("diagnosis", labels, scores)
    assert found["macro_auroc"] == pytest.approx((1.0 + 0.5) / 2)
    kept = labels > -1
    assert found["micro_auroc"] == pytest.approx(roc_auc_score(labels[kept], scores[kept]))


def test_unknown_labels_have_no_effect():
    labels = np.array([[1, -1], [0, 1], [-2, 0], [1, 0]])
    scores = np.array([[0.9, 0.1], [0.1, 0.2], [0.5, 0.3], [0.3, 0.9]])
    other = np.where(labels > -1, scores, 0.123)
    assert compute("diagnosis", labels, scores) == compute("diagnosis", labels, other)


def test_no_known_label_at_all():
    found = compute("diagnosis", np.full((3, 14), -2), np.random.default_rng(0).random((3, 14)))
    assert written(found) == {"macro_auroc": None, "micro_auroc": None}
    assert len(one_class("diagnosis", np.full((3, 14), -2))) == 14


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40), st.sampled_from([3, 10, 10**6]))
def test_equal_scikit_learn_with_and_without_ties(seed, size, levels):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, size)
    labels[:2] = 0, 1
    scores = rng.integers(0, levels, size) / levels
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert 0 <= auprc(labels, scores) <= 1
    predictions = rng.integers(0, 5, size)
    classes = rng.integers(0, 5, size)
    assert macro_f1(classes, predictions) == pytest.approx(f1_score(classes, predictions, average="macro"), abs=1e-12)
    assert micro_f1(classes, predictions) == pytest.approx(f1_score(classes, predictions, average="micro"), abs=1e-12)


def test_order_of_the_samples_is_of_no_account():
    order = np.random.default_rng(0).permutation(10)
    assert compute("readmission", LABELS, SCORES) == pytest.approx(compute("readmission", LABELS[order], SCORES[order]))


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        (np.zeros(0), np.zeros(0), "expected as many scores as labels, above 0"),
        (np.zeros(3), np.zeros(2), "got 2 scores, 3 labels"),
        (np.zeros(3), np.array([0.1, np.nan, 0.2]), "1 scores are not finite"),
    ],
)
def test_wrong_input_is_refused(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        compute("readmission", labels, scores)
