"""Errors that are the user's to mend: shown as one message without a traceback."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from flexcare_data.config import ConfigError
from flexcare_data.export.explain_sample import UnknownSampleError
from flexcare_data.faults import explain
from flexcare_data.raw.tables import RawDataError
from flexcare_data.schema import SchemaError
from flexcare_data.stages.audit import LeakageError
from flexcare_data.stages.images.decoding import ImageError
from flexcare_data.store.folders import StoreError

KNOWN = (
    ConfigError,
    UnknownSampleError,
    RawDataError,
    SchemaError,
    StoreError,
    ImageError,
    LeakageError,
    ValidationError,
)


def message(error: BaseException, where: Path | None = None) -> str | None:
    """What to tell the user of ``error``, None where it is a mistake of the program. ``where``: what was written."""
    return str(error) if isinstance(error, KNOWN) else explain(error, where)
