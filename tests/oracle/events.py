"""Charted values of the kept stays row by row, and the matrix of one sample."""

from __future__ import annotations

import math
import re
from collections import Counter
from datetime import datetime
from pathlib import Path

from oracle.raw import events, hours, time
from oracle.stays import within

EPSILON = 1e-6
REFILL, DBP, FIO2, EYE, MOTOR, TOTAL, VERBAL, GLUCOSE, HR = (
    "capillary_refill_rate", "diastolic_blood_pressure", "fraction_inspired_oxygen", "gcs_eye", "gcs_motor",
    "gcs_total", "gcs_verbal", "glucose", "heart_rate",
)  # fmt: skip
HEIGHT, MBP, SPO2, RR, SBP, TEMPERATURE, WEIGHT, PH = (
    "height", "mean_blood_pressure", "oxygen_saturation", "respiratory_rate", "systolic_blood_pressure",
    "temperature", "weight", "ph",
)  # fmt: skip
ORDER = [REFILL, DBP, FIO2, EYE, MOTOR, TOTAL, VERBAL, GLUCOSE, HR, HEIGHT, MBP, SPO2, RR, SBP, TEMPERATURE, WEIGHT, PH]
CHART_ITEMS = {
    DBP: "220051 225310 220180 224643", FIO2: "223835", EYE: "220739", MOTOR: "223901", VERBAL: "223900",
    GLUCOSE: "225664 220621 226537", HR: "220045", HEIGHT: "226707 226730", MBP: "220052 225312 224322 220181",
    SPO2: "220227 220277", RR: "220210 224689 224422 224690", SBP: "220050 225309 220179 224167 227243",
    TEMPERATURE: "223762 223761", WEIGHT: "224639 226512 226531", PH: "223830 220274",
}  # fmt: skip
LAB_ITEMS = {GLUCOSE: "50931 50809 51478", SPO2: "50817", PH: "50820 51491 50831 51094"}
NOT_BLOOD = {"51478", "51491", "50831", "51094"}
REFILL_ITEMS = "223951 224308"
EVERY_ITEM = frozenset(" ".join([*CHART_ITEMS.values(), *LAB_ITEMS.values(), REFILL_ITEMS]).split())
RANGES = {
    DBP: (0, 0, 375, 375), SBP: (0, 0, 375, 375), FIO2: (0.2, 0.21, 1, 1.1), GLUCOSE: (0, 33, 2000, 2200),
    HR: (0, 0, 350, 390), HEIGHT: (0, 0, 240, 275), MBP: (0, 14, 330, 375), SPO2: (0, 0, 100, 150),
    RR: (0, 0, 300, 330), TEMPERATURE: (14.2, 26, 45, 47), WEIGHT: (0, 0, 250, 250), PH: (6.3, 6.3, 8.4, 10),
}  # fmt: skip
SPELLINGS = {
    REFILL: "0.0|1.0",
    EYE: "To Pain|3 To speech|1 No Response|4 Spontaneously|None|To Speech|Spontaneously|2 To pain",
    MOTOR: "1 No Response|3 Abnorm flexion|Abnormal extension|No response|4 Flex-withdraws|Localizes Pain|"
    "Flex-withdraws|Obeys Commands|Abnormal Flexion|6 Obeys Commands|5 Localizes Pain|2 Abnorm extensn",
    TOTAL: "11|10|13|12|15|14|3|5|4|7|6|9|8",
    VERBAL: "1 No Response|No Response|Confused|Inappropriate Words|Oriented|No Response-ETT|5 Oriented|"
    "Incomprehensible sounds|1.0 ET/Trach|4 Confused|2 Incomp sounds|3 Inapprop words",
}
SPELLINGS = {variable: text.split("|") for variable, text in SPELLINGS.items()}
DEFAULTS = {
    REFILL: "0.0", DBP: 59.0, FIO2: 0.21, EYE: "4 Spontaneously", MOTOR: "6 Obeys Commands", TOTAL: "15",
    VERBAL: "5 Oriented", GLUCOSE: 128.0, HR: 86.0, HEIGHT: 170.0, MBP: 77.0, SPO2: 98.0, RR: 19.0, SBP: 118.0,
    TEMPERATURE: 36.6, WEIGHT: 81.0, PH: 7.4,
}  # fmt: skip
COLUMNS = []
for _variable in ORDER:
    COLUMNS += [f"{_variable}={text}" for text in SPELLINGS[_variable]] if _variable in SPELLINGS else [_variable]
