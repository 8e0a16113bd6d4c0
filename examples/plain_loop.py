"""Your own model in a plain PyTorch loop: python plain_loop.py results [task]

It reads the mean of each modality that a sample has. Loss and metrics are those of the project; its models and its
training loop are not used.
"""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader

from flexcare_model.data.dataset import load_task
from flexcare_model.models.losses import prediction_loss
from flexcare_model.training.metrics import compute


class MeanOfModalities(nn.Module):
    """Logits (B, C) from the mean hour, the image in 7 x 7 cells and the mean token."""

    def __init__(self, outputs: int):
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(76, 32), nn.Linear(49, 32), nn.Linear(768, 32)])
        self.head = nn.Linear(32, outputs)

    def forward(self, batch):
        hours, tokens = batch.ts_len.clamp(min=1), batch.note_len.clamp(min=1)
        inputs = [
            batch.ts.sum(1) / hours[:, None],  # (B, 76), padding is zero
            nn.functional.adaptive_avg_pool2d(batch.img[:, 0], 7).flatten(1),  # (B, 49)
            batch.note_tok.sum(1) / tokens[:, None],  # (B, 768)
        ]
        parts = torch.stack([part(x).relu() for part, x in zip(self.parts, inputs, strict=True)], dim=1)
        return self.head((parts * batch.present[..., None]).sum(1))


def main(output: str = "results", task: str = "readmission") -> None:
    torch.manual_seed(0)
    train, test = load_task(output, task, "train"), load_task(output, task, "test")
    model = MeanOfModalities(train.n_outputs)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(3):
        for batch in DataLoader(train, batch_size=32, shuffle=True, collate_fn=train.collate):
            loss = prediction_loss(model(batch), batch.label, task)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss of the last batch {loss.item():.3f}")
    with torch.no_grad():
        logits = torch.cat([model(batch) for batch in DataLoader(test, batch_size=32, collate_fn=test.collate)])
    print(compute(task, test.labels.numpy(), logits.numpy()))


if __name__ == "__main__":
    main(*sys.argv[1:])
