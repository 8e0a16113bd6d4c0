"""Cohorts whose prediction time is a drawn whole hour of each stay: length of stay and decompensation.

In: stays with the last hour that may be drawn. Out: the cohort, with the hour as period_length.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from flexcare_data.draws import keyed_share
from flexcare_data.hours import TOLERANCE, hours_after, n_bins
from flexcare_data.raw.tables import Dropped, count
from flexcare_data.schema import Flow
from flexcare_data.tasks.base import Cohort, Sources, Task, make_cohort, with_last_image, with_note
from flexcare_data.tasks.deaths import ALIVE, DEAD, known_by_death, of_the_living, with_death

FEWEST_HOURS = 4
"""Only later hours are drawn (published)."""


def cohort_of_drawn_hours(
    stays: pl.DataFrame,
    task: Task,
    sources: Sources,
    label: Callable[[pl.DataFrame], pl.Series],
    *,
    label_time: pl.Expr | None = None,
    about_death: bool = False,
) -> Cohort:
    """One sample per stay (``sampling: all``: per hour) at hour t, with 4 < t, first event < t and t <= last_hours.

    Args:
        stays: stays with a series, first_hours and last_hours.
        label: labels of the samples, which hold the columns of ``stays`` and period_length.
        label_time: when the answer was known, of the columns of the samples; null without it, and not used with
            ``about_death``.
        about_death: the question is about death, label 1: option `asked` says whether the dead are asked; with `alive`
            no hour after the death is drawn.
    """
    if about_death:
        stays, label_time = with_death(stays, sources), known_by_death()
    asked = stays.with_columns(
        first_hour=pl.max_horizontal(pl.lit(FEWEST_HOURS + 1), pl.col("first_hours").floor().cast(pl.Int64) + 1),
        last_hour=(pl.col("last_hours") + TOLERANCE).floor().cast(pl.Int64),
    ).filter(pl.col("last_hour") >= pl.col("first_hour"))
    flow: Flow = [
        {"step": "stays with a series", "samples": stays.height},
        {"step": "stays with an hour to ask at", "samples": asked.height},
    ]
    dropped: Dropped = {}
    if about_death and sources.options.asked == "alive":
        asked = _until_death(asked, task, flow, dropped)
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
    if label_time is not None:
        samples = samples.with_columns(label_time=label_time)
    if about_death and sources.options.asked == "always":
        samples = of_the_living(samples, task, sources, flow, dropped)
    samples = with_note(with_last_image(samples, sources.radiographs), sources, task.section)
    flow.append({"step": "samples", "samples": samples.height})
    return make_cohort(samples, task, sources, flow, dropped=dropped)


def _until_death(asked: pl.DataFrame, task: Task, flow: Flow, dropped: Dropped) -> pl.DataFrame:
    """``asked`` with last_hour at or before the death; stays without such an hour are dropped and counted."""
    lived = (pl.col("died_at") - pl.col("intime")).dt.total_seconds() / 3600.0
    until = asked.with_columns(
        last_hour=pl.min_horizontal("last_hour", (lived + TOLERANCE).floor().cast(pl.Int64))
    ).filter(pl.col("last_hour") >= pl.col("first_hour"))
    count(dropped, task.name, "", DEAD, asked.height - until.height)
    flow.append({"step": ALIVE, "samples": until.height})
    return until


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
