"""Metrics of the benchmark: arrays in, numbers out. Only numpy is used, so each definition can be read here.

A metric that is not defined is NaN: AUROC, AUPRC and average precision where all labels are of one class. A file
has null for it (`written`), a table the words "not defined".
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from flexcare_data.tasks import TASKS

UNDEFINED = math.nan


def compute(task: str, labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """The metrics of ``task``.

    Args:
        task: name of the task.
        labels: (n,) 0/1, (n,) class numbers, or (n, C) with entries up to -1 (uncertain, blank) left out.
        scores: (n,) or (n, 1), (n, C) probabilities, or anything with the same order.

    Returns:
        Binary: auroc, auprc, average_precision. Multi-label: macro_auroc, micro_auroc. Multi-class: micro_f1, macro_f1.
        NaN where a metric is not defined.

    Raises:
        ValueError: if there are no samples, a score is not finite, or the shapes disagree.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if len(labels) == 0 or len(labels) != len(scores):
        raise ValueError(
            f"metrics of {task}: expected as many scores as labels, above 0; got {len(scores)} scores, "
            f"{len(labels)} labels"
        )
    if not np.isfinite(scores).all():
        raise ValueError(f"metrics of {task}: {int((~np.isfinite(scores)).sum())} scores are not finite")
    kind = TASKS[task].kind
    if kind == "binary":
        scores = scores.reshape(len(labels))
        return {
            "auroc": auroc(labels, scores),
            "auprc": auprc(labels, scores),
            "average_precision": average_precision(labels, scores),
        }
    if kind == "multilabel":
        if labels.shape != scores.shape:
            raise ValueError(f"metrics of {task}: expected scores of shape {labels.shape}, got {scores.shape}")
        return {"macro_auroc": macro_auroc(labels, scores), "micro_auroc": micro_auroc(labels, scores)}
    return {"micro_f1": micro_f1(labels, scores.argmax(axis=1)), "macro_f1": macro_f1(labels, scores.argmax(axis=1))}


def written(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """``metrics`` for a file: None where one is not defined.

    Example:
        >>> written({"auroc": UNDEFINED, "auprc": 0.25})
        {'auroc': None, 'auprc': 0.25}
    """
    return {name: None if math.isnan(value) else value for name, value in metrics.items()}


def one_class(task: str, labels: np.ndarray) -> list[str]:
    """Labels of ``task`` whose assessed entries (> -1) are all of one class, or that have none; [] for multi-class."""
    spec, labels = TASKS[task], np.asarray(labels)
    if spec.kind == "multiclass":
        return []
    columns = zip(spec.labels, labels.reshape(len(labels), -1).T, strict=True)
    return [name for name, column in columns if len(np.unique(column[column > -1] > 0)) < 2]


def auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve by ranks; ties count half; NaN where one class is missing.

    Example:
        >>> auroc(np.array([0, 1, 0, 1]), np.array([0.1, 0.1, 0.0, 0.9]))
        0.875
    """
    positive = np.asarray(labels) > 0
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if n_positive == 0 or n_negative == 0:
        return UNDEFINED
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    rank = (last - (count - 1) / 2)[place]  # mean rank of a tie, from 1
    return float((rank[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def _precision_recall(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall at each distinct threshold, from the highest down."""
    positive = np.asarray(labels) > 0
    order = np.argsort(-scores, kind="stable")
    last = np.r_[np.flatnonzero(np.diff(scores[order])), len(scores) - 1]  # last sample at each threshold
    hits = np.cumsum(positive[order])[last]
    return hits / (last + 1), hits / positive.sum()


def auprc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the precision-recall curve by the trapezoid rule, from the point (recall 0, precision 1).

    This is what the paper reports, and is not average precision. NaN where one class is missing.
    """
    if _is_one_class(labels):
        return UNDEFINED
    precision, recall = _precision_recall(labels, scores)
    precision, recall = np.r_[1.0, precision], np.r_[0.0, recall]
    return float(np.sum(np.diff(recall) * (precision[1:] + precision[:-1]) / 2))


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Precision at each threshold weighted by the recall gained there; NaN where one class is missing."""
    if _is_one_class(labels):
        return UNDEFINED
    precision, recall = _precision_recall(labels, scores)
    return float(np.sum(np.diff(np.r_[0.0, recall]) * precision))


def _is_one_class(labels: np.ndarray) -> bool:
    positive = np.asarray(labels) > 0
    return not positive.any() or bool(positive.all())


def macro_auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Mean of the AUROC of the columns on entries with label > -1.

    Columns of one class (`one_class`) are left out of the mean, which depends on the labels alone. NaN if all are.
    """
    kept = labels > -1
    areas = [auroc(labels[kept[:, c], c], scores[kept[:, c], c]) for c in range(labels.shape[1])]
    defined = [area for area in areas if not math.isnan(area)]
    return float(np.mean(defined)) if defined else UNDEFINED


def micro_auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    """One AUROC over all entries with label > -1."""
    kept = labels > -1
    return auroc(labels[kept], scores[kept])


def micro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """F1 over all decisions, which for one answer per sample is the accuracy."""
    return float(np.mean(labels == predictions))


def macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Mean F1 of the classes that occur in labels or predictions (not of all possible classes)."""
    classes = np.union1d(labels, predictions)
    hits = np.array([np.sum((labels == c) & (predictions == c)) for c in classes])
    counted = np.array([np.sum(labels == c) + np.sum(predictions == c) for c in classes])
    return float(np.mean(2 * hits / counted))
