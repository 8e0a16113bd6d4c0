"""Find and open the files of the PhysioNet data sets.

In: the root folder of a data set and the name of a table (`schema.RAW`). Out: its path, and its inflated bytes. A file
that is missing, unreadable or damaged is a `RawDataError`.
"""

from __future__ import annotations

import os
import stat
import zlib
from pathlib import Path
from typing import IO

from isal import igzip, isal_zlib

from flexcare_data.errors import UserError
from flexcare_data.schema import RAW, SYNTHETIC_MARK

PHYSIONET = "https://physionet.org"
PROJECTS = {"mimiciv": "mimiciv", "mimic_cxr_jpg": "mimic-cxr-jpg", "mimic_iv_note": "mimic-iv-note"}
"""Name of each data set in the addresses of PhysioNet."""

WHERE = {root: f"{PHYSIONET}/content/{project}/" for root, project in PROJECTS.items()}
"""Page of each data set, where access is requested."""

TITLES = {"mimiciv": "MIMIC-IV", "mimic_cxr_jpg": "MIMIC-CXR-JPG", "mimic_iv_note": "MIMIC-IV-Note"}
"""What each data set is called."""


class RawDataError(UserError, ValueError):
    """A raw file cannot be used: which, what was expected, what came and what to do. Holds no patient's value."""


def locate(root: Path, name: str) -> Path:
    """The file of raw table ``name`` below ``root``, `.csv.gz` or `.csv`.

    Raises:
        RawDataError: no such file (says which places were tried), a folder in its place, or no permission.
    """
    table = RAW[name]
    kind = _kind(root)
    if kind != "a folder":
        advice = HELP.get(kind, f"set raw.{table.root}")
        raise RawDataError(f"{root}: expected the folder of {TITLES[table.root]}, found {kind}; {advice}")
    places = [root / folder / f"{table.filename}{end}" for folder in table.folders for end in (".csv.gz", ".csv")]
    for path in places:
        kind = _kind(path)
        if kind == "nothing":
            continue
        if kind != "a file":
            raise RawDataError(f"{path}: expected a file, found {kind}; {HELP.get(kind, f'download {name} again')}")
        if not os.access(path, os.R_OK):
            raise RawDataError(f"{path}: expected a file that can be read, found no permission; {HELP[NO_ACCESS]}")
        return path
    tried = ", ".join(str(path.relative_to(root)) for path in places)
    raise RawDataError(f"{root}: expected one of {tried}, found none; download {name} from {WHERE[table.root]}")


NO_ACCESS = "a folder without permission to look into"
HELP = {NO_ACCESS: "ask its owner for access (your account may have to join a group)"}


def _kind(path: Path) -> str:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "a link to nothing" if path.is_symlink() else "nothing"
    except PermissionError:
        return NO_ACCESS
    except OSError as error:
        return f"something unreadable ({error.strerror})"
    return "a folder" if stat.S_ISDIR(mode) else "a file" if stat.S_ISREG(mode) else "something that is no file"


_GZIP = b"\x1f\x8b"
"""First bytes of a gzip file."""


class ByteStream:
    """Inflated bytes of a `.csv` or `.csv.gz`; damage becomes a RawDataError that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: IO[bytes] = path.open("rb")
        except OSError as error:
            raise RawDataError(f"{path}: cannot be opened ({error.strerror})") from None
        magic = self._file.read(2)
        self._file.seek(0)
        if path.suffix == ".gz" and magic != _GZIP:
            self._file.close()
            found = "an empty file" if not magic else "something else"
            raise RawDataError(f"{path}: expected gzip data, found {found}; download it again")
        self._stream = igzip.GzipFile(fileobj=self._file) if magic == _GZIP else self._file

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._file.close()

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most ``size``; empty at the end."""
        try:
            return self._stream.read(size)
        except (EOFError, zlib.error, isal_zlib.error, OSError) as error:  # type: ignore[misc]  # typed as an instance by isal
            problem = "ends too early" if isinstance(error, EOFError) else "is damaged"
            raise RawDataError(
                f"{self.path}: the gzip data {problem} after {self.raw_position():,} of {self.path.stat().st_size:,} "
                "bytes; compare with SHA256SUMS.txt of the release and download the file again"
            ) from None

    def raw_position(self) -> int:
        """Bytes of the file on disk read so far."""
        return 0 if self._file.closed else self._file.tell()


def open_bytes(path: Path) -> ByteStream:
    """Open ``path`` for reading inflated bytes."""
    return ByteStream(path)


def count_text(path: Path, text: bytes) -> int:
    """How often ``text`` occurs in a file that fits in memory."""
    with open_bytes(path) as stream:
        return stream.read().count(text)


def stored_size(path: Path) -> int | None:
    """The inflated size modulo 4 GB that a gzip file stores at its end; None for a file without compression."""
    with path.open("rb") as file:
        if file.read(2) != _GZIP:
            return None
        file.seek(-4, os.SEEK_END)
        return int.from_bytes(file.read(4), "little")


def is_marked_synthetic(root: Path | None) -> bool:
    """True if ``root`` was written by the generator."""
    return root is not None and (root / SYNTHETIC_MARK).exists()
