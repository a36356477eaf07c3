"""docs/training.md says what the code does: defaults, names, words."""

import re
from pathlib import Path

import pytest

import regraft
from regraft.data.augment import NAMES
from regraft.strategies import SCHEDULES, Auto, Head, Training

TEXT = (Path(__file__).resolve().parent.parent / "docs/training.md").read_text()
HOWS: dict[str, Training] = {
    "`head --head SPEC`": Head(module=Head).how,
    "`partial:N`": regraft.Partial(),
    "`norm`": regraft.Norm(),
    "`full`": regraft.Full(),
    "`gradual`, `gradual:EPOCHS`": regraft.Gradual(),
    "`scratch`": regraft.Scratch(),
}


def cells(first: str) -> list[str]:
    """The row of a table that begins so."""
    return next(
        [cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith(f"| {first} |")
    )


@pytest.mark.parametrize("name", HOWS)
def test_the_defaults_of_a_strategy_are_those_of_its_row(name: str) -> None:
    _, _, _, epochs, rate, augment = cells(name)
    how = HOWS[name]
    assert int(epochs.split()[0]) == how.epochs
    assert float(rate) == how.base_lr
    assert augment == how.augment


def test_auto_has_its_defaults_too() -> None:
    _, python, _, _, rate, augment = cells("`auto`")
    assert python == f"`Auto(minutes={Auto().minutes:g})`"
    assert (float(rate), augment) == (Auto().training.base_lr, Auto().training.augment)


def test_every_schedule_and_augmentation_has_its_row() -> None:
    assert all(re.search(rf"^\| `{name}`", TEXT, re.MULTILINE) for name in (*SCHEDULES, *NAMES))


def test_numbers_in_the_text_are_those_of_the_code() -> None:
    how = Training()
    assert f"{how.depth_decay:g} by default: what was learned first" in TEXT
    assert f"`--batch-size` images, {how.batch_size} by default" in TEXT
    assert f"Weight decay ({how.weight_decay:g})" in TEXT
    assert f"`views={regraft.Partial().views}` versions" in TEXT
    assert f"{Training(optimizer='sgd').base_lr:g} with `sgd`" in TEXT


def test_the_python_of_the_page_can_be_run() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "training.md", "exec"), {})
