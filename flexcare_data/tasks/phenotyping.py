"""25 groups of diagnoses of the admission."""

from __future__ import annotations

from flexcare_data.schema import PHENOTYPES
from flexcare_data.tasks.base import Cohort, Sources, Task, stays_with_series
from flexcare_data.tasks.whole_stay import cohort_of_whole_stays


def build(sources: Sources) -> Cohort:
    """All stays with a series; input is the whole stay, labels are the phenotypes of the admission."""
    stays = stays_with_series(sources).join(
        sources.phenotypes, on="stay_id", how="inner", validate="1:1", maintain_order="left"
    )
    return cohort_of_whole_stays(stays, TASK, sources, [{"step": "stays with a series", "samples": stays.height}])


TASK = Task(
    name="phenotyping",
    abbreviation="PHE",
    id=2,
    order=4,
    kind="multilabel",
    labels=PHENOTYPES,
    n_outputs=25,
    section="past_medical_history",
    loss_weight=1.0,
    description="25 groups of diagnoses of the admission",
    build=build,
)
