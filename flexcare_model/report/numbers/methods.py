"""The rows of the comparisons and their style in figures, as each model's file declares them.

In: `flexcare_data.discovery`. Out: the `Method`s of tables 3 to 6, with their colours
and markers. No model is imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from flexcare_data import discovery
from flexcare_data.discovery import DeclaredModel
from flexcare_model.report.figures.style import COLOURS, MARKERS

SINGLE = "single"
"""Experiment of a method that is trained per task; the name of the task replaces it."""
JOINT = "six_tasks"
"""Experiment of a method that is trained on all tasks together."""


@dataclass(frozen=True)
class Method:
    """One row of a comparison: its title and its runs."""

    title: str
    model: str
    experiment: str
    marks: tuple[str, ...] = ()

    def experiment_for(self, task: str) -> str:
        return task if self.experiment == SINGLE else self.experiment


def compared() -> tuple[Method, ...]:
    """Methods of table 3: the baselines, then FlexCare. A multi-task model has a row for each way to train it.

    Example:
        >>> [method.title for method in compared()]
        ['MedFuse', 'MT', 'M3Care', 'MMF', 'MultiModN', 'FlexCare-st', 'FlexCare']
    """
    return tuple(
        Method(title, model.name, experiment)
        for model in _in_comparison()
        for title, experiment in (
            ((f"{model.title}-st", SINGLE), (model.title, JOINT)) if model.multi_task else ((model.title, SINGLE),)
        )
    )


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
        Method(model.title, model.name, JOINT, tuple("✓" if mark else "–" for mark in model.marks))
        for model in (*discovery.models_of("ablation"), discovery.reference())
    )


def task_token_variants() -> tuple[Method, ...]:
    """Methods of table 6; FlexCare with its task token is the last."""
    return tuple(
        Method(model.title, model.name, JOINT) for model in (*discovery.models_of("task_token"), discovery.reference())
    )


def reference() -> Method:
    """The method that the others are compared with: FlexCare on all tasks together."""
    return compared()[-1]


def model_title(name: str) -> str:
    """Title of the model ``name``; the name itself where the model's file was removed after its run."""
    known = discovery.models().get(name)
    return known.title if known else name


def look(method: Method) -> dict[str, Any]:
    """Colour, marker and width of a method of table 3, the same in every figure."""
    colour, marker = _looks()[method.model, method.experiment]
    if method == reference():
        return {"color": colour, "marker": marker, "markersize": 3.2, "linewidth": 1.6}
    return {"color": colour, "marker": marker, "markersize": 2.6, "linewidth": 0.9}


def bar(method: Method) -> tuple[str, str]:
    """Fill and hatch of an ablation."""
    model = discovery.models()[method.model]
    of_role = [*discovery.models_of("ablation"), discovery.reference()]
    return model.colour or _free(other.colour for other in of_role)(of_role.index(model)), model.hatch


def _in_comparison() -> tuple[DeclaredModel, ...]:
    return (*discovery.models_of("baseline"), discovery.reference())


@cache
def _looks() -> dict[tuple[str, str], tuple[str, str]]:
    """Colour and marker of each method of table 3; methods that declare none get the remaining ones."""
    known = discovery.models()
    declared = {}
    for method in compared():
        model = known[method.model]
        alone = model.multi_task and method.experiment == SINGLE
        colour, marker = (model.colour_alone, model.marker_alone) if alone else (model.colour, model.marker)
        declared[method.model, method.experiment] = (colour, marker)
    colour_of = _free(colour for colour, _ in declared.values())
    marker_of = _free((marker for _, marker in declared.values()), MARKERS)
    without = [key for key, (colour, marker) in declared.items() if not (colour and marker)]
    return {
        key: (colour or colour_of(without.index(key)), marker or marker_of(without.index(key)))
        for key, (colour, marker) in declared.items()
    }


def _free(taken: Iterable[str], choice: tuple[str, ...] = COLOURS):
    """A function from a place to an entry of ``choice`` that is not ``taken``; it starts again at the end."""
    used = set(taken)
    left = [entry for entry in choice if entry not in used] or list(choice)
    return lambda place: left[place % len(left)]
