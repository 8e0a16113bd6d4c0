"""A fabricated data set on disk: PhysioNet folders in the layout of one edition.

In: how many patients, a seed, an edition. Out: `mimiciv/`, `mimic_cxr_jpg/` and `mimic_iv_note/` below one folder, each
with the mark of fabricated data and a `SHA256SUMS.txt`. The same arguments give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import polars as pl
from isal import igzip

from flexcare_data.hashing import file_digest
from flexcare_data.schema import RAW_ROOTS, SYNTHETIC_MARK
from flexcare_data.synthetic import chart, codes, images, labs, notes, reports
from flexcare_data.synthetic.items import chart_items, lab_items
from flexcare_data.synthetic.layout import MARK_TEXT, WITH_NEWEST_GROUP, Layout, tables
from flexcare_data.synthetic.population import Population, generator, populate, with_newest_group

_CHUNK = 800
"""Stays or admissions whose events are held in memory at a time."""


def write_data_set(out: Path, *, patients: int, seed: int, edition: str, broken_images: int = 0) -> None:
    """Fabricate a data set below ``out``.

    Args:
        out: folder that gets the three roots; it may exist, files in it are replaced.
        patients: number of patients in MIMIC-IV, each with one to four admissions.
        seed: decides everything; the edition changes the layout, and in 3.x the newest group of years.
        edition: of MIMIC-IV, one of `layout.EDITIONS`.
        broken_images: number of AP radiographs that can't be decoded.

    Raises:
        ValueError: for an unknown edition, fewer than one patient, or more than can have an id.
    """
    layouts = tables(edition)
    if not 1 <= patients <= 1_000_000:
        raise ValueError(f"patients: expected 1 to 1000000, got {patients}")
    out = Path(out)
    people = populate(patients, seed)
    if edition in WITH_NEWEST_GROUP:
        people = with_newest_group(people, seed)
    radiographs = images.radiographs(people, seed=seed)
    for name, frame in _small_tables(people, radiographs, seed).items():
        if name in layouts:
            write_table(out, layouts[name], [frame])
    stays, admissions = chunks_of(people.stays.height), chunks_of(people.admissions.height)
    write_table(out, layouts["chartevents"], (chart.chartevents(people, a, b, seed=seed) for a, b in stays))
    write_table(out, layouts["outputevents"], (chart.outputevents(people, a, b, seed=seed) for a, b in stays))
    write_table(out, layouts["labevents"], lab_chunks(people, admissions, seed=seed))
    images.write_files(radiographs, out / "mimic_cxr_jpg", seed=seed, broken=broken_images)
    for root in RAW_ROOTS:
        _finish(out / root)


def lab_chunks(
    people: Population, chunks: list[tuple[int, int]], *, seed: int, panel_hours: float = labs.PANEL_HOURS
) -> Iterable[pl.DataFrame]:
    """labevents of all chunks, numbered consecutively."""
    last = 0
    for start, stop in chunks:
        frame = labs.labevents(people, start, stop, seed=seed, first_id=last, panel_hours=panel_hours)
        last += frame.height
        yield frame


def fast_gzip(raw: BinaryIO) -> BinaryIO:
    """A gzip stream into ``raw`` without name and time of writing."""
    return cast("BinaryIO", igzip.IGzipFile("", "wb", compresslevel=2, fileobj=raw, mtime=0))


def write_table(
    out: Path,
    layout: Layout,
    frames: Iterable[pl.DataFrame],
    *,
    open_gzip: Callable[[BinaryIO], BinaryIO] = fast_gzip,
) -> int:
    """Write ``frames`` one after the other as `{path}.csv.gz` and return the number of rows.

    Columns are chosen and ordered by ``layout``; one that a frame lacks is written empty. Equal content, equal bytes.
    """
    path = out / f"{layout.path}.csv.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = 0
    with path.open("wb") as raw, open_gzip(raw) as file:
        for k, frame in enumerate(frames):
            frame = frame.rename({"race": "ethnicity"}) if "ethnicity" in layout.columns and "race" in frame else frame
            missing = [pl.lit(None, pl.String).alias(name) for name in layout.columns if name not in frame.columns]
            text = frame.with_columns(missing).select(layout.columns)
            file.write(
                text.write_csv(
                    include_header=k == 0, datetime_format="%Y-%m-%d %H:%M:%S", line_terminator="\n"
                ).encode()
            )
            rows += frame.height
    return rows


def _small_tables(people: Population, radiographs: images.Radiographs, seed: int) -> dict[str, pl.DataFrame]:
    rng = generator(seed, 9)
    lines = people.admissions

    def shuffled(frame: pl.DataFrame) -> pl.DataFrame:
        return frame[rng.permutation(frame.height)]

    return {
        "patients": shuffled(people.patients),
        "admissions": shuffled(lines),
        "transfers": shuffled(_transfers(people)),
        "icustays": shuffled(people.stays),
        "diagnoses_icd": codes.diagnoses_icd(people, seed=seed),
        "d_icd_diagnoses": codes.d_icd_diagnoses(),
        "drgcodes": codes.drgcodes(people, seed=seed),
        "services": shuffled(lines.select(
            "subject_id", "hadm_id", transfertime="admittime", prev_service=pl.lit(None, pl.String),
            curr_service=pl.when(pl.col("note_d") > 0).then(pl.lit("SURG")).otherwise(pl.lit("MED")),
        )),
        "provider": pl.DataFrame({"provider_id": [f"P{k:05d}" for k in range(40)]}),
        "caregiver": pl.DataFrame({"caregiver_id": np.arange(1000, 1060)}),
        "d_items": chart_items().items,
        "d_labitems": lab_items().items,
        "metadata": radiographs.metadata,
        "chexpert": radiographs.chexpert,
        "split": radiographs.split,
        "discharge": notes.discharge(people, seed=seed),
        "radiology": reports.radiology(people, radiographs, seed=seed),
    }  # fmt: skip


def _transfers(people: Population) -> pl.DataFrame:
    """Transfers of an admission: emergency room, ICU stays, the ward between and after them, discharge."""
    admissions = people.admissions
    base = 39_999_999
    room = admissions.filter(pl.col("edregtime").is_not_null()).select(
        "subject_id", "hadm_id", eventtype=pl.lit("ED"), careunit=pl.lit("Emergency Department"),
        intime="edregtime", outtime="edouttime",
    )  # fmt: skip
    unit = people.stays.select(
        "subject_id", "hadm_id", eventtype=pl.lit("transfer"), careunit="first_careunit", intime="intime",
        outtime="outtime", transfer_id="stay_id",
    )  # fmt: skip
    ward = admissions.select(
        "subject_id", "hadm_id", eventtype=pl.lit("admit"), careunit=pl.lit("Medicine"), intime="admittime",
        outtime="dischtime",
    )  # fmt: skip
    left = admissions.select(
        "subject_id", "hadm_id", eventtype=pl.lit("discharge"), careunit=pl.lit(None, pl.String), intime="dischtime",
        outtime=pl.lit(None, pl.Datetime("us")),
    )  # fmt: skip
    others = pl.concat([room, ward, left]).with_columns(transfer_id=base - pl.int_range(pl.len(), dtype=pl.Int64))
    return pl.concat([unit, others.select(unit.columns)]).sort("subject_id", "intime", "eventtype")


def chunks_of(n: int) -> list[tuple[int, int]]:
    return [(start, min(start + _CHUNK, n)) for start in range(0, n, _CHUNK)]


def _finish(root: Path) -> None:
    """The mark, and the checksums of all files in the form of a PhysioNet release."""
    (root / SYNTHETIC_MARK).write_text(MARK_TEXT)
    unlisted = (SYNTHETIC_MARK, "SHA256SUMS.txt")
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name not in unlisted)
    lines = [f"{file_digest(path)} {path.relative_to(root).as_posix()}\n" for path in files]
    (root / "SHA256SUMS.txt").write_text("".join(lines))
