"""Calibration, and metrics by group of patients, from the predictions.

In: `Results`, the count below which a cell is suppressed. Out: frames (kept as parquet) and their `Layout`s.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from flexcare_data.tasks import TASKS
from flexcare_model.report.numbers.layout import NOT_DEFINED, Layout, absent, not_defined, number, words
from flexcare_model.report.numbers.results import METRIC_TITLES, Results, tasks_in
from flexcare_model.report.numbers.scored import Scored, methods_with_runs, scored
from flexcare_model.report.numbers.suppression import is_small, partition_texts
from flexcare_model.training.metrics import compute

BINS = 10
AGE_BANDS = ((18, 45), (45, 65), (65, 80), (80, None))
RACES = ("WHITE", "BLACK", "HISPANIC", "ASIAN")
"""Groups by the beginning of the published text; all others and unknown ones are one group."""
CURVES = {
    "task": pl.String, "method": pl.String, "bin": pl.Int64, "n": pl.Int64, "mean_score": pl.Float64,
    "observed": pl.Float64,
}  # fmt: skip
CALIBRATION = {
    "task": pl.String, "method": pl.String, "n_seeds": pl.Int64, "brier": pl.Float64, "ece": pl.Float64,
}  # fmt: skip
SUBGROUPS = {
    "task": pl.String, "method": pl.String, "dimension": pl.String, "level": pl.String, "n_text": pl.String,
    "metric": pl.String, "value": pl.Float64, "is_defined": pl.Boolean,
}  # fmt: skip


def confidences(one: Scored) -> tuple[np.ndarray, np.ndarray]:
    """Scores and outcomes, flat: the positive class of each assessed label, or the top class of each sample."""
    if TASKS[one.task].kind == "multiclass":
        return one.scores.max(axis=1), (one.scores.argmax(axis=1) == one.labels).astype(np.float64)
    kept = one.labels > -1
    return one.scores[kept], (one.labels[kept] > 0).astype(np.float64)


def brier(one: Scored) -> float:
    """Mean squared distance of probabilities and truth; summed over the classes of a multi-class task."""
    if TASKS[one.task].kind == "multiclass":
        truth = np.arange(one.scores.shape[1]) == one.labels[:, None]
        return float(np.mean(np.sum((one.scores - truth) ** 2, axis=1)))
    score, happened = confidences(one)
    return float(np.mean((score - happened) ** 2)) if score.size else float("nan")


def bin_of(score: np.ndarray) -> np.ndarray:
    """Bin of each score; the upper edge belongs to the bin below, so that 0.1 is in the first and 1.0 in the last."""
    return np.clip(np.ceil(np.round(score * BINS, 9)).astype(np.int64) - 1, 0, BINS - 1)


def reliability(score: np.ndarray, happened: np.ndarray) -> tuple[pl.DataFrame, float]:
    """Bins of equal width (bin, n, mean_score, observed) and the expected calibration error.

    Example:
        >>> bins, error = reliability(np.array([0.1, 0.1, 0.9, 0.9]), np.array([0.0, 0.0, 1.0, 0.0]))
        >>> bins.select("bin", "n", "observed").rows(), round(error, 3)
        ([(0, 2, 0.0), (8, 2, 0.5)], 0.25)
    """
    bins = (
        pl.DataFrame({"bin": bin_of(score), "score": score, "happened": happened})
        .group_by("bin")
        .agg(n=pl.len().cast(pl.Int64), mean_score=pl.col("score").mean(), observed=pl.col("happened").mean())
        .sort("bin")
    )
    gap = ((bins["mean_score"] - bins["observed"]).abs() * bins["n"]).sum() / max(1, score.size)
    return bins, float(gap)


def owners(one: Scored) -> np.ndarray:
    """Patient of each entry of `confidences`."""
    if TASKS[one.task].kind == "multiclass":
        return one.subjects
    kept = one.labels > -1
    return one.subjects[kept] if kept.ndim == 1 else np.broadcast_to(one.subjects[:, None], kept.shape)[kept]


def pooled_bins(pairs: list[tuple[np.ndarray, np.ndarray]], subjects: np.ndarray, below: int) -> list[dict[str, Any]]:
    """Rows of `reliability` of all seeds together; n is of one seed. Bins with a small cell have no numbers.

    Cells are the samples, the patients, the positive and the negative samples of a bin; counts of samples are per seed.

    Args:
        pairs: scores and outcomes of each seed, of the same samples.
        subjects: patient of each sample.
        below: a count in [1, below) is small.
    """
    scores, happened = (np.concatenate(side) for side in zip(*pairs, strict=True))
    pooled, _ = reliability(scores, happened)
    place, every = bin_of(scores), np.tile(subjects, len(pairs))
    rows = []
    for row in pooled.to_dicts():
        inside = place == row["bin"]
        hits = int(happened[inside].sum())
        per_seed = [max(1, count // len(pairs)) if count else 0 for count in (row["n"], hits, row["n"] - hits)]
        small = any(is_small(count, below) for count in (*per_seed, np.unique(every[inside]).size))
        hidden = {"n": None, "mean_score": None, "observed": None} if small else {"n": per_seed[0]}
        rows.append(row | hidden)
    return rows


def calibration(results: Results, *, below: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """CURVES (seeds pooled, small bins without numbers) and CALIBRATION (mean over seeds)."""
    curves, summaries = [], []
    for task in results.compared_tasks:
        for method, runs in methods_with_runs(results, task):
            found = [one for run in runs if (one := scored(results, run, task)) is not None]
            pairs = [confidences(one) for one in found]
            pairs = [pair for pair in pairs if pair[0].size]
            if not pairs:
                continue
            bins = pooled_bins(pairs, owners(found[0]), below)
            curves += [{"task": task, "method": method.title} | row for row in bins]
            summaries.append(
                {
                    "task": task,
                    "method": method.title,
                    "n_seeds": len(found),
                    "brier": float(np.mean([brier(one) for one in found])),
                    "ece": float(np.mean([reliability(*pair)[1] for pair in pairs])),
                }
            )
    return pl.DataFrame(curves, schema=CURVES), pl.DataFrame(summaries, schema=CALIBRATION)


def calibration_table(summaries: pl.DataFrame) -> Layout:
    """Brier score and expected calibration error by method and task."""
    tasks = tasks_in(summaries)
    cells = {(row["method"], row["task"]): row for row in summaries.to_dicts()}
    rows = []
    for method in dict.fromkeys(summaries["method"]):
        row = [words(method)]
        for task in tasks:
            found = cells.get((method, task))
            row += [number(f"{found[name]:.3f}") if found else absent("–") for name in ("brier", "ece")]
        rows.append(tuple(row))
    header = ["Method"]
    for task in tasks:
        header += [f"{TASKS[task].abbreviation} Brier", "ECE"]
    kinds = {"multilabel": "of all assessed labels", "multiclass": "of the top class"}
    parts = [
        f"{text} for {' and '.join(TASKS[task].abbreviation for task in tasks if TASKS[task].kind == kind)}"
        for kind, text in kinds.items()
        if any(TASKS[task].kind == kind for task in tasks)
    ]
    notes = ("; ".join([f"Mean over seeds. ECE: {BINS} bins of equal width", ", ".join(parts)]).rstrip("; ") + ".",)
    return Layout("calibration", "Calibration on the test split", tuple(header), tuple(rows), summaries, notes)


def with_groups(cohort: pl.DataFrame, stays: pl.DataFrame) -> pl.DataFrame:
    """``cohort`` with sex, age, race and care unit of each sample's stay; of samples without one "no ICU stay"."""
    race = pl.col("race").fill_null("").str.to_uppercase()
    group = pl.lit("other or unknown")
    for name in reversed(RACES):
        group = pl.when(race.str.starts_with(name)).then(pl.lit(name.lower())).otherwise(group)
    age = pl.lit(None, dtype=pl.String)
    for low, high in AGE_BANDS:
        title = f"{low} to {high - 1}" if high else f"{low} or older"
        inside = (pl.col("age") >= low) & (pl.col("age") < high if high else pl.lit(True))
        age = pl.when(inside).then(pl.lit(title)).otherwise(age)
    groups = stays.select(
        "stay_id",
        sex=pl.col("gender").replace({"F": "female", "M": "male"}).fill_null("unknown"),
        age=age,
        race=group,
        # "Medical Intensive Care Unit (MICU)" is abbreviated by the text in brackets.
        unit=pl.coalesce(pl.col("first_careunit").str.extract(r"\((.+)\)$"), "first_careunit", pl.lit("unknown")),
    )
    joined = cohort.join(groups, on="stay_id", how="left", validate="m:1", maintain_order="left")
    return joined.with_columns(pl.col("sex", "age", "race", "unit").fill_null("no ICU stay"))


