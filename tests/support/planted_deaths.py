"""Changes of a fabricated raw tree: early deaths, admissions after the death, inside another one, old dates of death.

Every function takes the folder of MIMIC-IV and returns the ids that it changed or added. The first stays of the file
that fit are taken, each patient at most once per call.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

Row = dict[str, str]
FORMAT = "%Y-%m-%d %H:%M:%S"
PLACES = {"admissions": "hosp", "patients": "hosp", "icustays": "icu", "diagnoses_icd": "hosp", "chartevents": "icu"}
NEW_ID = 90_000_000


def read(root: Path, name: str) -> list[Row]:
    with gzip.open(root / PLACES[name] / f"{name}.csv.gz", "rt", newline="") as file:
        return list(csv.DictReader(file))


def write(root: Path, name: str, rows: list[Row]) -> None:
    with gzip.open(root / PLACES[name] / f"{name}.csv.gz", "wt", newline="", compresslevel=1) as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def moment(text: str) -> datetime:
    return datetime.strptime(text, FORMAT)


def text(time: datetime) -> str:
    return time.strftime(FORMAT)


def _only_stays(root: Path) -> dict[str, Row]:
    """Stays in one unit that are the only one of their admission, by hadm_id."""
    stays = read(root, "icustays")
    seen = [stay["hadm_id"] for stay in stays]
    return {
        stay["hadm_id"]: stay
        for stay in stays
        if seen.count(stay["hadm_id"]) == 1 and stay["first_careunit"] == stay["last_careunit"] and stay["los"]
    }


def _last_admissions(admissions: list[Row], fits: Callable[[Row], bool], n: int) -> Iterator[Row]:
    """Up to ``n`` admissions that are the last of their patient and that fit."""
    last: dict[str, Row] = {}
    for row in sorted(admissions, key=lambda row: row["admittime"]):
        last[row["subject_id"]] = row
    chosen = [row for row in admissions if last[row["subject_id"]] is row and fits(row)]
    yield from chosen[:n]


def _new_id(admissions: list[Row]) -> int:
    return NEW_ID + sum(int(row["hadm_id"]) >= NEW_ID for row in admissions)


def admit_inside(root: Path, n: int, before_discharge: timedelta) -> list[int]:
    """Add an admission of one hour that begins ``before_discharge`` before the end of another one."""
    admissions, stays = read(root, "admissions"), _only_stays(root)
    added = []
    for row in list(_last_admissions(admissions, lambda row: row["hadm_id"] in stays and not row["deathtime"], n)):
        begun = moment(row["dischtime"]) - before_discharge
        times = {"admittime": text(begun), "dischtime": text(begun + timedelta(hours=1))}
        added.append(_new_id(admissions))
        admissions.append(row | times | {"hadm_id": str(added[-1]), "hospital_expire_flag": "0"})
    write(root, "admissions", admissions)
    return added


def admit_after_death(root: Path, n: int, after: timedelta) -> list[int]:
    """Admit patients with a deathtime again, with a stay of 60 hours like the one in which they died."""
    admissions, stays = read(root, "admissions"), _only_stays(root)
    icustays, diagnoses, chart = (read(root, name) for name in ("icustays", "diagnoses_icd", "chartevents"))
    added = []
    for row in list(_last_admissions(admissions, lambda row: row["hadm_id"] in stays and bool(row["deathtime"]), n)):
        stay, begun = stays[row["hadm_id"]], moment(row["deathtime"]) + after
        hadm, stay_id = str(_new_id(admissions)), str(_new_id(admissions) + 1000)
        added.append(int(hadm))
        times = {"admittime": text(begun), "dischtime": text(begun + timedelta(hours=70)), "deathtime": ""}
        admissions.append(row | times | {"hadm_id": hadm, "hospital_expire_flag": "0"})
        own = {"hadm_id": hadm, "stay_id": stay_id}
        end = text(begun + timedelta(hours=60))
        icustays.append(stay | own | {"intime": text(begun), "outtime": end, "los": "2.5"})
        diagnoses += [code | {"hadm_id": hadm} for code in diagnoses if code["hadm_id"] == row["hadm_id"]]
        shift = begun - moment(stay["intime"])
        rows = [event for event in chart if event["stay_id"] == stay["stay_id"]][:100]
        chart += [event | own | {"charttime": text(moment(event["charttime"]) + shift)} for event in rows]
    for name, table in (
        ("admissions", admissions), ("icustays", icustays), ("diagnoses_icd", diagnoses), ("chartevents", chart),
    ):  # fmt: skip
        write(root, name, table)
    return added


def die_early(root: Path, n: int, hours: float, *, column: str = "deathtime") -> list[int]:
    """Let patients die ``hours`` after the begin of a stay of more than two days; the stay goes on. Ids of stays."""
    admissions, stays, patients = read(root, "admissions"), _only_stays(root), read(root, "patients")
    long = {hadm: stay for hadm, stay in stays.items() if float(stay["los"]) > 2.2}
    died = []
    for row in _last_admissions(admissions, lambda row: row["hadm_id"] in long and not row["deathtime"], n):
        stay = long[row["hadm_id"]]
        death = moment(stay["intime"]) + timedelta(hours=hours)
        if column == "deathtime":
            row |= {"deathtime": text(death), "hospital_expire_flag": "1"}
        for patient in patients:
            if patient["subject_id"] == row["subject_id"]:
                patient["dod"] = text(death)[:10]
        died.append(int(stay["stay_id"]))
    write(root, "admissions", admissions)
    write(root, "patients", patients)
    return died


def die_before(root: Path, n: int, days: float) -> list[int]:
    """Give survivors a dod ``days`` before their first admission. Ids of patients."""
    admissions, patients = read(root, "admissions"), read(root, "patients")
    first: dict[str, str] = {}
    for row in sorted(admissions, key=lambda row: row["admittime"]):
        first.setdefault(row["subject_id"], row["admittime"])
    in_unit = {stay["subject_id"] for stay in _only_stays(root).values()}
    dead = {row["subject_id"] for row in admissions if row["deathtime"]}
    changed = []
    for patient in patients:
        if patient["subject_id"] in in_unit - dead and not patient["dod"] and len(changed) < n:
            patient["dod"] = text(moment(first[patient["subject_id"]]) - timedelta(days=days))[:10]
            changed.append(int(patient["subject_id"]))
    write(root, "patients", patients)
    return changed


def record_death_before(root: Path, n: int, days: float) -> list[int]:
    """Give the last admissions of survivors a deathtime ``days`` before their own begin. Ids of their stays."""
    admissions, stays, patients = read(root, "admissions"), _only_stays(root), read(root, "patients")
    dead = {row["subject_id"] for row in patients if row["dod"]} | {
        row["subject_id"] for row in admissions if row["deathtime"]
    }
    long = {hadm for hadm, stay in stays.items() if float(stay["los"]) > 2.2 and stay["subject_id"] not in dead}
    changed = []
    for row in list(_last_admissions(admissions, lambda row: row["hadm_id"] in long, n)):
        row["deathtime"] = text(moment(row["admittime"]) - timedelta(days=days))
        changed.append(int(stays[row["hadm_id"]]["stay_id"]))
    write(root, "admissions", admissions)
    return changed


def discharge_at_midnight(root: Path, *, every: int = 1) -> list[int]:
    """Stamp the discharge of deaths in hospital at midnight of the day of death, as MIMIC-IV often does; every nth."""
    admissions = read(root, "admissions")
    chosen = [row for row in admissions if row["deathtime"]][::every]
    for row in chosen:
        row["dischtime"] = f"{row['deathtime'][:10]} 00:00:00"
    write(root, "admissions", admissions)
    return [int(row["hadm_id"]) for row in chosen]
