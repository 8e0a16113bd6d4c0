"""Numbers for decisions: selective prediction and decision curves, from the predictions.

In: `Results`, the count below which a cell is suppressed. Out: frames (kept as parquet) and their `Layout`s.

Selective prediction answers the samples it is most sure of and leaves the others to a person. Risk is the share of
wrong answers among those given, coverage the share of samples that get one. A decision curve shows the net benefit of
treating everybody whose score is at least a threshold (Vickers and Elkin 2006).
"""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from flexcare_data.tasks import TASKS
from flexcare_model.report.numbers.layout import Cell, Layout, absent, number, words
from flexcare_model.report.numbers.results import Results, tasks_in
from flexcare_model.report.numbers.scored import Scored, methods_with_runs, scored
from flexcare_model.report.numbers.suppression import is_small

SELECTIVE = {
    "task": pl.String, "method": pl.String, "n_seeds": pl.Int64, "coverage": pl.Float64, "risk": pl.Float64,
    "aurc": pl.Float64,
}  # fmt: skip
"""Risk at each coverage, and the area under the whole curve; mean over seeds."""
DECISIONS = {
    "task": pl.String, "method": pl.String, "n_seeds": pl.Int64, "threshold": pl.Float64, "net_benefit": pl.Float64,
    "is_shown": pl.Boolean,
}  # fmt: skip
"""Net benefit at each threshold, mean over seeds; also of `TREAT_ALL` and `TREAT_NONE`."""
COVERAGES = tuple(round(0.05 * step, 2) for step in range(1, 21))
SHOWN_COVERAGES = (1.0, 0.8, 0.5)
THRESHOLDS = tuple(round(0.01 * step, 2) for step in range(1, 61))
SHOWN_THRESHOLDS = (0.05, 0.1, 0.2, 0.3)
TREAT_ALL, TREAT_NONE = "treat all", "treat none"


# --- selective prediction ---------------------------------------------------------------------------------------


def confidence_and_error(one: Scored) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How sure the model is of each sample (n,), how wrong its answer is (n,), 0 to 1, and whose sample it is (n,).

    - binary: abs(score - 0.5); whether the side of 0.5 is wrong (0.5 itself is a yes).
    - multi-class: the largest probability; whether that class is wrong.
    - multi-label: means over the assessed labels of both binary numbers. Samples without any are left out.
    """
    kind = TASKS[one.task].kind
    if kind == "multiclass":
        return one.scores.max(axis=1), (one.scores.argmax(axis=1) != one.labels).astype(np.float64), one.subjects
    labels, scores = (array.reshape(len(one.labels), -1) for array in (one.labels, one.scores))
    kept = labels > -1
    rows = kept.any(axis=1)
    kept, labels, scores = kept[rows], labels[rows], scores[rows]
    count = kept.sum(axis=1)
    wrong = (scores >= 0.5) != (labels > 0)
    sure = (np.abs(scores - 0.5) * kept).sum(axis=1) / count
    return sure, (wrong & kept).sum(axis=1) / count, one.subjects[rows]


def risks(confidence: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Risk (n,) where the 1, 2, ... n surest samples are answered; samples of equal confidence in random order.

    Example:
        >>> risks(np.array([0.9, 0.5, 0.5]), np.array([0.0, 1.0, 0.0])).round(3).tolist()
        [0.0, 0.25, 0.333]
    """
    _, place, tied = np.unique(-confidence, return_inverse=True, return_counts=True)
    expected = np.bincount(place, weights=error) / tied
    return np.cumsum(np.repeat(expected, tied)) / np.arange(1, len(error) + 1)


def selective(results: Results, *, below: int) -> pl.DataFrame:
    """SELECTIVE of every task and method; a risk is left out where few patients are answered in one of the seeds."""
    rows = []
    for task in results.compared_tasks:
        for method, runs in methods_with_runs(results, task):
            found = [one for run in runs if (one := scored(results, run, task)) is not None]
            parts = [confidence_and_error(one) for one in found]
            if not parts or np.unique(parts[0][2]).size < max(below, 1):
                continue
            mean = np.mean([risks(confidence, error) for confidence, error, _ in parts], axis=0)
            ordered = [subjects[np.argsort(-confidence, kind="stable")] for confidence, _, subjects in parts]
            n = len(mean)
            key = {"task": task, "method": method.title, "n_seeds": len(found), "aurc": float(mean.mean())}
            for coverage in COVERAGES:
                answered = math.ceil(round(coverage * n, 6))
                patients = min(np.unique(subjects[:answered]).size for subjects in ordered)
                risk = None if is_small(patients, below) else float(mean[answered - 1])
                rows.append(key | {"coverage": coverage, "risk": risk})
    return pl.DataFrame(rows, schema=SELECTIVE)


