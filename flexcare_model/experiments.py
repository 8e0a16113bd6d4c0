"""The experiments of a run: all tasks together, one task, or drg with a share of its training samples.

In: nothing. Out: `EXPERIMENTS`, by the name that is part of a run's path. No model library is imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flexcare_data.discovery import task_names


@dataclass(frozen=True)
class Experiment:
    """What a run trains on.

    Attributes:
        name: as in the path of the run.
        tasks: in training order; None: the setting `train.tasks`.
        percent: share of the training samples; validation and test are always complete.
        pretrained: starts from the best weights of the multi-task run of the same model and seed.
        fine_tuning: counts its epochs by the setting `baseline_epochs`, as the paper's fine-tuning does.
    """

    name: str
    tasks: tuple[str, ...] | None
    percent: int = 100
    pretrained: bool = False
    fine_tuning: bool = False


MULTI_TASK = "six_tasks"
TRANSFER_TASK = "drg"


def _experiments() -> tuple[Experiment, ...]:
    single = tuple(Experiment(name, (name,), fine_tuning=name == TRANSFER_TASK) for name in task_names())
    transfer = tuple(
        Experiment(
            f"{TRANSFER_TASK}_{percent}pct" + ("_pretrained" if pretrained else ""),
            (TRANSFER_TASK,),
            percent,
            pretrained,
            fine_tuning=True,
        )
        for percent in (1, 100)
        for pretrained in (False, True)
    )
    return (Experiment(MULTI_TASK, None), *single, *transfer)


EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in _experiments()}
"""All experiments, by name."""

TRANSFER = tuple(name for name, experiment in EXPERIMENTS.items() if name.startswith(f"{TRANSFER_TASK}_"))
"""The experiments of table 5."""


def why_no_samples(absent: Iterable[str]) -> str:
    """Why a cohort has no training samples; ``absent``: data sets that are not set.

    Example:
        >>> why_no_samples(["mimic_iv_note"])
        'its cohort has no training samples (raw.mimic_iv_note is not set)'
    """
    reasons = ", ".join(f"raw.{root} is not set" for root in absent)
    return "its cohort has no training samples" + (f" ({reasons})" if reasons else "")


def lines_to_paste(absent: Iterable[str]) -> str:
    """Lines for the configuration file that set the data sets ``absent``; an empty text where there is none."""
    lines = [f"  {root}: /path/to/{root}" for root in absent]
    return "\n".join(["With that data, put this into your configuration file:", "raw:", *lines]) if lines else ""
