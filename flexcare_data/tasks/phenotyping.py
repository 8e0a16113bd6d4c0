"""25 groups of diagnoses of the admission."""

from __future__ import annotations

from flexcare_data.phenotypes import PHENOTYPES
from flexcare_data.tasks.base import Task

TASK = Task(
    name="phenotyping",
    abbreviation="PHE",
    id=2,
    kind="multilabel",
    labels=PHENOTYPES,
    n_outputs=25,
    section="past_medical_history",
    loss_weight=1.0,
    description="25 groups of diagnoses of the admission",
)
