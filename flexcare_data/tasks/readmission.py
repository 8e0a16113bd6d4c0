"""Readmission or death within 30 days of discharge.

Label and label_time are the columns readmission and readmission_time of STAYS, which
`flexcare_data.stages.outcomes.with_readmission` defines.
"""

from __future__ import annotations

import polars as pl

from flexcare_data.hours import end_of_stay
from flexcare_data.raw.tables import Dropped, count
from flexcare_data.tasks.base import Cohort, Sources, Task, stays_with_series
from flexcare_data.tasks.whole_stay import cohort_of_whole_stays


def build(sources: Sources) -> Cohort:
    """Stays with a series whose patient could be readmitted; input is the whole stay."""
    stays = stays_with_series(sources)
    asked = stays.filter(pl.col("readmission").is_not_null())
    asked = asked.with_columns(label="readmission", label_time="readmission_time")
    flow = [
        {"step": "stays with a series", "samples": stays.height},
        {"step": "readmission possible", "samples": asked.height},
    ]
    dropped: Dropped = {}
    count(dropped, TASK.name, "", "nested_admission_but_counted", _by_nested(asked, sources).height)
    return cohort_of_whole_stays(asked, TASK, sources, flow, dropped=dropped)


def _by_nested(asked: pl.DataFrame, sources: Sources) -> pl.DataFrame:
    """Samples whose readmission begins before the discharge or the end of the stay."""
    begun = sources.deaths.select("subject_id", label_time="admittime")
    discharge = sources.deaths.select("hadm_id", "dischtime")
    readmitted = asked.join(begun, on=["subject_id", "label_time"], how="semi")
    with_end = readmitted.join(discharge, on="hadm_id", how="left", validate="m:1")
    return with_end.filter(pl.col("label_time") < pl.max_horizontal("dischtime", end_of_stay()))


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
