"""14 CheXpert labels of a chest radiograph."""

from __future__ import annotations

from flexcare_data.schema import CHEXPERT
from flexcare_data.tasks.base import Task

TASK = Task(
    name="diagnosis",
    abbreviation="DIA",
    id=5,
    kind="multilabel",
    labels=CHEXPERT,
    n_outputs=14,
    section="past_medical_history",
    loss_weight=0.2,
    description="14 CheXpert labels of a chest radiograph",
)
