"""Errors that the user can fix: shown as one message without a traceback."""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """Something that the user can fix; the message says what was expected, what came, where, and what to do."""


def message(error: BaseException, where: Path | None = None) -> str | None:
    """What to report of ``error``, None where it is a mistake of the program. ``where``: what was written."""
    from pydantic import ValidationError

    from flexcare_data.config import ConfigError
    from flexcare_data.export.explain_sample import UnknownSampleError
    from flexcare_data.faults import explain
    from flexcare_data.raw.tables import RawDataError
    from flexcare_data.schema import SchemaError
    from flexcare_data.stages.audit import LeakageError
    from flexcare_data.stages.images.decoding import ImageError
    from flexcare_data.store.folders import StoreError

    known = (
        UserError, ConfigError, UnknownSampleError, RawDataError, SchemaError, StoreError, ImageError, LeakageError,
        ValidationError,
    )  # fmt: skip
    return str(error) if isinstance(error, known) else explain(error, where)


def report(error: BaseException, where: Path | None = None) -> str | None:
    """What to print of ``error``; None where the user asked for the full error (`FULL_ERRORS`)."""
    import os

    from flexcare_data.faults import FULL_ERRORS, withheld

    text = message(error, where)
    if text is not None:
        return f"error: {text}"
    return None if os.environ.get(FULL_ERRORS) else withheld(error)
