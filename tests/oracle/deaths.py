"""When patients died, which admissions begin after that, and which begin before an earlier one ends."""

from __future__ import annotations

from datetime import datetime, timedelta

from oracle.raw import time

DAY, YEAR = timedelta(days=1), timedelta(days=365)


def deaths(admissions: list[dict], patients: dict[int, dict]) -> dict[int, dict]:
    """death_time, after_death and the errors of each admission, by hadm_id."""
    out = {}
    for admission in admissions:
        subject = admission["subject_id"]
        own = [a for a in admissions if a["subject_id"] == subject]
        last = max((a["admittime"] for a in own if a["admittime"]), default=None)
        dod = time(patients[subject]["dod"]) if subject in patients else None
        believed = [a for a in own if a["deathtime"] and not too_early(a["deathtime"], last)]
        end_of_dod = dod + DAY if dod and not too_early(dod, last) else None
        death, after = end_of_dod, False
        if believed:
            death = min(a["deathtime"] for a in believed)
            after = any(earlier(a, admission) and a["deathtime"] <= admission["admittime"] for a in believed)
        elif end_of_dod and admission["admittime"]:
            after = end_of_dod <= admission["admittime"]
        out[admission["hadm_id"]] = {
            "death_time": death,
            "after_death": int(after),
            "dod_is_error": bool(dod) and too_early(dod, last),
            "deathtime_is_error": bool(admission["deathtime"]) and too_early(admission["deathtime"], last),
            "nested": any(
                a["dischtime"] and before(a, admission) and admission["admittime"] < a["dischtime"] for a in own
            ),
        }
    return out


def own_deathtime(stay: dict, options: dict[str, str]) -> datetime | None:
    """The deathtime of the admission; with `asked: alive` only if it is not too early for this admission itself."""
    death = stay["deathtime"]
    is_error = options["asked"] == "alive" and death is not None and too_early(death, stay["admittime"])
    return None if is_error else death


def too_early(moment: datetime, last: datetime | None) -> bool:
    """More than a year before an admission, as a rule the last one."""
    return last is not None and moment < last - YEAR


def earlier(first: dict, second: dict) -> bool:
    return bool(first["admittime"] and second["admittime"] and first["admittime"] < second["admittime"])


def before(first: dict, second: dict) -> bool:
    """Earlier, or at the same time with the smaller hadm_id."""
    if not (first["admittime"] and second["admittime"]):
        return False
    return (first["admittime"], first["hadm_id"]) < (second["admittime"], second["hadm_id"])


def inconsistencies(admissions: list[dict], found: dict[int, dict], options: dict[str, str]) -> dict:
    """The counts of dropped.json of the stage `stays` about this."""
    subjects = {a["subject_id"] for a in admissions if found[a["hadm_id"]]["dod_is_error"]}
    after = "after_death_but_used" if options["after_death"] == "kept" else "after_death"
    nested = "nested_but_used" if options["nested"] == "counted" else "nested"
    too_old = "over_a_year_before_admission"
    dod = f"{too_old}_but_used" if options["readmission"] == "kept_icu_stays" else too_old
    deathtime = f"{too_old}_but_used" if options["death_label"] == "within_admission" else too_old
    counts = {
        ("patients", "dod", dod): len(subjects),
        ("admissions", "deathtime", deathtime): sum(row["deathtime_is_error"] for row in found.values()),
        ("admissions", "", after): sum(row["after_death"] for row in found.values()),
        ("admissions", "", nested): sum(row["nested"] for row in found.values()),
    }
    return {place: n for place, n in counts.items() if n}
