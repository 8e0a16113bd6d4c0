"""What decides a note encoder that is a local folder.

In: the folder. Out: its files and their digests, for the spec of `notes`; numbers of its config.json, for estimates.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from flexcare_data.hashing import remembered_digest

_ENDINGS = (".json", ".txt", ".model", ".safetensors")


def encoder_files(folder: Path, digest: Callable[[Path], str] = remembered_digest) -> dict[str, str]:
    """The first 16 hex digits of the sha256 of each file of the encoder in ``folder``, by name."""
    found = sorted(path for path in folder.iterdir() if path.suffix in _ENDINGS)
    return {path.name: digest(path)[:16] for path in found}


def encoder_setting(folder: Path, *names: str) -> int | None:
    """The first of ``names`` that the config.json in ``folder`` has as a number; None without."""
    try:
        config = json.loads((folder.expanduser() / "config.json").read_text())
        return next((int(config[name]) for name in names if isinstance(config.get(name), int)), None)
    except (OSError, ValueError, AttributeError):
        return None
