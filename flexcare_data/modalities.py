"""The three modalities of a sample: names, letters, combinations, and the shapes in which they are stored.

In: nothing. Out: constants. The order (time series, image, note) is the same everywhere.
"""

from __future__ import annotations

MODALITIES = ("time_series", "image", "note")

LETTERS = "TIN"
"""One letter per modality, in the order of `MODALITIES`."""

COMBINATIONS = ("TIN", "TI", "TN", "IN", "T", "I", "N")
"""Every non-empty subset of the modalities, larger ones first."""

IMAGE_SIDE = 256
"""Height and width in pixels of a stored radiograph."""

NOTE_WIDTH = 768
"""Length of the vector of one note token: the hidden size of the frozen encoder."""

MAX_NOTE_TOKENS = 512
