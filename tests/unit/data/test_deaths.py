"""Early deaths, admissions after the death, nested admissions, wrong dates of death: what each option leaves out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from support.builds import Build, build
from support.planted_deaths import (
    admit_after_death,
    admit_inside,
    die_before,
    die_early,
    discharge_at_midnight,
    moment,
    read,
    record_death_before,
    text,
    write,
)

from flexcare_data.options import PROTOCOLS, Options
from flexcare_data.stages.admissions import build_admissions, inconsistencies
from flexcare_data.stages.outcomes import with_readmission
from flexcare_data.synthetic.write import write_data_set
from flexcare_data.tasks.deaths import with_death

CORRECTED = PROTOCOLS["corrected"].model_dump()
DEATH_TASKS = ("in_hospital_mortality", "decompensation")
STAY_TASKS = (*DEATH_TASKS, "length_of_stay", "phenotyping", "readmission")
DAY = timedelta(days=1)


def at(day: int, hour: int = 0) -> datetime:
    return datetime(2150, 1, 1) + timedelta(days=day, hours=hour)


def raw(*rows: tuple[int, int, datetime | None, datetime | None, datetime | None]) -> pl.DataFrame:
    """Admissions (subject_id, hadm_id, admittime, dischtime, deathtime)."""
    names = ("subject_id", "hadm_id", "admittime", "dischtime", "deathtime")
    schema = dict.fromkeys(names[:2], pl.Int64) | dict.fromkeys(names[2:], pl.Datetime("us"))
    return pl.DataFrame(rows, schema=schema, orient="row")


def patients(**dod: datetime | None) -> pl.DataFrame:
    """``p1=...`` is the dod of patient 1."""
    rows = [(int(name[1:]), date) for name, date in dod.items()]
    return pl.DataFrame(rows, schema={"subject_id": pl.Int64, "dod": pl.Datetime("us")}, orient="row")


def marks(admissions: pl.DataFrame, people: pl.DataFrame) -> dict[int, tuple[datetime | None, int]]:
    table = build_admissions(admissions, people)
    return {hadm: (death, after) for hadm, death, after in table.select("hadm_id", "death_time", "after_death").rows()}


# --- the table ------------------------------------------------------------------------------------------------------


def test_the_first_deathtime_counts_and_dod_only_without_one():
    admissions = raw(
        (1, 10, at(0), at(3), at(2)), (1, 11, at(2, 1), at(4), None),
        (2, 20, at(0), at(3), None), (3, 30, at(0), at(3), None), (4, 40, at(0), at(3), at(2)),
    )  # fmt: skip
    found = marks(admissions, patients(p1=at(9), p2=at(5), p3=None))
    assert found[10] == (at(2), 0)
    assert found[11] == (at(2), 1)
    assert found[20] == (at(6), 0)  # the end of the day
    assert found[30] == (None, 0)
    assert found[40] == (at(2), 0)  # the patient is not in the table of patients


@pytest.mark.parametrize(("hours", "after"), [(-1, 0), (0, 1), (1, 1)])
def test_an_admission_at_the_deathtime_is_after_it(hours, after):
    admissions = raw((1, 10, at(0), at(3), at(2)), (1, 11, at(2, hours), at(4), None))
    assert marks(admissions, patients(p1=None))[11][1] == after


@pytest.mark.parametrize(("hours", "after"), [(-1, 0), (0, 1)])
def test_a_dod_counts_from_the_end_of_the_day(hours, after):
    admissions = raw((1, 10, at(0), at(3), None), (1, 11, at(6, hours), at(8), None))
    assert marks(admissions, patients(p1=at(5)))[11][1] == after


def test_an_own_deathtime_is_not_that_of_another_admission():
    """A deathtime before its own admission is a mistake of that row: it does not make the row one after the death."""
    admissions = raw((1, 10, at(5), at(8), at(4)), (2, 20, at(5), None, None), (2, 21, at(5), None, at(5)))
    assert {hadm: after for hadm, (_, after) in marks(admissions, patients(p1=None, p2=None)).items()} == {
        10: 0, 20: 0, 21: 0,
    }  # fmt: skip


@pytest.mark.parametrize(("days", "is_error"), [(365, False), (366, True)])
@pytest.mark.parametrize("column", ["dod", "deathtime"])
def test_a_death_more_than_a_year_before_an_admission_is_an_error(days, is_error, column):
    """The patient lived: no admission is after such a death, not even one soon after it, and it is counted once."""
    last = at(days)
    dead = at(0) if column == "deathtime" else None
    admissions = raw((1, 10, at(-5), at(1), dead), (1, 11, at(5), at(6), None), (1, 12, last, last + DAY, None))
    people = patients(p1=at(0) if column == "dod" else None)
    found = marks(admissions, people)
    numbers = inconsistencies(admissions, people, build_admissions(admissions, people))
    assert numbers[column] == is_error
    assert numbers["after_death"] == (0 if is_error else 2)
    death = at(0) + (DAY if column == "dod" else timedelta())
    assert found == {hadm: (None, 0) if is_error else (death, int(hadm != 10)) for hadm in (10, 11, 12)}


def test_a_deathtime_that_is_an_error_does_not_hide_the_next_one():
    admissions = raw((1, 10, at(0), at(1), at(1)), (1, 11, at(800), at(803), at(802)), (1, 12, at(803), at(804), None))
    assert marks(admissions, patients(p1=None)) == {10: (at(802), 0), 11: (at(802), 0), 12: (at(802), 1)}


def test_nested_admissions_are_counted():
    """Inside one, over its end, inside the one before the last; not the one that begins at the discharge."""
    admissions = raw(
        (1, 10, at(0), at(10), None), (1, 11, at(2), at(3), None), (1, 12, at(4), None, None),
        (1, 13, at(9), at(12), None), (1, 14, at(12), at(13), None), (2, 20, at(1), at(2), None),
        (3, 30, None, at(2), None), (3, 31, at(1), at(2), None),
    )  # fmt: skip
    people = patients(p1=None, p2=None, p3=None)
    assert inconsistencies(admissions, people, build_admissions(admissions, people))["nested"] == 3


# --- readmission ----------------------------------------------------------------------------------------------------


def readmitted(options: dict[str, str], *later: tuple[datetime, datetime], outtime: datetime | None = None):
    """Label and time of an admission [day 0, day 10] whose stay ends at ``outtime``, and of later admissions."""
    admissions = raw((1, 10, at(0), at(10), None), *((1, 11 + i, *times, None) for i, times in enumerate(later)))
    stays = admissions.with_columns(
        stay_id=pl.col("hadm_id") * 10, intime="admittime", outtime=pl.lit(outtime, pl.Datetime("us")),
        los_hours=pl.lit(24.0), dod=pl.lit(None, pl.Datetime("us")),
        died_in_hospital=pl.lit(0), died_in_unit=pl.lit(0), died=pl.lit(0),
    )  # fmt: skip
    found = with_readmission(stays, admissions, Options(**options))
    return found.filter(pl.col("hadm_id") == 10).select("readmission", "readmission_time").row(0)


@pytest.mark.parametrize("readmission", ["hospital", "kept_icu_stays"])
def test_a_nested_admission_is_no_readmission(readmission):
    counted, ignored = ({"readmission": readmission, "nested": nested} for nested in ("counted", "ignored"))
    nested, overlapping = (at(9), at(9, 1)), (at(9, 23), at(20))
    for inside in (nested, overlapping):
        assert readmitted(counted, inside) == (1, inside[0])
        assert readmitted(ignored, inside) == (0, None)
        assert readmitted(ignored, inside, (at(30), at(31))) == (1, at(30))
        assert readmitted(ignored, inside, (at(40), at(41))) == (0, None)
    assert readmitted(ignored, (at(10), at(11))) == (1, at(10))  # at the discharge


def test_a_readmission_before_the_end_of_the_stay_is_none():
    """The stay ends after the discharge: who is admitted before its end has been readmitted when asked."""
    ignored = {"readmission": "hospital", "nested": "ignored"}
    assert readmitted(ignored, (at(11), at(12)), outtime=at(11, 1)) == (0, None)
    assert readmitted(ignored, (at(11, 1), at(12)), outtime=at(11, 1)) == (1, at(11, 1))


# --- whole builds ---------------------------------------------------------------------------------------------------

Plant = Callable[[Path], list[int]]


@pytest.fixture
def planted(tmp_path: Path) -> Callable[..., tuple[list[int], Callable[..., Build]]]:
    """Plant something in fabricated data; the ids, and a function that builds it with options."""

    def make(plant: Plant, patients: int = 40):
        write_data_set(tmp_path / "raw", patients=patients, seed=3, edition="2.2")
        ids = plant(tmp_path / "raw/mimiciv")
        assert ids

        def built(name: str, **options: str) -> Build:
            return build(tmp_path / "raw", tmp_path / name, options=options)

        return ids, built

    return make


def too_late(built: Build, task: str) -> int:
    windows = built.table(f"cohort-{task}", "windows.parquet")
    return windows.filter(pl.col("label_time") < pl.col("prediction_time")).height


def of_task(built: Build, task: str) -> dict[str, int]:
    return built.counts("audit", "dropped").get(task, {}).get("", {})


def test_the_dead_are_not_asked_whether_they_will_die(planted):
    """Death at hour 20, stay of more than 48 hours: asked at hour 48 by the published benchmark (f28)."""
    ids, built = planted(lambda root: die_early(root, 4, 20.0))
    published, alive = built("published"), built("alive", asked="alive")
    dead = [str(stay) for stay in ids]
    asked = published.cohort("in_hospital_mortality").filter(pl.col("sample_id").is_in(dead)).height
    assert asked > 0
    assert of_task(published, "in_hospital_mortality") == {"dead_at_prediction_time_but_asked": asked}
    assert too_late(published, "in_hospital_mortality") == asked
    left = alive.cohort("in_hospital_mortality")
    assert left.equals(published.cohort("in_hospital_mortality").filter(~pl.col("sample_id").is_in(dead)))
    assert of_task(alive, "in_hospital_mortality") == {"dead_at_prediction_time": asked}
    step = alive.counts("audit", "flow")["in_hospital_mortality"][-1]
    assert step == {"step": "alive at the prediction time", "samples": left.height}
    assert not too_late(alive, "in_hospital_mortality")
    # Published: the hours of decompensation end at the deathtime already.
    assert alive.cohort("decompensation").equals(published.cohort("decompensation"))


def test_a_death_at_the_prediction_time_is_not_before_it(planted):
    ids, built = planted(lambda root: die_early(root, 3, 48.0))
    alive = built("alive", asked="alive").cohort("in_hospital_mortality")
    found = alive.filter(pl.col("sample_id").is_in([str(stay) for stay in ids]))
    assert found.height > 0 and found["label"].to_list() == [1] * found.height


def test_decompensation_is_drawn_before_a_death_known_by_date_only(planted):
    """Dead at the end of the second day without a deathtime: later hours were drawn, now earlier ones are."""
    ids, built = planted(lambda root: die_early(root, 6, 6.0, column="dod"))
    options = {"sampling": "all"}
    published, alive = built("published", **options), built("alive", asked="alive", **options)
    assert (
        too_late(published, "decompensation")
        == of_task(published, "decompensation")["dead_at_prediction_time_but_asked"]
    )
    assert too_late(published, "decompensation") > 0
    windows = published.table("cohort-decompensation", "windows.parquet")
    living = windows.filter((pl.col("label_time") >= pl.col("prediction_time")).fill_null(True))["sample_id"]
    assert alive.cohort("decompensation")["sample_id"].to_list() == living.to_list()
    one = built("one", asked="alive").cohort("decompensation")
    assert set(one["stay_id"]) >= set(ids) & set(alive.cohort("decompensation")["stay_id"])


def test_donors_give_no_samples(planted):
    """Admitted again a minute after the death, with a stay of their own (f03)."""
    ids, built = planted(lambda root: admit_after_death(root, 3, timedelta(minutes=1)), patients=60)
    kept, dropped = built("kept"), built("dropped", after_death="dropped")
    everywhere = {task: kept.cohort(task).filter(pl.col("hadm_id").is_in(ids)).height for task in STAY_TASKS}
    assert min(everywhere.values()) > 0
    for task, n in everywhere.items():
        assert of_task(kept, task)["after_death_but_used"] == n
        assert dropped.cohort(task).filter(pl.col("hadm_id").is_in(ids)).is_empty()
        assert "after_death_but_used" not in of_task(dropped, task)
    assert kept.counts("stays", "dropped")["admissions"][""]["after_death_but_used"] == 3
    assert dropped.counts("stays", "dropped")["admissions"][""]["after_death"] == 3
    steps = {row["step"]: row for row in dropped.counts("stays", "flow")["stays"]}
    before, after = (steps[name] for name in ("admission and patient known", "admitted before the patient's death"))
    assert (before["admissions"] - after["admissions"], before["stays"] - after["stays"]) == (3, 3)
    assert "admitted before the patient's death" not in {row["step"] for row in kept.counts("stays", "flow")["stays"]}
    # The others keep their samples and their labels of death.
    ihm = [built.cohort("in_hospital_mortality") for built in (kept, dropped)]
    assert ihm[1].equals(ihm[0].filter(~pl.col("hadm_id").is_in(ids)))


def test_an_admission_after_death_is_no_readmission(planted):
    """Death in hospital is missed by `within_admission` where dischtime is midnight: the donor then came back."""

    def plant(root: Path) -> list[int]:
        discharge_at_midnight(root)
        return admit_after_death(root, 20, timedelta(minutes=1))

    _, built = planted(plant)
    options = {"readmission": "hospital", "nested": "counted"}
    kept, dropped = (built(value, after_death=value, **options) for value in ("kept", "dropped"))
    before, after = (b.table("stays", "stays.parquet").select("stay_id", "readmission") for b in (kept, dropped))
    both = before.join(after, on="stay_id", suffix="_after").filter(
        pl.col("readmission") != pl.col("readmission_after")
    )
    assert both.height > 0
    assert both.select("readmission", "readmission_after").unique().rows() == [(1, 0)]


def test_studies_and_drg_codes_after_death_give_no_samples(planted):
    """Most admissions are after a death in the first one: no study in them, no DRG of them."""

    def plant(root: Path) -> list[int]:
        admissions = read(root, "admissions")
        first: dict[str, dict[str, str]] = {}
        for row in sorted(admissions, key=lambda row: row["admittime"]):
            first.setdefault(row["subject_id"], row)
        later = [row for row in admissions if first[row["subject_id"]] is not row]
        near = [
            row for row in later
            if moment(row["admittime"]) - moment(first[row["subject_id"]]["dischtime"]) < timedelta(days=300)
        ]  # fmt: skip
        for row in near:
            of_first = first[row["subject_id"]]
            of_first["deathtime"] = text(moment(of_first["dischtime"]) - timedelta(hours=1))
        write(root, "admissions", admissions)
        return [int(row["hadm_id"]) for row in near]

    _, built = planted(plant, patients=60)
    kept, dropped = built("kept"), built("dropped", after_death="dropped")
    table = kept.table("stays", "admissions.parquet")
    dead = table.filter(pl.col("after_death") == 1)["hadm_id"].to_list()
    for task in ("diagnosis", "drg"):
        assert kept.cohort(task).filter(pl.col("hadm_id").is_in(dead)).height > 0, task
        assert dropped.cohort(task).filter(pl.col("hadm_id").is_in(dead)).is_empty(), task
        unconcerned = kept.cohort(task).filter(~pl.col("hadm_id").is_in(dead).fill_null(False))
        assert dropped.cohort(task)["sample_id"].to_list() == unconcerned["sample_id"].to_list(), task


def test_a_dod_years_before_is_counted_and_leaves_nothing_out(planted):
    """Published labels use it as before; under the options it is no death (f04)."""
    ids, built = planted(lambda root: die_before(root, 6, 6 * 365))
    reason = "over_a_year_before_admission"
    for name, options, expected in (
        ("published", {}, f"{reason}_but_used"),
        ("options", {"asked": "alive", "after_death": "dropped"}, f"{reason}_but_used"),
        ("corrected", CORRECTED, reason),
    ):
        made = built(name, **options)
        counts = made.counts("stays", "dropped")
        assert counts["patients"]["dod"] == {expected: len(ids)}
        assert set(counts.get("admissions", {}).get("", {})) <= {"nested_but_used", "nested"}
        assert set(ids) <= set(made.cohort("phenotyping")["subject_id"])
        of_them = made.cohort("readmission").filter(pl.col("subject_id").is_in(ids))
        is_used = expected != reason
        assert (of_them["label"].to_list() == [1] * of_them.height) == is_used
        for task in DEATH_TASKS:
            assert not set(of_task(made, task)), task


@pytest.mark.parametrize("sampling", ["hash", "all"])
def test_a_deathtime_years_before_its_own_admission_is_no_death(planted, sampling):
    """Survivors under `corrected` are asked as if it were not recorded; always asked, published labels use it."""

    def plant(root: Path) -> list[int]:
        before["admissions"] = read(root, "admissions")
        return record_death_before(root, 5, 1500)

    before: dict[str, list] = {}
    ids, built = planted(plant)
    options = CORRECTED | {"sampling": sampling}
    made, published = built("corrected", **options), built("published", sampling=sampling)
    for name, build_of, suffix in (("made", made, ""), ("published", published, "_but_used")):
        counts = build_of.counts("stays", "dropped")["admissions"]["deathtime"]
        assert counts == {f"over_a_year_before_admission{suffix}": len(ids)}, name
    root = made.out.parent / "raw/mimiciv"
    write(root, "admissions", before["admissions"])
    unrecorded = built("unrecorded", **options)
    for task in DEATH_TASKS:
        assert made.cohort(task).equals(unrecorded.cohort(task)), task
        windows = (b.table(f"cohort-{task}", "windows.parquet") for b in (made, unrecorded))
        assert next(windows).equals(next(windows)), task
        assert set(ids) <= set(made.cohort(task)["stay_id"]), task
        assert not set(of_task(made, task)), task
    # No hour of decompensation is before the recorded time.
    assert not set(ids) & set(published.cohort("decompensation")["stay_id"])
    assert set(ids) <= set(published.cohort("in_hospital_mortality")["stay_id"])


@pytest.mark.parametrize(("days", "counts"), [(365, True), (366, False)])
def test_an_own_deathtime_counts_for_a_year(days, counts):
    """Also if only a later admission contradicts it; with `asked: always` whatever it is."""
    admissions = raw(
        (1, 10, at(days), at(days + 3), at(0)), (2, 20, at(0), at(3), at(2)), (2, 21, at(900), at(901), None),
        (3, 30, None, None, at(0)), (4, 40, at(days), at(days + 3), at(0)),
    )  # fmt: skip
    table = build_admissions(admissions, patients(p1=None, p2=None, p3=None, p4=at(days + 1)))
    stays = table.select("hadm_id")

    def died(asked: str) -> list[datetime | None]:
        sources = SimpleNamespace(deaths=table, options=SimpleNamespace(asked=asked))
        return with_death(stays, sources)["died_at"].to_list()

    end_of_dod = at(days + 2)
    assert died("always") == [at(0), at(2), None, at(0), at(0)]
    assert died("alive") == [at(0) if counts else None, at(2), None, at(0), at(0) if counts else end_of_dod]


@pytest.mark.parametrize("readmission", ["hospital", "kept_icu_stays"])
def test_nested_admissions_of_a_build(planted, readmission):
    """A day before the discharge (f02)."""
    ids, built = planted(lambda root: admit_inside(root, 5, timedelta(hours=23)))
    counted, ignored = (built(nested, readmission=readmission, nested=nested) for nested in ("counted", "ignored"))
    assert counted.counts("stays", "dropped")["admissions"][""]["nested_but_used"] == len(ids)
    assert ignored.counts("stays", "dropped")["admissions"][""]["nested"] == len(ids)
    labels = [b.cohort("readmission")["label"].sum() for b in (counted, ignored)]
    changed = of_task(counted, "readmission").get("nested_admission_but_counted", 0)
    assert labels[0] - labels[1] == changed
    # Only an admission with a kept stay counts in `kept_icu_stays`.
    assert (changed > 0) == (readmission == "hospital")
    assert "nested_admission_but_counted" not in of_task(ignored, "readmission")
    assert not too_late(ignored, "readmission") or readmission == "kept_icu_stays"


def test_corrected_knows_no_answer_before_it_is_asked(planted):
    def plant(root: Path) -> list[int]:
        return [
            *die_early(root, 4, 20.0), *admit_after_death(root, 4, timedelta(minutes=1)),
            *admit_inside(root, 4, timedelta(hours=23)), *die_before(root, 3, 2000),
        ]  # fmt: skip

    _, built = planted(plant, patients=60)
    published, corrected = built("published"), built("corrected", **CORRECTED)
    assert sum(too_late(published, task) for task in DEATH_TASKS) > 0
    for task in (*STAY_TASKS, "diagnosis", "drg"):
        assert not too_late(corrected, task), task
        times = corrected.table(f"cohort-{task}", "windows.parquet")["label_time"]
        assert (times.count() > 0) == (task not in ("phenotyping", "diagnosis", "drg")), task
