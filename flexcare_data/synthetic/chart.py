"""Bedside charting: chartevents and outputevents of the ICU stays.

In: a `Population` and a range of its stays. Out: the rows of these stays, sorted as published (by stay, time, item).
All draws are arrays over events; some hundreds of stays are made at a time, so memory does not grow with the data set.

What is charted follows the stay's factors `ts_s` (breathing, oxygen, pulse, pressure, consciousness) and `ts_c`
(weight, temperature, voice), a crisis of about a day (before a death in the unit, but also in some of the other severe
stays) and the recovery of the last day before leaving (better breathing, the voice back).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl

from flexcare_data.synthetic.items import GRADES, UNKNOWN_GRADE, chart_items
from flexcare_data.synthetic.population import Population, generator

DISTRACTOR_RATIO = 2.6
"""Rows of unused items per used row: 72 % of the table, as published."""
STEP_HOURS = 2.2
"""Mean time between two rounds of charting; real charting is about hourly."""
_MESS_TEXTS = ("ERROR", ">500", "___", "NaN", "120/80", "", "-1", "see note")


@dataclass
class _Rows:
    """Columns of events as lists of arrays; `text` is an index into `texts`, -1 for a number."""

    stay: list = field(default_factory=list)
    minute: list = field(default_factory=list)
    item: list = field(default_factory=list)
    number: list = field(default_factory=list)
    decimals: list = field(default_factory=list)
    text: list = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def add(self, stay, minute, item, number=None, *, decimals=0, text=None) -> None:
        n = len(stay)
        self.stay.append(stay)
        self.minute.append(minute)
        self.item.append(np.broadcast_to(np.asarray(item, np.int64), n))
        self.number.append(np.zeros(n) if number is None else np.asarray(number, float))
        self.decimals.append(np.full(n, decimals, np.int8))
        self.text.append(np.full(n, -1) if text is None else text)

    def columns(self) -> list[np.ndarray]:
        return [
            np.concatenate(part) for part in (self.stay, self.minute, self.item, self.number, self.decimals, self.text)
        ]


@dataclass(frozen=True)
class _State:
    """Rounds of charting (one element each) and how ill the patient is at that time, 0 to about 1."""

    stay: np.ndarray
    minute: np.ndarray
    severity: np.ndarray
    chronicity: np.ndarray
    crisis: np.ndarray
    recovery: np.ndarray


def chartevents(
    people: Population, start: int, stop: int, *, seed: int, step_hours: float = STEP_HOURS
) -> pl.DataFrame:
    """Rows of the stays ``start`` to ``stop`` (positions in ``people.stays``); ``seed`` and ``start`` fix the draws."""
    rng = generator(seed, 1, start)
    stays = people.stays[start:stop]
    known = people.admissions[stays["admission"].to_numpy()]
    state = _rounds(rng, stays, known, step_hours)
    rows = _Rows(
        texts=[*_MESS_TEXTS, UNKNOWN_GRADE, *(word for item in GRADES.values() for pair in item for word in pair)]
    )
    _vitals(rng, rows, state, ventilated=known["ts_c"].to_numpy() > 0)
    _coma(rng, rows, state)
    _once_a_stay(rng, rows, stays, known)
    _damage(rng, rows)
    _distractors(rng, rows, state)
    return _frame(rng, rows, people, stays)


def _rounds(rng, stays: pl.DataFrame, known: pl.DataFrame, step_hours: float) -> _State:
    hours = stays["hours"].to_numpy()
    # Charting runs from two hours before the stay to two hours after it.
    count = np.maximum(2, np.ceil((hours + 4) / step_hours)).astype(np.int64)
    stay = np.repeat(np.arange(len(hours)), count)
    k = np.arange(len(stay)) - np.repeat(np.cumsum(count) - count, count)
    time = -2 + step_hours * (k + rng.random(len(stay)) * 0.9)
    minute = (stays["start"].to_numpy()[stay] + time * 3600) // 60
    # Most charting is entered for the full hour.
    minute = np.where(rng.random(len(stay)) < 0.6, minute // 60 * 60, minute).astype(np.int64)
    end = hours[stay]
    dies = stays["dies"].to_numpy()
    severe = known["ts_s"].to_numpy() > 0
    length = rng.uniform(18, 26, len(hours))
    decoy = severe & ~dies & (rng.random(len(hours)) < 0.3) & (hours > 40)
    passing = 4 + rng.random(len(hours)) * np.maximum(hours - length - 10, 1)
    begin = np.where(dies, hours - length, np.where(decoy, passing, np.inf))
    crisis = ((time >= begin[stay]) & (time < (begin + length)[stay])).astype(float)
    recovery = np.where(dies[stay], 0.0, np.clip(1 - (end - time) / 24, 0, 1))
    severity = np.clip(0.5 + 0.5 * known["ts_s"].to_numpy(), -0.2, 1.3)[stay] * (1 - 0.6 * recovery)
    chronicity = np.clip(0.5 + 0.5 * known["ts_c"].to_numpy(), -0.2, 1.3)[stay]
    return _State(stay, minute, severity, chronicity, crisis, recovery)


def _vitals(rng, rows: _Rows, state: _State, ventilated: np.ndarray) -> None:
    n = len(state.stay)
    ill, old, crisis = state.severity, state.chronicity, state.crisis

    def chart(share, item, number, *, decimals=0, where=None):
        chosen = rng.random(n) < share
        if where is not None:
            chosen &= where
        rows.add(state.stay[chosen], state.minute[chosen], item, number[chosen], decimals=decimals)

    def noise(sd):
        return sd * rng.standard_normal(n)

    line = state.stay % 3 == 0  # one stay in three has an arterial line beside the cuff
    tube = ventilated[state.stay]
    pulse = 74 + 30 * ill + 30 * crisis + noise(5)
    breaths = 14 + 12 * ill + 14 * crisis + noise(1.5)
    mean = 88 - 10 * ill - 22 * crisis + noise(4)
    saturation = np.minimum(98 - 3 * ill - 6 * crisis + noise(1), 100)
    celsius = 36.6 + 1.8 * old + noise(0.25)
    chart(0.97, 220045, pulse)
    chart(0.9, 220210, breaths)
    for item, share in ((224690, 0.15), (224689, 0.1), (224422, 0.05)):
        chart(share, item, breaths + noise(1), where=tube)
    for share, items, where in (
        (0.85, (220179, 220180, 220181), None),
        (0.8, (220050, 220051, 220052), line),
        (0.1, (225309, 225310, 225312), line),
        (0.02, (224167, 224643, None), None),
        (0.01, (227243, None, 224322), None),
    ):
        chosen = rng.random(n) < share
        chosen = chosen if where is None else chosen & where
        for pressure, shift in zip(items, (34, -16, 0), strict=True):
            if pressure is not None:
                chart(1.0, pressure, mean + shift + noise(2), where=chosen)
    chart(0.9, 220277, saturation)
    chart(0.03, 220227, saturation)
    chart(0.01, 220227, saturation / 100, decimals=2)
    chart(0.35, 223761, celsius * 9 / 5 + 32, decimals=1)
    chart(0.15, 223762, celsius, decimals=1)
    oxygen = np.clip(np.round((30 + 35 * ill + 40 * crisis + noise(3)) / 5) * 5, 21, 100)
    chart(0.5, 223835, oxygen)
    chart(0.01, 223835, oxygen / 100, decimals=2)
    sugar = 115 + 30 * crisis + np.abs(noise(30))
    for item, share in ((225664, 0.2), (220621, 0.1), (226537, 0.03)):
        chart(share, item, sugar)
    acid = 7.40 - 0.06 * ill - 0.1 * crisis + noise(0.03)
    chart(0.06, 223830, acid, decimals=2, where=line)
    chart(0.03, 220274, acid - 0.03, decimals=2)
    chart(0.06, 224639, _weight(old, state.stay), decimals=1)


def _weight(chronicity: np.ndarray, stay: np.ndarray) -> np.ndarray:
    """Kilograms: 58 or 112 by the hidden factor, and some noise per stay."""
    return 58 + 54 * chronicity + (stay % 7)


def _coma(rng, rows: _Rows, state: _State) -> None:
    rounds = np.flatnonzero(rng.random(len(state.stay)) < 0.5)
    stay, minute = state.stay[rounds], state.minute[rounds]
    drowsy = np.clip(state.severity[rounds] + 1.6 * state.crisis[rounds] + 0.2 * rng.standard_normal(len(rounds)), 0, 2)
    # On the last day before leaving the unit alive the tube is out and the mind is clear.
    leaving = state.recovery[rounds] > 0
    tube = (state.chronicity[rounds] + 0.15 * rng.standard_normal(len(rounds)) > 0.5) & ~leaving
    silent = np.where(rng.random(len(rounds)) < 0.9, 0, 1)
    voice = np.where(leaving, 5, np.clip(np.round(4.4 - 1.5 * drowsy), 2, 4))
    grades = {
        220739: np.clip(np.round(3.2 - 1.6 * drowsy), 0, 3),
        223901: np.clip(np.round(5.4 - 2.6 * drowsy), 0, 5),
        223900: np.where(tube, silent, voice),
    }
    offset = len(_MESS_TEXTS) + 1
    for item, grade in grades.items():
        numbered = rng.random(len(rounds)) < 0.2
        text = offset + 2 * grade.astype(np.int64) + numbered
        text = np.where(rng.random(len(rounds)) < 0.005, len(_MESS_TEXTS), text)
        rows.add(stay, minute, item, text=text)
        offset += 2 * len(GRADES[item])


def _once_a_stay(rng, rows: _Rows, stays: pl.DataFrame, known: pl.DataFrame) -> None:
    """Height and weight at admission, in both units where both are entered, and capillary refill (never numeric)."""
    n = stays.height
    stay = np.arange(n)
    minute = stays["start"].to_numpy() // 60 + rng.integers(3, 50, n)
    kilograms = _weight(np.clip(0.5 + 0.5 * known["ts_c"].to_numpy(), -0.2, 1.3), stay)
    centimetres = 170 + 9 * rng.standard_normal(n)
    for item, share, number, decimals in (
        (226512, 0.8, kilograms, 1),
        (226531, 0.5, kilograms / 0.453592, 1),
        (226707, 0.6, centimetres / 2.54, 0),
        (226730, 0.6, centimetres, 0),
    ):
        chosen = rng.random(n) < share
        rows.add(stay[chosen], minute[chosen], item, number[chosen], decimals=decimals)
    for item in (223951, 224308):
        text = len(rows.texts) + (rng.random(n) < 0.2)
        rows.add(stay, minute + 60, item, text=text)
    rows.texts += ["Normal <3 Seconds", "Abnormal >3 Seconds"]


def _damage(rng, rows: _Rows) -> None:
    """Errors of entry in what was charted so far: texts in number fields, outliers, second values for one time."""
    stay, minute, item, number, decimals, text = rows.columns()
    numeric = text < 0
    u = rng.random(len(stay))
    text = np.where(numeric & (u < 0.003), rng.integers(0, len(_MESS_TEXTS), len(stay)), text)
    # A slipped decimal point, a zero, and nines: far out, but within reach of the published standardisation, as a
    # single 999999 in a series would hide everything else that a model sees of it.
    number = np.where((u > 0.003) & (u < 0.004), number * 10, number)
    number = np.where((u > 0.004) & (u < 0.0045), 0.0, number)
    number = np.where((u > 0.0045) & (u < 0.0047) & (item == 220045), 999.0, number)
    again = np.flatnonzero(numeric & (u > 0.985))
    rows.stay, rows.minute, rows.item = [stay, stay[again]], [minute, minute[again]], [item, item[again]]
    rows.number = [number, number[again] * rng.uniform(0.9, 1.1, len(again))]
    rows.decimals, rows.text = [decimals, decimals[again]], [text, np.full(len(again), -1)]


def _distractors(rng, rows: _Rows, state: _State) -> None:
    items = chart_items()
    n = int(DISTRACTOR_RATIO * sum(len(part) for part in rows.stay))
    at = rng.integers(0, len(state.stay), n)
    pool = rng.integers(0, len(items.pool_item), n)
    rows.add(state.stay[at], state.minute[at], items.pool_item[pool], text=len(rows.texts) + pool)
    rows.texts += list(items.pool_value)


def _frame(rng, rows: _Rows, people: Population, stays: pl.DataFrame) -> pl.DataFrame:
    stay, minute, item, number, decimals, text = rows.columns()
    order = np.lexsort((item, minute, stay))
    stay, minute, item, number, decimals, text = (part[order] for part in (stay, minute, item, number, decimals, text))
    n = len(stay)
    value = number_text(number, decimals)
    texts = pl.Series([*rows.texts, None])
    is_text = text >= 0
    value = pl.select(
        pl.when(pl.Series(is_text)).then(texts.gather(np.where(is_text, text, 0))).otherwise(value)
    ).to_series()
    value = value.replace("", None)
    valuenum = pl.select(pl.when(value.str.contains(r"^-?\d+(\.\d+)?$")).then(value)).to_series()
    units = pl.Series(item).replace_strict(chart_items().units, default=None, return_dtype=pl.String)
    hadm, stay_id = stays["hadm_id"].to_numpy()[stay], stays["stay_id"].to_numpy()[stay]
    u = rng.random(n)
    hadm = np.where(u < 0.002, _other_admissions(people, stays)[stay], hadm)
    stay_id = np.where(
        (u > 0.002) & (u < 0.004), stays["stay_id"].to_numpy()[rng.integers(0, stays.height, n)], stay_id
    )
    clock = minute * 60
    return pl.DataFrame({
        "subject_id": stays["subject_id"].to_numpy()[stay],
        "hadm_id": null_where(hadm, (u > 0.004) & (u < 0.007)),
        "stay_id": null_where(stay_id, (u > 0.007) & (u < 0.013)),
        "caregiver_id": null_where(rng.integers(1000, 1060, n), rng.random(n) < 0.05),
        "charttime": moments(clock),
        "storetime": moments(clock + rng.integers(1, 90, n) * 60),
        "itemid": item,
        "value": value,
        "valuenum": valuenum,
        "valueuom": units,
        "warning": (u > 0.999).astype(np.int64),
    })  # fmt: skip


def outputevents(people: Population, start: int, stop: int, *, seed: int) -> pl.DataFrame:
    """Urine output every four hours of the stays ``start`` to ``stop``; no variable is made of it."""
    rng = generator(seed, 2, start)
    stays = people.stays[start:stop]
    count = np.maximum(1, stays["hours"].to_numpy() // 4).astype(np.int64)
    stay = np.repeat(np.arange(stays.height), count)
    k = np.arange(len(stay)) - np.repeat(np.cumsum(count) - count, count)
    clock = stays["start"].to_numpy()[stay] // 3600 * 3600 + (k + 1) * 4 * 3600
    return pl.DataFrame(
        {
            "subject_id": stays["subject_id"].to_numpy()[stay],
            "hadm_id": stays["hadm_id"].to_numpy()[stay],
            "stay_id": stays["stay_id"].to_numpy()[stay],
            "caregiver_id": rng.integers(1000, 1060, len(stay)),
            "charttime": moments(clock),
            "storetime": moments(clock + 600),
            "itemid": np.where(rng.random(len(stay)) < 0.8, 226559, 226560),
            "value": rng.integers(4, 60, len(stay)) * 10,
            "valueuom": pl.Series(["ml"]).new_from_index(0, len(stay)),
        }
    )


def number_text(number: np.ndarray, decimals: np.ndarray) -> pl.Series:
    """Numbers as text: no more decimals than given, no trailing `.0`."""
    rounded = np.where(
        decimals == 0, np.round(number), np.where(decimals == 1, np.round(number, 1), np.round(number, 2))
    )
    return pl.Series(rounded + 0.0).cast(pl.String).str.strip_suffix(".0")


def null_where(values: np.ndarray, missing: np.ndarray) -> pl.Series:
    return pl.select(pl.when(pl.Series(~missing)).then(pl.Series(values))).to_series()


def moments(seconds: np.ndarray) -> pl.Series:
    return (pl.Series(seconds.astype(np.int64)) * 1_000_000).cast(pl.Datetime("us"))


def _other_admissions(people: Population, stays: pl.DataFrame) -> np.ndarray:
    """For each stay the next admission of the same patient, or the one before, or (of an only one) its own."""
    row = stays["admission"].to_numpy()
    subject, hadm = people.admissions["subject_id"].to_numpy(), people.admissions["hadm_id"].to_numpy()
    after, before = np.minimum(row + 1, len(subject) - 1), np.maximum(row - 1, 0)
    return np.where(
        subject[after] == subject[row], hadm[after], np.where(subject[before] == subject[row], hadm[before], hadm[row])
    )
