"""Text as charted to a number in the variable's unit, once per distinct (item, text) pair.

In: the pairs of a scan, the options. Out: `CleanPairs`, one entry per pair, with the reason if it is unusable.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flexcare_data.variables import GRADES, ITEMS, VARIABLE, VARIABLES, Item

if TYPE_CHECKING:
    from flexcare_data.options import Options

REFILL = {"Normal <3 Seconds": 0.0, "Abnormal >3 Seconds": 1.0}

_PLAIN = re.compile(r"\d+(\.\d*)?|\.\d+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_PRESSURE = re.compile(r"(\d+)/(\d+)")

LARGEST = 1e30
"""A larger number is dropped: models compute in float32, where it would become infinite once standardised."""

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


def clean_pairs(item_codes: np.ndarray, texts: list[str], options: Options) -> CleanPairs:
    """Clean every pair by the rules of its variable and the options `fio2`, `height`, `fluids`, `ranges` and others.

    ``item_codes`` are positions in `ITEMS`. All items are scanned under any options, so that every row is counted.
    """
    position = {name: index for index, name in enumerate(VARIABLES)}
    variable = np.array([position[ITEMS[code].variable] for code in item_codes], np.int8)
    cleaned = [clean(ITEMS[code], text, options) for code, text in zip(item_codes, texts, strict=True)]
    number = np.array([value for value, _ in cleaned], np.float64)
    reason = [why for _, why in cleaned]

    def order(pair: int) -> tuple:
        name = VARIABLES[variable[pair]]
        if options.duplicates == "mean" and name in GRADES:
            return variable[pair], -number[pair], texts[pair]  # the worst grade
        if options.duplicates == "published_max" and (name in GRADES or VARIABLE[name].compared_as_text):
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
        >>> item = next(item for item in ITEMS if item.itemid == 223761)
        >>> from flexcare_data.options import Options
        >>> clean(item, "98.6", Options())
        (37.0, '')
        >>> clean(item, "ERROR", Options())
        (nan, 'unparsable')
    """
    if item.option and getattr(options, item.option) == "absent":
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
        limits = VARIABLE[name].limits
        assert limits is not None  # every variable without grades has them
        outlier_low, valid_low, valid_high, outlier_high = limits
        if not outlier_low <= value <= outlier_high:
            return math.nan, "outlier"
        value = min(max(value, valid_low), valid_high)
    return value, OK


def _parse(name: str, text: str) -> float | None:
    value = _number(name, text)
    # Comparisons with NaN are false.
    return value if abs(value) <= LARGEST else None


def _number(name: str, text: str) -> float:
    if VARIABLE[name].plain_numbers:
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
    if name == "fraction_inspired_oxygen" and (options.fio2 == "always_divide" or value > 1):
        return value / 100
    if name == "oxygen_saturation" and value <= 1:
        return value * 100
    if name == "height" and item.unit == "inch" and options.height == "inches_converted":
        return value * INCHES
    return value * item.factor
