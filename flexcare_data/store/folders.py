"""Folders of the store: named by the key of their content, written atomically.

In: a stage's files and its spec (everything that decides its content). Out: ``<store>/<stage>-<key>/`` holding the
files and ``manifest.json``, written last. (Pools, which grow, are in `pools`.)

A folder under construction is called ``.<name>.tmp.<machine>.<pid>.<random>`` and is renamed once it is complete, so
that no reader sees an incomplete folder. Two builds that compute one stage at the same time do the work twice and keep
one result. Reading writes nothing, so a store can be mounted read-only.

Modes: files 0640 and folders 2750 (`group_readable`), or 0600 and 0700; never anything for others. Folders above keep
their modes where they exist. For a store that several people add to, make its folder group-writable once
(``chmod 2770``): new pools then are group-writable too.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

from flexcare_data.errors import UserError
from flexcare_data.hashing import canonical, file_digest
from flexcare_data.schema import OUTPUT_FORMAT

MANIFEST = "manifest.json"
STORE_FORMAT = 1
"""Version of manifest.json and pool.json; another one is refused."""
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)

_LIBRARIES = ("numpy", "pillow", "polars", "tokenizers", "torch", "transformers")
_TEMPORARY = re.compile(r"\..+\.tmp\.(?P<machine>[0-9a-f]{8})\.(?P<pid>\d+)\.[0-9a-f]{8}(\.\w+)?")
_LARGEST_MANIFEST = 256 * 2**20


class StoreError(UserError, RuntimeError):
    """A folder of the store is damaged, does not match its name, or cannot be written."""


# --- folders and single files -----------------------------------------------------------------------------------


def ensure_folder(path: Path, *, group_readable: bool = True) -> Path:
    """Make ``path`` and its missing parents, not readable by others. Existing folders keep their modes.

    A new folder is group-writable only where the folder above it is.
    """
    missing = []
    above = path
    while not above.exists():
        missing.append(above)
        above = above.parent
    for folder in reversed(missing):
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            mode = 0o700
            if group_readable:
                mode = 0o2770 if folder.parent.stat().st_mode & stat.S_IWGRP else 0o2750
            folder.chmod(mode)
        except OSError as error:
            raise StoreError(cannot_write(folder.parent, error)) from None
    return path


def atomic_write(path: Path, content: bytes | str | Callable[[Path], Any], *, group_readable: bool = True) -> None:
    """Write one file atomically; ``content`` is its content, or a function that writes to a given path."""
    ensure_folder(path.parent, group_readable=group_readable)
    temporary = temporary_path(path)
    try:
        sweep(path.parent, of=path.name)
        temporary.touch(mode=0o600)
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        publish_mode(temporary, group_readable)
        temporary.replace(path)
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        raise StoreError(cannot_write(path.parent, error)) from None
    finally:
        remove(temporary)  # a read-only disk refuses to remove even an absent file


def temporary_path(path: Path) -> Path:
    """A unique temporary name in the folder of ``path``; the suffix is kept."""
    return path.parent / f".{path.name}.tmp.{_machine()}.{os.getpid()}.{secrets.token_hex(4)}{path.suffix}"


def is_temporary(name: str) -> bool:
    """True for names made by `temporary_path`."""
    return _TEMPORARY.fullmatch(name) is not None


def is_abandoned(name: str) -> bool:
    """True for a temporary name whose process ran on this machine and has ended."""
    match = _TEMPORARY.fullmatch(name)
    if match is None or match["machine"] != _machine():
        return False
    try:
        os.kill(int(match["pid"]), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


def sweep(folder: Path, *, of: str = "") -> list[Path]:
    """Remove temporary files that killed processes of this machine left in ``folder``, where permitted.

    Args:
        of: only those of the file of this name.

    Returns:
        The removed paths.
    """
    swept = []
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(f".{of}")]
    abandoned = [folder / name for name in names if is_abandoned(name)]
    for path in abandoned:
        remove(path)
        if not path.exists():
            swept.append(path)
    return swept


def remove(path: Path) -> None:
    """Remove a file or a folder as far as permissions allow."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            return


# --- stages -----------------------------------------------------------------------------------------------------


