"""Cohorts whose prediction time is a fixed number of hours after ICU admission: in-hospital mortality.

In: labelled stays with a series. Out: the cohort, whose input is the first hours of the stay.
"""

from __future__ import annotations

import polars as pl

from flexcare_data.hours import TOLERANCE, hours_after, n_bins
from flexcare_data.raw.tables import Dropped
from flexcare_data.schema import Flow
from flexcare_data.tasks.base import Cohort, Sources, Task, make_cohort, with_last_image, with_note
from flexcare_data.tasks.deaths import known_by_death, of_the_living, with_death


def cohort_of_first_hours(
    stays: pl.DataFrame, task: Task, sources: Sources, hours: int, flow: Flow, *, about_death: bool = False
) -> Cohort:
    """Stays of at least ``hours`` with an event in them; inputs of [intime, intime + ``hours``], both inclusive.

    Args:
        about_death: the question is about death, label 1: option `asked` says whether the dead are asked.
    """
    long = stays.filter(pl.col("los_hours") >= hours - TOLERANCE)
    samples = long.filter(pl.col("first_hours") < hours + TOLERANCE).with_columns(
        sample_id=pl.col("stay_id").cast(pl.String),
        period_length=pl.lit(float(hours)),
        n_hours=pl.lit(int(n_bins(hours))),
    )
    samples = samples.with_columns(window_start="intime", window_end=hours_after("intime", "period_length"))
    samples = samples.with_columns(prediction_time="window_end")
    flow = [
        *flow,
        {"step": f"at least {hours} hours long", "samples": long.height},
        {"step": f"an event in the first {hours} hours", "samples": samples.height},
    ]
    dropped: Dropped = {}
    if about_death:
        samples = of_the_living(with_death(samples, sources), task, sources, flow, dropped)
        samples = samples.with_columns(label_time=known_by_death())
    samples = with_note(with_last_image(samples, sources.radiographs), sources, task.section)
    return make_cohort(samples, task, sources, flow, dropped=dropped)
