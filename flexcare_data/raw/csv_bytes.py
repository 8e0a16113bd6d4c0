"""Bytes of CSV text by name, and how a compiled function reads several of them at once."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

NEWLINE = ord("\n")
CARRIAGE_RETURN = ord("\r")
QUOTE = ord('"')
COMMA = ord(",")
SPACE = ord(" ")
HYPHEN = ord("-")
COLON = ord(":")
LETTER_T = ord("T")
ZERO = ord("0")


def load(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any, kind: ir.Type) -> ir.LoadInstr:
    """For an intrinsic of (array, i): the memory from element i on, read as one ``kind``."""
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.load(builder.bitcast(builder.gep(array.data, [arguments[1]]), kind.as_pointer()), align=1)


@intrinsic
def word(typing, buffer, i):
    """The eight bytes buffer[i : i + 8] as one number, the first byte lowest (numba has no big-endian platform)."""

    def generate(context, builder, signature, arguments):
        return load(context, builder, signature, arguments, ir.IntType(64))

    return types.uint64(buffer, i), generate
