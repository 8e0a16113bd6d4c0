"""Diagnosis-related group of the admission."""

from __future__ import annotations

from flexcare_data.tasks.base import Task

TASK = Task(
    name="drg",
    abbreviation="DRG",
    id=6,
    kind="multiclass",
    labels=("label",),
    n_outputs=None,
    section="brief_hospital_course",
    loss_weight=1.0,
    description="diagnosis-related group of the admission",
)
