"""What the machine refuses, in words: a full disk, a lost permission, a file that went away.

In: an exception. Out: one message that says where and what to do, or None where the exception is something else. Python
and the libraries report the same refusal in different ways: an OSError with a number, one without, or an error of their
own that quotes the system.
"""

from __future__ import annotations

import errno
import os
import re
import traceback
from pathlib import Path

FULL_ERRORS = "FLEXCARE_FULL_ERRORS"
_AGAIN = "nothing that was finished is lost, and the same command goes on from there"
_FULL = f"free some space, or set store.path or output to a larger disk; {_AGAIN}"
_ADVICE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: f"the file system or a limit of this account (ulimit -f) allows no larger file; {_AGAIN}",
    errno.EACCES: f"ask its owner for access, or set output and store.path to folders of your own; {_AGAIN}",
    errno.EPERM: f"ask its owner for access, or set output and store.path to folders of your own; {_AGAIN}",
    errno.EROFS: f"set output or store.path to a disk that you may write; {_AGAIN}",
    errno.ENOENT: f"it was moved or removed while it was needed: put it back; {_AGAIN}",
    errno.ESTALE: f"it was moved or removed while it was needed: put it back; {_AGAIN}",
    errno.EIO: f"the disk or its network connection failed: look after it; {_AGAIN}",
    errno.EMFILE: f"allow more open files (ulimit -n 4096); {_AGAIN}",
    errno.ENFILE: f"too many files are open on this machine: try later; {_AGAIN}",
}
_QUOTED = re.compile(r"\(os error (\d+)\)")
# Polars, where the last bytes of a parquet file do not fit.
_NO_END = "Invalid thrift: transport error"
_DAMAGED = re.compile(r"parquet: File out of specification|Parquet magic bytes not found|Couldn't deserialize thrift")
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written")


def explain(error: BaseException, where: Path | None = None) -> str | None:
    """The message for ``error``; ``where`` is named where the error itself names no file.

    Example:
        >>> explain(OSError(28, "No space left on device", "/disk/events.parquet")).split(";")[0]
        '/disk/events.parquet: No space left on device'
        >>> explain(KeyError("stay_id")) is None
        True
    """
    place = getattr(error, "filename", None) or where or "a file"
    if _NO_END in str(error):
        return f"{place}: a file could not be written to its end: is the disk full, or file size limited? {_FULL}"
    if damage := _DAMAGED.match(str(error)):
        return (
            f"{place}: a table that it reads is damaged ({damage[0]}); find it with `python -m flexcare_data store "
            "verify`, remove its folder and give the same command again"
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
    # numpy tells a write that was cut short by its counts alone.
    return errno.ENOSPC if isinstance(error, OSError) and _CUT_SHORT.search(text) else None


def withheld(error: BaseException) -> str:
    """Where an unexpected ``error`` arose and of which type it is, without its words.

    Libraries quote the values that they stumble over, and a log may hold no patient's value. Whoever may see them sets
    `FULL_ERRORS` in the environment, and commands raise the error as it is.
    """
    lines = ["error: unexpected, a mistake of this program; please report what follows"]
    while error is not None:
        lines += [line.rstrip() for line in traceback.format_tb(error.__traceback__)]
        lines.append(f"{type(error).__name__} (its words may quote patients' values: set {FULL_ERRORS}=1 to see them)")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(lines)
