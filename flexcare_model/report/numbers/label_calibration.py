"""Calibration of each label: logistic recalibration, expected calibration error, curves, from the predictions.

In: `Results`, the count below which a cell is suppressed. Out: frames (kept as parquet) and their `Layout`.

The recalibration fits label ~ intercept + slope * logit(score) without penalty. 0 and 1 are perfect: an intercept above
0 says that the scores are too low, a slope below 1 that they are too extreme.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from flexcare_data.tasks import TASKS
from flexcare_model.report.numbers.groups import BINS, pooled_bins, reliability
from flexcare_model.report.numbers.layout import Cell, Layout, absent, not_defined, number, words
from flexcare_model.report.numbers.results import Results, tasks_in
from flexcare_model.report.numbers.scored import Scored, methods_with_runs, scored
from flexcare_model.report.numbers.suppression import is_small, partition_texts

LABELS = {
    "task": pl.String, "method": pl.String, "label": pl.String, "n_seeds": pl.Int64, "assessed": pl.String,
    "positive": pl.String, "intercept": pl.Float64, "slope": pl.Float64, "ece": pl.Float64, "is_shown": pl.Boolean,
}  # fmt: skip
"""A row per task, method and label. Numbers are null where they are not defined for one of the seeds, or not shown."""
LABEL_CURVES = {
    "task": pl.String, "method": pl.String, "label": pl.String, "bin": pl.Int64, "n": pl.Int64,
    "mean_score": pl.Float64, "observed": pl.Float64,
}  # fmt: skip
KINDS = ("multilabel", "binary")
_SMALLEST = 1e-6
"""A score is at least this far from 0 and 1, so that its logit is finite."""
_NAN = float("nan")


def logits(scores: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) of probabilities, finite also for 0 and 1."""
    clipped = np.clip(scores, _SMALLEST, 1 - _SMALLEST)
    return np.log(clipped) - np.log1p(-clipped)


def recalibration(scores: np.ndarray, happened: np.ndarray) -> tuple[float, float]:
    """Intercept and slope of label ~ intercept + slope * logit(score), by maximum likelihood.

    NaN where they are not defined: labels of one class, equal scores, or scores that separate the classes, for which
    the likelihood has no maximum.

    Args:
        scores: (n,) probabilities.
        happened: (n,) 0 or 1.
    """
    x, y = logits(scores), happened > 0
    if y.all() or not y.any() or np.ptp(x) < 1e-12:
        return _NAN, _NAN
    yes, no = x[y], x[~y]
    if yes.min() >= no.max() or no.min() >= yes.max():
        return _NAN, _NAN
    centre, scale = x.mean(), x.std()
    design = np.stack([np.ones_like(x), (x - centre) / scale], axis=1)
    beta = np.array([np.log(y.mean() / (1 - y.mean())), 0.0])
    loss = _loss(design @ beta, y)
    for _ in range(100):
        p = 1 / (1 + np.exp(-(design @ beta)))
        gradient = design.T @ (y - p)
        if np.abs(gradient).max() < 1e-9 * len(x):
            break
        step = np.linalg.solve(design.T @ (design * (p * (1 - p))[:, None]), gradient)
        while (lower := _loss(design @ (beta + step), y)) > loss and np.abs(step).max() > 1e-12:
            step /= 2
        beta, loss = beta + step, lower
    slope = beta[1] / scale
    return float(beta[0] - slope * centre), float(slope)


def _loss(z: np.ndarray, y: np.ndarray) -> float:
    return float(np.logaddexp(0, z).sum() - z[y].sum())


