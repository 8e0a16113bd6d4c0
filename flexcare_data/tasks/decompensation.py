"""Death within 24 hours of a drawn hour."""

from __future__ import annotations

from flexcare_data.tasks.base import Task

TASK = Task(
    name="decompensation",
    abbreviation="DEC",
    id=1,
    kind="binary",
    labels=("label",),
    n_outputs=1,
    section="past_medical_history",
    loss_weight=0.2,
    description="death within 24 hours of a drawn hour",
)
