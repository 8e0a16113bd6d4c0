"""Deterministic hash-based sampling: the same in every edition and for every order of the rows."""

from __future__ import annotations

import hashlib


def keyed_share(purpose: str, *parts: int) -> float:
    """A number in [0, 1) that depends only on its arguments (BLAKE2b keyed by ``purpose``)."""
    text = ",".join(str(part) for part in parts).encode()
    value = hashlib.blake2b(text, digest_size=8, key=f"flexcare-{purpose}".encode()).digest()
    return (int.from_bytes(value, "big") >> 11) / (1 << 53)
