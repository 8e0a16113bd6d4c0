"""The TensorBoard event file of a run, also after the run was killed."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flexcare_model.training.log import EVENT_FILE, EVENTS, TrainingLog


def _add(log: TrainingLog, epoch: int) -> None:
    log.add(epoch=epoch, step=epoch * 10, phase="train", task="mortality", loss=1 / epoch, samples_per_second=5.0)


def test_resumed_run_has_each_step_once_in_one_file(tmp_path: Path) -> None:
    killed = TrainingLog(tmp_path)
    for epoch in (1, 2, 3):
        _add(killed, epoch)
    resumed = TrainingLog(tmp_path, epoch=2)
    _add(resumed, 2)
    resumed.close()
    killed.close()

    assert [path.name for path in (tmp_path / EVENTS).iterdir()] == [EVENT_FILE]
    events = EventAccumulator(str(tmp_path / EVENTS)).Reload()
    assert set(events.Tags()["scalars"]) == {"mortality/train/loss", "mortality/train/samples_per_second"}
    assert [(event.step, event.value) for event in events.Scalars("mortality/train/loss")] == [(10, 1.0), (20, 0.5)]
