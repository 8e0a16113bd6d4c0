"""The decorator of the compiled functions, with a cache of machine code that is keyed by the code it contains.

In: a Python function. Out: a function that numba compiles when it is first called.

Numba keeps machine code as long as the file of the function is the same, although the code also contains the functions
and constants of other modules that it uses. So each module has a separate cache folder, named by a digest of the module
and of everything that it imports from this project; any change gives another folder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from flexcare_data.code_digest import code_digest
from flexcare_data.hashing import user_cache


def compiled(function: Callable) -> Callable:
    """Compile ``function`` when it is first called. Other threads run while it runs.

    Division by zero gives inf or NaN, as in numpy.
    """
    folder = cache_folder(function.__module__)
    if folder is None:
        return numba.njit(nogil=True, error_model="numpy")(function)
    config: Any = numba.config
    configured = config.CACHE_DIR
    config.CACHE_DIR = str(folder)  # numba reads it when it decorates the function
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    finally:
        config.CACHE_DIR = configured


def cache_folder(module: str) -> Path | None:
    """Where the machine code of ``module`` is kept; None where this user has no cache folder that can be written."""
    top = user_cache("compiled")
    if top is None:
        return None
    folder = top / f"{code_digest(module)}-numba-{numba.__version__}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "last_used").touch()  # fails where numba could not write
    except OSError:
        return None
    return folder
