"""`compiled`: a function in machine code, which is kept beside its module and lets other threads run meanwhile."""

from __future__ import annotations

import sys

_BLAS = "scipy.linalg.cython_blas"

# When it sets up, numba imports scipy.linalg to learn whether there is a BLAS: 0.3 s, and our loops multiply no
# matrices. A None in sys.modules is Python's way of saying that a module cannot be imported.
_is_hidden = sys.modules.setdefault(_BLAS, None) is None  # type: ignore[arg-type]
try:
    import numba
    import numba.np.arraymath
finally:
    if _is_hidden:
        del sys.modules[_BLAS]

compiled = numba.njit(cache=True, nogil=True)
