"""List the radiographs that the cohorts need, for `wget -i`: a small part of the 377,110 files and 557 GB.

In: cohorts, and the folder of MIMIC-CXR-JPG which may hold some of them already. Out: paths and counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from flexcare_data.raw.editions import CXR_BYTES, CXR_ROWS, PAPER, URLS
from flexcare_data.raw.radiographs import radiograph_path
from flexcare_data.store.folders import atomic_write

BASE = f"{URLS['mimic_cxr_jpg']}/{PAPER['mimic_cxr_jpg']}/"
"""URL of the release 2.0.0; `files/` is below. 2.1.0 holds the same radiographs."""

MEAN_BYTES = CXR_BYTES / CXR_ROWS["metadata"]
"""Of a radiograph: the size of the release over its number of radiographs."""


@dataclass(frozen=True)
class ImageList:
    """Paths below the root, sorted, and how many of them exist already (None if not checked)."""

    paths: list[str]
    n_there: int | None

    @property
    def estimated_bytes(self) -> int:
        """Of all paths, at the mean size of the release."""
        return round(len(self.paths) * MEAN_BYTES)

    def text(self, base: str) -> str:
        """One per line: URLs below ``base``, or paths if it is empty (for ``wget --base``)."""
        prefix = base if not base or base.endswith("/") else f"{base}/"
        return "".join(f"{prefix}{path}\n" for path in self.paths)

    def summary(self) -> str:
        """Count and size against the whole release."""
        share = len(self.paths) / CXR_ROWS["metadata"]
        there = "" if self.n_there is None else f"; {self.n_there:,} of them exist already"
        return (
            f"{len(self.paths):,} radiographs, about {self.estimated_bytes / 1e9:,.1f} GB of {CXR_BYTES / 1e9:,.0f} GB "
            f"({share:.1%}, at the mean size of {MEAN_BYTES / 1e6:.2f} MB){there}"
        )


def list_images(cohorts: Iterable[pl.DataFrame], *, root: Path | None = None, absent_only: bool = False) -> ImageList:
    """The radiographs of ``cohorts`` (COHORT tables), each once.

    Args:
        root: folder of MIMIC-CXR-JPG; None: not checked.
        absent_only: leave out files that exist below ``root``.

    Raises:
        ValueError: ``absent_only`` without ``root``.
    """
    if absent_only and root is None:
        raise ValueError("image list: absent_only needs the folder of MIMIC-CXR-JPG, got none")
    columns = ["subject_id", "study_id", "dicom_id"]
    needed = pl.concat([cohort.drop_nulls("dicom_id").select(columns) for cohort in cohorts]).unique()
    paths = sorted(radiograph_path(Path(), *row).as_posix() for row in needed.iter_rows())
    if root is None:
        return ImageList(paths, None)
    there = {path for path in paths if (root / path).is_file()}
    return ImageList([path for path in paths if not (absent_only and path in there)], len(there))


def write_list(
    cohorts: Iterable[pl.DataFrame],
    *,
    root: Path | None,
    base: str | None,
    absent_only: bool,
    out: Path,
    shown_as: Path | None = None,
) -> None:
    """Write the list to ``out``; count, size and the command that downloads go to standard output.

    Args:
        shown_as: path of the list in that command; None: ``out``.
    """
    base = BASE if base is None else base
    found = list_images(cohorts, root=root, absent_only=absent_only)
    atomic_write(out, found.text(base).encode())
    print(found.summary())
    given = f"--base={BASE} " if not base else ""
    folder = root or "MIMIC_CXR_JPG"
    # Three folders are cut: files/mimic-cxr-jpg/2.0.0, so that files/p10/... remains below the folder.
    print(f"wget -x -N -c -nH --cut-dirs=3 -P {folder} --user NAME --ask-password {given}-i {shown_as or out}")
