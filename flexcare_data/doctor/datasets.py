"""Check one data set on disk: its edition, its tables, and what is missing, wrong or damaged.

In: the root of a data set. Out: a `DataSet`; findings go to a `Report`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flexcare_data.doctor.findings import Report
from flexcare_data.doctor.sampling import Probe, probe
from flexcare_data.raw import editions
from flexcare_data.raw.editions import Edition, Found
from flexcare_data.raw.files import HELP, NO_ACCESS, TITLES, RawDataError, is_marked_synthetic
from flexcare_data.schema import RAW
from flexcare_data.tasks import TASKS

_COUNT_UP_TO = {True: 32 << 20, False: 256 << 20}
"""Bytes on disk of a table up to which its rows are counted, by `fast`."""
_TOLERANCE = 0.25
"""Share by which an estimate of rows may be off: rows are not equally long everywhere."""


@dataclass(frozen=True)
class DataSet:
    """One checked root."""

    root: str
    folder: Path
    probes: dict[str, Probe]
    edition: Edition
    is_synthetic: bool


def needed_tables(root: str, tasks: Sequence[str], *, with_reports: bool = False) -> list[str]:
    """Raw tables below ``root`` that ``tasks`` need; the radiology reports only if they are the notes."""
    of_tasks = {name for task in TASKS.values() for name in task.raw} | {"radiology"}
    needed = {name for task in tasks for name in TASKS[task].raw} | ({"radiology"} if with_reports else set())
    return [name for name, table in RAW.items() if table.root == root and (name not in of_tasks or name in needed)]


def look_at(
    report: Report, root: str, folder: Path, tasks: Sequence[str], *, fast: bool, with_reports: bool = False
) -> DataSet | None:
    """Check the data set ``root`` in ``folder``; None where none of its tables exists.

    ``with_reports``: radiology reports are the notes (option `notes`).
    """
    names = needed_tables(root, tasks, with_reports=with_reports)
    probes: dict[str, Probe] = {}
    problems: dict[str, str] = {}
    for name in names:
        try:
            probes[name] = probe(folder, name, count_up_to=_COUNT_UP_TO[fast])
        except RawDataError as error:
            problems[name] = str(error)
    nothing = all(_is_nowhere(folder, name) for name in names)
    if nothing:
        _wrong_folder(report, root, folder)
        return None
    listed = _listed(folder)
    seen = Found(
        rows={name: found.rows for name, found in probes.items() if found.is_counted},
        columns={name: found.columns for name, found in probes.items()},
        paths={name: found.path.relative_to(folder).as_posix() for name, found in probes.items()},
        listed=frozenset(listed),
        folder=str(folder.absolute()),
    )
    recognise = {
        "mimiciv": editions.recognise_mimiciv,
        "mimic_cxr_jpg": editions.recognise_cxr,
        "mimic_iv_note": editions.recognise_note,
    }[root]
    edition = recognise(seen)
    found = DataSet(root, folder, probes, edition, is_marked_synthetic(folder))
    for name, problem in problems.items():
        users = [task for task in tasks if name in TASKS[task].raw]
        if users:
            problem = f"{problem}; left out: {', '.join(users)}"
        # A table that only some tasks need stops no other task.
        report.add("warning" if users else "error", name, problem, do=f"get it: {_download(root, name, edition)}")
    report.editions[root] = edition.text
    report.rows |= {name: {"rows": p.rows, "counted": p.is_counted} for name, p in probes.items()}
    _report_edition(report, found, partial=bool(problems))
    _report_tables(report, found)
    return found


def _is_nowhere(folder: Path, name: str) -> bool:
    table = RAW[name]
    return not any(
        os.path.lexists(folder / sub / f"{table.filename}{end}") for sub in table.folders for end in (".csv.gz", ".csv")
    )


def _wrong_folder(report: Report, root: str, folder: Path) -> None:
    """One message instead of one per table, with the folder that was probably meant."""
    do = f"set raw.{root} to the folder of {TITLES[root]}"
    other = [
        name for name in TITLES if name != root and any(not _is_nowhere(folder, table) for table in _tables_of(name))
    ]
    near = [path for path in _nearby(folder) if any(not _is_nowhere(path, table) for table in _tables_of(root))]
    if near:
        do += f"; did you mean {near[0]}?"
    try:
        inside = sorted(path.name for path in folder.iterdir())
        found = f"{folder} holds {', '.join(inside[:6]) or 'nothing'}{' ...' if len(inside) > 6 else ''}"
    except FileNotFoundError:
        found = f"{folder} does not exist"
    except NotADirectoryError:
        found = f"{folder} is a file"
    except PermissionError:
        found = f"no permission to look into {folder}"
        do = HELP[NO_ACCESS]
    if other:
        found += f": this is {TITLES[other[0]]}"
    first = RAW[_tables_of(root)[0]]
    place = f"{first.folders[0]}/{first.filename}".strip("/")
    report.add("error", f"raw.{root}", found, expected=f"a folder with {place}.csv.gz", do=do)


def _tables_of(root: str) -> list[str]:
    return [name for name, table in RAW.items() if table.root == root]


def _nearby(folder: Path) -> list[Path]:
    """Folders around ``folder`` that may have been meant: above it, and up to three levels below."""
    found = [folder.parent, folder.parent.parent]
    level = [folder]
    for _ in range(3):
        below: list[Path] = []
        for path in level:
            try:
                children = sorted(child for child in path.iterdir() if child.is_dir() and child.name != "files")
            except OSError:
                continue
            below += children[:50]
        # PhysioNet's folders have a folder `files` above the data sets.
        below += [
            path / "files" for path in level if (path / "files").is_dir() and not (path / "files" / "p10").exists()
        ]
        found += below
        level = below[:200]
    return found


def _listed(folder: Path) -> dict[str, str]:
    """path -> sha256 of the release's own list; empty without one."""
    try:
        text = (folder / "SHA256SUMS.txt").read_text(errors="replace")
    except OSError:
        return {}
    pairs = (line.split(maxsplit=1) for line in text.splitlines())
    return {pair[1].strip().removeprefix("*").removeprefix("./"): pair[0] for pair in pairs if len(pair) == 2}


