"""The seven tasks, in the training order of the paper (drg last). A new task is one file here and one line below."""

from __future__ import annotations

from flexcare_data.tasks import (
    decompensation,
    diagnosis,
    drg,
    in_hospital_mortality,
    length_of_stay,
    phenotyping,
    readmission,
)
from flexcare_data.tasks.base import METRICS, Task

TASKS: dict[str, Task] = {
    module.TASK.name: module.TASK
    for module in (
        in_hospital_mortality,
        length_of_stay,
        decompensation,
        phenotyping,
        readmission,
        diagnosis,
        drg,
    )
}

__all__ = ["METRICS", "TASKS", "Task"]
