"""Gaps between groups of patients, and between intersections of two groups, with intervals over patients.

In: `Results`, the count below which a group is suppressed. Out: a frame (kept as parquet) and its `Layout`.

A gap is the difference of the groups with the largest and the smallest value. It is never negative in the sample, also
where the groups do not differ. The interval is of the same two groups in draws of patients, and may contain 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from flexcare_data.tasks import TASKS
from flexcare_model.analysis.statistics import patient_weights, replicate_metrics, spread
from flexcare_model.report.numbers.groups import enough, with_groups
from flexcare_model.report.numbers.label_calibration import logits
from flexcare_model.report.numbers.layout import Layout, absent, number, words
from flexcare_model.report.numbers.results import METRIC_TITLES, Results, tasks_in
from flexcare_model.report.numbers.scored import Scored, methods_with_runs, scored
from flexcare_model.training.metrics import UNDEFINED, compute

GAPS = {
    "task": pl.String, "method": pl.String, "dimension": pl.String, "metric": pl.String, "n_seeds": pl.Int64,
    "n_groups": pl.Int64, "n_hidden": pl.Int64, "n_undefined": pl.Int64, "lowest": pl.String,
    "lowest_value": pl.Float64, "highest": pl.String, "highest_value": pl.Float64, "gap": pl.Float64,
    "low": pl.Float64, "high": pl.Float64, "n_draws": pl.Int64,
}  # fmt: skip
"""n_groups: groups with a value; n_hidden: those with too few patients; n_undefined: those of one class."""
DIMENSIONS = {
    "sex": ("sex",),
    "age": ("age",),
    "race": ("race",),
    "sex and age": ("sex", "age"),
    "sex and race": ("sex", "race"),
}
NO_GROUP = ("unknown", "no ICU stay")
"""Levels that are no group of patients, and are not compared."""
INTERCEPT = "intercept"
"""Calibration in the large: the number that is added to all logits of a group so that its mean score is its
prevalence. Of binary tasks."""
DRAWS = 200
"""Draws of patients behind an interval, at most."""


def intercepts(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Calibration intercept (R,) for each row of ``weights`` (R, n), by Newton's method; NaN for one class only.

    It solves sum(weight * (sigmoid(logit(score) + intercept) - label)) = 0.
    """
    x, y = logits(scores), (labels > 0).astype(np.float64)
    total, positive = weights.sum(axis=1), weights @ y
    is_defined = (positive > 0) & (positive < total)
    found = np.zeros(len(weights))
    for _ in range(50):
        p = 1 / (1 + np.exp(-(x[None] + found[:, None])))
        gap = positive - (weights * p).sum(axis=1)
        slope = (weights * p * (1 - p)).sum(axis=1)
        step = np.clip(np.where(is_defined, gap / np.maximum(slope, 1e-300), 0.0), -2.0, 2.0)
        found = found + step
        if np.abs(step).max(initial=0.0) < 1e-10:
            break
    return np.where(is_defined, found, UNDEFINED)


def gaps(results: Results, *, below: int, replicates: int, seed: int) -> pl.DataFrame:
    """GAPS of the first metric of each task, and of the calibration intercept of binary tasks.

    A group is left out where `enough` is False. All methods of a task see the same draws of patients.
    """
    stays, rows = results.parquet("data/stays.parquet"), []
    for task in results.compared_tasks:
        cohort = results.cohorts.get(task)
        if cohort is None or stays is None:
            continue
        patients = np.unique(cohort.filter(pl.col("split") == "test")["subject_id"].to_numpy())
        counts, _ = patient_weights(patients, min(replicates, DRAWS), seed)
        for method, runs in methods_with_runs(results, task):
            found = [one for run in runs if (one := scored(results, run, task)) is not None]
            if not found:
                continue
            groups = with_groups(found[0].cohort, stays)
            for dimension, columns in DIMENSIONS.items():
                members = _members(groups, columns)
                key = {"task": task, "method": method.title, "dimension": dimension, "n_seeds": len(found)}
                for metric, (point, drawn) in _metrics(task).items():
                    rows.append(key | {"metric": metric} | _gap(found, members, point, drawn, counts, patients, below))
    return pl.DataFrame(rows, schema=GAPS).with_columns(pl.col(pl.Float64).fill_nan(None))


Point = Callable[[Scored], float]
Drawn = Callable[[Scored, np.ndarray, np.ndarray], np.ndarray]


def _metrics(task: str) -> dict[str, tuple[Point, Drawn]]:
    """Metric -> its value for a group, and its values in draws (counts, owner)."""
    first = TASKS[task].metrics[0]
    found: dict[str, tuple[Point, Drawn]] = {
        first: (
            lambda one: compute(task, one.labels, one.scores)[first],
            lambda one, counts, owner: replicate_metrics(task, one.labels, one.scores, counts, owner)[first],
        )
    }
    if TASKS[task].kind == "binary":
        found[INTERCEPT] = (
            lambda one: float(intercepts(one.labels, one.scores, np.ones((1, len(one.labels))))[0]),
            lambda one, counts, owner: intercepts(one.labels, one.scores, counts[:, owner].astype(np.float64)),
        )
    return found


def _members(groups: pl.DataFrame, columns: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Name of each group -> which samples (n,) are in it."""
    names = groups.select(pl.concat_str(columns, separator=", ")).to_series()
    is_group = groups.select(pl.all_horizontal(~pl.col(column).is_in(NO_GROUP) for column in columns)).to_series()
    return {name: ((names == name) & is_group).to_numpy() for name in sorted(set(names.filter(is_group)))}


def _gap(
    found: list[Scored],
    members: dict[str, np.ndarray],
    point: Point,
    drawn: Drawn,
    counts: np.ndarray,
    patients: np.ndarray,
    below: int,
) -> dict[str, Any]:
    """The gap of one metric between the groups ``members``; its numbers are None with fewer than two groups."""
    shown = {name: member for name, member in members.items() if enough(found[0], member, below)}
    values = {name: float(np.mean([point(one.only(member)) for one in found])) for name, member in shown.items()}
    known = {name: value for name, value in values.items() if not np.isnan(value)}
    row: dict[str, Any] = dict.fromkeys(("lowest", "lowest_value", "highest", "highest_value", "gap", "low", "high"))
    row |= {
        "n_draws": None,
        "n_groups": len(known),
        "n_hidden": len(members) - len(shown),
        "n_undefined": len(values) - len(known),
    }
    if len(known) < 2:
        return row
    lowest, highest = min(known, key=lambda name: known[name]), max(known, key=lambda name: known[name])
    sides = [np.mean([_drawn(one.only(shown[name]), drawn, counts, patients) for one in found], axis=0)
             for name in (lowest, highest)]  # fmt: skip
    low, high, _, n_draws = spread(sides[1] - sides[0])
    return row | {
        "lowest": lowest, "lowest_value": known[lowest], "highest": highest, "highest_value": known[highest],
        "gap": known[highest] - known[lowest], "low": low, "high": high, "n_draws": n_draws,
    }  # fmt: skip


def _drawn(one: Scored, drawn: Drawn, counts: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Values (R,) of a group in the draws of all test patients; NaN where none of the group is drawn."""
    owner = np.searchsorted(patients, one.subjects)
    some = counts[:, np.unique(owner)].sum(axis=1) > 0
    values = np.full(len(counts), UNDEFINED)
    values[some] = drawn(one, counts[some], owner)
    return values


def gaps_table(frame: pl.DataFrame, method: str) -> Layout:
    """Gaps of ``method``: a row per task, metric and dimension."""
    own = frame.filter(method=method)
    rows = []
    for task in tasks_in(own):
        for row in own.filter(task=task).sort("metric", maintain_order=True).to_dicts():
            title = "intercept" if row["metric"] == INTERCEPT else METRIC_TITLES[row["metric"]]
            cells = [words(f"{TASKS[task].abbreviation} {title}"), words(row["dimension"])]
            if row["gap"] is None:
                cells += [absent("–"), absent("–"), absent("not defined"), absent("–")]
            else:
                cells += [words(f"{row[end]}: {_number(row[f'{end}_value'])}") for end in ("lowest", "highest")]
                cells += [number(_number(row["gap"])), number(f"{_number(row['low'])} to {_number(row['high'])}")]
            left_out = row["n_hidden"] + row["n_undefined"]
            rows.append((*cells, number(str(row["n_groups"])), number(str(left_out))))
    draws = max(own["n_draws"].drop_nulls(), default=0)
    header = ("Task, metric", "Groups by", "Lowest", "Highest", "Gap", "95 % interval", "Groups", "left out")
    notes = [
        f"{method}, test split, mean over seeds. Gap: highest minus lowest group, never below 0 in the sample. "
        f"Interval: of the same two groups over {draws} draws of patients. Where it contains 0, "
        "the groups may not differ. The two groups are chosen by the same data, so it is rather too high.",
        "Intercept: calibration in the large; above 0 the scores of the group are too low.",
        "Left out: groups in which the patients, or those of one class of a binary task, are too few to be shown, and "
        "groups of one class, for which the metric is not defined. Not defined: fewer than two groups are left.",
    ]
    return Layout("gaps", "Gaps between groups of patients", header, tuple(rows), own, tuple(notes), grouped=1)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("-", "−")
