"""The rows of the comparisons, as each model's file declares them.

In: `flexcare_data.discovery`. Out: the `Method`s of tables 3 to 6. No model is imported.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from flexcare_data import discovery
from flexcare_data.discovery import DeclaredModel
from flexcare_model.experiments import MULTI_TASK

SINGLE = "single"
"""Experiment of a method that is trained per task; the name of the task replaces it."""


@dataclass(frozen=True)
class Method:
    """One row of a comparison: its title and its runs."""

    title: str
    model: str
    experiment: str
    marks: tuple[str, ...] = ()

    def experiment_for(self, task: str) -> str:
        return task if self.experiment == SINGLE else self.experiment


def compared(trained: Collection[str] = ()) -> tuple[Method, ...]:
    """Methods of table 3: the baselines, then FlexCare. A multi-task model has a row for each way to train it.

    Args:
        trained: models with runs; a variant among them has a row before FlexCare.

    Example:
        >>> [method.title for method in compared()]
        ['MedFuse', 'MT', 'M3Care', 'MMF', 'MultiModN', 'FlexCare-st', 'FlexCare']
    """
    *baselines, flexcare = _in_comparison()
    variants = [model for model in discovery.models_of("variant") if model.name in trained]
    found: list[Method] = []
    for model in (*baselines, flexcare):
        if model.multi_task:
            found.append(Method(f"{model.title}-st", model.name, SINGLE))
        found.append(Method(model.title, model.name, MULTI_TASK if model.multi_task else SINGLE))
    beside = [Method(model.title, model.name, MULTI_TASK) for model in variants]
    return (*found[:-1], *beside, found[-1])


def transferred(setting: str) -> tuple[Method, ...]:
    """Methods of table 5 in ``setting``; a multi-task model is trained from its multi-task weights and from scratch."""
    found = []
    for model in _in_comparison():
        if model.multi_task:
            found.append(Method(f"{model.title}, pre-trained on six tasks", model.name, f"{setting}_pretrained"))
            found.append(Method(f"{model.title}, from scratch", model.name, setting))
        else:
            found.append(Method(model.title, model.name, setting))
    return tuple(found)


def ablations() -> tuple[Method, ...]:
    """Methods of table 4 with a mark for each part of `discovery.MARKS`; the complete model is the last."""
    return tuple(
        Method(model.title, model.name, MULTI_TASK, tuple("✓" if mark else "–" for mark in model.marks))
        for model in (*discovery.models_of("ablation"), discovery.reference())
    )


def task_token_variants() -> tuple[Method, ...]:
    """Methods of table 6; FlexCare with its task token is the last."""
    variants = (*discovery.models_of("task_token"), discovery.reference())
    return tuple(Method(model.title, model.name, MULTI_TASK) for model in variants)


def reference() -> Method:
    """The method that the others are compared with: FlexCare on all tasks together."""
    return compared()[-1]


def model_title(name: str) -> str:
    """Title of the model ``name``; the name itself where the model's file was removed after its run."""
    known = discovery.models().get(name)
    return known.title if known else name


def _in_comparison() -> tuple[DeclaredModel, ...]:
    return (*discovery.models_of("baseline"), discovery.reference())
