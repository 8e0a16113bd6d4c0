"""Whether a fitted scaler can be that of plausible values.

In: the content of scaler.json. Out: the variables whose standard deviation shows that it cannot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flexcare_data.variables import VARIABLE


@dataclass(frozen=True)
class Implausible:
    """A standard deviation that is too large.

    Attributes:
        variable: its name.
        std: as fitted, in the variable's unit.
        highest: the largest one that plausible values can have.
        published: that of MIMIC-III (option `scaler: mimic3`); None for a variable without one.
    """

    variable: str
    std: float
    highest: float
    published: float | None


def implausible(scaler: Mapping[str, Any]) -> list[Implausible]:
    """Standard deviations of a scaler fitted on the train split that no plausible values have.

    Plausible values lie between the outlier limits of their variable (option `ranges`). Numbers between two limits have
    a standard deviation of at most half their distance, however they are distributed: a larger one proves that values
    outside the limits were among the hours. The published deviations are no measure, as some of them have outliers.
    """
    if scaler["source"] != "train":
        return []
    found = []
    for name, std in zip(scaler["columns"], scaler["std"], strict=True):
        limits, published = VARIABLE[name].limits, VARIABLE[name].mimic3
        if limits and std > (limits[3] - limits[0]) / 2:
            found.append(Implausible(name, std, (limits[3] - limits[0]) / 2, published[1] if published else None))
    return found


def warning(found: Implausible) -> str:
    """One line for a log."""
    published = "" if found.published is None else f", published {found.published:,.1f}"
    return (
        f"scaler: the standard deviation of {found.variable} is {found.std:,.0f}{published}; plausible values have at "
        f"most {found.highest:,.1f}. Set `ranges: on`, which removes outliers"
    )
