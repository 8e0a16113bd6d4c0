"""Readmission or death within 30 days of discharge.

The label is the column readmission of STAYS, which `flexcare_data.stages.outcomes.with_readmission` defines.
"""

from __future__ import annotations

import polars as pl

from flexcare_data.tasks.base import Cohort, Sources, Task, stays_with_series
from flexcare_data.tasks.whole_stay import cohort_of_whole_stays


def build(sources: Sources) -> Cohort:
    """Stays with a series whose patient could be readmitted; input is the whole stay."""
    stays = stays_with_series(sources)
    asked = stays.filter(pl.col("readmission").is_not_null()).with_columns(label="readmission")
    flow = [
        {"step": "stays with a series", "samples": stays.height},
        {"step": "readmission possible", "samples": asked.height},
    ]
    return cohort_of_whole_stays(asked, TASK, sources, flow)


TASK = Task(
    name="readmission",
    abbreviation="REA",
    id=4,
    order=5,
    kind="binary",
    labels=("label",),
    n_outputs=1,
    section="past_medical_history",
    loss_weight=0.2,
    description="readmission or death within 30 days of discharge",
    build=build,
)