DIMENSIONS = {"sex": "Sex", "age": "Age", "race": "Race", "unit": "Care unit"}


def subgroups(results: Results, *, below: int) -> pl.DataFrame:
    """SUBGROUPS: the two metrics of each task within each group, mean over seeds.

    A value is left out where `enough` is False. ``is_defined`` is False where the metric does not exist in the group.
    """
    stays = results.parquet("data/stays.parquet")
    rows: list[dict[str, Any]] = []
    if stays is None:
        return pl.DataFrame(rows, schema=SUBGROUPS)
    for task in results.compared_tasks:
        for method, runs in methods_with_runs(results, task):
            found = [one for run in runs if (one := scored(results, run, task)) is not None]
            if not found:
                continue
            first = with_groups(found[0].cohort, stays)
            for dimension in DIMENSIONS:
                levels = sorted(set(first[dimension]))
                members = [(first[dimension] == level).to_numpy() for level in levels]
                texts = partition_texts([int(member.sum()) for member in members], below)
                for level, member, text in zip(levels, members, texts, strict=True):
                    values = _group_metrics(found, first["sample_id"].to_list(), member, below)
                    undefined = {metric for metric, value in values.items() if np.isnan(value)}
                    rows += [
                        {"task": task, "method": method.title, "dimension": dimension, "level": level, "n_text": text}
                        | {"metric": metric, "value": values.get(metric), "is_defined": metric not in undefined}
                        for metric in TASKS[task].metrics
                    ]
    return pl.DataFrame(rows, schema=SUBGROUPS).with_columns(pl.col("value").fill_nan(None))


