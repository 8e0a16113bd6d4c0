"""Facts about a build that a page shows and that its output folder does not contain."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class About:
    """Facts about the build that are not in the output folder.

    Attributes:
        title: heading of the page.
        config: the resolved configuration, shown unchanged.
        code_version: version or commit of the code.
        below: counts in [1, below) are not shown.
        seeds: expected seeds; None: those that were found.
        is_synthetic: True marks every page; None: decided from the output folder.
        left_out: tasks that are not built, or that no model is trained on, with the reason.
        products: keys of the products that the page is made from; None: everything in the output folder.
    """

    title: str = "FlexCare-benchmark"
    config: dict[str, Any] = field(default_factory=dict)
    code_version: str = ""
    below: int = 10
    seeds: tuple[int, ...] | None = None
    is_synthetic: bool | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    products: frozenset[str] | None = None

    def synthetic(self, found: bool) -> bool:
        """Whether to mark a page as synthetic; ``found``: whether the output folder is marked."""
        return found if self.is_synthetic is None else self.is_synthetic