COLUMNS += [f"observed:{_variable}" for _variable in ORDER]

NAMES_OF_GRADES = {
    EYE: {1: "no response|none", 2: "to pain", 3: "to speech", 4: "spontaneously"},
    MOTOR: {
        1: "no response", 2: "abnorm extensn|abnormal extension", 3: "abnorm flexion|abnormal flexion",
        4: "flex-withdraws", 5: "localizes pain", 6: "obeys commands",
    },
    VERBAL: {
        1: "no response|no response-ett|1.0 et/trach", 2: "incomp sounds|incomprehensible sounds",
        3: "inapprop words|inappropriate words", 4: "confused", 5: "oriented",
    },
}  # fmt: skip


def grade(variable: str, text: str) -> int:
    """The GCS grade of one of the known spellings."""
    plain = re.sub(r"^\d ", "", text).lower()
    (found,) = (number for number, names in NAMES_OF_GRADES[variable].items() if plain in names.split("|"))
    return found


def numbered_spelling(variable: str, text: str) -> str:
    """The numbered spelling of the same grade; a tube stays a tube, silence stays silence."""
    if text in ("No Response-ETT", "1.0 ET/Trach"):
        return "1.0 ET/Trach"
    (found,) = (s for s in SPELLINGS[variable] if re.match(r"\d ", s) and s[0] == str(grade(variable, text)))
    return found


