"""Patients, their admissions and ICU stays, with the times of everything that happens to them.

In: number of patients, seed. Out: a `Population`, frames with the published columns and, beside them, the hidden ones
that the other modules need. Times are shifted dates without time zone, as whole seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from flexcare_data.synthetic import factors as planted

UNITS = (
    "Cardiac Vascular Intensive Care Unit (CVICU)", "Coronary Care Unit (CCU)", "Medical Intensive Care Unit (MICU)",
    "Medical/Surgical Intensive Care Unit (MICU/SICU)", "Neuro Stepdown", "Surgical Intensive Care Unit (SICU)",
    "Trauma SICU (TSICU)",
)  # fmt: skip
_YEAR_GROUPS = ("2008 - 2010", "2011 - 2013", "2014 - 2016", "2017 - 2019")
_NEWEST_GROUP = "2020 - 2022"
_RACES = ("WHITE", "BLACK/AFRICAN AMERICAN", "HISPANIC/LATINO - DOMINICAN", "ASIAN - CHINESE", "OTHER", "UNKNOWN")
_MAX_ADMISSIONS = 4
HOUR, DAY = 3600, 86400


@dataclass(frozen=True)
class Population:
    """The people of a data set.

    Attributes:
        patients: by subject_id; `minor` is hidden.
        admissions: by subject_id and admittime; hidden: the factors, `icd_version`, `icu`, `died`.
        stays: by subject_id and intime; hidden: `admission` (row in admissions), `dies` (in this stay), `hours`.
    """

    patients: pl.DataFrame
    admissions: pl.DataFrame
    stays: pl.DataFrame


def generator(seed: int, *stream: int) -> np.random.Generator:
    """An independent generator per part and chunk, so that no part's draws depend on another's."""
    return np.random.default_rng([seed, *stream])


def unique_ids(rng: np.random.Generator, n: int, start: int) -> np.ndarray:
    """``n`` distinct eight-digit numbers from ``start``, in random order."""
    return start + rng.choice(9_999_999, n, replace=False).astype(np.int64)


def times(seconds: np.ndarray) -> pl.Series:
    """Seconds since 1970 as datetimes; negative infinity (no time) as null."""
    known = np.isfinite(seconds)
    micros = pl.Series(np.where(known, seconds, 0).astype(np.int64)) * 1_000_000
    return pl.select(pl.when(pl.Series(known)).then(micros.cast(pl.Datetime("us")))).to_series()


def populate(n: int, seed: int) -> Population:
    """``n`` patients with one to four admissions each.

    About one patient in thirty is a minor, one admission in twelve has no ICU stay, and one ICU admission in six has
    a stay with a unit transfer, two stays, or both.
    """
    rng = generator(seed, 0)
    subject = np.sort(unique_ids(rng, n, 10_000_001))
    year = rng.integers(2110, 2196, n)
    group = rng.integers(0, 4, n)
    age = np.where(rng.random(n) < 0.03, rng.integers(14, 18, n), rng.integers(19, 92, n))
    begin = _year_start(year) + rng.integers(0, 300, n) * DAY + rng.integers(0, DAY, n)
    rounds = _rounds(rng, n, begin)
    who = np.concatenate([part["who"] for part in rounds])
    order = np.lexsort((np.concatenate([part["admit"] for part in rounds]), who))
    flat = {key: np.concatenate([part[key] for part in rounds])[order] for key in rounds[0]}
    m = len(order)
    who = flat["who"]
    hadm = unique_ids(rng, m, 20_000_000)
    dod = np.full(n, -np.inf)
    np.maximum.at(dod, who, np.floor(flat["end_of_life"] / DAY) * DAY)
    icd = np.where(group[who] < 2, 9, np.where(group[who] > 2, 10, rng.integers(9, 11, m)))
    patients = pl.DataFrame(
        {
            "subject_id": subject,
            "gender": rng.choice(["F", "M"], n),
            "anchor_age": age,
            "anchor_year": year,
            "anchor_year_group": np.take(_YEAR_GROUPS, group),
            "dod": times(dod).dt.date(),
            "minor": age < 18,
        }
    )
    race = rng.choice(_RACES, n, p=[0.6, 0.16, 0.06, 0.05, 0.06, 0.07])
    ed = rng.random(m) < 0.7
    home = rng.choice(
        ["HOME", "HOME HEALTH CARE", "SKILLED NURSING FACILITY", "REHAB", ""], m, p=[0.4, 0.25, 0.2, 0.1, 0.05]
    )
    where = np.where(flat["died"], "DIED", home)
    admissions = pl.DataFrame({
        "subject_id": subject[who],
        "hadm_id": hadm,
        "admittime": times(flat["admit"]),
        "dischtime": times(flat["discharge"]),
        "deathtime": times(flat["death"]),
        "admission_type": rng.choice(["EW EMER.", "URGENT", "ELECTIVE"], m, p=[0.6, 0.3, 0.1]),
        "admit_provider_id": _providers(rng, m),
        "admission_location": np.where(ed, "EMERGENCY ROOM", "TRANSFER FROM HOSPITAL"),
        "discharge_location": pl.Series(where).replace("", None),
        "insurance": rng.choice(["Medicare", "Medicaid", "Other"], m),
        "language": np.where(rng.random(m) < 0.9, "ENGLISH", "?"),
        "marital_status": rng.choice(["SINGLE", "MARRIED", "WIDOWED", "DIVORCED"], m),
        "race": race[who],
        "edregtime": times(np.where(ed, flat["admit"] - rng.integers(2, 9, m) * HOUR, -np.inf)),
        "edouttime": times(np.where(ed, flat["admit"] + rng.integers(1, 60, m) * 60, -np.inf)),
        "hospital_expire_flag": flat["died"].astype(np.int64),
        "icd_version": icd,
        "icu": flat["icu"],
        "died": flat["died"],
        **{name: flat[name] for name in planted.FACTORS},
    })  # fmt: skip
    return Population(patients, admissions, _stays(rng, subject, hadm, flat))


def with_newest_group(people: Population, seed: int) -> Population:
    """``people`` as in editions 3.x: about half of the last group of years is in the group that these editions add."""
    later = generator(seed, 0, 1).random(people.patients.height) < 0.5
    moves = pl.Series(later) & (pl.col("anchor_year_group") == _YEAR_GROUPS[-1])
    group = pl.when(moves).then(pl.lit(_NEWEST_GROUP)).otherwise("anchor_year_group")
    return replace(people, patients=people.patients.with_columns(anchor_year_group=group))


def _rounds(rng: np.random.Generator, n: int, begin: np.ndarray) -> list[dict[str, np.ndarray]]:
    """First, second, ... admissions of the patients who have one; a later one begins after the earlier one."""
    who, admit, forced = np.arange(n), begin.astype(float), np.zeros(n, bool)
    rounds = []
    for k in range(_MAX_ADMISSIONS):
        m = len(who)
        part = {"who": who, "admit": admit} | planted.draw(rng, m)
        icu = forced | (rng.random(m) < 0.93)
        # A stay that follows a readmission has one unit, as a stay that is not kept does not count as a readmission.
        kind = np.where(forced, 0, rng.choice(4, m, p=[0.84, 0.08, 0.05, 0.03]))
        part |= _course(rng, part, icu)
        back = ~part["died"] & (rng.random(m) < planted.readmission(part))
        again = ~part["died"] & (rng.random(m) < np.where(back, 0.8, 0.65)) & (k < _MAX_ADMISSIONS - 1)
        later = ~part["died"] & ~back & ~again & (rng.random(m) < 0.1)
        after = np.where(back & ~again, rng.uniform(1, 28, m), np.where(later, rng.uniform(35, 360, m), -np.inf)) * DAY
        end_of_life = np.where(part["died"], part["death"], part["leaves"] + after)
        rounds.append(part | {"icu": icu, "kind": np.where(icu, kind, -1), "end_of_life": end_of_life})
        gap = np.where(back, rng.uniform(0.5, 27, m), rng.uniform(40, 400, m)) * DAY
        who, admit, forced = who[again], np.floor(part["leaves"] + gap)[again], back[again]
        if not len(who):
            break
    return rounds


def _course(rng: np.random.Generator, part: dict[str, np.ndarray], icu: np.ndarray) -> dict[str, np.ndarray]:
    """Times of one admission each: arrival in the unit, leaving it, death and discharge."""
    m = len(icu)
    died = rng.random(m) < np.where(icu, planted.death(part), 0.02)
    hours = planted.stay_hours(part, rng)
    hours = np.where(died, np.clip(hours, 49, 68), hours)
    intime = np.floor(part["admit"] + rng.uniform(0.3, 20, m) * HOUR)
    # One stay in five starts on the hour, so that charting falls exactly on the edges of its bins.
    intime = np.where(rng.random(m) < 0.2, np.ceil(intime / HOUR) * HOUR, intime)
    outtime = np.floor(intime + hours * HOUR)
    in_unit = died & icu & (rng.random(m) < 0.88)
    ward_death = np.floor((outtime + rng.uniform(4, 60, m) * HOUR) / 60) * 60
    unit_death = np.floor((outtime - rng.uniform(0, 0.5, m) * HOUR) / 60) * 60
    death = np.where(died, np.where(in_unit, unit_death, ward_death), -np.inf)
    leaves = np.where(died, death + rng.integers(0, 90, m) * 60, np.floor(outtime + rng.uniform(8, 120, m) * HOUR))
    # Often only the day of death was entered at discharge, so the patient "leaves" before dying.
    midnight = died & (rng.random(m) < 0.05)
    discharge = np.where(midnight, np.floor(death / DAY) * DAY, np.floor(leaves / 60) * 60)
    return {
        "died": died, "hours": hours, "intime": intime, "outtime": outtime, "in_unit": in_unit, "death": death,
        "leaves": np.floor(leaves), "discharge": discharge,
    }  # fmt: skip


def _stays(rng, subject: np.ndarray, hadm: np.ndarray, flat: dict[str, np.ndarray]) -> pl.DataFrame:
    """ICU stays. Kinds of admission: 0 one unit, 1 a unit transfer, 2 two stays, 3 two, the first with a transfer."""
    first = np.flatnonzero(flat["icu"])
    kind = flat["kind"][first]
    second = first[kind >= 2]
    m = len(first) + len(second)
    row = np.concatenate([first, second])
    is_second = np.arange(m) >= len(first)
    two = np.concatenate([kind >= 2, np.ones(len(second), bool)])
    moved = np.concatenate([(kind == 1) | (kind == 3), np.zeros(len(second), bool)])
    start, end = flat["intime"][row], flat["outtime"][row]
    # Of two stays the first takes 45 % of the time in the units and a break of 5 %.
    intime = np.where(is_second, np.floor(start + 0.5 * (end - start)), start)
    outtime = np.where(two & ~is_second, np.floor(start + 0.45 * (end - start)), end)
    unit = rng.integers(0, len(UNITS), m)
    last = np.where(moved, (unit + rng.integers(1, len(UNITS), m)) % len(UNITS), unit)
    lost = rng.random(m) < 0.003
    outtime = np.where(lost, -np.inf, outtime)
    stays = pl.DataFrame(
        {
            "subject_id": subject[flat["who"][row]],
            "hadm_id": hadm[row],
            "stay_id": unique_ids(rng, m, 30_000_000),
            "first_careunit": np.take(UNITS, unit),
            "last_careunit": np.take(UNITS, last),
            "intime": times(intime),
            "outtime": times(outtime),
            "los": pl.Series(np.where(lost, np.nan, (outtime - intime) / DAY)).fill_nan(None),
            "admission": row,
            "hours": np.where(lost, flat["hours"][row], (outtime - intime) / HOUR),
            "dies": flat["in_unit"][row] & (is_second | ~two),
            "start": intime.astype(np.int64),
        }
    )
    return stays.sort("subject_id", "intime")


def _providers(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.array([f"P{k:05d}" for k in range(40)])[rng.integers(0, 40, n)]


def _year_start(year: np.ndarray) -> np.ndarray:
    return (year - 1970).astype("datetime64[Y]").astype("datetime64[s]").astype(np.int64)
