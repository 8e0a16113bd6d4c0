"""Metrics and calibration where the patients are split by time: by groups of years, and against the random split.

In: `Results` of output folders, the count below which a cell is suppressed. Out: `Layout`s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from flexcare_data.tasks import TASKS
from flexcare_model.report.numbers.groups import brier, confidences, enough, reliability
from flexcare_model.report.numbers.layout import Cell, Layout, absent, not_defined, number, words
from flexcare_model.report.numbers.results import METRIC_TITLES, SPLITS, Results
from flexcare_model.report.numbers.scored import Scored, methods_with_runs, scored
from flexcare_model.report.numbers.suppression import HIDDEN, count_text, is_count, is_small, partition_texts
from flexcare_model.report.numbers.tables import mean_text
from flexcare_model.training.metrics import compute

TITLES = METRIC_TITLES | {"brier": "Brier score", "ece": "ECE"}
"""Metrics, then the two numbers of the calibration."""
EVALUATED = ("val", "test")
"""Splits that are shown by group of years."""

LOSSES = {
    "task": pl.String, "metric": pl.String, "method": pl.String, "n_random": pl.String, "n_temporal": pl.String,
    "random": pl.Float64, "random_sd": pl.Float64, "temporal": pl.Float64, "temporal_sd": pl.Float64,
    "difference": pl.Float64,
}  # fmt: skip
YEAR_GROUPS = {
    "task": pl.String, "method": pl.String, "split": pl.String, "year_group": pl.String, "n": pl.String,
    "metric": pl.String, "value": pl.Float64, "sd": pl.Float64,
}  # fmt: skip
_CALIBRATION = "Brier score and ECE (expected calibration error, 10 bins of equal width): smaller is better."


def quality(one: Scored) -> dict[str, float]:
    """The two metrics of the task, and its calibration; NaN where one is not defined, or no label is assessed."""
    metrics = compute(one.task, one.labels, one.scores)
    score, happened = confidences(one)
    error = reliability(score, happened)[1] if score.size else float("nan")
    return {metric: metrics[metric] for metric in TASKS[one.task].metrics} | {"brier": brier(one), "ece": error}


def over_seeds(found: list[Scored]) -> dict[str, tuple[float, float | None]]:
    """Mean and sample standard deviation (n - 1) over seeds of each number of `quality`; None with one seed."""
    each = [quality(one) for one in found]
    return {
        name: (
            float(np.mean([values[name] for values in each])),
            float(np.std([values[name] for values in each], ddof=1)) if len(each) > 1 else None,
        )
        for name in (each[0] if each else ())
    }


def split_losses(random: Results, temporal: Results, *, below: int) -> Layout:
    """Test metrics and calibration under both splits, and their differences, of the methods with runs under both."""
    rows: list[tuple[Cell, ...]] = []
    records: list[dict[str, Any]] = []
    sides = (random, temporal)
    for task in temporal.compared_tasks:
        if any(task not in side.cohorts for side in sides):
            continue
        numbers = [_of_methods(side, task) for side in sides]
        methods = [method for method in numbers[0] if method in numbers[1]]
        if not methods:
            continue
        sizes = [_sizes(side.cohorts[task], below)["test"] for side in sides]
        abbreviation = TASKS[task].abbreviation
        rows.append((words(f"{abbreviation} samples"), words("–"), *map(number, sizes), absent("–")))
        for metric in (*TASKS[task].metrics, "brier", "ece"):
            for method in methods:
                first, second = (side[method][metric] for side in numbers)
                cells = [_mean(*first), _mean(*second), _signed(second[0] - first[0])]
                rows.append((words(f"{abbreviation} {TITLES[metric]}"), words(method), *cells))
                record = (task, metric, method, *(size.replace(",", "") for size in sizes))
                records.append(dict(zip(LOSSES, (*record, *first, *second, second[0] - first[0]), strict=True)))
    notes = [
        "Each side is tested on the patients of its own test split. Mean over seeds, sample standard deviation (n - 1) "
        "in brackets.",
        "A metric below zero in the last column is a loss. " + _CALIBRATION,
    ]
    if not rows:
        notes = ["No method was trained under both splits: run the target `temporal_split`."]
    header = ("Task, metric", "Method", "random split", "split by time", "by time − random")
    frame = pl.DataFrame(records, schema=LOSSES).with_columns(pl.col(pl.Float64).fill_nan(None))
    title = "Test metrics of the split by time against the random split"
    return Layout("temporal_losses", title, header, tuple(rows), frame, tuple(notes), grouped=1)


def year_groups_table(results: Results, *, below: int) -> tuple[Layout, ...]:
    """Metrics and calibration of val and test by group of years; nothing where the patients are not split by time.

    A number is left out where `enough` is False.
    """
    splits = results.parquet("data/splits.parquet")
    if splits is None or "year_group" not in splits.columns:
        return ()
    groups = splits.filter(pl.col("split").cast(pl.String).is_in(EVALUATED))
    columns = [(split, group) for split in EVALUATED for group in sorted(set(groups.filter(split=split)["year_group"]))]
    rows: list[tuple[Cell, ...]] = []
    records: list[dict[str, Any]] = []
    for task in results.compared_tasks:
        cohort = results.cohorts.get(task)
        if cohort is None:
            continue
        years = cohort.join(splits.select("subject_id", "year_group"), on="subject_id", how="left", validate="m:1")
        sizes = _group_sizes(years, columns, below)
        group_of = dict(years.select("sample_id", "year_group").iter_rows())
        by_method = {}
        for method, runs in methods_with_runs(results, task):
            by_method[method.title] = {
                column: _of_group([scored(results, run, task, column[0]) for run in runs], group_of, column[1], below)
                for column in columns
            }
        if not by_method:
            continue
        abbreviation = TASKS[task].abbreviation
        rows.append((words(f"{abbreviation} samples"), words("–"), *(number(sizes[column]) for column in columns)))
        for metric in (*TASKS[task].metrics, "brier", "ece"):
            for title, values in by_method.items():
                cells = [_short(values[column].get(metric)) for column in columns]
                rows.append((words(f"{abbreviation} {TITLES[metric]}"), words(title), *cells))
                records += [
                    {"task": task, "method": title, "split": split, "year_group": group, "metric": metric}
                    | {"n": sizes[split, group].replace(",", "")}
                    | dict(zip(("value", "sd"), values[split, group].get(metric, (None, None)), strict=True))
                    for split, group in columns
                ]
    header = ("Task, metric", "Method", *(f"{split}, {group}" for split, group in columns))
    notes = (
        "Mean over seeds. No number where a group, or its positives or negatives in a binary task, are too few to be "
        "shown.",
        "The model is chosen by its loss on val. " + _CALIBRATION,
    )
    frame = pl.DataFrame(records, schema=YEAR_GROUPS).with_columns(pl.col(pl.Float64).fill_nan(None))
    title = "Validation and test by group of years"
    return (Layout("year_groups", title, header, tuple(rows), frame, notes, grouped=1),)


def _of_methods(results: Results, task: str) -> dict[str, dict[str, tuple[float, float | None]]]:
    """Numbers of `over_seeds` on the test split by title of the method."""
    found = {}
    for method, runs in methods_with_runs(results, task):
        ones = [one for run in runs if (one := scored(results, run, task)) is not None]
        if ones:
            found[method.title] = over_seeds(ones)
    return found


def _of_group(
    runs: list[Scored | None], group_of: Mapping[str, str], group: str, below: int
) -> dict[str, tuple[float, float | None]]:
    """Numbers of `over_seeds` on the samples of one group of years; empty where they may not be shown."""
    found = []
    for one in runs:
        if one is None:
            continue
        member = np.array([group_of[sample] == group for sample in one.cohort["sample_id"]], dtype=bool)
        if not enough(one, member, below):
            return {}
        found.append(one.only(member))
    return over_seeds(found)


def _sizes(cohort: pl.DataFrame, below: int) -> dict[str, str]:
    """Samples of each split, as the table of the cohorts shows them."""
    counts = [cohort.filter(split=split).height for split in SPLITS]
    return dict(zip(SPLITS, partition_texts(counts, below), strict=True))


def _group_sizes(years: pl.DataFrame, columns: list[tuple[str, str]], below: int) -> dict[tuple[str, str], str]:
    """Samples of each group of years in val and test; their sums are known where `_sizes` shows them."""
    totals = _sizes(years, below)
    texts: dict[tuple[str, str], str] = {}
    for split in EVALUATED:
        own = [column for column in columns if column[0] == split]
        counts = [years.filter(split=split, year_group=group).height for _, group in own]
        shown = partition_texts(counts, below)
        if not is_count(totals[split]):  # the groups must not reveal their sum
            shown = [count_text(count, below) if is_small(count, below) or not count else HIDDEN for count in counts]
        texts |= dict(zip(own, shown, strict=True))
    return texts


def _mean(mean: float, sd: float | None) -> Cell:
    return not_defined() if math.isnan(mean) else number(mean_text(mean, sd))


def _short(found: tuple[float, float | None] | None) -> Cell:
    if found is None:
        return absent("–")
    return not_defined() if math.isnan(found[0]) else number(f"{found[0]:.3f}")


def _signed(value: float) -> Cell:
    return absent("–") if math.isnan(value) else number(f"{value:+.4f}".replace("-", "−"))
