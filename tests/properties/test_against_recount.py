"""The built stages equal the slow recount of `tests/oracle` on fabricated patients and on the open demo.

Compared are stays and flow, splits, every event, every section, every column of every cohort and every number of
every hourly matrix (`build_and_compare`).
"""

from __future__ import annotations

import csv
import gzip
import random
from datetime import timedelta
from pathlib import Path

import pytest
from oracle.cohorts import TASKS
from support.build_and_compare import build, differences, recount
from support.builds import Roots
from support.planted_deaths import (
    admit_after_death,
    admit_inside,
    die_before,
    die_early,
    discharge_at_midnight,
    record_death_before,
)

from flexcare_data.options import PROTOCOLS
from flexcare_data.synthetic.write import write_data_set

PUBLISHED = PROTOCOLS["flexcare"].model_dump()
CORRECTED = PROTOCOLS["corrected"].model_dump()
STAY, GRIDS = ("in_hospital_mortality", "readmission"), ("diagnosis",)
TASKS_OF = {
    "death_label": ("decompensation", *STAY), "age": STAY, "readmission": ("readmission",),
    "nested": ("readmission",), "after_death": TASKS, "asked": ("in_hospital_mortality", "decompensation"),
    "scaler": (), "split": STAY, "sampling": ("length_of_stay", "decompensation"),
    "icd": ("phenotyping",), "icd10": ("phenotyping",),
    "notes": ("readmission", "diagnosis", "drg"), "note_cleaning": ("drg",), "bhc_fallback": ("drg",),
    "repeats": ("readmission", "diagnosis", "drg"),
}  # fmt: skip
"""Tasks whose samples an option can change; those not listed act on events and grids, compared in diagnosis."""

ALONE = [(name, value) for name, value in CORRECTED.items() if value != PUBLISHED[name]]
ALONE += [("notes", "prior"), ("notes", "radiology"), ("notes", "none"), ("sampling", "all"), ("split", "temporal")]


@pytest.fixture(scope="module")
def fabricated(tmp_path_factory: pytest.TempPathFactory) -> Roots:
    """Ten patients in all three modalities, with the odd spellings and values that the generator plants."""
    out = tmp_path_factory.mktemp("fabricated")
    write_data_set(out, patients=10, seed=7, edition="2.2")
    return Roots.below(out)


def agree(roots: Roots, out: Path, options: dict[str, str], tasks: tuple[str, ...] = TASKS) -> None:
    build(roots, out, options, tasks=tasks)
    assert differences(recount(roots, options), roots, out, tasks=tasks) == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_protocols_equal_the_recount(protocol: str, fabricated: Roots, tmp_path: Path):
    agree(fabricated, tmp_path, PROTOCOLS[protocol].model_dump())


@pytest.mark.parametrize(("name", "value"), ALONE)
def test_each_option_alone_equals_the_recount(name: str, value: str, fabricated: Roots, tmp_path: Path):
    agree(fabricated, tmp_path, PUBLISHED | {name: value}, TASKS_OF.get(name, GRIDS))


def test_reports_of_samples_asked_every_hour_with_other_cleaning(fabricated: Roots, tmp_path: Path):
    options = PUBLISHED | {"notes": "radiology", "sampling": "all", "note_cleaning": "keep"}
    agree(fabricated, tmp_path, options, ("length_of_stay", "diagnosis"))


@pytest.mark.parametrize("edition", ["1.0", "3.1"])
def test_other_editions_equal_the_recount(edition: str, tmp_path: Path):
    """1.0 has core/ and `ethnicity`, 3.1 more columns."""
    write_data_set(tmp_path / "raw", patients=4, seed=3, edition=edition)
    roots = Roots.below(tmp_path / "raw")
    agree(roots, tmp_path / "built", PUBLISHED)


def test_without_radiographs_and_notes(fabricated: Roots, tmp_path: Path):
    agree(Roots(fabricated.mimiciv), tmp_path, PUBLISHED)


