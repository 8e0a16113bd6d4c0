"""Resolve duplicates: linked rows to one value per stay, time and variable.

In: all linked rows of some subjects, and the cleaned number of each (item, text) pair. Out: the values of each stay,
sorted by time and variable, and the number of further values at the same time.

All events of a subject at one charttime are a moment. A moment belongs to every kept stay that one of its events is
linked to, and to every kept stay of the subject with intime <= charttime <= outtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flexcare_data.compiled import compiled
from flexcare_data.raw.event_scan import KeptStays
from flexcare_data.stages.events.cleaning import CleanPairs
from flexcare_data.variables import CATEGORIES, VARIABLES

if TYPE_CHECKING:
    from flexcare_data.options import Options

ORDER: tuple[str, ...] = tuple(sorted(VARIABLES))
"""EVENTS is sorted by the variable's name; codes are positions in this order."""

GCS = ("gcs_eye", "gcs_motor", "gcs_verbal")
"""Variables whose grades add up to the total (option `gcs_total: derived`)."""

SETTLED = np.dtype([("hours", "<f8"), ("stored_hours", "<f8"), ("number", "<f8"), ("text", "<i4"), ("variable", "i1")])
"""A value of a stay: hours from intime until it was charted and until it could be read, number, rank of its text
(`NO_TEXT`: never charted), variable's code."""

NO_TEXT = -1


