"""Facts per edition of the three data sets, and which edition a folder holds.

In: rows, columns and file names that were found. Out: the editions that fit, and the evidence. The numbers are those of
the published releases. No number here is counted or estimated by this project, except that the demo's were verified on
its files.

Sources of the numbers of rows, by release:

- MIMIC-IV 1.0, 2.0, 2.1, 2.2, 3.1: the scripts that check a loaded database against "known row counts" in the MIMIC
  Code Repository of the publishers (github.com/MIT-LCP/mimic-code, mimic-iv/buildmimic/postgres/validate.sql and
  mysql/validate.sql), each in its version for that release. 2.0: commit c2b6328. 2.1: commits 40f4dd6 (postgres) and
  8047c9d (mysql). 3.1: commit ac17d7d, added by pull request 1856. The scripts of 1.0 and 2.2 were read without their
  commits. The postgres script of 2.2 names its release in its first line. Loaders of other projects have the same
  numbers: for 1.0 of chartevents and labevents, for 2.2 of all tables.
- MIMIC-IV 3.0: the publishers released no script for it, and the page of the release gives no rows. The numbers are
  those that validate.sql observes after loading the files of physionet.org/files/mimiciv/3.0, as two users report them
  independently; both reports agree in every table. 3.0 and 3.1 differ in diagnoses_icd, drgcodes and labevents only.
- MIMIC-IV demo 2.2: mimic-iv/buildmimic/postgres/validate_demo.sql of the same repository, commit 3327400; equal to the
  files of the demo.
- MIMIC-CXR-JPG 2.0.0 and 2.1.0: abstract on PhysioNet (377,110 images, labels from 227,827 reports).
- MIMIC-IV-Note 2.2: abstract on PhysioNet (331,794 discharge summaries, 2,321,355 radiology reports), and
  mimic-iv-note/buildmimic/postgres/validate.sql of mimic-code, commit b4a2f46 (331,793 and 2,321,355). The sources
  disagree by one discharge summary, so both numbers are accepted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from flexcare_data.raw.files import PHYSIONET, PROJECTS

TABLES = (
    "patients", "admissions", "icustays", "diagnoses_icd", "d_icd_diagnoses", "drgcodes", "chartevents", "labevents",
)  # fmt: skip
"""All tables of MIMIC-IV that are read."""

SMALL_TABLES = TABLES[:3]
"""Tables by whose rows an edition is recognised; 3.0 and 3.1 have the same ones."""

MIMICIV_ROWS: dict[str, dict[str, int]] = {
    edition: dict(zip(TABLES, rows, strict=True))
    for edition, rows in {
        "1.0": (382_278, 523_740, 76_540, 5_280_351, 109_775, 769_622, 329_499_788, 122_103_667),
        "2.0": (315_460, 454_324, 76_943, 5_006_884, 109_775, 636_157, 329_822_285, 124_342_638),
        "2.1": (299_777, 431_088, 73_141, 4_752_265, 109_775, 603_645, 314_035_266, 118_057_948),
        "2.2": (299_712, 431_231, 73_181, 4_756_326, 109_775, 604_377, 313_645_063, 118_171_367),
        "3.0": (364_627, 546_028, 94_458, 6_364_520, 112_107, 761_860, 432_997_491, 158_478_383),
        "3.1": (364_627, 546_028, 94_458, 6_364_488, 112_107, 761_856, 432_997_491, 158_374_764),
        "demo 2.2": (100, 275, 140, 4_506, 109_775, 454, 668_862, 107_727),
    }.items()
}
"""Rows of each edition of MIMIC-IV, of every table that is read."""

CXR_ROWS = {"metadata": 377_110, "chexpert": 227_827}
"""Rows of MIMIC-CXR-JPG, 2.0.0 and 2.1.0 alike."""

ROWS_BY = {
    "mimiciv": "validation script of MIT-LCP/mimic-code",
    "mimic_cxr_jpg": "page of the release on PhysioNet",
    "mimic_iv_note": "page of the release on PhysioNet and validation script of MIT-LCP/mimic-code",
}
"""Where the rows of each data set are published, in short."""

CXR_BYTES = 557_000_000_000
"""The radiographs of MIMIC-CXR-JPG on disk."""

NOTE_ROWS = {"discharge": 331_794, "radiology": 2_321_355}
"""Rows of MIMIC-IV-Note 2.2, by its page on PhysioNet."""

NOTE_ROWS_BY_SCRIPT = {"discharge": 331_793, "radiology": 2_321_355}
"""Rows of MIMIC-IV-Note 2.2, by the script of mimic-code; one summary less."""

IMAGE_YEARS = "2011-2016"
"""Years in which the radiographs of MIMIC-CXR were taken."""

URLS = {root: f"{PHYSIONET}/files/{project}" for root, project in PROJECTS.items()}
"""Where the files of a data set are downloaded; an edition and a path follow."""

DEMO_URL = f"{PHYSIONET}/files/mimic-iv-demo/2.2"
PAPER = {"mimiciv": "2.0", "mimic_cxr_jpg": "2.0.0", "mimic_iv_note": "2.2"}
"""The editions of the paper."""

PAPER_COHORTS = {
    "in_hospital_mortality": 26_318,
    "length_of_stay": 59_495,
    "decompensation": 59_269,
    "phenotyping": 59_798,
    "readmission": 55_712,
    "diagnosis": 132_576,
    "drg": 236_770,
}
"""Samples of the published benchmark (paper, Table 2; DRG: section 4): IV 2.0, CXR-JPG 2.0.0, Note 2.2."""

DEMO_STAYS = (140, 129, 112, 112)
"""Stays of the demo after each selection step: all, one care unit, only stay of its admission, adults."""


@dataclass(frozen=True)
class Found:
    """What was seen of a data set.

    Attributes:
        rows: rows by table where they were counted.
        columns: columns by table.
        paths: paths of the tables below the root, by table.
        listed: paths in the SHA256SUMS.txt of the release; empty without one.
        folder: path of the root, whose parts may name an edition (`mimiciv/2.2`).
    """

    rows: Mapping[str, int] = field(default_factory=dict)
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    listed: frozenset[str] = frozenset()
    folder: str = ""


@dataclass(frozen=True)
class Edition:
    """Editions that fit (several if they share a layout), whether numbers of rows agree, and the evidence in words."""

    names: tuple[str, ...]
    is_exact: bool
    evidence: tuple[str, ...]

    @property
    def text(self) -> str:
        return " or ".join(self.names) or "unknown"


def recognise_mimiciv(found: Found) -> Edition:
    """The edition of MIMIC-IV: by the rows of its small tables, else by its layout."""
    counted = {name: rows for name, rows in found.rows.items() if name in SMALL_TABLES}
    same = [
        edition
        for edition, rows in MIMICIV_ROWS.items()
        if counted and all(rows[name] == counted[name] for name in counted)
    ]
    # Further tables tell 3.0 from 3.1. A damaged one must not hide the edition, so they only choose among those found.
    closer = [name for name in same if all(n == found.rows.get(t, n) for t, n in MIMICIV_ROWS[name].items())]
    same = closer or same
    evidence: list[str] = []
    names = _layout(found, evidence)
    if same:
        known = ", ".join(f"{name} {rows:,}" for name, rows in counted.items())
        return Edition(_by_folder(tuple(same), found, evidence), True, (f"rows: {known}", *evidence))
    return Edition(_by_folder(names, found, evidence), False, tuple(evidence))


def _layout(found: Found, evidence: list[str]) -> tuple[str, ...]:
    """Editions that have these files and columns; the evidence is added to ``evidence``."""
    admissions = found.columns.get("admissions", ())
    if any(path.startswith("core/") for path in (*found.paths.values(), *found.listed)) or "ethnicity" in admissions:
        evidence.append("folder core/ or column ethnicity: 1.0")
        return ("1.0",)
    charted = found.columns.get("chartevents", ())
    has_providers = (
        "admit_provider_id" in admissions or "caregiver_id" in charted or "hosp/provider.csv.gz" in found.listed
    )
    if "demo_subject_id.csv" in found.listed:
        evidence.append("demo_subject_id.csv in SHA256SUMS.txt: demo")
        return ("demo 2.2",) if has_providers else ("demo",)
    if has_providers:
        evidence.append("provider columns: 2.2 or later")
        return ("2.2", "3.0", "3.1")
    if admissions:
        evidence.append("column race, no provider columns: 2.0 or 2.1")
        return ("2.0", "2.1")
    return ()


def recognise_cxr(found: Found) -> Edition:
    """2.0.0 or 2.1.0 of MIMIC-CXR-JPG: the tables are the same, so by the names in the release's list and path."""
    evidence: list[str] = []
    names: tuple[str, ...] = ("2.0.0", "2.1.0")
    if any("2.1.0" in path for path in found.listed):
        names = ("2.1.0",)
        evidence.append("2.1.0 in SHA256SUMS.txt")
    is_exact = bool(found.rows) and all(CXR_ROWS.get(name) == rows for name, rows in found.rows.items())
    return Edition(_by_folder(names, found, evidence), is_exact, tuple(evidence))


