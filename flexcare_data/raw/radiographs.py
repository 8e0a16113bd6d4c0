"""Where MIMIC-CXR-JPG keeps the radiographs, and which of them lie there.

In: ids, and the root of MIMIC-CXR-JPG. Out: paths, sizes, and a digest of the sizes by which a build notices that files
came, went or changed.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl

from flexcare_data.raw import tables as raw

MISSING = "missing"
STATE = "FLEXCARE_RADIOGRAPH_FILES"
"""Environment variable with the digest that a running build began with: its jobs on other nodes go by that, and not by
what has been downloaded since."""

_AT_ONCE, _TOGETHER = 16, 1024
"""Threads that ask for sizes, as on network drives each question is a round trip; files that one takes at a time."""


def radiograph_path(root: Path, subject_id: int, study_id: int, dicom_id: str) -> Path:
    """Where MIMIC-CXR-JPG keeps a radiograph: files/p10/p10000032/s50414267/<dicom_id>.jpg."""
    subject = f"p{subject_id}"
    return Path(f"{root}/files/{subject[:3]}/{subject}/s{study_id}/{dicom_id}.jpg")


def with_sizes(radiographs: pl.DataFrame, root: Path) -> pl.DataFrame:
    """``radiographs`` with the columns ``bytes`` (null without a file) and ``problem`` (null with one)."""
    rows = radiographs.select("dicom_id", "subject_id", "study_id").rows()
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        parts = [rows[start : start + _TOGETHER] for start in range(0, len(rows), _TOGETHER)]
        found = [
            size for sizes in threads.map(lambda part: [_size(root, *row) for row in part], parts) for size in sizes
        ]
    return radiographs.with_columns(
        pl.Series("bytes", [size for size, _ in found], pl.Int64),
        pl.Series("problem", [problem for _, problem in found], pl.String),
    )


def _size(root: Path, dicom_id: str, subject_id: int, study_id: int) -> tuple[int | None, str | None]:
    if not dicom_id.isprintable() or "/" in dicom_id or dicom_id in ("", ".", ".."):
        return None, "dicom_id is not a file name"
    try:
        return radiograph_path(root, subject_id, study_id, dicom_id).stat().st_size, None
    except (FileNotFoundError, NotADirectoryError):
        return None, MISSING
    except OSError as error:
        return None, f"cannot be read: {error.strerror}"


def files_digest(root: Path) -> str:
    """12 hex digits of which AP radiographs of the metadata table lie below ``root``, and how large they are.

    Sizes and not contents, as these are hundreds of gigabytes; and not dates, as two copies of the release are the same
    to a shared store. "unreadable" where the metadata table cannot be read, which the doctor tells.
    """
    if (known := os.environ.get(STATE)) is not None:
        return known
    try:
        metadata = raw.read_table(root, "metadata", raw.empty_counts())
    except (raw.RawDataError, OSError):
        return "unreadable"
    radiographs = metadata.filter(pl.col("ViewPosition") == "AP").unique("dicom_id").sort("dicom_id")
    sizes = with_sizes(radiographs, root).select("dicom_id", "bytes")
    text = sizes.write_csv(None)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
