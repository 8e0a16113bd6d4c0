"""Style of each method in figures: colour, marker and hatch, as each model's file declares them.

In: `flexcare_data.discovery`. Out: arguments of matplotlib, the same for a method in every figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from flexcare_data import discovery
from flexcare_model.report.figures.style import COLOURS, MARKERS
from flexcare_model.report.numbers.methods import SINGLE, Method, compared, reference


def line_style(method: Method) -> dict[str, Any]:
    """Colour, marker and width of the line of a method of table 3."""
    colour, marker = _declared_styles()[method.model, method.experiment]
    if method == reference():
        return {"color": colour, "marker": marker, "markersize": 3.2, "linewidth": 1.6}
    return {"color": colour, "marker": marker, "markersize": 2.6, "linewidth": 0.9}


def bar_style(method: Method) -> tuple[str, str]:
    """Fill and hatch of an ablation."""
    model = discovery.models()[method.model]
    of_role = [*discovery.models_of("ablation"), discovery.reference()]
    return model.colour or _free(other.colour for other in of_role)(of_role.index(model)), model.hatch


@cache
def _declared_styles() -> dict[tuple[str, str], tuple[str, str]]:
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


def _free(taken: Iterable[str], choice: tuple[str, ...] = COLOURS) -> Callable[[int], str]:
    """A function from a place to an entry of ``choice`` that is not ``taken``; it starts again at the end."""
    used = set(taken)
    left = [entry for entry in choice if entry not in used] or list(choice)
    return lambda place: left[place % len(left)]
