"""A training that was stopped and goes on ends as one that never was: bit for bit, wherever it stopped."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_problems import Memory, Stopped, differing, make_learner, make_lessons, make_net, timeless, weights

from regraft.progress import Silent
from regraft.strategies import Training
from regraft.train.loop import Course, _Run, train

SMALL = {"epochs": 3, "batch_size": 8, "lr": 1e-2}
HOWS: dict[str, Training] = {
    "adamw": Training(**SMALL),
    "sgd": Training(**SMALL, optimizer="sgd"),
    "adam": Training(**SMALL, optimizer="adam"),
    "ema": Training(**SMALL, ema=0.9),
    "mixup": Training(**SMALL, mixup=0.4, cutmix=1.0, label_smoothing=0.1),
    "plateau": Training(epochs=8, batch_size=16, lr=0.1, schedule="plateau"),
    "onecycle": Training(**SMALL, schedule="onecycle"),
    "step": Training(**SMALL, schedule="step:1"),
    "patience": Training(epochs=30, batch_size=8, lr=0.1, patience=2),
}
MOVING = {"still": False, "scratch": True}


@pytest.fixture(autouse=True)
def _a_state_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr("regraft.train.keeper.EVERY", -1.0)


def run(how: Training, keeper: Memory, *, moving: bool = False, **options: Any) -> tuple[Course, dict[str, Tensor]]:
    """A training of a fresh network that remembers nothing of any other."""
    torch.rand(3)  # what was drawn before does not matter
    learner = make_learner(make_net(dropout=0.3), how, moving=moving)
    course = train(learner, make_lessons(noise=2.0, **options), how, seed=4, keeper=keeper)
    return timeless(course), weights(learner)


@pytest.mark.parametrize("moving", MOVING.values(), ids=MOVING)
@pytest.mark.parametrize("name", HOWS)
def test_going_on_from_any_state_ends_with_the_same_bits(name: str, moving: bool) -> None:
    how, whole = HOWS[name], Memory()
    course, wanted = run(how, whole, moving=moving)
    steps = len(course.epochs) * (2 if how.batch_size == 16 else 3)
    assert len(whole.states) == 1 + steps + len(course.epochs)
    # Something was learned, for else any resumption would do.
    assert differing(wanted, weights(make_learner(make_net(dropout=0.3)))) or course.chosen == 0
    for state in whole.states[:: max(1, len(whole.states) // 9)] + whole.states[-2:]:
        again, found = run(how, Memory(before=state), moving=moving)
        assert again == course
        assert not differing(found, wanted)


@pytest.mark.parametrize("name", ["adamw", "ema", "plateau"])
def test_stopped_after_every_second_state_it_still_ends_with_the_same_bits(name: str) -> None:
    how, whole = HOWS[name], Memory()
    course, wanted = run(how, whole, moving=True)
    before, stops = None, 0
    while True:
        memory = Memory(before=before, stop=2)
        try:
            again, found = run(how, memory, moving=True)
            break
        except Stopped:
            before, stops = memory.states[-1], stops + 1
            assert stops < 60
    assert stops == (len(whole.states) - 1) // 2
    assert again == course
    assert not differing(found, wanted)


@pytest.mark.parametrize("number", [0, 2, 3])
def test_the_states_that_follow_are_the_same_too(number: int) -> None:
    how, whole = HOWS["ema"], Memory()
    run(how, whole, moving=True)
    again = Memory(before=whole.states[number])
    run(how, again, moving=True)
    assert len(again.states) == len(whole.states) - 1 - number
    for one, other in zip(again.states, whole.states[number + 1 :], strict=True):
        assert not differing(dict(one.tensors), dict(other.tensors))


def test_several_labels_go_on_too() -> None:
    whole = Memory()
    course, wanted = run(HOWS["mixup"], whole, multi_label=True)
    for state in whole.states[1::3]:
        again, found = run(HOWS["mixup"], Memory(before=state), multi_label=True)
        assert again == course
        assert not differing(found, wanted)


def test_a_state_in_the_middle_of_an_epoch_is_no_state_of_its_beginning() -> None:
    """The comparisons above can fail: a state with one fact of another ends elsewhere."""
    whole = Memory()
    _, wanted = run(HOWS["adamw"], whole)
    state = whole.states[2]
    assert state.facts["index"] == 2
    for name, value in (("index", 1), ("chosen", 1), ("epochs", whole.states[4].facts["epochs"])):
        if name == "chosen":
            continue
        changed = Memory(before=type(state)(tensors=state.tensors, facts=dict(state.facts) | {name: value}))
        assert differing(run(HOWS["adamw"], changed)[1], wanted), name
    zeroed = {name: value * 0 if name.startswith("optimizer.exp_avg_sq") else value for name, value in state.tensors.items()}
    assert differing(run(HOWS["adamw"], Memory(before=type(state)(tensors=zeroed, facts=state.facts)))[1], wanted)


def test_a_training_that_had_little_memory_goes_on_in_parts_as_small() -> None:
    sizes: list[int] = []

    class Short(nn.Module):
        def __init__(self, most: int) -> None:
            super().__init__()
            self.net, self.most = make_net(dropout=0.3), most

        def forward(self, images: Tensor) -> Tensor:
            if self.training:
                sizes.append(len(images))
                if len(images) > self.most:
                    raise MemoryError
            logits: Tensor = self.net(images)
            return logits

    def again(keeper: Memory, most: int) -> dict[str, Tensor]:
        learner = make_learner(Short(most), HOWS["adamw"], moving=True)
        train(learner, make_lessons(), HOWS["adamw"], seed=4, keeper=keeper)
        return weights(learner)

    whole = Memory()
    wanted = again(whole, 5)
    sizes.clear()
    # Though there is enough by now: parts of another size would draw other dropout.
    found = again(Memory(before=whole.states[4]), 99)
    assert not differing(found, wanted)
    assert max(sizes) <= 5


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_layout_of_weights_does_not_show_in_the_bits(layout: torch.memory_format) -> None:
    how = HOWS["adamw"]

    def once(keeper: Memory) -> dict[str, Tensor]:
        learner = make_learner(make_net().to(memory_format=layout), how)
        train(learner, make_lessons(), how, seed=0, keeper=keeper)
        return weights(learner)

    whole = Memory()
    wanted = once(whole)
    for state in whole.states[2:9:3]:
        assert not differing(once(Memory(before=state)), wanted)


def lying(kind: str) -> tuple[nn.Module, Tensor]:
    """A network whose last weight lies in memory as few do, and the tensor that has it."""
    net = make_net()
    with torch.no_grad():
        if kind == "transposed":
            base = net.head.weight.t().contiguous()
            net.head.weight = nn.Parameter(base.t())
        else:
            base = torch.cat([net.head.weight, torch.ones(3, 2)], dim=1)
            net.head.weight = nn.Parameter(base[:, :4])
    return net, base


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("kind", ["transposed", "part of another"])
def test_weights_that_lie_otherwise_are_trained_and_go_on_alike(kind: str, optimizer: str) -> None:
    how = HOWS[optimizer]

    def once(module: nn.Module, keeper: Memory) -> dict[str, Tensor]:
        learner = make_learner(module, how)
        train(learner, make_lessons(), how, seed=0, keeper=keeper)
        return weights(learner)

    module, base = lying(kind)
    whole = Memory()
    wanted = once(module, whole)
    for name, value in once(make_net(), Memory()).items():
        assert torch.allclose(value, wanted[name], atol=1e-4), name
    assert kind == "transposed" or torch.equal(base[:, 4:], torch.ones(3, 2))
    for state in whole.states[2:9:3]:
        assert not differing(once(lying(kind)[0], Memory(before=state)), wanted)


class Scaled(nn.Module):
    """With a single number that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.scale = make_net(), nn.Parameter(torch.tensor(2.0))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images) * self.scale
        return logits


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_what_is_kept_of_a_single_number_comes_back_to_where_that_is(optimizer: str) -> None:
    how, whole = HOWS[optimizer], Memory()
    train(make_learner(Scaled(), how), make_lessons(), how, seed=0, keeper=whole)
    learner = make_learner(Scaled().to("meta"), how)
    run = _Run(replace(learner, device="meta"), make_lessons(), how, 0, Silent(), None)
    run.restore(whole.states[-1])
    for moments in run.optimizer.state.values():
        assert {key: value.device.type for key, value in moments.items()} == {
            key: "cpu" if key == "step" else "meta" for key in moments
        }


