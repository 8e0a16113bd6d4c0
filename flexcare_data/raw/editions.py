"""Facts per edition of the three data sets, and which edition a folder holds.

In: rows, columns and file names that were found. Out: the editions that fit, and the evidence. Numbers are those of the
published releases.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from flexcare_data.raw.files import PHYSIONET, PROJECTS

TABLES = ("patients", "admissions", "icustays", "chartevents", "labevents")
"""Tables whose numbers of rows differ between editions of MIMIC-IV; the last two are large."""

MIMICIV_ROWS: dict[str, dict[str, int]] = {
    edition: dict(zip(TABLES, rows, strict=True))
    for edition, rows in {
        "1.0": (382_278, 523_740, 76_540, 329_499_788, 122_103_667),
        "2.0": (315_460, 454_324, 76_943, 329_822_285, 124_342_638),
        "2.1": (299_777, 431_088, 73_141, 314_035_266, 118_057_948),
        "2.2": (299_712, 431_231, 73_181, 313_645_063, 118_171_367),
        "3.1": (364_627, 546_028, 94_458, 432_997_491, 158_374_764),
        "demo 2.2": (100, 275, 140, 668_862, 107_727),
    }.items()
}
"""Rows of each edition of MIMIC-IV. Those of 3.0 are not listed: its stays are as many as in 3.1."""

CXR_ROWS = {"metadata": 377_110, "chexpert": 227_827}
"""Rows of MIMIC-CXR-JPG, 2.0.0 and 2.1.0 alike."""

CXR_BYTES = 557_000_000_000
"""The radiographs of MIMIC-CXR-JPG on disk."""

NOTE_ROWS = {"discharge": 331_794, "radiology": 2_321_355}
"""Rows of MIMIC-IV-Note 2.2."""

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
    counted = {name: rows for name, rows in found.rows.items() if name in TABLES[:3]}
    same = [
        edition
        for edition, rows in MIMICIV_ROWS.items()
        if counted and all(rows[name] == counted[name] for name in counted)
    ]
    evidence: list[str] = []
    names = _layout(found, evidence)
    if same:
        known = ", ".join(f"{name} {rows:,}" for name, rows in counted.items())
        exact = ("3.0", "3.1") if same == ["3.1"] else tuple(same)
        return Edition(_by_folder(exact, found, evidence), True, (f"rows: {known}", *evidence))
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
    """2.2 is the only edition of MIMIC-IV-Note so far."""
    return Edition(("2.2",), bool(found.rows) and all(NOTE_ROWS.get(n) == rows for n, rows in found.rows.items()), ())


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