def enough(one: Scored, member: np.ndarray, below: int) -> bool:
    """Whether numbers of a group of samples may be shown.

    False where the patients of the group, or those of the positives or of the negatives of a binary task in it, are
    fewer than ``below``. A class without any patient is no small cell: a metric of one class is not defined.
    """
    subjects = one.subjects[member]
    if np.unique(subjects).size < max(below, 1):
        return False
    if TASKS[one.task].kind != "binary":
        return True
    positive = one.labels[member] > 0
    return not any(is_small(np.unique(subjects[side]).size, below) for side in (positive, ~positive))


def _group_metrics(found: list[Scored], ids: list[str], member: np.ndarray, below: int) -> dict[str, float]:
    """Mean over seeds of the metrics of a group, NaN where one is not defined; empty where the group is small."""
    task = found[0].task
    if not enough(found[0], member, below):
        return {}
    chosen = {name for name, inside in zip(ids, member, strict=True) if inside}
    values: dict[str, list[float]] = {}
    for one in found:
        rows = one.cohort["sample_id"].is_in(list(chosen)).to_numpy()
        for metric, value in compute(task, one.labels[rows], one.scores[rows]).items():
            values.setdefault(metric, []).append(value)
    return {metric: float(np.mean(each)) for metric, each in values.items()}


def subgroups_table(frame: pl.DataFrame, method: str) -> Layout:
    """The two metrics of ``method`` by group, a column pair per task."""
    own = frame.filter(method=method)
    tasks = tasks_in(own)
    cells = {(r["dimension"], r["level"], r["task"], r["metric"]): r for r in own.to_dicts()}
    rows = []
    for dimension, title in DIMENSIONS.items():
        for level in sorted(set(own.filter(dimension=dimension)["level"])):
            row = [words(title), words(level)]
            for task in tasks:
                pair = [cells.get((dimension, level, task, metric)) for metric in TASKS[task].metrics]
                row.append(number(pair[0]["n_text"]) if pair[0] else number("0"))
                for found in pair:
                    value = found["value"] if found else None
                    if found and not found["is_defined"]:
                        row.append(not_defined())
                    else:
                        row.append(absent("–") if value is None else number(f"{value:.3f}"))
            rows.append(tuple(row))
    header = ["", "Group"]
    for task in tasks:
        names = [METRIC_TITLES[metric] for metric in TASKS[task].metrics]
        header += [f"{TASKS[task].abbreviation} n", *names]
    notes = (
        f"{method}, test split, mean over seeds. No value where a group, or its positives or negatives in a binary "
        "task, are of too few patients to be shown.",
        *([NOT_DEFINED] if not own["is_defined"].all() else []),
    )
    return Layout("subgroups", f"{method} by group of patients", tuple(header), tuple(rows), own, notes, grouped=1)