def _download(root: str, name: str, edition: Edition) -> str:
    """The command that fetches a table of this edition (of the paper's where it is not known)."""
    version = edition.names[0] if edition.names else editions.PAPER[root]
    if version.startswith("demo"):
        return f"wget {editions.DEMO_URL}/{_published_path(name, edition)}"
    return f"wget --user NAME --ask-password {editions.URLS[root]}/{version}/{_published_path(name, edition)}"


def _published_path(name: str, edition: Edition) -> str:
    table = RAW[name]
    folder = table.folders[-1] if edition.names == ("1.0",) else table.folders[0]
    return f"{folder}/{table.filename}.csv.gz".strip("/")


def _report_edition(report: Report, found: DataSet, partial: bool) -> None:
    what, edition = TITLES[found.root], found.edition
    evidence = "; ".join(edition.evidence)
    if found.is_synthetic:
        report.add("info", what, f"fabricated data in the layout of {edition.text}")
    elif edition.is_exact:
        report.add("info", what, f"edition {edition.text} ({evidence or 'by its rows'})")
    elif not edition.names:
        report.add("warning", what, f"edition not recognised ({evidence or 'nothing to recognise it by'})")
    else:
        counted = ", ".join(f"{name} {p.rows:,}" for name, p in found.probes.items() if p.is_counted) or "none counted"
        report.add(
            "info" if partial or found.root != "mimiciv" else "warning", what,
            f"layout of {edition.text} ({evidence or 'by its files'}), but not its rows: {counted}",
            expected="the rows of a published edition",
            do="A subset can be built, but its results are not comparable with published ones. "
            "Otherwise download it again.",
        )  # fmt: skip


def _report_tables(report: Report, found: DataSet) -> None:
    # A subset of MIMIC-IV is reported once, as such.
    is_subset = found.root == "mimiciv" and not found.edition.is_exact
    rows = {} if is_subset else editions.known_rows(found.root, found.edition.names)
    again = "compare with the release: doctor --checksums; then download the file again"
    for name, p in found.probes.items():
        text = f"{p.rows:,} rows ({'counted' if p.is_counted else 'estimated from size and compression'})"
        other = p.path.with_suffix("") if p.path.suffix == ".gz" else None
        if other and other.exists():
            report.add("info", name, f"both {p.path.name} and {other.name} exist; {p.path.name} is read")
        if p.suspicion:
            report.add("warning", name, f"{p.path}: {p.suspicion}", do=again)
        if p.rows == 0:
            report.add("error", name, f"{p.path}: no rows", expected="at least one", do=again)
            continue
        expected = rows.get(name, ())
        slack = 0 if p.is_counted else _TOLERANCE
        fits = any(abs(p.rows - n) <= slack * n for n in expected)
        if expected and not fits and not found.is_synthetic:
            numbers = " or ".join(f"{n:,}" for n in expected)
            source = editions.rows_source(found.root, found.edition.names)
            published = f"{numbers} in edition {found.edition.text} ({source})"
            report.add("warning", name, text, expected=published, do=again)
        elif expected and p.is_counted and fits and not found.is_synthetic:
            report.add("info", name, f"{text}, as released")
        else:
            report.add("info", name, text)


def compare_checksums(
    report: Report, folder: Path, everything: bool, progress: Callable[[int, int], None] | None
) -> None:
    """Compare the files with SHA256SUMS.txt of the release."""
    listed = _listed(folder)
    if not listed:
        report.add(
            "warning", f"{folder}", "no SHA256SUMS.txt", expected="the release's own list of checksums",
            do="download it from the folder of the release",
        )  # fmt: skip
        return
    paths = {path: digest for path, digest in listed.items() if everything or not path.startswith("files/")}
    there = {path: digest for path, digest in paths.items() if (folder / path).is_file()}
    total = sum((folder / path).stat().st_size for path in there)
    done, differ = 0, []
    for path, digest in there.items():
        try:
            done, same = _compare(folder / path, digest, done, total, progress)
        except OSError as error:
            report.add("error", str(folder / path), f"cannot be read ({error.strerror})")
            continue
        if not same:
            differ.append(path)
    for path in differ:
        report.add(
            "error", f"{folder / path}", "another sha256 than in SHA256SUMS.txt", expected="the published file",
            do="download it again; if you changed it on purpose, results are not comparable",
        )  # fmt: skip
    rest = f", {len(paths) - len(there):,} listed files are not here" if len(paths) > len(there) else ""
    report.add(
        "info", f"checksums of {folder}", f"{len(there) - len(differ):,} of {len(there):,} files as released{rest}"
    )


def _compare(
    path: Path, digest: str, done: int, total: int, progress: Callable[[int, int], None] | None
) -> tuple[int, bool]:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(8 << 20):
            sha.update(block)
            done += len(block)
            if progress:
                progress(done, total)
    return done, sha.hexdigest() == digest.lower()
