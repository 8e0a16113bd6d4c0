"""Cohorts whose input is the whole ICU stay: phenotyping and readmission.

In: labelled stays with a series. Out: the cohort; the prediction time is the end of the stay.
"""

from __future__ import annotations

import polars as pl

from flexcare_data.hours import end_of_stay
from flexcare_data.raw.tables import Dropped
from flexcare_data.schema import Flow
from flexcare_data.tasks.base import Cohort, Sources, Task, make_cohort, with_last_image, with_note


def cohort_of_whole_stays(
    stays: pl.DataFrame, task: Task, sources: Sources, flow: Flow, *, dropped: Dropped | None = None
) -> Cohort:
    """One sample per stay; series up to its length, radiographs in [intime, outtime]."""
    samples = stays.with_columns(
        sample_id=pl.col("stay_id").cast(pl.String),
        period_length="los_hours",
        window_start="intime",
        window_end="outtime",
        prediction_time=end_of_stay(),
    )
    samples = with_note(with_last_image(samples, sources.radiographs), sources, task.section)
    return make_cohort(samples, task, sources, flow, dropped=dropped)