def number(text: str) -> float | None:
    """A finite decimal number, or None."""
    if not re.fullmatch(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?", text.strip()):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def clean(variable: str, itemid: str, text: str, options: dict[str, str]) -> float | None:
    """The number that a charted text means, None where it means none. GCS gives the grade."""
    if variable in NAMES_OF_GRADES:
        return float(grade(variable, text)) if text in SPELLINGS[variable] else None
    if variable == REFILL:
        return {"Normal <3 Seconds": 0.0, "Abnormal >3 Seconds": 1.0}.get(text)
    if variable in (GLUCOSE, PH, SPO2) and not re.fullmatch(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", text):
        return None
    if variable in (DBP, SBP) and "/" in text:
        both = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        if not both:
            return None
        text = both.group(1 if variable == SBP else 2)
    value = number(text)
    if value is None:
        return None
    if variable == TEMPERATURE and value >= 79:
        value = (value - 32) * 5 / 9
    if variable == WEIGHT and itemid == "226531":
        value = value * 0.453592
    if variable == FIO2 and (options["fio2"] == "always_divide" or value > 1):
        value = value / 100
    if variable == SPO2 and value <= 1:
        value = value * 100
    if variable == HEIGHT and itemid == "226707" and options["height"] == "inches_converted":
        value = value * 2.54
    if options["ranges"] == "on":
        low, valid_low, valid_high, high = RANGES[variable]
        if not low <= value <= high:
            return None
        value = min(max(value, valid_low), valid_high)
    return float(value)


def item_variables(options: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    chart = {item: variable for variable, items in CHART_ITEMS.items() for item in items.split()}
    lab = {item: variable for variable, items in LAB_ITEMS.items() for item in items.split()}
    if options["capillary_refill"] == "mapped":
        chart |= dict.fromkeys(REFILL_ITEMS.split(), REFILL)
    if options["fluids"] == "blood":
        lab = {item: variable for item, variable in lab.items() if item not in NOT_BLOOD}
    return chart, lab


def build_events(root: Path, stays: list[dict], options: dict[str, str]) -> tuple[dict[int, list[dict]], dict]:
    """Rows of each kept stay by time, and what became of the raw rows of each table
    (``distinct``: values left where several were charted at one time).

    Rows with other items are not counted. A row is {"charttime", "hours", "values": {variable: (text, number)},
    "stored": {variable: hours}}, where hours is when its values were charted and stored when they could be read.
    """
    tally: dict[str, Counter] = {"chartevents": Counter(), "labevents": Counter(), "distinct": Counter()}
    by_hadm = {(stay["subject_id"], stay["hadm_id"]): stay for stay in stays}
    subjects: dict[int, dict[datetime, dict]] = {}
    chart, lab = item_variables(options)
    for table, place, mapped in (("chartevents", "icu/chartevents", chart), ("labevents", "hosp/labevents", lab)):
        for row in events(root, place, EVERY_ITEM):
            if row["itemid"] not in mapped:
                tally[table]["option"] += 1
                continue
            subject, variable, charttime = int(row["subject_id"]), mapped[row["itemid"]], time(row["charttime"])
            stay = by_hadm.get((subject, int(row["hadm_id"]))) if row["hadm_id"] else None
            by_time = table == "labevents" and options["lab_without_hadm"] == "by_time"
            if not row["hadm_id"] and by_time:
                around = [
                    s for s in stays if s["subject_id"] == subject and within(charttime, s["intime"], s["outtime"])
                ]
                stay = around[0] if around else None
            if stay is None:
                tally[table]["link"] += 1
                continue
            if row.get("stay_id") and int(row["stay_id"]) != stay["stay_id"]:
                tally[table]["link"] += 1
                continue
            if charttime is None:
                tally[table]["charttime"] += 1
                continue
            value = clean(variable, row["itemid"], row["value"], options) if row["value"] != "" else None
            if value is None:
                tally[table]["value"] += 1
                continue
            tally[table]["used"] += 1
            moment = subjects.setdefault(subject, {}).setdefault(charttime, {"linked": set(), "charted": {}})
            moment["linked"].add(stay["stay_id"])
            stored = time(row.get("storetime") or "") or charttime
            moment["charted"].setdefault(variable, []).append((row["value"], value, max(stored, charttime)))

    tally["distinct"]["used"] = sum(len(m["charted"]) for moments in subjects.values() for m in moments.values())
    out: dict[int, list[dict]] = {stay["stay_id"]: [] for stay in stays}
    for stay in stays:
        moments = subjects.get(stay["subject_id"], {})
        for charttime in sorted(moments):
            moment = moments[charttime]
            if stay["stay_id"] in moment["linked"] or within(charttime, stay["intime"], stay["outtime"]):
                pairs = {v: [pair[:2] for pair in charted] for v, charted in moment["charted"].items()}
                values = {v: together(v, charted, options) for v, charted in pairs.items()}
                stored = {v: readable(values[v], charted) for v, charted in moment["charted"].items()}
                if options["gcs_total"] == "derived" and {EYE, MOTOR, VERBAL} <= set(values):
                    total = values[EYE][1] + values[MOTOR][1] + values[VERBAL][1]
                    values[TOTAL] = (repr(total), total)
                    stored[TOTAL] = max(stored[EYE], stored[MOTOR], stored[VERBAL])
                row = {
                    "charttime": charttime,
                    "hours": hours(charttime, stay["intime"]),
                    "values": values,
                    "stored": {v: hours(when, stay["intime"]) for v, when in stored.items()},
                }
                out[stay["stay_id"]].append(row)
    return out, tally


def readable(chosen: tuple[str, float], charted: list[tuple[str, float, datetime]]) -> datetime:
    """When the value chosen among those charted at one time could be read; a mean needs all of them."""
    same = [stored for text, value, stored in charted if (text, value) == chosen]
    return min(same) if same else max(stored for _, _, stored in charted)


def entering(rows: list[dict], options: dict[str, str]) -> list[dict]:
    """The rows of a stay by the time when they enter its series.

    With `availability: storetime` one row per value; of those stored at one time the one charted last comes last.
    """
    if options["availability"] == "charttime":
        return rows
    single = [
        {**row, "hours": row["stored"][v], "values": {v: value}, "stored": {v: row["stored"][v]}}
        for row in rows
        for v, value in row["values"].items()
    ]
    return sorted(single, key=lambda row: (row["hours"], row["charttime"]))


def values_not_stored(series: list[dict], end: float, asked: float, options: dict[str, str]) -> int:
    """Values that the matrix shows until ``end`` hours, although they could be read only after ``asked`` hours."""
    shown: dict[tuple[int, str], float] = {}
    for row in sorted(series, key=lambda r: r["hours"]):
        t = row["hours"]
        where = int(t - EPSILON) if options["edges"] == "right" else max(0, math.floor(t))
        if -EPSILON < t <= end + EPSILON and where < bins(end):
            shown |= {(where, v): stored for v, stored in row["stored"].items()}
    return sum(stored > max(end + EPSILON, asked + 1e-9) for stored in shown.values())


def together(variable: str, charted: list[tuple[str, float]], options: dict[str, str]) -> tuple[str, float]:
    """One value for all charted at one time."""
    if options["duplicates"] == "published_max":
        if variable in NAMES_OF_GRADES or variable in (HR, RR, MBP):
            return max(charted, key=lambda pair: pair[0])
        return max(charted, key=lambda pair: (pair[1], pair[0]))
    if variable in NAMES_OF_GRADES:
        worst = min(value for _, value in charted)
        return max((text, value) for text, value in charted if value == worst)
    if variable == REFILL:
        return max(charted, key=lambda pair: pair[1])
    text, largest = max(charted, key=lambda pair: (pair[1], pair[0]))
    mean = sum(sorted(value for _, value in charted)) / len(charted)
    return (text, largest) if mean == largest else (repr(mean), mean)


def bins(end: float) -> int:
    return int(end + 1 - EPSILON)


def has_row_until(series: list[dict], end: float) -> bool:
    return any(-EPSILON < row["hours"] < end + EPSILON for row in series)


def matrix(series: list[dict], end: float, options: dict[str, str]) -> list[list[float]]:
    """The unnormalised matrix of a stay's rows, seen until ``end`` hours: one row of 76 numbers per hour."""
    n = bins(end)
    seen: list[dict[str, tuple[str, float]]] = [{} for _ in range(n)]
    last: dict[str, float | str] = dict(DEFAULTS)
    for row in sorted(series, key=lambda r: r["hours"]):
        t = row["hours"]
        if t <= -EPSILON:
            if options["height"] == "inches_converted":
                for variable in (HEIGHT, WEIGHT):
                    if variable in row["values"]:
                        last[variable] = row["values"][variable][1]
            continue
        if t > end + EPSILON or (options["edges"] == "left" and t >= end):
            continue
        where = int(t - EPSILON) if options["edges"] == "right" else max(0, math.floor(t))
        if where >= n:
            continue
        seen[where].update(row["values"])
    out = []
    for hour in range(n):
        for variable, (text, value) in seen[hour].items():
            if variable not in SPELLINGS:
                last[variable] = value
            elif variable == REFILL:
                last[variable] = f"{value:.1f}"
            elif variable == TOTAL:
                last[variable] = str(int(value))
            elif options["gcs_spellings"] == "merged":
                last[variable] = numbered_spelling(variable, text)
            else:
                last[variable] = text
        line: list[float] = []
        for variable in ORDER:
            if variable in SPELLINGS:
                line += [float(text == last[variable]) for text in SPELLINGS[variable]]
            else:
                line.append(float(last[variable]))
        out.append(line + [float(variable in seen[hour]) for variable in ORDER])
    return out
