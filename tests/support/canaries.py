"""Plant strings that no patient's record holds wherever a raw table has text, and find them in outputs."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import polars as pl

NAME = "quokkaremark"
"""In every planted string; lower case and letters only, so that it survives the cleaning of notes."""
SENTENCE = f"{NAME} was brought in by her neighbour after the regatta."
TABLES = {
    "mimiciv/hosp/admissions": (
        "admit_provider_id",
        "insurance",
        "language",
        "admission_location",
        "discharge_location",
    ),
    "mimiciv/hosp/labevents": ("comments", "priority"),
    "mimiciv/hosp/drgcodes": ("description",),
    "mimic_cxr_jpg/mimic-cxr-2.0.0-metadata": ("PerformedProcedureStepDescription",),
}
VALUES = {"mimiciv/icu/chartevents": "value", "mimiciv/hosp/labevents": "value"}


def path_of(raw: Path, table: str) -> Path:
    return raw / f"{table}.csv.gz"


def read(raw: Path, table: str) -> pl.DataFrame:
    """All columns as text."""
    return pl.read_csv(gzip.decompress(path_of(raw, table).read_bytes()), infer_schema=False)


def write(raw: Path, table: str, frame: pl.DataFrame) -> None:
    path_of(raw, table).write_bytes(gzip.compress(frame.write_csv().encode(), mtime=0))


def plant(raw: Path) -> None:
    """Put canaries into the tables below ``raw``, where the build still succeeds."""
    for table, columns in TABLES.items():
        frame = read(raw, table)
        write(raw, table, frame.with_columns(pl.lit(f"{NAME} {column}").alias(column) for column in columns))
    for table, column in VALUES.items():
        frame = read(raw, table)
        some = pl.int_range(pl.len()) % 500 == 7
        planted = pl.when(some).then(pl.lit(f"{NAME} 7")).otherwise(column)
        write(raw, table, frame.with_columns(planted.alias(column), pl.when(~some).then("valuenum").alias("valuenum")))
    notes = read(raw, "mimic_iv_note/note/discharge")
    text = pl.col("text").str.replace_all(
        r"(?i)(past medical history:|brief hospital course:)", f"${{1}}\n{SENTENCE}\n"
    )
    write(raw, "mimic_iv_note/note/discharge", notes.with_columns(text))


def spoil(raw: Path, *, openly: bool) -> None:
    """Append rows of canaries in every column and of another width; ``openly``: also a quote that is never closed."""
    for path in raw.rglob("*.csv.gz"):
        content = gzip.decompress(path.read_bytes())
        width = content.split(b"\n", 1)[0].count(b",") + 1
        row = ",".join(f"{NAME}{column}" for column in range(width))
        rows = [row, f"{row},{NAME}", f'{NAME},"{SENTENCE}']
        path.write_bytes(gzip.compress(content + "\n".join(rows[: 3 if openly else 2]).encode() + b"\n"))


def identifiers(raw: Path) -> set[str]:
    """Every id of a patient, admission, stay, note, study or image."""
    found: set[str] = set()
    for path in raw.rglob("*.csv.gz"):
        table = path.relative_to(raw).as_posix().removesuffix(".csv.gz")
        frame = read(raw, table)
        for column in ("subject_id", "hadm_id", "stay_id", "study_id", "dicom_id", "note_id"):
            if column in frame.columns:
                found |= set(frame[column].drop_nulls())
    return found


def betrayed(text: str, known: set[str]) -> set[str]:
    """Canaries and ids in ``text``."""
    words = set(re.findall(r"[0-9A-Za-z]+(?:-[0-9A-Za-z]+)*", text))
    parts = {part for word in words for part in (word, *re.split("[-_a-z]", word))}
    return (parts & known) | ({NAME} if NAME in text.lower() else set())