def selective_table(frame: pl.DataFrame) -> Layout:
    """Area under the curve, and the risk at three coverages."""
    rows = []
    for task in tasks_in(frame):
        part = frame.filter(task=task)
        best = part["aurc"].round(4).min() if part["method"].n_unique() > 1 else None
        for method in part["method"].unique(maintain_order=True):
            own = part.filter(method=method)
            risk = dict(own.select("coverage", "risk").iter_rows())
            area = own["aurc"][0]
            cells = [words(TASKS[task].abbreviation), words(method), Cell(f"{area:.4f}", best=round(area, 4) == best)]
            cells += [absent("–") if risk[c] is None else number(f"{risk[c]:.4f}") for c in SHOWN_COVERAGES]
            rows.append((*cells, number(str(own["n_seeds"][0]))))
    header = ("Task", "Method", "AURC", *(f"risk at {c:.0%} coverage" for c in SHOWN_COVERAGES), "Seeds")
    notes = (
        "Risk: share of wrong answers among the surest samples, as many as the coverage says; mean over seeds. AURC: "
        "area under risk against coverage, smaller is better; the smallest in bold where two or more methods were run.",
        "Sure is: a score far from 0.5 (binary), a large probability of the chosen class (multi-class), the mean "
        "distance from 0.5 of the assessed labels (multi-label, whose risk is the mean share of wrong labels).",
    )
    return Layout("selective", "Selective prediction", header, tuple(rows), frame, notes, grouped=1)


# --- decision curves --------------------------------------------------------------------------------------------


def net_benefit(labels: np.ndarray, scores: np.ndarray, threshold: float) -> float:
    """True positives minus false positives at the odds of ``threshold``, per sample, where score >= threshold is a yes.

    Example:
        >>> net_benefit(np.array([1, 0, 0, 1]), np.array([0.9, 0.3, 0.1, 0.1]), 0.2)
        0.1875
    """
    treated = scores >= threshold
    true, false = int((treated & (labels > 0)).sum()), int((treated & (labels <= 0)).sum())
    return (true - false * threshold / (1 - threshold)) / len(labels)


def decisions(results: Results, *, below: int) -> pl.DataFrame:
    """DECISIONS of the binary tasks.

    A number is left out where patients of one class are fewer than ``below``, or of those treated in one of the seeds.
    """
    rows = []
    for task in results.compared_tasks:
        if TASKS[task].kind != "binary":
            continue
        reference: list[dict] = []
        for method, runs in methods_with_runs(results, task):
            found = [one for run in runs if (one := scored(results, run, task)) is not None]
            if not found:
                continue
            labels, subjects = found[0].labels, found[0].subjects
            patients = [np.unique(subjects[labels == answer]).size for answer in (0, 1)]
            has_enough = not any(is_small(count, below) for count in patients) and sum(patients) >= max(below, 1)
            key = {"task": task, "n_seeds": len(found)}
            for threshold in THRESHOLDS:
                treated = [np.unique(one.subjects[one.scores >= threshold]).size for one in found]
                is_shown = has_enough and not any(is_small(count, below) for count in treated)
                mean = float(np.mean([net_benefit(one.labels, one.scores, threshold) for one in found]))
                value = {"threshold": threshold, "net_benefit": mean if is_shown else None, "is_shown": is_shown}
                rows.append(key | {"method": method.title} | value)
            if not reference:
                everybody = np.ones(len(labels))
                for name, treats in ((TREAT_ALL, True), (TREAT_NONE, False)):
                    for threshold in THRESHOLDS:
                        benefit = net_benefit(labels, everybody, threshold) if treats else 0.0
                        reference.append(
                            {"task": task, "method": name, "n_seeds": None, "threshold": threshold}
                            | {"net_benefit": benefit if has_enough else None, "is_shown": has_enough}
                        )
        rows += reference
    return pl.DataFrame(rows, schema=DECISIONS)


def decisions_table(frame: pl.DataFrame) -> Layout:
    """Net benefit at four thresholds."""
    rows = []
    for task in tasks_in(frame):
        part = frame.filter(task=task)
        value = {(r["method"], r["threshold"]): r["net_benefit"] for r in part.to_dicts()}
        methods = part["method"].unique(maintain_order=True).to_list()
        best = {}
        for threshold in SHOWN_THRESHOLDS:
            known = [value[method, threshold] for method in methods if value[method, threshold] is not None]
            best[threshold] = round(max(known), 4) if len(known) > 1 else None
        for method in methods:
            cells = [words(TASKS[task].abbreviation), words(method)]
            for threshold in SHOWN_THRESHOLDS:
                found = value[method, threshold]
                if found is None:
                    cells.append(absent("–"))
                else:
                    text = f"{found:.4f}".replace("-", "−")
                    cells.append(Cell(text, best=round(found, 4) == best[threshold]))
            rows.append(tuple(cells))
    header = ("Task", "Method", *(f"at {threshold:.0%}" for threshold in SHOWN_THRESHOLDS))
    notes = (
        "Net benefit per patient asked: true positives minus false positives times threshold / (1 - threshold), mean "
        "over seeds. A model helps at a threshold where it is above both `treat all` and `treat none` (0). Largest in "
        "bold. No number where too few patients are concerned.",
    )
    return Layout("decisions", "Net benefit of decisions", header, tuple(rows), frame, notes, grouped=1)