@dataclass(frozen=True)
class Settler:
    """Resolves duplicates for any subset of the subjects."""

    kept: KeptStays
    clean: CleanPairs
    options: Options
    code: np.ndarray
    """Variable's code of each pair."""
    number: np.ndarray
    """Number of each rank."""

    @classmethod
    def of(cls, kept: KeptStays, clean: CleanPairs, options: Options) -> Settler:
        code = np.array([ORDER.index(name) for name in VARIABLES], np.int8)[clean.variable]
        number = np.full(int(clean.rank.max(initial=0)) + 1, np.nan)
        number[clean.rank[clean.usable]] = clean.number[clean.usable]
        return cls(kept, clean, options, code, number)

    def settle(self, linked: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Resolve the duplicates of ``linked`` (`event_scan_kernel.LINKED`): all rows of some subjects.

        Returns:
            the stay of each settled value (row in ``kept``), the values, and how many further values at one time each
            variable had.
        """
        linked = linked[self.clean.usable[linked["pair"]]]
        if not len(linked):
            return np.zeros(0, np.int64), np.zeros(0, SETTLED), np.zeros(len(ORDER), np.int64)
        code, rank = self.code[linked["pair"]], self.clean.rank[linked["pair"]]
        subject, time = self.kept.subject_id[linked["stay"]], linked["time"]
        order = _sorted_by(subject, time, code, rank if self.options.duplicates == "mean" else None)
        columns = (subject, time, code, rank, linked["stay"], linked["delay"])
        subject, time, code, rank, stay, delay = (column[order] for column in columns)
        new_moment = _changes(subject, time)
        new_value = new_moment | _changes(code)
        first = np.flatnonzero(new_value)
        repeats = np.bincount(code[~new_value], minlength=len(ORDER))
        text = np.maximum.reduceat(rank, first)
        number, wait = self.number[text], _shortest(delay, rank, text, first)
        if self.options.duplicates == "mean":
            number, text = self._means(rank, code, first, number, text)
            wait = np.where(text == NO_TEXT, np.maximum.reduceat(delay, first), wait)  # a mean needs all its values
        moment = np.cumsum(new_moment) - 1
        values = {"moment": moment[first], "variable": code[first], "number": number, "text": text, "delay": wait}
        if self.options.gcs_total == "derived":
            values = _with_gcs_total(values)
        start = np.flatnonzero(new_moment)
        moments = (subject[start], time[start], np.append(start, len(stay)), stay)
        return *self._assign_to_stays(values, moments), repeats

    def _means(
        self, rank: np.ndarray, code: np.ndarray, first: np.ndarray, number: np.ndarray, text: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean of the numbers of a group; for GCS and refill (categories) the worst value: that of largest rank."""
        size = np.diff(first, append=len(rank))
        mean = np.add.reduceat(self.number[rank], first) / size
        categories = [ORDER.index(name) for name in CATEGORIES]
        averaged = (size > 1) & ~np.isin(code[first], categories) & (mean != number)
        return np.where(averaged, mean, number), np.where(averaged, NO_TEXT, text)

    def _assign_to_stays(
        self, values: dict[str, np.ndarray], moments: tuple[np.ndarray, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        kept = self.kept
        dtypes = {"moment": np.int64, "variable": np.int8, "number": np.float64, "text": np.int64, "delay": np.int64}
        columns = tuple(np.asarray(values[name], dtype) for name, dtype in dtypes.items())
        arguments = (moments, columns, kept.by_subject, kept.sorted_subject, kept.intime, kept.outtime)
        n = _assign(*arguments, np.zeros(0, np.int64), np.zeros(0, SETTLED))
        stay, settled = np.empty(n, np.int64), np.empty(n, SETTLED)
        _assign(*arguments, stay, settled)
        return stay, settled


@compiled
def _assign(moments, values, by_subject, sorted_subject, intime, outtime, stay, settled):
    """Count the values that the stays get, and write as many of them as ``settled`` has room for.

    ``moments`` are subject, time, first event of each moment (and the end of the last), and the stay of each event;
    ``values`` are moment, variable, number, text and delay, sorted by moment.
    """
    subject, time, events, stay_of_event = moments
    moment_of_value, variable, number, text, delay = values
    n = top = first = value = np.int64(0)
    while top < len(subject):
        end = top
        while end < len(subject) and subject[end] == subject[top]:
            end += 1
        i = np.searchsorted(sorted_subject, subject[top])
        while i < len(sorted_subject) and sorted_subject[i] == subject[top]:
            candidate = by_subject[i]
            value = first
            for moment in range(top, end):
                member = intime[candidate] <= time[moment] <= outtime[candidate]
                event = events[moment]
                while not member and event < events[moment + 1]:
                    member = stay_of_event[event] == candidate
                    event += 1
                while value < len(moment_of_value) and moment_of_value[value] == moment:
                    if member:
                        if n < len(settled):
                            stay[n] = candidate
                            since = time[moment] - intime[candidate]
                            settled[n].hours, settled[n].stored_hours = since / 3600.0, (since + delay[value]) / 3600.0
                            settled[n].number, settled[n].text = number[value], text[value]
                            settled[n].variable = variable[value]
                        n += 1
                    value += 1
            i += 1
        first, top = value, end
    return n


def _sorted_by(subject: np.ndarray, time: np.ndarray, code: np.ndarray, rank: np.ndarray | None) -> np.ndarray:
    """Order by subject, time, variable (and rank). One integer key sorts faster than four columns."""
    spans = [int(part.max() - part.min()) + 1 for part in (subject, time)]
    if rank is None and spans[0] * spans[1] * len(ORDER) < 1 << 62:
        key = ((subject - subject.min()) * spans[1] + (time - time.min())) * len(ORDER) + code
        return np.argsort(key, kind="stable")
    return np.lexsort((rank, code, time, subject) if rank is not None else (code, time, subject))


def _shortest(delay: np.ndarray, rank: np.ndarray, chosen: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Delay of the chosen value of each group: the shortest of the rows with its rank, as equal values are one."""
    is_chosen = rank == np.repeat(chosen, np.diff(first, append=len(rank)))
    return np.minimum.reduceat(np.where(is_chosen, delay, np.iinfo(delay.dtype).max), first)


def _changes(*columns: np.ndarray) -> np.ndarray:
    """True at the first row and wherever a column differs from the row before."""
    changed = np.zeros(len(columns[0]), bool)
    changed[0] = True
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return changed


def _with_gcs_total(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add the sum of the three grades where all three are charted at one time (Teasdale 1974)."""
    graded = np.isin(values["variable"], [ORDER.index(name) for name in GCS])
    n_moments = int(values["moment"][-1]) + 1
    n_grades = np.bincount(values["moment"][graded], minlength=n_moments)
    total = np.bincount(values["moment"][graded], weights=values["number"][graded], minlength=n_moments)
    longest = np.zeros(n_moments, np.int64)
    np.maximum.at(longest, values["moment"][graded], values["delay"][graded])
    moments = np.flatnonzero(n_grades == len(GCS))
    added = {
        "moment": moments,
        "variable": np.full(len(moments), ORDER.index("gcs_total")),
        "number": total[moments],
        "text": np.full(len(moments), NO_TEXT),
        "delay": longest[moments],
    }
    merged = {name: np.concatenate([values[name], added[name]]) for name in values}
    order = np.lexsort((merged["variable"], merged["moment"]))
    return {name: column[order] for name, column in merged.items()}
