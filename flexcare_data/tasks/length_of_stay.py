"""Remaining days in the ICU at a drawn hour, in ten classes."""

from __future__ import annotations

import numpy as np
import polars as pl

from flexcare_data.hours import hours_after
from flexcare_data.tasks.base import Cohort, Sources, Task, stays_with_series
from flexcare_data.tasks.drawn_hour import cohort_of_drawn_hours

DAY = 24.0
CLASS_EDGES_HOURS = np.array([1, 2, 3, 4, 5, 6, 7, 8, 14]) * DAY
"""Lower edges of classes 1 to 9 of the remaining stay: [0,1) ... [7,8) [8,14) [14,inf) days."""


def build(sources: Sources) -> Cohort:
    """A whole hour t of each stay, up to its length; label is the class of what remains of the stay."""
    stays = stays_with_series(sources).with_columns(last_hours="los_hours")
    # The drawn hour may pass the end of the stay by the tolerance.
    end_of_stay = pl.max_horizontal(hours_after("intime", "los_hours"), "prediction_time")
    return cohort_of_drawn_hours(stays, TASK, sources, _classes, label_time=end_of_stay)


def _classes(samples: pl.DataFrame) -> pl.Series:
    # The drawn hour may pass the end of the stay by the tolerance: that is no time left.
    remaining = np.maximum(samples["los_hours"].to_numpy() - samples["period_length"].to_numpy(), 0.0)
    return pl.Series("label", np.searchsorted(CLASS_EDGES_HOURS, remaining, "right").astype(np.int64))


TASK = Task(
    name="length_of_stay",
    abbreviation="LOS",
    id=3,
    order=2,
    kind="multiclass",
    labels=("label",),
    n_outputs=10,
    section="past_medical_history",
    loss_weight=0.5,
    description="remaining days in the ICU at a drawn hour, in ten classes",
    build=build,
    options=("sampling",),
    classes=(*(f"{day} to {day + 1} days" for day in range(8)), "8 to 14 days", "14 days or more"),
)
