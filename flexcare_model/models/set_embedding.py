"""A series as a set of measured values instead of hours, for the option `series: set` of MMF.

In: a `Batch`. Out: the tokens of `Embedding`, with a token for each value that was measured in its hour. The last
``most`` values of a sample are kept.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flexcare_data import variables
from flexcare_model.data.batch import COLUMNS, Batch
from flexcare_model.models.layers import Embedding
from flexcare_model.models.packing import Packing

HOURS_PER_UNIT = 24.0
"""Hours before the end of the series are counted in days, so that most lie between 0 and 10."""


def columns_of_variables() -> list[range]:
    """Columns of the values of each variable, in the order of the observation masks."""
    found, start = [], 0
    for name in variables.VARIABLES:
        width = len(variables.CATEGORIES.get(name, ())) or 1
        found.append(range(start, start + width))
        start += width
    return found


def as_sets(batch: Batch, most: int) -> Batch:
    """``batch`` with its series as sets: ``ts`` (B, N, 3) holds time, value and column of N values, right padded.

    Time is the number of hours before the last one. Of a variable with categories the column is that of the category,
    and the value is what stands there. Order: by hour, then by variable. To know N, the host waits for the device.
    """
    spans = columns_of_variables()
    values, hours = len(spans) and spans[-1].stop, batch.ts.shape[1]
    hour = torch.arange(hours, device=batch.device)
    recorded = hour < batch.ts_len.unsqueeze(1)  # (B, T), False in padding
    series = batch.ts.masked_fill(~recorded.unsqueeze(-1), 0)
    observed = (series[..., values:] > 0.5).flatten(1)  # (B, T * 17)
    columns = torch.stack(
        [series[..., span.start : span.stop].argmax(dim=-1) + span.start for span in spans], dim=-1
    )  # (B, T, 17)
    value = series.gather(-1, columns)
    time = (batch.ts_len.unsqueeze(1) - 1 - hour).unsqueeze(-1).expand_as(value)
    cells = torch.stack([time.to(value.dtype), value, columns.to(value.dtype)], dim=-1).flatten(1, 2)  # (B, T * 17, 3)
    counts = observed.sum(dim=1)
    kept = counts.clamp(max=most)
    order = torch.sort(~observed, dim=1, stable=True).indices  # measured ones first, in their order
    place = torch.arange(int(kept.max()), device=batch.device)
    index = ((counts - kept).unsqueeze(1) + place).clamp(max=order.shape[1] - 1)
    chosen = order.gather(1, index)  # (B, N)
    sets = cells.gather(1, chosen.unsqueeze(-1).expand(-1, -1, 3))
    return replace(batch, ts=sets, ts_len=kept, visible=None)  # type: ignore[arg-type]  # counted again


class SetEmbedding(Embedding):
    """As `Embedding`, but a series has a token per measured value: time(t) + value(v) + type(column).

    Parameters: ``value_time`` and ``value_size`` (networks 1 -> d -> d), ``value_type`` (columns, d).
    """

    def __init__(self, most: int, width: int, *rest) -> None:
        super().__init__(width, *rest)
        del self.time_series, self.time_series_position
        self.most = most
        self.value_time, self.value_size = (
            nn.Sequential(nn.Linear(1, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(2)
        )
        self.value_type = nn.Parameter(torch.randn(COLUMNS - len(variables.VARIABLES), width) * 0.02)

    def packed(self, batch: Batch, *, with_class: bool) -> tuple[Tensor, Packing]:
        return super().packed(as_sets(batch, self.most), with_class=with_class)

    def contents(
        self, batch: Batch, modality: int, width: int, rows: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        if modality != 0:
            return super().contents(batch, modality, width, rows, mask)
        cells = batch.ts[:, :width] if rows is None else batch.ts[:, :width].index_select(0, rows)
        if mask is not None:
            cells = cells.masked_fill(~mask.unsqueeze(-1), 0)
        time, value, column = cells.to(self.value_type.dtype).split(1, dim=-1)
        # A product instead of a look-up: its gradient is deterministic on a GPU.
        kind = F.one_hot(column.squeeze(-1).long(), len(self.value_type)).to(self.value_type.dtype) @ self.value_type
        return self.value_time(time / HOURS_PER_UNIT) + self.value_size(value) + kind
