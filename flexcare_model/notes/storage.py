"""Number types of stored note vectors.

In: float32 vectors. Out: their stored form, and back.
"""

from __future__ import annotations

import numpy as np

STORAGES = {"float16": np.float16, "int8": np.int8, "tokens": np.int32}
"""Number type of the stored tokens, by the setting `notes.storage`."""


def quantize(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (n, width) as int8 and one float16 scale per row, so that ``int8 * scale`` is near them."""
    scale = (np.abs(vectors).max(axis=1, initial=0.0) / 127).astype(np.float16)
    divisor = np.where(scale == 0, 1, scale).astype(np.float32)[:, None]
    # The scale is rounded to float16, so that the largest value may be 127.06.
    return np.rint(vectors / divisor).clip(-127, 127).astype(np.int8), scale


def dequantize(vectors: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """float32 vectors from the output of `quantize`."""
    return vectors.astype(np.float32) * scale.astype(np.float32)[:, None]
