"""Cohorts whose prediction time is a drawn whole hour of each stay: length of stay and decompensation.

In: stays with the last hour that may be drawn. Out: the cohort, with the hour as period_length.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from flexcare_data.draws import keyed_share
from flexcare_data.hours import TOLERANCE, n_bins
from flexcare_data.tasks.base import Cohort, Sources, Task, hours_after, make_cohort, with_last_image, with_note

FEWEST_HOURS = 4
"""Only later hours are drawn (published)."""


def cohort_of_drawn_hours(
    stays: pl.DataFrame, task: Task, sources: Sources, label: Callable[[pl.DataFrame], pl.Series]
) -> Cohort:
    """One sample per stay (``sampling: all``: per hour) at hour t, with 4 < t, first event < t and t <= last_hours.

    Args:
        stays: stays with a series, first_hours and last_hours.
        label: labels of the samples, which hold the columns of ``stays`` and period_length.
    """
    asked = stays.with_columns(
        first_hour=pl.max_horizontal(pl.lit(FEWEST_HOURS + 1), pl.col("first_hours").floor().cast(pl.Int64) + 1),
        last_hour=(pl.col("last_hours") + TOLERANCE).floor().cast(pl.Int64),
    ).filter(pl.col("last_hour") >= pl.col("first_hour"))
    samples = _draw(asked, task, sources.options.sampling)
    stay = pl.col("stay_id").cast(pl.String)
    hour = pl.col("hour").cast(pl.String)
    samples = samples.with_columns(
        sample_id=stay + "_" + hour if sources.options.sampling == "all" else stay,
        period_length=pl.col("hour").cast(pl.Float64),
        n_hours=pl.Series(n_bins(samples["hour"].to_numpy())),
    )
    samples = samples.with_columns(
        label(samples), window_start="intime", window_end=hours_after("intime", "period_length")
    ).with_columns(prediction_time="window_end")
    samples = with_note(with_last_image(samples, sources.radiographs), sources, task.section)
    flow = [
        {"step": "stays with a series", "samples": stays.height},
        {"step": "stays with an hour to ask at", "samples": asked.height},
        {"step": "samples", "samples": samples.height},
    ]
    return make_cohort(samples, task, sources, flow)


def _draw(stays: pl.DataFrame, task: Task, sampling: str) -> pl.DataFrame:
    """``stays`` with the column hour, one row per stay or, with ``sampling: all``, per possible hour."""
    # The published rows are sorted as tuples of subject_id as text, stay_id and hour before they are permuted.
    ordered = (
        stays.with_columns(_subject=pl.col("subject_id").cast(pl.String)).sort("_subject", "stay_id").drop("_subject")
    )
    first = ordered["first_hour"].to_numpy()
    n_hours = ordered["last_hour"].to_numpy() - first + 1
    start = np.cumsum(n_hours) - n_hours
    if sampling == "all":
        stay = np.repeat(np.arange(len(first)), n_hours)
        hour = np.arange(n_hours.sum()) - start[stay] + first[stay]
        return ordered[stay].with_columns(hour=pl.Series(hour, dtype=pl.Int64))
    if not len(first):
        drawn = first
    elif sampling == "permutation42":
        permutation = np.random.RandomState(42).permutation(int(n_hours.sum()))
        place = np.empty_like(permutation)
        place[permutation] = np.arange(len(permutation))
        # Of a stay's rows the one that comes first after permuting.
        drawn = permutation[np.minimum.reduceat(place, start)] - start + first
    else:
        share = np.array([keyed_share(f"hour-{task.name}", stay) for stay in ordered["stay_id"].to_list()])
        drawn = first + np.floor(share * n_hours).astype(np.int64)
    return ordered.with_columns(hour=pl.Series(drawn, dtype=pl.Int64))
