"""What the compiled functions share: how they are compiled, and how they look at several bytes at once.

`compiled` keeps the machine code beside the module of the function and lets other threads run meanwhile. Numba takes
what it kept as long as that one module is the same: a compiled function and those that it calls stand in one file.
"""

from __future__ import annotations

import sys
from typing import Any

from llvmlite import ir

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


def load(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any, kind: ir.Type) -> ir.LoadInstr:
    """For an intrinsic of (array, i): what lies from its element i on, read as one ``kind``."""
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.load(builder.bitcast(builder.gep(array.data, [arguments[1]]), kind.as_pointer()), align=1)


@numba.extending.intrinsic
def word(typing, buffer, i):
    """The eight bytes buffer[i : i + 8] as one number, the first byte lowest (numba has no big-endian platform)."""

    def generate(context, builder, signature, arguments):
        return load(context, builder, signature, arguments, ir.IntType(64))

    return numba.types.uint64(buffer, i), generate