def test_former_epochs_are_told_again_and_steps_of_before_are_not_taken_again() -> None:
    whole, how, taken = Memory(), HOWS["adamw"], []
    run(how, whole)
    lessons = make_lessons(noise=2.0)

    def read(rows: Any, epoch: int | None) -> tuple[Tensor, ...]:
        taken.append(epoch)
        return lessons.read(rows, epoch)

    told: list[int] = []
    counted: list[int] = []

    class Counting:
        def task(self, name: str, total: int, unit: str) -> Any:
            assert total == 60
            return self

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def advance(self, count: int = 1) -> None:
            counted.append(count)

        def note(self, text: str) -> None:
            pass

    learner = make_learner(make_net(dropout=0.3), how)
    keep: Callable[[Any], None] = lambda epoch: told.append(epoch.number)  # noqa: E731
    # State 6: one epoch, and two steps of the second.
    state = whole.states[6]
    assert (len(state.facts["epochs"]), state.facts["index"]) == (1, 2)
    train(learner, replace(lessons, read=read), how, seed=4, on_epoch=keep, keeper=Memory(before=state), progress=Counting())
    assert told == [1, 2, 3]
    assert counted == [36, 4, 8, 8, 4]
    assert [epoch for epoch in taken if epoch is not None] == [2, 3, 3, 3]
