"""Death in hospital, asked 48 hours after ICU admission."""

from __future__ import annotations

from flexcare_data.tasks.base import Task

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
)
