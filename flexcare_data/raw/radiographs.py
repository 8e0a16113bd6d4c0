"""Paths and sizes of the radiographs of MIMIC-CXR-JPG, and which of them are AP.

In: ids, and the root of MIMIC-CXR-JPG. Out: paths, sizes, dates, and a digest of the sizes, which changes
when files are added, removed or get another size.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import polars as pl

from flexcare_data.hashing import remembered_digest, user_cache, value_digest, write_private
from flexcare_data.raw.files import RawDataError, locate
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
    return with_states(radiographs, root).drop("mtime_ns")


def with_states(radiographs: pl.DataFrame, root: Path) -> pl.DataFrame:
    """As `with_sizes`, and with the column ``mtime_ns``, when the file was last written (null without a file)."""
    rows = radiographs.select("dicom_id", "subject_id", "study_id").rows()
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        parts = [rows[start : start + _TOGETHER] for start in range(0, len(rows), _TOGETHER)]
        read = threads.map(lambda part: [_state(root, *row) for row in part], parts)
        found = [state for states in read for state in states]
    return radiographs.with_columns(
        pl.Series("bytes", [size for size, _, _ in found], pl.Int64),
        pl.Series("mtime_ns", [written for _, written, _ in found], pl.Int64),
        pl.Series("problem", [problem for _, _, problem in found], pl.String),
    )


def _state(root: Path, dicom_id: str, subject_id: int, study_id: int) -> tuple[int | None, int | None, str | None]:
    if not dicom_id.isprintable() or "/" in dicom_id or dicom_id in ("", ".", ".."):
        return None, None, "dicom_id is not a file name"
    try:
        info = radiograph_path(root, subject_id, study_id, dicom_id).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None, None, MISSING
    except OSError as error:
        return None, None, f"cannot be read: {error.strerror}"
    return info.st_size, info.st_mtime_ns, None


def listing_digest(root: Path) -> str:
    """12 hex digits of which AP radiographs of the metadata table exist below ``root``, and how large they are.

    Sizes are compared, not contents (hundreds of gigabytes) and not dates (they differ between copies). All sizes are
    read once and cached for this user. Later starts compare a sample of `_CHECKED` radiographs. If one differs, all
    sizes are read again. A build compares all sizes with what was planned: see `current_listing_digest`.
    """
    remembered = _remembered(root)
    if remembered and remembered.is_file():
        listing = pl.read_parquet(remembered)
        absent = pl.col("bytes").is_null()
        some = pl.concat([_spread(listing.filter(absent)), _spread(listing.filter(~absent))])
        if with_sizes(some.drop("bytes"), root)["bytes"].equals(some["bytes"]):
            return _digest_of(listing)
    listing = _read_listing(root)
    if remembered:
        content = io.BytesIO()
        listing.write_parquet(content)
        write_private(remembered, content.getvalue())
    return _digest_of(listing)


def current_listing_digest(root: Path) -> str:
    """The digest of `listing_digest` as the files are now: all sizes are read, and the cache is not used."""
    return _digest_of(_read_listing(root))


def forget_listing(root: Path) -> None:
    """Remove the cached sizes of ``root``: the next `listing_digest` reads all of them."""
    with suppress(RawDataError):  # without the metadata table nothing is cached
        if remembered := _remembered(root):
            remembered.unlink(missing_ok=True)


def _remembered(root: Path) -> Path | None:
    """The file with the cached sizes; None where nothing can be cached."""
    folder = user_cache("radiographs")
    name = value_digest([str(root.resolve()), remembered_digest(locate(root, "metadata"))])[:24]
    return folder / f"{name}.parquet" if folder else None


def _read_listing(root: Path) -> pl.DataFrame:
    table = read_table(root, "metadata", empty_counts())
    radiographs = table.filter(is_ap()).unique("dicom_id").sort("dicom_id")
    return with_sizes(radiographs.select("dicom_id", "subject_id", "study_id"), root).drop("problem")


def _spread(listing: pl.DataFrame) -> pl.DataFrame:
    """At most half of `_CHECKED` rows, evenly spread."""
    return listing.gather_every(2 * listing.height // _CHECKED + 1)


def _digest_of(listing: pl.DataFrame) -> str:
    return value_digest(listing.select("dicom_id", "bytes").write_csv(None))[:12]
