"""Number types of stored note vectors.

In: float32 vectors. Out: their stored form, and back.
"""

from __future__ import annotations

from typing import Any

import numpy as np

STORAGES = {"float16": np.float16, "int8": np.int8, "tokens": np.int32}
"""Number type of the stored tokens, by the setting `notes.storage`."""


def quantize(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (n, width) as int8 and one float16 scale per row, so that ``int8 * scale`` is near them."""
    scale = (np.abs(vectors).max(axis=1, initial=0.0) / 127).astype(np.float16)
    divisor = np.where(scale == 0, 1, scale).astype(np.float32)[:, None]
    # The scale is rounded to float16, so that the largest value may be 127.06.
    return np.rint(vectors / divisor).clip(-127, 127).astype(np.int8), scale


def dequantize(vectors: Any, scale: Any, xp: Any = np) -> Any:
    """float32 vectors (..., width) from the output of `quantize`: arrays, or tensors with torch as ``xp``."""
    out = xp.asarray(vectors, dtype=xp.float32)  # a copy, as `vectors` are int8
    out *= xp.asarray(scale, dtype=xp.float32)[..., None]
    return out
