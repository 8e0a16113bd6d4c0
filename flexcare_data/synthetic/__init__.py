"""Fabricated raw data with planted answers, in the layout of the real releases.

`write` makes a data set in all three modalities. It holds no real data; every root carries the file `SYNTHETIC`.
"""

from __future__ import annotations

from flexcare_data.synthetic.layout import EDITIONS, MARK
from flexcare_data.synthetic.write import write

__all__ = ["EDITIONS", "MARK", "write"]
