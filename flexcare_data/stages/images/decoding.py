"""Decode one image file to one tensor: grey, shorter side resized to 256 pixels (antialiased), centre crop 256 x 256.

In: a JPEG, or anything that Pillow reads. Out: uint8 (256, 256), or an `ImageError` with a short, stable reason.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from flexcare_data.errors import UserError
from flexcare_data.modalities import IMAGE_SIDE

DECODED_SIDE = 512
_LONGEST_SHAPE = 10


class ImageError(UserError):
    """A radiograph cannot be read, or too many cannot. Holds reasons and counts, never an id."""


def decode(source: Path | bytes) -> np.ndarray:
    """One image file (or its bytes) as a tensor (256, 256) uint8.

    Any format that Pillow reads, by content and not by name. Colour becomes luma, transparency is dropped, 16 bits
    become 8 (value / 257), smaller images are enlarged, of several frames the first counts. A JPEG does not say
    whether black is air or bone (MONOCHROME1); MIMIC-CXR-JPG was published with these already turned, so nothing
    is turned here.

    Raises:
        ImageError: with the reason: empty, truncated, no image, more than 179 million pixels, a shape of more than
            1 to 10, a pixel type without a known range, not readable.
    """
    with reasons():
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        if not data:
            raise ImageError("empty file")
        with Image.open(io.BytesIO(data)) as image:
            if max(image.size) > _LONGEST_SHAPE * min(image.size):
                raise ImageError(f"shape of more than 1 to {_LONGEST_SHAPE}")
            # A JPEG decoder can leave out high frequencies: 2544 x 3056 comes out as 636 x 764, in half the time.
            # Twice the final side is what keeps the antialiased result within 4 levels of a full decode.
            drafted = image.draft("L", (DECODED_SIDE, DECODED_SIDE))
            box = drafted[1] if drafted else None
            grey = _to_grey(image)
            return _shrink(grey, box)


def _to_grey(image: Image.Image) -> Image.Image:
    """8-bit grey ("L") or 16-bit grey scaled to 0..255 as float ("F")."""
    if image.mode == "L":
        return image
    if image.mode in ("1", "RGB", "YCbCr", "RGBA", "LA", "P", "RGBX"):
        return image.convert("L")
    if image.mode in ("CMYK", "LAB", "HSV", "PA", "La", "RGBa"):
        return image.convert("RGBA" if image.mode in ("PA", "La", "RGBa") else "RGB").convert("L")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float32)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError("32-bit pixels, expected 8 or 16 bits")
        return Image.fromarray(values / 257.0)
    raise ImageError(f"pixels of type {image.mode}, expected 8 or 16 bits")


def _shrink(image: Image.Image, box: tuple[float, float, float, float] | None) -> np.ndarray:
    width: float
    height: float
    width, height = image.size
    if box is not None:
        width, height = box[2] - box[0], box[3] - box[1]
    short = min(width, height)
    size = (int(IMAGE_SIDE * width / short), int(IMAGE_SIDE * height / short))
    image = image.resize(size, Image.Resampling.BILINEAR, box=box)
    left, top = round((size[0] - IMAGE_SIDE) / 2), round((size[1] - IMAGE_SIDE) / 2)
    tensor = np.asarray(image.crop((left, top, left + IMAGE_SIDE, top + IMAGE_SIDE)))
    if tensor.dtype != np.uint8:
        tensor = np.rint(tensor).clip(0, 255).astype(np.uint8)
    return tensor


@contextmanager
def reasons() -> Iterator[None]:
    """Turn what Pillow raises on a damaged file into an `ImageError` with a short, stable reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError("more pixels than a radiograph can have") from None
    except UnidentifiedImageError:
        raise ImageError("not an image") from None
    except MemoryError:
        raise ImageError("does not fit in memory") from None
    except OSError as error:
        if error.errno is not None:
            raise ImageError(f"cannot be read: {error.strerror}") from None
        raise ImageError("truncated" if "truncated" in str(error) else "damaged") from None
    except Exception as error:  # decoders raise almost anything (SyntaxError, struct.error, ...) on damaged bytes
        raise ImageError(f"damaged ({type(error).__name__})") from None


def decode_into(task: tuple[str, int, list[str]]) -> tuple[int, list[tuple[str, int, str | None]]]:
    """Decode files into consecutive rows of a mapped array: the first row, and (sha256, bytes, problem) of each."""
    array_path, first, paths = task
    tensors = np.lib.format.open_memmap(array_path, mode="r+")
    results: list[tuple[str, int, str | None]] = []
    for row, path in enumerate(paths, first):
        try:
            with reasons():
                data = Path(path).read_bytes()
            tensors[row] = decode(data)
            results.append((hashlib.sha256(data).hexdigest(), len(data), None))
        except ImageError as error:
            results.append(("", 0, str(error)))
    tensors.flush()
    return first, results
