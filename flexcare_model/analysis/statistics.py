"""Uncertainty of metrics: patient-level bootstrap, paired tests, correction for multiple comparisons.

In: labels, scores and the patient of every test sample. Out: replicates, intervals, p-values. Patients are drawn with
replacement, all samples of a drawn patient with them, as samples of one patient are not independent. A draw is a
whole-number weight per patient, so one sort of the scores serves all replicates.

A metric that is not defined in a draw, as all drawn samples are of one class, is NaN there. Such draws are left out of
intervals and deviations, and `Estimate.n_draws` counts the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from flexcare_data.tasks import TASKS
from flexcare_model.training.metrics import UNDEFINED

CHUNK = 4_000_000
"""Weights in memory: replicates are computed in chunks of about this many (replicate, entry) pairs."""


def patient_weights(subjects: np.ndarray, replicates: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws of patients with replacement.

    Returns:
        counts (replicates, patients): how often each distinct patient was drawn, rows summing to the number of
        patients; owner (samples,): the column of each sample's patient.
    """
    distinct, owner = np.unique(subjects, return_inverse=True)
    rng = np.random.default_rng(seed)
    n = distinct.size
    counts = np.empty((replicates, n), dtype=np.int32)
    for row in range(replicates):
        counts[row] = np.bincount(rng.integers(0, n, size=n), minlength=n)
    return counts, owner


def replicate_metrics(
    task: str, labels: np.ndarray, scores: np.ndarray, counts: np.ndarray, owner: np.ndarray
) -> dict[str, np.ndarray]:
    """The metrics of ``task`` in every draw, equal to `metrics.compute` on the repeated samples.

    Args:
        task: name of the task.
        labels: (n,) or (n, C) as in `metrics.compute`.
        scores: (n,) or (n, C).
        counts: (R, patients) from `patient_weights`.
        owner: (n,) column of each sample's patient.

    Returns:
        Metric name to (R,).
    """
    kind = TASKS[task].kind
    if kind == "binary":
        scores = scores.reshape(len(labels))
        area, trapezoid, average = _ranked(labels > 0, scores, counts, owner)
        return {"auroc": area, "auprc": trapezoid, "average_precision": average}
    if kind == "multilabel":
        columns = []
        for column in range(labels.shape[1]):
            kept = labels[:, column] > -1
            columns.append(_ranked(labels[kept, column] > 0, scores[kept, column], counts, owner[kept])[0])
        kept = labels > -1
        every = np.broadcast_to(owner[:, None], labels.shape)[kept]
        return {
            "macro_auroc": mean_of_defined(np.array(columns)),
            "micro_auroc": _ranked(labels[kept] > 0, scores[kept], counts, every)[0],
        }
    predictions = scores.argmax(axis=1)
    return _decided(labels, predictions, counts, owner)


