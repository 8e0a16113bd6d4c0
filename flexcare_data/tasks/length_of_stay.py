"""Remaining days in the ICU at a drawn hour, in ten classes."""

from __future__ import annotations

from flexcare_data.tasks.base import Task

TASK = Task(
    name="length_of_stay",
    abbreviation="LOS",
    id=3,
    kind="multiclass",
    labels=("label",),
    n_outputs=10,
    section="past_medical_history",
    loss_weight=0.5,
    description="remaining days in the ICU at a drawn hour, in ten classes",
)
