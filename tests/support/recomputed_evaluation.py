"""The numbers beyond the paper computed once more, from predictions and cohorts alone, in loops or with scikit-learn.

In: an output folder. Out: the numbers that the files of `statistics` should hold; nothing of the package is used.
"""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression

from support.recomputed import BINARY, MULTILABEL


def sides(output: Path, path: Path) -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
    """Cohort rows, labels (n, labels) and scores (n, columns) of a file of predictions, in its order."""
    scores = pl.read_parquet(path)
    cohort = pl.read_parquet(output / f"cohorts/{path.stem}.parquet")
    place = {name: row for row, name in enumerate(cohort["sample_id"])}
    rows = cohort[[place[name] for name in scores["sample_id"]]]
    names = [name for name in scores.columns if name != "sample_id"] if path.stem in MULTILABEL else ["label"]
    return rows, rows.select(names).to_numpy(), scores.drop("sample_id").to_numpy().astype(np.float64)


def recalibrated(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Intercept and slope by scikit-learn."""
    x = np.array([np.log(p / (1 - p)) for p in scores])[:, None]
    fit = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000).fit(x, labels)
    return float(fit.intercept_[0]), float(fit.coef_[0, 0])


def calibration_error(labels: np.ndarray, scores: np.ndarray) -> float:
    """Weighted mean of the gaps of ten bins; a score on an edge is in the bin below."""
    total = 0.0
    for low in range(10):
        inside = [
            (label, score)
            for label, score in zip(labels, scores, strict=True)
            if low / 10 < score <= (low + 1) / 10 or (low == 0 and score == 0)
        ]
        if inside:
            total += abs(sum(score for _, score in inside) - sum(label for label, _ in inside))
    return total / len(labels)


def risk(task: str, labels: np.ndarray, scores: np.ndarray) -> list[float]:
    """Share of wrong answers among the 1, 2, ... n surest samples; for distinct scores."""
    sure, wrong = [], []
    for row, answer in zip(labels, scores, strict=True):
        if task in BINARY:
            sure.append(abs(answer[0] - 0.5))
            wrong.append(float((answer[0] >= 0.5) != (row[0] == 1)))
        elif task in MULTILABEL:
            pairs = [(p, y) for p, y in zip(answer, row, strict=True) if y >= 0]
            if pairs:
                sure.append(sum(abs(p - 0.5) for p, _ in pairs) / len(pairs))
                wrong.append(sum((p >= 0.5) != (y == 1) for p, y in pairs) / len(pairs))
        else:
            sure.append(max(answer))
            wrong.append(float(list(answer).index(max(answer)) != row[0]))
    order = sorted(range(len(sure)), key=lambda place: -sure[place])
    total, found = 0.0, []
    for number, place in enumerate(order, 1):
        total += wrong[place]
        found.append(total / number)
    return found


def benefit(labels: np.ndarray, scores: np.ndarray, threshold: float) -> float:
    total = 0.0
    for label, score in zip(labels, scores, strict=True):
        if score >= threshold:
            total += 1 if label == 1 else -threshold / (1 - threshold)
    return total / len(labels)


def in_the_large(labels: np.ndarray, scores: np.ndarray) -> float:
    """Number that is added to all logits so that the mean score is the prevalence, by bisection."""
    x = np.log(scores / (1 - scores))
    low, high = -30.0, 30.0
    for _ in range(200):
        middle = (low + high) / 2
        if (1 / (1 + np.exp(-(x + middle)))).mean() < labels.mean():
            low = middle
        else:
            high = middle
    return (low + high) / 2


def added(values: dict[str, float]) -> dict[str, float]:
    """Mean of what each letter adds, over all orders of T, I, N; subsets are named in this order."""
    found = dict.fromkeys("TIN", 0.0)
    for order in permutations("TIN"):
        chosen: set[str] = set()
        for letter in order:
            before = "".join(one for one in "TIN" if one in chosen)
            chosen.add(letter)
            after = "".join(one for one in "TIN" if one in chosen)
            found[letter] += (values[after] - values[before]) / 6
    return found
