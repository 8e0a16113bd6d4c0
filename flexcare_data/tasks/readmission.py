"""Readmission or death within 30 days of discharge."""

from __future__ import annotations

from flexcare_data.tasks.base import Task

TASK = Task(
    name="readmission",
    abbreviation="REA",
    id=4,
    kind="binary",
    labels=("label",),
    n_outputs=1,
    section="past_medical_history",
    loss_weight=0.2,
    description="readmission or death within 30 days of discharge",
)
