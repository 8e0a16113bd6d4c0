"""What a task is: the question, its outputs, its loss weight and its two metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["binary", "multilabel", "multiclass"]

METRICS: dict[Kind, tuple[str, str]] = {
    "binary": ("auroc", "auprc"),
    "multilabel": ("macro_auroc", "micro_auroc"),
    "multiclass": ("micro_f1", "macro_f1"),
}
"""The two metrics of the paper by kind of task; their sum selects the checkpoint."""


@dataclass(frozen=True)
class Task:
    """One of the seven questions.

    Attributes:
        name: as in targets and file names.
        abbreviation: as in the paper's tables.
        id: row of the task in the embedding table of the models (the numbers of the released code).
        kind: decides loss, activation and metrics.
        labels: label columns of the cohort, in order; ``("label",)`` for one answer.
        n_outputs: logits of the head; None where the data decides (drg: number of codes).
        section: section of the discharge summary that is the note input.
        loss_weight: weight of the task in the multi-task loss (paper, section 4).
        description: one line for menus and reports.
    """

    name: str
    abbreviation: str
    id: int
    kind: Kind
    labels: tuple[str, ...]
    n_outputs: int | None
    section: Literal["past_medical_history", "brief_hospital_course"]
    loss_weight: float
    description: str

    @property
    def metrics(self) -> tuple[str, str]:
        return METRICS[self.kind]
