"""Text as charted to a number in the variable's unit, once per distinct (item, text) pair.

In: the pairs that a scan met and the options. Out: `CleanPairs`, one entry per pair; what cannot be used has a reason.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from flexcare_data.protocol import Options
from flexcare_data.variables import GRADES, VARIABLES, Item, items

RANGES: dict[str, tuple[float, float, float, float]] = {
    "diastolic_blood_pressure": (0, 0, 375, 375),
    "fraction_inspired_oxygen": (0.2, 0.21, 1, 1.1),
    "glucose": (0, 33, 2000, 2200),
    "heart_rate": (0, 0, 350, 390),
    "height": (0, 0, 240, 275),
    "mean_blood_pressure": (0, 14, 330, 375),
    "oxygen_saturation": (0, 0, 100, 150),
    "respiratory_rate": (0, 0, 300, 330),
    "systolic_blood_pressure": (0, 0, 375, 375),
    "temperature": (14.2, 26, 45, 47),
    "weight": (0, 0, 250, 250),
    "ph": (6.3, 6.3, 8.4, 10),
}
"""Outlier low, valid low, valid high, outlier high, in the variable's unit (the published variable ranges)."""

COMPARED_AS_TEXT = ("heart_rate", "respiratory_rate", "mean_blood_pressure", *GRADES)
"""Of several values at one time the published code keeps the largest *text* of these ('98' beats '102')."""

REFILL = {"Normal <3 Seconds": 0.0, "Abnormal >3 Seconds": 1.0}

_PLAIN = re.compile(r"\d+(\.\d*)?|\.\d+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_PRESSURE = re.compile(r"(\d+)/(\d+)")

LARGEST = 1e30
"""A larger number is none: models compute in float32, where it would become infinite once standardised."""

POUNDS = 0.453592
INCHES = 2.54
FAHRENHEIT_FROM = 79.0
"""Body temperatures of 79 or more are Fahrenheit: no patient is warmer than 79 degrees Celsius."""

OK = ""


@dataclass(frozen=True)
class CleanPairs:
    """Per pair: variable (row of `VARIABLES`), cleaned number (NaN if unusable), text, rank and reason.

    ``rank`` orders the pairs of one variable so that of several values at one time the one with the largest rank is
    kept. ``reason`` is empty where the pair can be used.
    """

    variable: np.ndarray
    number: np.ndarray
    rank: np.ndarray
    text: list[str]
    reason: list[str]

    @property
    def usable(self) -> np.ndarray:
        return ~np.isnan(self.number)


def wanted_items() -> tuple[Item, ...]:
    """The items that a scan keeps; the position of an item is its code. Options act later, so that all is counted."""
    return items()


def clean_pairs(item_codes: np.ndarray, texts: list[str], options: Options) -> CleanPairs:
    """Clean every pair by the rules of its variable and the options `fio2`, `height`, `fluids`, `ranges` and others."""
    known = wanted_items()
    position = {name: index for index, name in enumerate(VARIABLES)}
    variable = np.array([position[known[code].variable] for code in item_codes], np.int8)
    cleaned = [clean(known[code], text, options) for code, text in zip(item_codes, texts, strict=True)]
    number = np.array([value for value, _ in cleaned], np.float64)
    reason = [why for _, why in cleaned]

    def order(pair: int) -> tuple:
        name = VARIABLES[variable[pair]]
        if options.duplicates == "mean" and name in GRADES:
            return variable[pair], -number[pair], texts[pair]  # the worst grade
        if options.duplicates == "published_max" and name in COMPARED_AS_TEXT:
            return variable[pair], 0.0, texts[pair]
        return variable[pair], number[pair], texts[pair]

    rank = np.zeros(len(texts), np.int64)
    usable = [pair for pair in range(len(texts)) if not reason[pair]]
    # Equal (variable, number, text) of two items share a rank, so that file order never decides.
    previous, current = None, -1
    for pair in sorted(usable, key=order):
        current += order(pair) != previous
        previous = order(pair)
        rank[pair] = current
    return CleanPairs(variable, number, rank, texts, reason)


def clean(item: Item, text: str, options: Options) -> tuple[float, str]:
    """Number of one charted text (the grade for GCS items) and '', or NaN and the reason it cannot be used.

    Example:
        >>> item = next(item for item in items() if item.itemid == 223761)
        >>> clean(item, "98.6", Options())
        (37.0, '')
        >>> clean(item, "ERROR", Options())
        (nan, 'unparsable')
    """
    if item.option == "capillary_refill" and options.capillary_refill == "absent":
        return math.nan, "item_off_by_option"
    if options.fluids == "blood" and item.fluid not in ("", "blood"):
        return math.nan, "fluid_other_than_blood"
    name = item.variable
    if name in GRADES:
        grade = GRADES[name].get(text)
        return (float(grade), OK) if grade else (math.nan, "unknown_spelling")
    if name == "capillary_refill_rate":
        refill = REFILL.get(text)
        return (refill, OK) if refill is not None else (math.nan, "unknown_spelling")
    value = _parse(name, text)
    if value is None:
        return math.nan, "unparsable"
    value = _convert(item, value, options)
    if options.ranges == "on":
        outlier_low, valid_low, valid_high, outlier_high = RANGES[name]
        if not outlier_low <= value <= outlier_high:
            return math.nan, "outlier"
        value = min(max(value, valid_low), valid_high)
    return value, OK


def _parse(name: str, text: str) -> float | None:
    value = _number(name, text)
    # Comparisons with NaN are false.
    return value if abs(value) <= LARGEST else None


def _number(name: str, text: str) -> float:
    if name in ("glucose", "ph", "oxygen_saturation"):
        # The published code takes these only where the whole text is a plain number.
        return float(text) if text.isascii() and _PLAIN.fullmatch(text) else math.nan
    pressure = _PRESSURE.fullmatch(text) if name.endswith("olic_blood_pressure") else None
    if pressure:
        return float(pressure[1 if name.startswith("systolic") else 2])
    stripped = text.strip()
    return float(stripped) if _NUMBER.fullmatch(stripped) and stripped.isascii() else math.nan


def _convert(item: Item, value: float, options: Options) -> float:
    name = item.variable
    if name == "temperature" and value >= FAHRENHEIT_FROM:
        return (value - 32) * 5 / 9
    if name == "weight" and item.unit == "lb":
        return value * POUNDS
    if name == "fraction_inspired_oxygen" and (options.fio2 == "always_divide" or value > 1):
        return value / 100
    if name == "oxygen_saturation" and value <= 1:
        return value * 100
    if name == "height" and item.unit == "inch" and options.height == "inches_converted":
        return value * INCHES
    return value
