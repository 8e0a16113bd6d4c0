"""ICU stays, their flags and diagnoses, phenotype code lists, splits."""

from __future__ import annotations

import random
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

from oracle.deaths import deaths
from oracle.raw import rows, time

MONTH = timedelta(days=30)


def read_admissions(root: Path) -> list[dict]:
    """Admissions in file order with times parsed."""
    out = []
    for order, row in enumerate(rows(root, "hosp/admissions", "core/admissions")):
        out.append(
            {
                "order": order,
                "subject_id": int(row["subject_id"]),
                "hadm_id": int(row["hadm_id"]),
                "admittime": time(row["admittime"]),
                "dischtime": time(row["dischtime"]),
                "deathtime": time(row["deathtime"]),
                "race": (row["race"] if "race" in row else row["ethnicity"]) or None,
                "hospital_expire_flag": row["hospital_expire_flag"],
            }
        )
    return out


def within(moment, start, end) -> bool:
    """Both ends inclusive; false where any of the three is unknown."""
    return moment is not None and start is not None and end is not None and start <= moment <= end


def build_stays(root: Path, options: dict[str, str]) -> tuple[list[dict], list[tuple[int, int, int]]]:
    """Kept stays sorted by stay_id, and (stays, admissions, patients) before and after each dropping step."""
    flow = []

    def count(stays):
        flow.append((len(stays), len({s["hadm_id"] for s in stays}), len({s["subject_id"] for s in stays})))

    admissions = read_admissions(root)
    patients = {int(row["subject_id"]): row for row in rows(root, "hosp/patients", "core/patients")}
    stays = []
    for order, row in enumerate(rows(root, "icu/icustays")):
        stay = {name: int(row[name]) for name in ("subject_id", "hadm_id", "stay_id")}
        stay |= {"order": order, "intime": time(row["intime"]), "outtime": time(row["outtime"])}
        stay["los_hours"] = 24 * float(row["los"]) if row["los"] else None
        stay["first_careunit"], stay["last_careunit"] = row["first_careunit"] or None, row["last_careunit"] or None
        stays.append(stay)
    count(stays)

    stays = [s for s in stays if s["first_careunit"] is not None and s["first_careunit"] == s["last_careunit"]]
    count(stays)

    joined = []
    by_admission = {(a["subject_id"], a["hadm_id"]): a for a in admissions}
    for stay in stays:
        admission = by_admission.get((stay["subject_id"], stay["hadm_id"]))
        patient = patients.get(stay["subject_id"])
        if admission is None or patient is None:
            continue
        stay |= {k: admission[k] for k in ("admittime", "dischtime", "deathtime", "race", "hospital_expire_flag")}
        stay["gender"] = patient["gender"] or None
        stay["dod"] = time(patient["dod"])
        stay["age"] = int(patient["anchor_age"]) if patient["anchor_age"] else None
        if options["age"] == "at_admission" and stay["age"] is not None:
            stay["age"] += stay["admittime"].year - int(patient["anchor_year"])
        joined.append(stay)
    stays = joined
    count(stays)

    if options["after_death"] == "dropped":
        dead = {hadm for hadm, found in deaths(admissions, patients).items() if found["after_death"]}
        stays = [stay for stay in stays if stay["hadm_id"] not in dead]
        admissions = [admission for admission in admissions if admission["hadm_id"] not in dead]
        count(stays)

    per_admission = Counter(stay["hadm_id"] for stay in stays)
    stays = [stay for stay in stays if per_admission[stay["hadm_id"]] == 1]
    count(stays)

    for stay in stays:
        add_mortality(stay, options)
    for stay in stays:
        same_subject = [s for s in stays if s["subject_id"] == stay["subject_id"]]
        if options["readmission"] == "kept_icu_stays":
            stay["readmission"], moment = readmission_by_icu_stay(stay, same_subject, options)
        else:
            stay["readmission"], moment = readmission_by_hospital(stay, admissions, options)
        stay["readmission_time"] = moment

    stays = [stay for stay in stays if stay["age"] is not None and stay["age"] >= 18]
    count(stays)
    return sorted(stays, key=lambda s: s["stay_id"]), flow


def add_mortality(stay: dict, options: dict[str, str]) -> None:
    if options["death_label"] == "expire_flag":
        in_hospital = stay["hospital_expire_flag"] == "1"
    else:
        in_hospital = within(stay["deathtime"], stay["admittime"], stay["dischtime"])
    stay["died_in_hospital"] = int(in_hospital)
    in_unit = [within(moment, stay["intime"], stay["outtime"]) for moment in (stay["dod"], stay["deathtime"])]
    stay["died_in_unit"] = int(any(in_unit))
    stay["died"] = int(stay["dod"] is not None or stay["deathtime"] is not None)


def died_within_a_month(stay: dict) -> bool:
    return stay["dod"] is not None and stay["dischtime"] is not None and stay["dod"] - stay["dischtime"] < MONTH


