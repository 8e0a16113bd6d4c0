"""What decides a note encoder that is a local folder.

In: the folder. Out: its files and their digests, for the spec of `notes`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flexcare_data.hashing import remembered_digest

_ENDINGS = (".json", ".txt", ".model", ".safetensors")


def encoder_files(folder: Path, digest: Callable[[Path], str] = remembered_digest) -> dict[str, str]:
    """The first 16 hex digits of the sha256 of each file of the encoder in ``folder``, by name."""
    found = sorted(path for path in folder.iterdir() if path.suffix in _ENDINGS)
    return {path.name: digest(path)[:16] for path in found}
