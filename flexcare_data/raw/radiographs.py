"""Paths and sizes of the radiographs of MIMIC-CXR-JPG, and which of them are AP.

In: ids, and the root of MIMIC-CXR-JPG. Out: paths, sizes, and a digest of the sizes, which changes
when files are added, removed or changed.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl

from flexcare_data.hashing import remembered_digest, user_cache, value_digest, write_private
from flexcare_data.raw.files import locate
from flexcare_data.raw.tables import empty_counts, read_table

MISSING = "missing"
_CHECKED = 10_000
"""Radiographs whose size is compared at each start of a build."""

_AT_ONCE, _TOGETHER = 16, 1024
"""Threads that read sizes, as on network drives each request is a round trip; files per request of a thread."""


def radiograph_path(root: Path, subject_id: int, study_id: int, dicom_id: str) -> Path:
    """Where MIMIC-CXR-JPG keeps a radiograph: files/p10/p10000032/s50414267/<dicom_id>.jpg."""
    subject = f"p{subject_id}"
    return Path(f"{root}/files/{subject[:3]}/{subject}/s{study_id}/{dicom_id}.jpg")


def is_jpeg(root: Path, subject_id: int, study_id: int, dicom_id: str) -> bool | None:
    """Whether the file of a radiograph begins as a JPEG does; None where it cannot be read."""
    try:
        with radiograph_path(root, subject_id, study_id, dicom_id).open("rb") as file:
            return file.read(2) == b"\xff\xd8"
    except OSError:
        return None


def is_ap() -> pl.Expr:
    """True for the rows of the metadata table with an antero-posterior view, the only one that the benchmark uses."""
    return pl.col("ViewPosition") == "AP"


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


def listing_digest(root: Path) -> str:
    """12 hex digits of which AP radiographs of the metadata table exist below ``root``, and how large they are.

    Sizes are compared, not contents (hundreds of gigabytes) and not dates (they differ between copies). All sizes are
    read once and cached for this user. Later starts compare a sample of `_CHECKED` radiographs. If one differs, all
    sizes are read again.
    """
    folder = user_cache("radiographs")
    name = value_digest([str(root.resolve()), remembered_digest(locate(root, "metadata"))])[:24]
    remembered = folder / f"{name}.parquet" if folder else None
    if remembered and remembered.is_file():
        listing = pl.read_parquet(remembered)
        absent = pl.col("bytes").is_null()
        some = pl.concat([_spread(listing.filter(absent)), _spread(listing.filter(~absent))])
        if with_sizes(some.drop("bytes"), root)["bytes"].equals(some["bytes"]):
            return _digest_of(listing)
    table = read_table(root, "metadata", empty_counts())
    radiographs = table.filter(is_ap()).unique("dicom_id").sort("dicom_id")
    listing = with_sizes(radiographs.select("dicom_id", "subject_id", "study_id"), root).drop("problem")
    if remembered:
        content = io.BytesIO()
        listing.write_parquet(content)
        write_private(remembered, content.getvalue())
    return _digest_of(listing)


def _spread(listing: pl.DataFrame) -> pl.DataFrame:
    """At most half of `_CHECKED` rows, evenly spread."""
    return listing.gather_every(2 * listing.height // _CHECKED + 1)


def _digest_of(listing: pl.DataFrame) -> str:
    return value_digest(listing.select("dicom_id", "bytes").write_csv(None))[:12]
