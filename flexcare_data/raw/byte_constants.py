"""Bytes of CSV text by name."""

from __future__ import annotations

NEWLINE = ord("\n")
CARRIAGE_RETURN = ord("\r")
QUOTE = ord('"')
COMMA = ord(",")
SPACE = ord(" ")
HYPHEN = ord("-")
COLON = ord(":")
LETTER_T = ord("T")
ZERO = ord("0")
