"""Digests of values and of files, and a cache of the digests of files.

In: a JSON value or a path. Out: hex digits. A key is the first 12 digits of the sha256 of a value's canonical JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from pathlib import Path
from typing import Any

_SETTLED_SECONDS = 2.0
"""The digest of a file that changed less than this ago is not remembered: a second change within one tick of the file
system's clock would go unnoticed."""


def canonical(value: Any) -> str:
    """One text per value: JSON with sorted keys and no spaces.

    Raises:
        ValueError: where JSON has no form for it.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"spec: expected values that JSON can hold, {error}") from None


def value_digest(value: Any) -> str:
    """sha256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def spec_key(value: Any) -> str:
    """The key of a spec: 12 hex digits."""
    return value_digest(value)[:12]


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remembered_digest(path: Path) -> str:
    """sha256 of a file's bytes, computed once per state of the file.

    The state is path, size, modification time, change time and inode. The cache belongs to the user alone
    (`user_cache`), so a digest that another account wrote is never used.
    """
    state = _state(path)
    folder = user_cache("digests")
    remembered = folder / f"{value_digest(state)[:24]}.sha256" if folder else None
    if remembered and remembered.is_file():
        text = remembered.read_text().strip()
        if len(text) == 64:
            return text
    digest = file_digest(path)
    newest = max(path.stat().st_mtime, path.stat().st_ctime)
    if remembered and _state(path) == state and time.time() - newest > _SETTLED_SECONDS:
        write_private(remembered, digest)
    return digest


def _state(path: Path) -> list[str | int]:
    info = path.stat()
    return [str(path.resolve()), info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino]


def user_cache(name: str) -> Path | None:
    """A cache folder that only this user can read and write, or None where it cannot be made.

    ``$XDG_CACHE_HOME/flexcare/<name>``, by default below ``~/.cache``. What it holds can be deleted at any time.
    """
    try:
        top = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flexcare"
        folder = top / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for part in (top, folder):
            info = part.stat()
            if info.st_uid != os.getuid():
                return None
            if info.st_mode & 0o077:
                part.chmod(0o700)
    except (OSError, RuntimeError):  # no home folder, or one that cannot be written
        return None
    return folder


def write_private(path: Path, content: str | bytes) -> None:
    """Write a file of a `user_cache` atomically, readable by this user only; errors of the disk are ignored."""
    temporary = path.with_suffix(f".{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