def recognise_note(found: Found) -> Edition:
    """2.2 is the edition of MIMIC-IV-Note that can be downloaded; 2.1, published a day before it, has other rows."""
    known = known_rows("mimic_iv_note", ("2.2",))
    is_exact = bool(found.rows) and all(rows in known.get(name, ()) for name, rows in found.rows.items())
    return Edition(("2.2",), is_exact, ())


def rows_source(root: str, names: tuple[str, ...]) -> str:
    """Where the rows of the editions ``names`` come from, in short; the first lines of this module say it in full."""
    if root == "mimiciv" and "3.0" in names:
        return f"{ROWS_BY[root]}; 3.0: as loaded by its users"
    return ROWS_BY[root]


def known_rows(root: str, names: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Published numbers of rows of each table of a data set; several where editions or sources differ.

    Args:
        root: the data set, as in `schema.RAW_ROOTS`.
        names: the editions that it can be.

    Example:
        >>> known_rows("mimiciv", ("3.0", "3.1"))["drgcodes"], known_rows("mimic_iv_note", ("2.2",))["discharge"]
        ((761860, 761856), (331794, 331793))
    """
    editions = {
        "mimiciv": [MIMICIV_ROWS[name] for name in names if name in MIMICIV_ROWS],
        "mimic_cxr_jpg": [CXR_ROWS],
        "mimic_iv_note": [NOTE_ROWS, NOTE_ROWS_BY_SCRIPT],
    }[root]
    tables = dict.fromkeys(table for rows in editions for table in rows)
    return {table: tuple(dict.fromkeys(rows[table] for rows in editions)) for table in tables}


def _by_folder(names: tuple[str, ...], found: Found, evidence: list[str]) -> tuple[str, ...]:
    """Choose among ``names`` by a version number in the path, where there is one."""
    if len(names) < 2:
        return names
    versions = re.findall(r"(?<![\d.])\d+\.\d+(?:\.\d+)?(?![\d.])", found.folder)
    for version in reversed(versions):
        if version in names:
            evidence.append(f"{version} in the path")
            return (version,)
    return names


def is_after(edition: str, other: str) -> bool:
    """True if ``edition`` of MIMIC-IV came after ``other``.

    Example:
        >>> is_after("2.1", "2.0"), is_after("demo 2.2", "2.0")
        (True, True)
    """
    first, second = ([int(part) for part in name.split()[-1].split(".")] for name in (edition, other))
    return first > second
