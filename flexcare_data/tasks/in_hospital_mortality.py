"""Death in hospital, predicted 48 hours after ICU admission.

The label is the column died_in_hospital of STAYS, which `flexcare_data.stages.outcomes.with_mortality` defines.
"""

from __future__ import annotations

from flexcare_data.tasks.base import Cohort, Sources, Task, stays_with_series
from flexcare_data.tasks.first_hours import cohort_of_first_hours

PERIOD_HOURS = 48


def build(sources: Sources) -> Cohort:
    """Stays of at least 48 hours with an event in the first 48; input [intime, intime + 48 h]."""
    stays = stays_with_series(sources).with_columns(label="died_in_hospital")
    flow = [{"step": "stays with a series", "samples": stays.height}]
    return cohort_of_first_hours(stays, TASK, sources, PERIOD_HOURS, flow, about_death=True)


TASK = Task(
    name="in_hospital_mortality",
    abbreviation="IHM",
    id=0,
    order=1,
    kind="binary",
    labels=("label",),
    n_outputs=1,
    section="past_medical_history",
    loss_weight=0.2,
    description="death in hospital, asked 48 hours after ICU admission",
    build=build,
    options=("asked",),
)
