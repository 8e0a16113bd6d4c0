"""Errors that a user can fix, and the message that a command prints for any exception.

In: an exception. Out: one message without a traceback, or None where the exception is a bug of this program.
`UserError` is the base class of all errors that a user can fix. Errors of the system (a full disk, a lost permission, a
removed file) come from Python and the libraries in different forms: an OSError with a number, one without, or an error
of a library that quotes the system.
"""

from __future__ import annotations

import errno
import os
import re
import traceback
from pathlib import Path


class UserError(Exception):
    """An error that the user can fix. Its message is printed unchanged: expected, got, where, what to do.

    The message holds names, counts and paths, never a value of a patient.
    """


FULL_ERRORS = "FLEXCARE_FULL_ERRORS"
_AGAIN = "finished results are kept; the same command continues"
_FULL = f"free some space, or set store.path or output to a larger disk; {_AGAIN}"
_ADVICE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: f"the file system or a limit of this account (ulimit -f) allows no larger file; {_AGAIN}",
    errno.EACCES: f"ask its owner for access, or set output and store.path to folders of your own; {_AGAIN}",
    errno.EPERM: f"ask its owner for access, or set output and store.path to folders of your own; {_AGAIN}",
    errno.EROFS: f"set output or store.path to a disk that you may write; {_AGAIN}",
    errno.ENOENT: f"it was moved or removed while it was needed: restore it; {_AGAIN}",
    errno.ESTALE: f"it was moved or removed while it was needed: restore it; {_AGAIN}",
    errno.EIO: f"the disk or its network connection failed: check it; {_AGAIN}",
    errno.EMFILE: f"allow more open files (ulimit -n 4096); {_AGAIN}",
    errno.ENFILE: f"too many files are open on this machine: try later; {_AGAIN}",
}
_QUOTED = re.compile(r"\(os error (\d+)\)")
# Polars, where the last bytes of a parquet file do not fit.
_NO_END = "Invalid thrift: transport error"
_DAMAGED = re.compile(r"parquet: File out of specification|Parquet magic bytes not found|Couldn't deserialize thrift")
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written")


def message(error: BaseException, where: Path | None = None) -> str | None:
    """Message for ``error``, or None where it is a bug of the program; ``where``: the path being written.

    Example:
        >>> message(UserError("train.epochs: expected a number above 0, got 0"))
        'train.epochs: expected a number above 0, got 0'
        >>> message(ZeroDivisionError()) is None
        True
    """
    from pydantic import ValidationError  # imported here, because short commands pay for every import

    return str(error) if isinstance(error, UserError | ValidationError) else system_message(error, where)


def report(error: BaseException, where: Path | None = None) -> str | None:
    """The text that a command prints for ``error``; None where the exception itself is wanted (`FULL_ERRORS`)."""
    text = message(error, where)
    if text is not None:
        return f"error: {text}"
    return None if os.environ.get(FULL_ERRORS) else withheld(error)


def system_message(error: BaseException, where: Path | None = None) -> str | None:
    """Message for an error of the system; ``where`` is named where the error itself names no file.

    Example:
        >>> system_message(OSError(28, "No space left on device", "/disk/events.parquet")).split(";")[0]
        '/disk/events.parquet: No space left on device'
        >>> system_message(KeyError("stay_id")) is None
        True
    """
    place = getattr(error, "filename", None) or where or "a file"
    if _NO_END in str(error):
        return f"{place}: a file is incomplete: the disk may be full, or a limit on file size was reached; {_FULL}"
    if damage := _DAMAGED.match(str(error)):
        return (
            f"{place}: a table that it reads is damaged ({damage[0]}); find it with `flexcare store verify`, "
            "remove its folder and give the same command again"
        )
    number = _number(error)
    if number not in _ADVICE:
        return None
    return f"{place}: {os.strerror(number)}; {_ADVICE[number]}"


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    if quoted := _QUOTED.search(text):
        return int(quoted[1])
    # numpy reports an incomplete write only by its counts.
    return errno.ENOSPC if isinstance(error, OSError) and _CUT_SHORT.search(text) else None


def withheld(error: BaseException) -> str:
    """Traceback and type of an unexpected ``error``, without its text.

    The text is left out, because libraries quote the values that they cannot use, and a log may hold
    no value of a patient. Setting `FULL_ERRORS` in the environment makes the commands raise the exception itself.
    An exception that was raised inside a model keeps its text: models see tensors, and their errors are about shapes.
    """
    in_model = _is_of_a_model(error)
    if in_model:
        lines = ["error: the model raised an exception; its file and line are below"]
    else:
        lines = ["error: unexpected error, a bug of this program; please report the following lines"]
    following: BaseException | None = error
    while following is not None:
        lines += [line.rstrip() for line in traceback.format_tb(following.__traceback__)]
        name = type(following).__name__
        if _is_of_a_model(following):
            lines.append(f"{name}: {following}")
        else:
            lines.append(f"{name} (its text may quote patients' values: set {FULL_ERRORS}=1 to see them)")
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
    return "\n".join(lines)


_PROJECT = Path(__file__).resolve().parents[1]
_PACKAGES = (_PROJECT / "flexcare_data", _PROJECT / "flexcare_model")
_MODELS = _PROJECT / "flexcare_model" / "models"


def _is_of_a_model(error: BaseException) -> bool:
    """True if the innermost frame of this project is in `flexcare_model/models/`."""
    files = [Path(frame.filename).resolve() for frame in traceback.extract_tb(error.__traceback__)]
    own = [file for file in files if any(file.is_relative_to(package) for package in _PACKAGES)]
    return bool(own) and own[-1].is_relative_to(_MODELS)