def _ranked(
    positive: np.ndarray, scores: np.ndarray, counts: np.ndarray, owner: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """AUROC, trapezoid AUPRC and average precision of every draw."""
    replicates = len(counts)
    area, trapezoid, average = (np.full(replicates, UNDEFINED) for _ in range(3))
    if scores.size == 0:
        return area, trapezoid, average
    order = np.argsort(-scores, kind="stable")
    starts = np.r_[0, np.flatnonzero(np.diff(scores[order])) + 1]
    positive, owner = positive[order], owner[order]
    step = max(1, CHUNK // scores.size)
    for first in range(0, replicates, step):
        part = slice(first, first + step)
        weights = counts[part][:, owner].astype(np.float64)
        hits = np.add.reduceat(weights * positive, starts, axis=1)
        misses = np.add.reduceat(weights, starts, axis=1) - hits
        true, false = np.cumsum(hits, axis=1), np.cumsum(misses, axis=1)
        n_true, n_false = true[:, -1:], false[:, -1:]
        with np.errstate(invalid="ignore", divide="ignore"):
            # A positive beats every negative below it and half of those in its tie.
            beaten = n_false - false + misses / 2
            value = np.sum(hits * beaten, axis=1) / (n_true * n_false)[:, 0]
            both = (n_true * n_false)[:, 0] > 0
            area[part] = np.where(both, value, UNDEFINED)
            # Leading thresholds that no drawn sample reaches have recall 0 and, by the starting point, precision 1.
            precision = np.where(true + false > 0, true / (true + false), 1.0)
            recall = true / n_true
            gained = np.diff(recall, axis=1, prepend=0.0)
            before = np.concatenate([np.ones((len(weights), 1)), precision[:, :-1]], axis=1)
            trapezoid[part] = np.where(both, np.sum(gained * (precision + before) / 2, axis=1), UNDEFINED)
            average[part] = np.where(both, np.sum(gained * precision, axis=1), UNDEFINED)
    return area, trapezoid, average


def mean_of_defined(columns: np.ndarray) -> np.ndarray:
    """Mean over the rows of ``columns`` (C, R) that are no NaN, (R,); NaN where there is none."""
    defined = ~np.isnan(columns)
    count = defined.sum(axis=0)
    total = np.where(defined, columns, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), UNDEFINED)


def _decided(
    labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray, owner: np.ndarray
) -> dict[str, np.ndarray]:
    """Micro and macro F1 of every draw."""
    classes, codes = np.unique(np.concatenate([labels, predictions]), return_inverse=True)
    truth, guess = codes[: len(labels)], codes[len(labels) :]
    right = truth == guess
    micro, macro = np.empty(len(counts)), np.empty(len(counts))
    for row, drawn in enumerate(counts):
        weights = drawn[owner].astype(np.float64)
        hits = np.bincount(truth[right], weights=weights[right], minlength=classes.size)
        counted = np.bincount(truth, weights=weights, minlength=classes.size)
        counted += np.bincount(guess, weights=weights, minlength=classes.size)
        occurring = counted > 0
        micro[row] = weights[right].sum() / weights.sum()
        macro[row] = np.mean(2 * hits[occurring] / counted[occurring])
    return {"micro_f1": micro, "macro_f1": macro}


@dataclass(frozen=True)
class Estimate:
    """A metric of a method over seeds with its two sources of uncertainty.

    Attributes:
        value: mean over seeds of the metric on the test samples.
        low, high: bounds of the interval over patients, with the seeds fixed.
        sd_patients: deviation of the seed mean over draws of patients.
        sd_seeds: sample deviation (ddof = 1) over seeds; NaN for one seed.
        sd_both: deviation of the seed mean when patients and seeds are both new draws; for one seed, patients only.
        n_seeds: number of seeds.
        n_draws: draws in which the metric is defined for all seeds, the base of the interval.

    The value is NaN where it is not defined for one of the seeds.
    """

    value: float
    low: float
    high: float
    sd_patients: float
    sd_seeds: float
    sd_both: float
    n_seeds: int
    n_draws: int


def estimate(points: Sequence[float], replicates: np.ndarray, *, level: float = 0.95) -> Estimate:
    """Estimate of a method.

    Args:
        points: the metric of each seed on all test samples.
        replicates: (seeds, R) the metric of each seed in each draw of patients, the same draws for all seeds.
        level: coverage of the percentile interval.
    """
    values = np.asarray(points, dtype=np.float64)
    low, high, sd_patients, n_draws = spread(np.asarray(replicates).mean(axis=0), level=level)
    sd_seeds = float(values.std(ddof=1)) if values.size > 1 else float("nan")
    variance = sd_patients**2 + (sd_seeds**2 / values.size if values.size > 1 else 0.0)
    return Estimate(
        float(values.mean()), low, high, sd_patients, sd_seeds, float(np.sqrt(variance)), values.size, n_draws
    )


def spread(drawn: np.ndarray, *, level: float = 0.95) -> tuple[float, float, float, int]:
    """Percentile interval and deviation of the defined values of ``drawn`` (R,), and how many there are.

    Example:
        >>> spread(np.array([1.0, np.nan, 3.0]), level=1.0)
        (1.0, 3.0, 1.4142135623730951, 2)
    """
    defined = drawn[~np.isnan(drawn)]
    if defined.size < 2:
        return UNDEFINED, UNDEFINED, UNDEFINED, defined.size
    tail = (1 - level) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high), float(defined.std(ddof=1)), defined.size


@dataclass(frozen=True)
class Difference:
    """A method minus another on the same patients.

    ``p_patients`` asks whether the difference of these trained models would hold on other patients, ``p_both`` whether
    it would with other seeds as well. Both are two-sided tests of a difference of zero, from the deviation over paired
    draws (normal approximation; with few seeds Welch's degrees of freedom).
    """

    value: float
    low: float
    high: float
    sd_patients: float
    sd_both: float
    p_patients: float
    p_both: float


def compare(
    ours: tuple[Sequence[float], np.ndarray], theirs: tuple[Sequence[float], np.ndarray], *, level: float = 0.95
) -> Difference:
    """Paired comparison; each side is (points, replicates) as in `estimate`, with the same draws on both sides."""
    first, second = np.asarray(ours[0], dtype=np.float64), np.asarray(theirs[0], dtype=np.float64)
    drawn = np.asarray(ours[1]).mean(axis=0) - np.asarray(theirs[1]).mean(axis=0)
    value = float(first.mean() - second.mean())
    low, high, sd_patients, _ = spread(drawn, level=level)
    parts = [(group.var(ddof=1) / group.size, group.size - 1) for group in (first, second) if group.size > 1]
    between = sum(variance for variance, _ in parts)
    sd_both = float(np.sqrt(sd_patients**2 + between))
    # Welch and Satterthwaite: the patients' part comes from many draws and does not limit the degrees of freedom.
    limiting = sum(variance**2 / freedom for variance, freedom in parts)
    freedom = sd_both**4 / limiting if limiting > 0 else np.inf
    return Difference(
        value,
        low,
        high,
        sd_patients,
        sd_both,
        _two_sided(value, sd_patients, np.inf),
        _two_sided(value, sd_both, freedom),
    )


def _two_sided(value: float, deviation: float, freedom: float) -> float:
    if deviation == 0:
        return 1.0 if value == 0 else 0.0
    return float(2 * stats.t.sf(abs(value) / deviation, freedom))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjustment: reject where the adjusted value is at most the level of the whole family.

    A p-value that is not defined (NaN) stays so and is no member of the family.

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=np.float64)
    defined = ~np.isnan(values)
    if not defined.all():
        every = np.full_like(values, UNDEFINED)
        every[defined] = holm(values[defined].tolist())
        return every
    order = np.argsort(values, kind="stable")
    scaled = values[order] * np.arange(values.size, 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled)) if values.size else scaled
    return adjusted
