"""Death in hospital, asked 48 hours after ICU admission."""

from __future__ import annotations

import polars as pl

from flexcare_data.hourly import TOLERANCE, n_bins
from flexcare_data.tasks.base import (
    Cohort,
    Sources,
    Task,
    hours_after,
    make_cohort,
    stays_with_series,
    with_last_image,
    with_note,
)

PERIOD_HOURS = 48


def build(sources: Sources) -> Cohort:
    """Stays of at least 48 hours with an event in the first 48; input [intime, intime + 48 h]."""
    stays = stays_with_series(sources)
    long = stays.filter(pl.col("los_hours") >= PERIOD_HOURS - TOLERANCE)
    samples = long.filter(pl.col("first_hours") < PERIOD_HOURS + TOLERANCE).with_columns(
        sample_id=pl.col("stay_id").cast(pl.String),
        period_length=pl.lit(float(PERIOD_HOURS)),
        n_hours=pl.lit(int(n_bins(PERIOD_HOURS))),
        label=pl.col("died_in_hospital"),
    )
    samples = samples.with_columns(window_start="intime", window_end=hours_after("intime", "period_length"))
    samples = samples.with_columns(prediction_time="window_end")
    samples = with_note(with_last_image(samples, sources.radiographs), sources, TASK.section)
    flow = [
        {"step": "stays with a series", "samples": stays.height},
        {"step": f"at least {PERIOD_HOURS} hours long", "samples": long.height},
        {"step": f"an event in the first {PERIOD_HOURS} hours", "samples": samples.height},
    ]
    return make_cohort(samples, TASK, sources, flow)


TASK = Task(
    name="in_hospital_mortality",
    abbreviation="IHM",
    id=0,
    kind="binary",
    labels=("label",),
    n_outputs=1,
    section="past_medical_history",
    loss_weight=0.2,
    description="death in hospital, asked 48 hours after ICU admission",
    build=build,
)