def label_calibration(results: Results, *, below: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """LABELS (mean over seeds) and LABEL_CURVES (seeds pooled, small bins without numbers).

    Numbers are of labels with at least ``below`` patients who have it and as many who do not.
    """
    rows, curves = [], []
    for task in results.compared_tasks:
        if TASKS[task].kind not in KINDS:
            continue
        for method, runs in methods_with_runs(results, task):
            found = [one for run in runs if (one := scored(results, run, task)) is not None]
            for position, label in enumerate(TASKS[task].labels) if found else ():
                key = {"task": task, "method": method.title, "label": label}
                pairs = [_of_label(one, position) for one in found]
                kept, positive = _assessed(found[0], position)
                row, has_curve = _row(found[0].subjects[kept], positive, pairs, below)
                rows.append(key | {"n_seeds": len(pairs)} | row)
                if has_curve:
                    curves += [key | bin for bin in pooled_bins(pairs, found[0].subjects[kept], below)]
    return pl.DataFrame(rows, schema=LABELS).with_columns(pl.col(pl.Float64).fill_nan(None)), pl.DataFrame(
        curves, schema=LABEL_CURVES
    )


def _assessed(one: Scored, position: int) -> tuple[np.ndarray, np.ndarray]:
    """Which samples have label ``position`` assessed (n,), and which of these are positive."""
    labels = one.labels.reshape(len(one.labels), -1)[:, position]
    return labels > -1, labels[labels > -1] > 0


def _of_label(one: Scored, position: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and outcomes of one label where it is assessed."""
    kept, positive = _assessed(one, position)
    return one.scores.reshape(len(one.labels), -1)[kept, position], positive.astype(np.float64)


def _row(
    subjects: np.ndarray, positive: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray]], below: int
) -> tuple[dict[str, Any], bool]:
    size, hits = len(positive), int(positive.sum())
    patients = [np.unique(subjects[side]).size for side in (positive, ~positive)]
    is_shown = not any(is_small(count, below) for count in patients) and np.unique(subjects).size >= max(below, 1)
    texts = partition_texts([hits, size - hits], below)
    row: dict[str, Any] = {"assessed": f"{size:,}" if size == 0 or size >= below else f"<{below}", "positive": texts[0]}
    if patients[0] < hits and is_small(patients[0], below):  # few patients with many samples each
        row["positive"] = "n.s."
    row |= {"intercept": None, "slope": None, "ece": None, "is_shown": is_shown}
    if not is_shown:
        return row, False
    fits = np.array([recalibration(*pair) for pair in pairs])
    errors = [reliability(*pair)[1] for pair in pairs]
    # A NaN of one seed makes the mean NaN: no seed is left out of a mean.
    intercept, slope = fits.mean(axis=0)
    return row | {"intercept": float(intercept), "slope": float(slope), "ece": float(np.mean(errors))}, True


def label_table(frame: pl.DataFrame, method: str) -> Layout:
    """Calibration of each label by ``method``."""
    own = frame.filter(method=method)
    rows = []
    for task in tasks_in(own):
        for row in own.filter(task=task).to_dicts():
            label = "" if row["label"] == "label" else row["label"]
            cells = [words(TASKS[task].abbreviation), words(label or "–"), number(row["assessed"])]
            cells.append(number(row["positive"]))
            cells += [_cell(row, name) for name in ("intercept", "slope", "ece")]
            rows.append(tuple(cells))
    seeds = max(own["n_seeds"], default=0)
    header = ("Task", "Label", "Assessed", "Positive", "Intercept", "Slope", "ECE")
    notes = [
        f"{method}, test split, mean over {seeds} seeds. Intercept and slope: logistic recalibration, "
        f"perfect at 0 and 1. ECE: {BINS} bins of equal width. No number where too few patients have the label, or do "
        "not have it.",
    ]
    if own.filter("is_shown")["slope"].null_count():
        notes.append(
            "Not defined: the labels are of one class, or the scores of one seed are equal or separate the classes."
        )
    return Layout("label_calibration", "Calibration of each label", header, tuple(rows), own, tuple(notes), grouped=1)


def _cell(row: dict, name: str) -> Cell:
    if not row["is_shown"]:
        return absent("–")
    return not_defined() if row[name] is None else number(f"{row[name]:.3f}".replace("-", "−"))