def rewrite(path: Path, rng: random.Random, changes: dict[str, list[str]]) -> None:
    """Shuffle the rows of a csv.gz and replace a tenth of the named columns by one of the given texts."""
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for column, texts in changes.items():
            if rng.random() < 0.1:
                row[column] = rng.choice(texts)
    rng.shuffle(rows)
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_holes_and_shuffled_rows(protocol: str, tmp_path: Path):
    """Missing times, lengths and ages, impossible study times and rows in any order stop nothing."""
    raw = tmp_path / "raw"
    write_data_set(raw, patients=8, seed=5, edition="2.2")
    rng = random.Random(1)
    rewrite(
        raw / "mimiciv/icu/icustays.csv.gz", rng, {"outtime": [""], "los": ["", "0", "2.0"], "first_careunit": [""]}
    )
    moved = {"dischtime": ["", "2150-06-01 00:00:00"], "deathtime": ["", "2150-05-01 12:00:00"]}
    rewrite(raw / "mimiciv/hosp/admissions.csv.gz", rng, moved)
    rewrite(raw / "mimiciv/hosp/patients.csv.gz", rng, {"dod": ["2150-01-01", ""], "anchor_age": ["", "17", "18"]})
    clocks = {"StudyTime": ["0", "59.9", "235959.999", "990000", ""], "StudyDate": [""]}
    rewrite(raw / "mimic_cxr_jpg/mimic-cxr-2.0.0-metadata.csv.gz", rng, clocks)
    rewrite(raw / "mimic_iv_note/note/discharge.csv.gz", rng, {"charttime": [""], "storetime": [""]})
    rewrite(raw / "mimic_iv_note/note/radiology.csv.gz", rng, {"charttime": [""], "storetime": [""], "hadm_id": ["7"]})
    stored = {"storetime": ["", "2100-01-01 00:00:00", "2150-05-01 12:00:00"]}
    rewrite(raw / "mimiciv/icu/chartevents.csv.gz", rng, stored)
    rewrite(raw / "mimiciv/hosp/labevents.csv.gz", rng, stored)
    roots = Roots.below(raw)
    agree(roots, tmp_path / "built", PROTOCOLS[protocol].model_dump())
    radiology = PROTOCOLS[protocol].model_dump() | {"notes": "radiology"}
    agree(roots, tmp_path / "radiology", radiology, ("readmission", "diagnosis"))


@pytest.fixture(scope="module")
def deaths(tmp_path_factory: pytest.TempPathFactory) -> Roots:
    """Early deaths with and without deathtime, donors, nested and overlapping admissions, wrong dates of death."""
    out = tmp_path_factory.mktemp("deaths")
    write_data_set(out, patients=40, seed=11, edition="2.2")
    root = out / "mimiciv"
    planted = [
        die_early(root, 2, 20.0),
        die_early(root, 2, 6.0, column="dod"),
        discharge_at_midnight(root, every=2),
        admit_after_death(root, 4, timedelta(minutes=1)),
        admit_inside(root, 3, timedelta(hours=23)),
        admit_inside(root, 2, timedelta(minutes=30)),
        die_before(root, 2, 1000),
        die_before(root, 2, 30),
        record_death_before(root, 2, 1500),
        record_death_before(root, 2, 300),
    ]
    assert all(planted)
    return Roots.below(out)


OF_DEATH = (
    PUBLISHED, CORRECTED, *({"asked": "alive", "sampling": sampling} for sampling in ("permutation42", "hash", "all")),
    *({"after_death": "dropped", "readmission": way, "nested": nested}
      for way in ("kept_icu_stays", "hospital") for nested in ("counted", "ignored")),
    {"after_death": "kept", "readmission": "hospital", "nested": "ignored", "death_label": "expire_flag"},
)  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, marks=[pytest.mark.builds] if n > 2 else [], id=str(n))
        for n, options in enumerate(OF_DEATH)
    ],
)
def test_life_and_death_equal_the_recount(options: dict[str, str], deaths: Roots, tmp_path: Path):
    agree(deaths, tmp_path, PUBLISHED | options)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_open_demo_equals_the_recount(protocol: str, open_data: Path, tmp_path: Path):
    agree(Roots(open_data / "mimic-iv-demo-2.2"), tmp_path, PROTOCOLS[protocol].model_dump())