def readmission_by_icu_stay(
    stay: dict, same_subject: list[dict], options: dict[str, str]
) -> tuple[int | None, datetime | None]:
    """The label, and when it became 1."""
    died, hospital, unit = stay["died"], stay["died_in_hospital"], stay["died_in_unit"]
    if died and hospital and unit:
        return None, None
    moments = []
    death = stay["deathtime"] or (stay["dod"] + timedelta(days=1) if stay["dod"] else None)
    reasons = 0
    if hospital and not unit:
        reasons, moments = 1, [death]
    in_order = sorted(same_subject, key=lambda s: (s["admittime"], s["order"]))
    place = [s["stay_id"] for s in in_order].index(stay["stay_id"])
    following = [s["admittime"] for s in in_order[place + 1 :]]
    if options["nested"] == "ignored":
        following = [moment for moment in following if not_before_the_end(moment, stay)]
    if following and stay["dischtime"] is not None and following[0] - stay["dischtime"] < MONTH:
        reasons, moments = 1, [*moments, following[0]]
    if died and not hospital and not unit and died_within_a_month(stay):
        reasons, moments = 1, [*moments, death]
    return reasons, min((moment for moment in moments if moment is not None), default=None)


def readmission_by_hospital(
    stay: dict, admissions: list[dict], options: dict[str, str]
) -> tuple[int | None, datetime | None]:
    """Whether a later admission of the subject begins in less than 30 days, and when."""
    if stay["died_in_hospital"]:
        return None, None
    if stay["dischtime"] is None:
        return 0, None
    moments = []
    for other in admissions:
        if other["subject_id"] == stay["subject_id"] and other["hadm_id"] != stay["hadm_id"]:
            later = other["admittime"] > stay["admittime"]
            if later and (options["nested"] == "counted" or not_before_the_end(other["admittime"], stay)):
                moments.append(other["admittime"])
    soon = [moment for moment in moments if moment - stay["dischtime"] < MONTH]
    return int(bool(soon)), min(soon, default=None)


def not_before_the_end(moment: datetime, stay: dict) -> bool:
    """At or after the discharge from the hospital and the end of the stay in the unit."""
    end = stay["outtime"]
    if end is None and stay["los_hours"] is not None:
        end = stay["intime"] + timedelta(hours=stay["los_hours"])
    return stay["dischtime"] is not None and moment >= stay["dischtime"] and (end is None or moment >= end)


def diagnoses(root: Path) -> tuple[dict[int, list[tuple[str, str]]], list[tuple[str, str]]]:
    """(code, version) of each admission, and all rows of the dictionary."""
    known = [(row["icd_code"], row["icd_version"]) for row in rows(root, "hosp/d_icd_diagnoses")]
    per_admission: dict[int, list[tuple[str, str]]] = {}
    for row in rows(root, "hosp/diagnoses_icd"):
        per_admission.setdefault(int(row["hadm_id"]), []).append((row["icd_code"], row["icd_version"]))
    return per_admission, known


def has_diagnosis(stay: dict, per_admission: dict, known: list[tuple[str, str]]) -> bool:
    texts = {code for code, _ in known}
    return any(code in texts for code, _ in per_admission.get(stay["hadm_id"], []))


def phenotype_codes(rows_of_list: list[dict], known: list[tuple[str, str]]) -> dict[str, set[tuple[str, str]]]:
    """(code, version) pairs of the dictionary that each phenotype covers, by a list of codes and prefixes."""
    beginning: dict[tuple[str, str], set[str]] = {}
    exactly: dict[tuple[str, str], set[str]] = {}
    out: dict[str, set[tuple[str, str]]] = {}
    for row in rows_of_list:
        out.setdefault(row["phenotype"], set())
        wanted = row["code_or_prefix"]
        of_kind = exactly if wanted.endswith("$") else beginning
        of_kind.setdefault((row["icd_version"], wanted.removesuffix("$")), set()).add(row["phenotype"])
    for code, version in known:
        names = set(exactly.get((version, code), ()))
        for length in range(1, len(code) + 1):
            names |= beginning.get((version, code[:length]), set())
        for name in names:
            out[name].add((code, version))
    return out


def phenotypes(stay: dict, per_admission: dict, covered: dict, options: dict[str, str]) -> dict[str, int]:
    codes = set(per_admission.get(stay["hadm_id"], []))
    out = {}
    for name in sorted(covered):
        if options["icd"] == "version_aware":
            out[name] = int(bool(codes & covered[name]))
        else:
            out[name] = int(bool({code for code, _ in codes} & {code for code, _ in covered[name]}))
    return out


def shuffle42(admissions: list[dict]) -> dict[int, str]:
    subjects = list(dict.fromkeys(admission["subject_id"] for admission in admissions))
    n_test, n_val = int(0.2 * len(subjects)), int(0.1 * len(subjects))
    folds = ["test"] * n_test + ["val"] * n_val + ["train"] * (len(subjects) - n_test - n_val)
    random.seed(42)
    random.shuffle(folds)
    return dict(zip(subjects, folds, strict=True))


YEARS = {
    "2008 - 2010": "train", "2011 - 2013": "train", "2014 - 2016": "val", "2017 - 2019": "test", "2020 - 2022": "test",
}  # fmt: skip


def by_years(root: Path, admissions: list[dict]) -> dict[int, str]:
    """Subjects with an admission whose group of years has a split."""
    group = {}
    for row in rows(root, "hosp/patients", "core/patients"):
        group.setdefault(int(row["subject_id"]), row["anchor_year_group"])
    subjects = {admission["subject_id"] for admission in admissions}
    return {subject: YEARS[group[subject]] for subject in subjects if group.get(subject) in YEARS}
