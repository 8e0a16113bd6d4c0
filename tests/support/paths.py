"""Folders that the tests use."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
"""The repository."""
RAW = TESTS / "raw"
"""Hand-written tables in the published format."""
