"""The curves of a training as files: metrics.jsonl and what TensorBoard reads, while it goes on."""

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
from test_report_training import make_history
from test_show_augmentation import Tiny

import regraft
from regraft.errors import UsageError
from regraft.train.curves import FILE, Curves
from regraft.values import Epoch

DRAWN = {"loss", "accuracy", "validation_loss", "validation_accuracy", "rate", "seconds"}
ROOT = Path(__file__).resolve().parent.parent


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would draw of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    history = make_history(epochs=4, chosen=2)
    with Curves(tmp_path, tensorboard=True) as curves:
        for epoch in history.epochs:
            curves(epoch)
    found = scalars(tmp_path / "tensorboard")
    assert set(found) >= DRAWN
    for name in DRAWN:
        assert [step for step, _ in found[name]] == [1, 2, 3, 4]
        assert [value for _, value in found[name]] == pytest.approx([getattr(epoch, name) for epoch in history.epochs])


def test_both_are_there_while_the_training_goes_on(tmp_path: Path) -> None:
    history = make_history(epochs=3, chosen=2)
    with Curves(tmp_path, tensorboard=True) as curves:
        for count, epoch in enumerate(history.epochs, 1):
            curves(epoch)
            assert len(lines(tmp_path)) == count
            assert len(scalars(tmp_path / "tensorboard")["loss"]) == count


def test_what_is_no_number_is_null_in_one_and_nan_in_the_other(tmp_path: Path) -> None:
    odd = replace(make_history(epochs=1, chosen=1).epochs[0], validation_loss=math.inf, loss=math.nan)
    with Curves(tmp_path, tensorboard=True) as curves:
        curves(odd)
    assert lines(tmp_path)[0]["validation_loss"] is lines(tmp_path)[0]["loss"] is None
    assert math.isnan(scalars(tmp_path / "tensorboard")["loss"][0][1])


def test_metrics_of_an_earlier_run_go_and_nothing_else_comes(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{}\n")
    with Curves(tmp_path):
        assert not list(tmp_path.iterdir())


def test_without_tensorboard_the_option_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError) as caught:
        Curves(tmp_path, tensorboard=True)
    assert "regraft[tensorboard]" in caught.value.fix
    assert not list(tmp_path.iterdir())


def test_a_fit_writes_both(photos: Path, cache: Path, tmp_path: Path) -> None:
    own = regraft.Own(module=Tiny(), input_shape=(3, 32, 32))
    how = regraft.Full(epochs=3, augment="flip")
    run = regraft.fit(photos, out=tmp_path / "run", backbone=own, strategy=how, device="cpu", tensorboard=True)
    assert run.summary is not None
    assert run.summary.history is not None
    told = [epoch.validation_loss for epoch in run.summary.history.epochs]
    assert [row["validation_loss"] for row in lines(run.folder)] == told
    assert [value for _, value in scalars(run.folder / "tensorboard")["full/validation_loss"]] == pytest.approx(told)


def test_every_field_is_in_the_documentation() -> None:
    text = (ROOT / "docs/training.md").read_text()
    table = text[text.index("`metrics.jsonl` in the run folder") :]
    assert not [field.name for field in fields(Epoch) if f"`{field.name}`" not in table]
