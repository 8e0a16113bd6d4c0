"""The three modalities of a sample: names, letters, combinations, the shapes in which they are stored, largest sizes.

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
"""Length of the vector of a note token where no data says otherwise: the hidden size of BioBERT."""

MAX_NOTE_TOKENS = 512
"""Word pieces of a note that are read unless the configuration says otherwise: BioBERT has no positions beyond. A model
has positions for at least so many."""

MAX_HOURS = 512
"""Most hours of a series that a model reads."""
