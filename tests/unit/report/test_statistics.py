"""The bootstrap against resampling by hand and against distributions whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from flexcare_data.tasks import TASKS
from flexcare_model.analysis.statistics import compare, estimate, holm, patient_weights, replicate_metrics
from flexcare_model.training.metrics import compute


def invented(task, rng, n=60):
    spec = TASKS[task]
    if spec.kind == "binary":
        return rng.integers(0, 2, size=n), np.round(rng.random(n), 1)
    if spec.kind == "multilabel":
        width = len(spec.labels)
        return rng.choice([1, 0, -1, -2], size=(n, width)), np.round(rng.random((n, width)), 1)
    return rng.integers(0, 5, size=n), rng.random((n, 6))


@pytest.mark.parametrize("task", ["readmission", "diagnosis", "length_of_stay"])
def test_replicates_equal_the_metrics_of_repeated_samples(task):
    """Weights are a shortcut: repeating the rows of the drawn patients must give the same numbers, ties included."""
    rng = np.random.default_rng(3)
    labels, scores = invented(task, rng)
    subjects = rng.integers(0, 20, size=len(labels))
    counts, owner = patient_weights(subjects, 25, seed=5)
    found = replicate_metrics(task, labels, scores, counts, owner)
    for row, drawn in enumerate(counts):
        rows = np.repeat(np.arange(len(labels)), drawn[owner])
        for metric, value in compute(task, labels[rows], scores[rows]).items():
            assert found[metric][row] == pytest.approx(value, abs=1e-12, nan_ok=True), metric


def test_a_draw_of_one_class_has_no_value_and_is_not_in_the_interval():
    counts, owner = np.array([[0, 2], [2, 0], [1, 1], [1, 1]]), np.array([0, 1, 1])
    found = replicate_metrics("readmission", np.array([1, 0, 0]), np.array([0.9, 0.1, 0.95]), counts, owner)
    for values in found.values():
        assert np.isnan(values).tolist() == [True, True, False, False]
    result = estimate([0.5], found["auroc"][None])
    assert (result.low, result.high, result.n_draws) == (0.5, 0.5, 2)
    nothing = estimate([np.nan], np.full((1, 4), np.nan))
    assert np.isnan([nothing.value, nothing.low, nothing.sd_patients]).all() and nothing.n_draws == 0


def test_a_comparison_that_is_not_defined_is_no_member_of_the_family():
    undefined = ([np.nan], np.full((1, 4), np.nan))
    assert np.isnan(compare(undefined, undefined).p_patients)
    assert holm([0.01, np.nan, 0.04]).tolist() == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)


def test_draws_are_of_patients_and_follow_the_seed():
    subjects = np.array([5, 5, 9, 7])
    counts, owner = patient_weights(subjects, 200, seed=1)
    assert (counts.sum(axis=1) == 3).all()
    assert owner.tolist() == [0, 0, 2, 1]
    assert (counts == patient_weights(subjects, 200, seed=1)[0]).all()
    assert (counts != patient_weights(subjects, 200, seed=2)[0]).any()


def test_bootstrap_deviation_of_accuracy_is_the_binomial_one():
    """Accuracy is a mean of independent hits: its deviation is sqrt(p (1 - p) / n)."""
    rng = np.random.default_rng(11)
    n, share = 2000, 0.7
    labels = np.zeros(n, dtype=np.int64)
    scores = np.stack([np.ones(n), np.where(rng.random(n) < share, 0.0, 2.0)], axis=1)
    counts, owner = patient_weights(np.arange(n), 1500, seed=2)
    found = replicate_metrics("length_of_stay", labels, scores, counts, owner)["micro_f1"]
    accuracy = float((scores.argmax(axis=1) == 0).mean())
    assert found.mean() == pytest.approx(accuracy, abs=0.002)
    assert found.std(ddof=1) == pytest.approx(np.sqrt(accuracy * (1 - accuracy) / n), rel=0.08)


def test_interval_of_auroc_covers_the_truth_as_often_as_it_says():
    """Scores of two normal populations one deviation apart: AUROC = Phi(1 / sqrt(2)) = 0.7602."""
    truth = stats.norm.cdf(1 / np.sqrt(2))
    covered, trials = 0, 120
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        labels = np.repeat([0, 1], 60)
        scores = rng.normal(size=120) + labels
        counts, owner = patient_weights(np.arange(120), 300, seed=trial)
        found = replicate_metrics("readmission", labels, scores, counts, owner)["auroc"]
        result = estimate([0.0], found[None])
        covered += result.low <= truth <= result.high
    assert 0.88 <= covered / trials <= 0.995


def test_repeated_samples_of_a_patient_do_not_make_the_interval_narrower():
    rng = np.random.default_rng(4)
    labels, scores = rng.integers(0, 2, size=150), rng.random(150)
    once, owner = patient_weights(np.arange(150), 400, seed=9)
    single = replicate_metrics("readmission", labels, scores, once, owner)["auroc"].std()
    counts, owner = patient_weights(np.repeat(np.arange(150), 4), 400, seed=9)
    fourfold = replicate_metrics("readmission", labels.repeat(4), scores.repeat(4), counts, owner)["auroc"].std()
    assert fourfold == pytest.approx(single)


def test_p_values_are_uniform_where_the_methods_are_equal():
    p_values = []
    for trial in range(150):
        rng = np.random.default_rng(1000 + trial)
        labels = rng.integers(0, 2, size=150)
        signal = rng.normal(size=150) + 0.8 * labels
        counts, owner = patient_weights(np.arange(150), 200, seed=trial)
        sides = []
        for _ in range(2):
            scores = signal + rng.normal(size=150)
            point = compute("readmission", labels, scores)["auroc"]
            sides.append(([point], replicate_metrics("readmission", labels, scores, counts, owner)["auroc"][None]))
        p_values.append(compare(*sides).p_patients)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_a_real_difference_is_found_and_seeds_widen_the_doubt():
    rng = np.random.default_rng(8)
    labels = rng.integers(0, 2, size=600)
    counts, owner = patient_weights(np.arange(600), 300, seed=1)
    sides = []
    for strength in (1.5, 0.3):
        points, drawn = [], []
        for _ in range(3):
            scores = rng.normal(size=600) + strength * labels
            points.append(compute("readmission", labels, scores)["auroc"])
            drawn.append(replicate_metrics("readmission", labels, scores, counts, owner)["auroc"])
        sides.append((points, np.stack(drawn)))
    found = compare(*sides)
    assert found.p_patients < 1e-6 and found.low > 0
    assert found.sd_both > found.sd_patients
    assert found.p_both >= found.p_patients


def test_holm_by_hand():
    assert holm([0.005, 0.011, 0.02, 0.04]).tolist() == pytest.approx([0.02, 0.033, 0.04, 0.04])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []
