"""Intervals for every metric and paired tests of FlexCare against each other method, from the predictions.

In: `Results`. Out: frames (kept as parquet, as they take minutes on full data) and their `Layout`s.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from flexcare_data.tasks import TASKS
from flexcare_model.analysis.statistics import compare, estimate, holm, patient_weights, replicate_metrics
from flexcare_model.report.catalogue import REPLICATES, REPLICATES_SEED
from flexcare_model.report.numbers.layout import NOT_DEFINED, Cell, Layout, absent, not_defined, number, words
from flexcare_model.report.numbers.methods import reference
from flexcare_model.report.numbers.results import METRIC_TITLES, Results
from flexcare_model.report.numbers.scored import methods_with_runs, scored
from flexcare_model.training.metrics import compute

Sides = tuple[list[float], list[np.ndarray]]

ESTIMATES = {
    "task": pl.String, "metric": pl.String, "method": pl.String, "n_patients": pl.Int64, "n_seeds": pl.Int64,
    "value": pl.Float64, "low": pl.Float64, "high": pl.Float64, "sd_patients": pl.Float64, "sd_seeds": pl.Float64,
    "sd_both": pl.Float64, "n_draws": pl.Int64,
}  # fmt: skip
COMPARISONS = {
    "task": pl.String, "metric": pl.String, "method": pl.String, "difference": pl.Float64, "low": pl.Float64,
    "high": pl.Float64, "sd_patients": pl.Float64, "sd_both": pl.Float64, "p_patients": pl.Float64,
    "p_patients_holm": pl.Float64, "p_both": pl.Float64, "p_both_holm": pl.Float64, "family": pl.Int64,
}  # fmt: skip


def bootstrap(
    results: Results, *, replicates: int = REPLICATES, seed: int = REPLICATES_SEED
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """ESTIMATES of every method, task and metric; COMPARISONS of the reference with each other method.

    All methods of a task see the same draws of patients. Holm's correction is over all comparisons at once.
    """
    estimates: list[dict[str, Any]] = []
    compared: list[dict[str, Any]] = []
    first = reference().title
    for task in results.compared_tasks:
        sides: dict[tuple[str, str], Sides] = {}
        # Drawn once from all test patients of the task, so that every run sees the same draws.
        cohort = results.cohorts.get(task)
        if cohort is None:
            continue
        patients = np.unique(cohort.filter(pl.col("split") == "test")["subject_id"].to_numpy())
        counts, _ = patient_weights(patients, replicates, seed)
        for method, runs in methods_with_runs(results, task):
            found = [one for run in runs if (one := scored(results, run, task)) is not None]
            for one in found:
                owner = np.searchsorted(patients, one.subjects)
                points = compute(task, one.labels, one.scores)
                drawn = replicate_metrics(task, one.labels, one.scores, counts, owner)
                for metric in TASKS[task].metrics:
                    side = sides.setdefault((method.title, metric), ([], []))
                    side[0].append(points[metric])
                    side[1].append(drawn[metric])
            for metric in TASKS[task].metrics if found else ():
                side = sides[(method.title, metric)]
                result = estimate(side[0], np.stack(side[1]))
                estimates.append(
                    {"task": task, "metric": metric, "method": method.title}
                    | {"n_patients": int(np.unique(found[0].subjects).size), **vars(result)}
                )
        for (title, metric), side in sides.items():
            ours = sides.get((first, metric))
            if title == first or ours is None:
                continue
            difference = compare((ours[0], np.stack(ours[1])), (side[0], np.stack(side[1])))
            compared.append(
                {"task": task, "metric": metric, "method": title, "difference": difference.value} | vars(difference)
            )
    for name in ("p_patients", "p_both"):
        adjusted = holm([row[name] for row in compared])
        for row, value in zip(compared, adjusted, strict=True):
            row |= {f"{name}_holm": float(value), "family": int(np.isfinite([r["p_patients"] for r in compared]).sum())}
    return _frame(estimates, ESTIMATES), _frame(compared, COMPARISONS)


def _frame(rows: list[dict[str, Any]], schema: dict[str, Any]) -> pl.DataFrame:
    frame = pl.DataFrame([{name: row[name] for name in schema} for row in rows], schema=schema)
    return frame.with_columns(pl.col(pl.Float64).fill_nan(None))


def intervals_table(estimates: pl.DataFrame) -> Layout:
    """Every metric with its interval over patients, and the two sources of uncertainty separately."""
    rows = []
    for row in estimates.to_dicts():
        cells = [words(f"{TASKS[row['task']].abbreviation} {METRIC_TITLES[row['metric']]}"), words(row["method"])]
        cells.append(not_defined() if row["value"] is None else number(f"{row['value']:.4f}"))
        cells.append(absent("–") if row["low"] is None else number(f"{row['low']:.4f} to {row['high']:.4f}"))
        cells += [_deviation(row[name]) for name in ("sd_patients", "sd_seeds", "sd_both")]
        rows.append((*cells, number(str(row["n_seeds"]))))
    header = ("Task, metric", "Method", "Mean", "95 % interval", "SD patients", "SD seeds", "SD mean, both", "Seeds")
    notes = (
        "Interval: percentiles of the seed mean over draws of test patients with replacement, all samples of a patient "
        "together.",
        "SD patients: of the seed mean over those draws. SD seeds: between seeds on the same patients (n - 1). Both: "
        "of the mean over new patients and new seeds.",
        *_undefined_notes(estimates),
    )
    layout_rows = _sorted_like(rows)
    return Layout("uncertainty", "Uncertainty of every metric", header, layout_rows, estimates, notes, grouped=1)


def _undefined_notes(estimates: pl.DataFrame) -> list[str]:
    """What is said of metrics, and of draws, that are not defined."""
    notes = []
    if estimates["value"].null_count():
        notes.append(NOT_DEFINED)
    draws = estimates.drop_nulls("value")["n_draws"].to_list()
    fewest, most = min(draws, default=0), max(draws, default=0)
    if fewest < most:
        notes.append(
            "A draw in which all samples are of one class has no value. The intervals of the metrics concerned are of "
            f"the other draws, at least {fewest:,} of {most:,} (column `n_draws` of the CSV)."
        )
    return notes


def _sorted_like(rows: list[tuple[Cell, ...]]) -> tuple[tuple[Cell, ...], ...]:
    """Rows of one task and metric together, in order of first appearance."""
    order = {text: place for place, text in enumerate(dict.fromkeys(row[0].text for row in rows))}
    return tuple(sorted(rows, key=lambda row: order[row[0].text]))


def comparisons_table(compared: pl.DataFrame) -> Layout:
    """FlexCare minus each other method, with p-values before and after correction."""
    rows = []
    for row in compared.to_dicts():
        cells = [words(f"{TASKS[row['task']].abbreviation} {METRIC_TITLES[row['metric']]}"), words(row["method"])]
        cells.append(not_defined() if row["difference"] is None else number(_signed(row["difference"])))
        between = None if row["low"] is None else f"{_signed(row['low'])} to {_signed(row['high'])}"
        cells.append(absent("–") if between is None else number(between))
        for name in ("p_patients", "p_patients_holm", "p_both", "p_both_holm"):
            value = row[name]
            # Bold by rule: below 5 % after correction.
            cells.append(Cell(_p_text(value), best=name.endswith("holm") and value is not None and value < 0.05))
        rows.append(tuple(cells))
    family = compared["family"][0] if compared.height else 0
    name = reference().title
    header = (
        *("Task, metric", f"{name} minus", "Difference", "95 % interval"),
        *("p patients", "Holm", "p patients, seeds", "Holm"),
    )
    notes = (
        "Paired over the same draws of patients, two-sided. The first p-value is about these trained models on other "
        "patients, the second about other seeds as well; with few seeds it has few degrees of freedom.",
        f"Holm: corrected for all {family} comparisons of the table; bold below 0.05.",
    )
    return Layout("comparisons", f"{name} against each method", header, _sorted_like(rows), compared, notes, grouped=1)


def _deviation(value: float | None) -> Cell:
    return absent("–") if value is None else number(f"{value:.4f}")


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _p_text(value: float | None) -> str:
    return "–" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