@contextmanager
def write_stage(
    target: Path,
    *,
    spec: dict[str, Any],
    group_readable: bool = True,
    verify: Callable[[], None] = lambda: None,
) -> Iterator[Path]:
    """Write a stage: yields a private folder to fill, which becomes ``target`` on a clean exit.

    Relative links to a sibling (``shards -> ../images-0123456789ab``) may be among the files; everything else must be a
    plain file or folder. A complete ``target`` of the same spec is kept and the new one discarded; one without a valid
    manifest (empty, left over, damaged) is replaced. After an exception nothing of the new one is left.

    Args:
        verify: called when all is written, before the folder is sealed; if it raises, there will be no folder.

    Raises:
        StoreError: if ``target`` is complete with another spec, or the folder above it cannot be written.
    """
    target = Path(target)
    spec = json.loads(canonical(spec))
    ensure_folder(target.parent, group_readable=group_readable)
    building = temporary_path(target)
    try:
        sweep(target.parent)
        building.mkdir(mode=0o700)
    except OSError as error:
        raise StoreError(cannot_write(target.parent, error)) from None
    try:
        yield building
        verify()
        _seal(building, spec, group_readable)
        _move_in(building, target, spec)
    finally:
        remove(building)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a stage: ``spec``, ``files`` (path -> bytes, sha256), ``links``, ``versions``.

    Raises:
        StoreError: if there is none, or it is not what `write_stage` writes.
    """
    path = Path(folder) / MANIFEST
    manifest = read_json(path)
    for name, kind in (("spec", dict), ("files", dict), ("links", dict), ("versions", dict)):
        if not isinstance(manifest.get(name), kind):
            raise StoreError(f"{path}: expected `{name}` to be an object, got {type(manifest.get(name)).__name__}")
    for name, entry in manifest["files"].items():
        _check_inside(path, name)
        if not isinstance(entry, dict) or set(entry) != {"bytes", "sha256"}:
            raise StoreError(f"{path}: {name!r}: expected `bytes` and `sha256`")
        if type(entry["bytes"]) is not int or entry["bytes"] < 0:
            raise StoreError(f"{path}: {name!r}: expected `bytes` to be a count")
        if not isinstance(entry["sha256"], str) or not re.fullmatch("[0-9a-f]{64}", entry["sha256"]):
            raise StoreError(f"{path}: {name!r}: expected `sha256` to be 64 hex digits")
    for name, link in manifest["links"].items():
        _check_inside(path, name)
        _check_link(path, name, link)
    return manifest


def check_format(path: Path) -> Path:
    """``path``, a published file: a link to a file of a stage, or that file itself.

    Raises:
        StoreError: if its stage was written in another output format than this code reads.
    """
    folder = path.resolve().parent
    written = read_manifest(folder)["spec"].get("format") if (folder / MANIFEST).is_file() else None
    if written not in (None, OUTPUT_FORMAT):
        raise StoreError(
            f"{path}: written in output format {written}, expected {OUTPUT_FORMAT}; build into another output folder, "
            "or use the version of this project that wrote it (CHANGELOG.md names the formats)"
        )
    return path


def check_upstream(path: Path, upstream: str, shown: Path) -> Path:
    """``path``, a published file, made from the stage ``upstream`` that the published file ``shown`` shows.

    After a change of options a target publishes its own data only, so older names may show an older configuration.

    Raises:
        StoreError: if it was made from another product of that stage.
    """
    folder = path.resolve().parent
    made_from = read_manifest(folder)["spec"].get("upstream", {}) if (folder / MANIFEST).is_file() else {}
    key = shown.resolve().parent.name.rpartition("-")[2]
    if upstream in made_from and (shown.resolve().parent / MANIFEST).is_file() and made_from[upstream] != key:
        raise StoreError(
            f"{path}: was made under another configuration than {shown}; build it again with the configuration that "
            f"you want: `snakemake {path.stem}`"
        )
    return path


def is_complete(folder: Path) -> bool:
    """True if ``folder`` has a valid manifest, every listed file in its listed size, and no link that leads nowhere.

    `store.verify` also compares contents.
    """
    folder = Path(folder)
    try:
        manifest = read_manifest(folder)
    except StoreError:
        return False
    for name, entry in manifest["files"].items():
        try:
            found = (folder / name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        if not stat.S_ISREG(found.st_mode) or found.st_size != entry["bytes"]:
            return False
    return all((folder / name).is_symlink() and (folder / name).exists() for name in manifest["links"])


@cache
def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that decide bytes; those not installed are left out."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _seal(building: Path, spec: dict[str, Any], group_readable: bool) -> None:
    files, links = {}, {}
    for path in sorted(building.rglob("*")):
        name = path.relative_to(building).as_posix()
        if path.is_symlink():
            links[name] = str(path.readlink())
            _check_link(building / MANIFEST, name, links[name])
        elif path.is_dir():
            path.chmod(0o2750 if group_readable else 0o700)
        elif path.is_file():
            publish_mode(path, group_readable)
            files[name] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        else:
            raise StoreError(f"{building.name}: {name}: expected a plain file, a folder or a link")
    manifest = {"format": STORE_FORMAT, "spec": spec, "files": files, "links": links, "versions": library_versions()}
    text = json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n"
    (building / MANIFEST).write_text(text, encoding="utf-8")
    publish_mode(building / MANIFEST, group_readable)
    building.chmod(0o2750 if group_readable else 0o700)


def _move_in(building: Path, target: Path, spec: dict[str, Any]) -> None:
    for _ in range(10):
        if is_complete(target):
            if read_manifest(target)["spec"] != spec:
                raise StoreError(f"{target}: complete with another spec than this stage's; remove or rename it")
            return
        try:
            building.rename(target)  # replaces an empty folder
            return
        except OSError:
            if not target.exists():
                raise
        aside = temporary_path(target)
        try:
            target.rename(aside)
            if is_complete(aside):  # another writer completed it between the two checks
                aside.rename(target)
        except OSError:
            if aside.exists() and is_complete(aside):
                return
        remove(aside)
    raise StoreError(f"{target}: could not be replaced in 10 attempts; remove the folder and try again")


# --- small things -----------------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """An object of `STORE_FORMAT` in a file of the store. Raises StoreError for anything else."""
    try:
        if path.stat().st_size > _LARGEST_MANIFEST:
            raise StoreError(f"{path}: expected at most {_LARGEST_MANIFEST} bytes, got {path.stat().st_size}")
        content = json.loads(path.read_bytes(), parse_constant=_refuse)
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{path}: missing, so {path.parent.name} is not complete") from None
    except (ValueError, RecursionError):
        raise StoreError(f"{path}: expected JSON, got something else; remove the folder and build again") from None
    if not isinstance(content, dict) or content.get("format") != STORE_FORMAT:
        got = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise StoreError(
            f"{path}: expected an object of format {STORE_FORMAT}, got {got}; where another version of this project "
            "wrote it, set store.path to another folder"
        )
    return content


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _check_inside(manifest: Path, name: str) -> None:
    path = PurePosixPath(name)
    odd = path.is_absolute() or path.as_posix() != name or "\\" in name or not name.isprintable()
    if odd or name in ("", ".", MANIFEST) or ".." in path.parts:
        raise StoreError(f"{manifest}: expected paths below the folder, got {name!r}")


def _check_link(manifest: Path, name: str, link: Any) -> None:
    if "/" in name or not isinstance(link, str) or not re.fullmatch(r"\.\./[A-Za-z0-9_][A-Za-z0-9_.-]*", link):
        raise StoreError(f"{manifest}: link {name!r}: expected a sibling such as ../images-0123456789ab, got {link!r}")


def publish_mode(path: Path, group_readable: bool) -> None:
    """Close a file to others; fsync before the rename, so that a crash cannot leave an empty file."""
    path.chmod(0o640 if group_readable else 0o600)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def cannot_write(folder: Path, error: OSError) -> str:
    """The message for a ``folder`` that cannot be written."""
    return (
        f"{folder}: cannot be written ({error.strerror or error}); expected a folder that you may write "
        "(its owner can `chmod 2770` it for the group, or set store.path to a folder of your own)"
    )


@cache
def _machine() -> str:
    """Digest of the host and its process namespace, in which a process id is unique."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return hashlib.sha256(f"{socket.gethostname()}\n{namespace}".encode()).hexdigest()[:8]
