"""What the machine refuses, in words: a full disk, a lost permission, a file that went away.

In: an exception. Out: one message that says where and what to do, or None where the exception is something else. Python
and the libraries report the same refusal in different ways: an OSError with a number, one without, or an error of their
own that quotes the system.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

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
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written")


def explain(error: BaseException, where: Path | None = None) -> str | None:
    """The message for ``error``; ``where`` is named where the error itself names no file.

    Example:
        >>> explain(OSError(28, "No space left on device", "/disk/events.parquet")).split(";")[0]
        '/disk/events.parquet: no space left on device'
        >>> explain(KeyError("stay_id")) is None
        True
    """
    place = getattr(error, "filename", None) or where or "a file"
    if _NO_END in str(error):
        return f"{place}: a file could not be written to its end: is the disk full, or file size limited? {_FULL}"
    number = _number(error)
    if number not in _ADVICE:
        return None
    return f"{place}: {os.strerror(number).lower()}; {_ADVICE[number]}"


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    if quoted := _QUOTED.search(text):
        return int(quoted[1])
    # numpy tells a write that was cut short by its counts alone.
    return errno.ENOSPC if isinstance(error, OSError) and _CUT_SHORT.search(text) else None
