"""Steps of training: parts where memory is short, averages, an end in time, the way back to the start, and no NaN kept."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training_problems import CLASSES, Memory, Net, Notes, make_learner, make_lessons, make_net, weights

from regraft.errors import Diverged, OutOfSpace
from regraft.strategies import Training
from regraft.train.chance import order_of
from regraft.train.interpolate import SHARES, interpolate
from regraft.train.judge import answer, judge
from regraft.train.keeper import Kept
from regraft.train.lessons import Learner, Lessons
from regraft.train.loop import put, snapshot, split_batches, train
from regraft.train.step import Averaged, Stepper, make_optimizer

FULL = "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
ERRORS: dict[str, Callable[[], Exception]] = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."),
    "cpu": lambda: RuntimeError(FULL),
    "python": lambda: MemoryError(),
}


class Explode(torch.autograd.Function):
    """Passes values on; the gradient on its way back runs out of memory."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, error: Callable[[], Exception]) -> Tensor:
        ctx.error = error
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise ctx.error()


class Limited(nn.Module):
    """A network that has memory for `most` images at a time; more run out in the pass forward or backward."""

    def __init__(self, net: nn.Module, most: int, error: Callable[[], Exception], *, where: str = "forward") -> None:
        super().__init__()
        self.net, self.most, self.error, self.where = net, most, error, where
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.most and self.where == "forward":
            raise self.error()
        self.seen.append(len(images))
        logits: Tensor = self.net(images)
        if len(images) > self.most and torch.is_grad_enabled():
            logits = Explode.apply(logits, self.error)  # type: ignore[no-untyped-call]
        return logits


def stepper_of(learner: Learner, lessons: Lessons, how: Training, progress: Any) -> Stepper:
    return Stepper(learner, lessons, how, make_optimizer(learner, how), 0, progress)


def gradients(learner: Learner) -> dict[str, Tensor]:
    found = {name: value.grad for group in learner.groups for name, value in group.parameters.items()}
    assert all(value is not None for value in found.values())
    return {name.removeprefix("net."): value.clone() for name, value in found.items() if value is not None}


@pytest.mark.parametrize("most", [1, 2, 5, 6, 12])
@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_gradients_in_parts_are_those_of_the_whole_batch(most: int, kind: str, where: str) -> None:
    how = Training(batch_size=13, mixup=0.4, label_smoothing=0.1, augment="none")
    lessons, rows, notes = make_lessons(), np.arange(13), Notes()
    plain = make_learner(make_net(dropout=0.0), how)
    whole = stepper_of(plain, lessons, how, Notes())
    plain.set_modes(True)
    wanted_loss = whole.gradients(rows, 1, 0)
    limited = Limited(make_net(dropout=0.0), most, ERRORS[kind], where=where)
    learner = make_learner(limited, how)
    stepper = stepper_of(learner, lessons, how, notes)
    learner.set_modes(True)
    loss = stepper.gradients(rows, 1, 0)
    wanted, found = gradients(plain), gradients(learner)
    assert wanted.keys() == found.keys()
    largest = max(float(value.abs().max()) for value in wanted.values())
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, rtol=0, atol=1e-6 * max(1.0, largest)), name
    assert loss.loss == pytest.approx(wanted_loss.loss, rel=1e-5)
    assert loss.right == wanted_loss.right
    assert stepper.most <= most
    assert notes.about(f"going on with {stepper.most} images at a time")
    assert not notes.about("batch norms")
    # The next step is done so at once, and no part is a single image where two fit.
    before, limited.seen = len(notes.said), []
    stepper.gradients(rows, 1, 1)
    assert len(notes.said) == before
    assert sum(limited.seen) == 13
    assert max(limited.seen) - min(limited.seen) <= 1


def test_half_of_a_batch_that_was_done_before_memory_ran_out_does_not_count_twice() -> None:
    class Late(Limited):
        """Runs out once, in the second part of a batch."""

        def forward(self, images: Tensor) -> Tensor:
            self.seen.append(len(images))
            if len(self.seen) == 2:
                raise MemoryError
            logits: Tensor = self.net(images)
            return logits

    how, lessons = Training(batch_size=12), make_lessons()
    plain, learner = make_learner(make_net(dropout=0.0), how), make_learner(Late(make_net(dropout=0.0), 99, MemoryError), how)
    whole, stepper = (stepper_of(one, lessons, how, Notes()) for one in (plain, learner))
    stepper.most = 6
    for one, made in ((plain, whole), (learner, stepper)):
        one.set_modes(True)
        made.gradients(np.arange(12), 1, 0)
    for name, value in gradients(plain).items():
        assert torch.allclose(gradients(learner)[name], value, rtol=0, atol=1e-6), name
    assert stepper.most == 3


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_one_image_that_does_not_fit_is_a_clean_end(kind: str, where: str) -> None:
    learner, lessons = make_learner(Limited(make_net(), 0, ERRORS[kind], where=where)), make_lessons()
    with pytest.raises(OutOfSpace, match="one image at a time") as caught:
        train(learner, lessons, Training(epochs=1, batch_size=8), seed=0)
    assert caught.value.exit_code == 6
    assert caught.value.fix


def test_other_errors_are_nobodys_lack_of_memory() -> None:
    learner = make_learner(Limited(make_net(), 4, lambda: RuntimeError("shapes cannot be multiplied")))
    with pytest.raises(RuntimeError, match="shapes cannot"):
        train(learner, make_lessons(), Training(epochs=1, batch_size=8), seed=0)


@pytest.mark.parametrize("most", [1, 3])
def test_a_training_with_little_memory_ends_with_the_same_weights(most: int) -> None:
    how, lessons, notes = Training(epochs=2, batch_size=8, depth_decay=1.0), make_lessons(), Notes()
    plain = make_learner(make_net(dropout=0.0), how)
    train(plain, lessons, how, seed=0)
    short = make_learner(Limited(make_net(dropout=0.0), most, ERRORS["cpu"]), how)
    train(short, lessons, how, seed=0, progress=notes)
    for name, value in weights(plain).items():
        assert torch.allclose(weights(short)[f"net.{name}"].float(), value.float(), atol=2e-5), name
    assert notes.about("memory ran out")


def test_batch_norms_that_see_fewer_images_are_told() -> None:
    notes = Notes()
    learner = make_learner(Limited(make_net(), 4, ERRORS["cpu"]), moving=True)
    train(learner, make_lessons(), Training(epochs=1, batch_size=8), seed=0, progress=notes)
    assert notes.about("batch norms see fewer images")


@pytest.mark.parametrize("most", [1, 4])
def test_answers_do_not_hang_on_memory(most: int) -> None:
    lessons, net = make_lessons(), make_net()
    wanted = answer(make_learner(net), lessons.read, np.arange(30), 16)
    found = answer(make_learner(Limited(net, most, ERRORS["cuda"])), lessons.read, np.arange(30), 16)
    assert np.allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(("decay", "steps"), [(0.5, 3), (0.9, 40), (0.999, 40)])
def test_averages_are_those_of_a_plain_loop(decay: float, steps: int) -> None:
    learner, draw = make_learner(), torch.Generator().manual_seed(0)
    averaged = Averaged(learner, decay)
    wanted = {name: value.detach().clone().double() for name, value in averaged.live.items()}
    for step in range(1, steps + 1):
        for name, value in averaged.live.items():
            with torch.no_grad():
                value.add_(torch.randn(value.shape, generator=draw))
            now = min(decay, (1 + step) / (10 + step))
            wanted[name] = now * wanted[name] + (1 - now) * value.detach().double()
        averaged.follow()
    for name, value in wanted.items():
        assert torch.allclose(averaged.mean[name].double(), value, atol=1e-5), name
    live = {name: value.detach().clone() for name, value in averaged.live.items()}
    averaged.swap()
    assert all(torch.allclose(averaged.live[name].double(), value, atol=1e-5) for name, value in wanted.items())
    averaged.swap()
    assert all(torch.equal(averaged.live[name], value) for name, value in live.items())


@pytest.mark.parametrize("ema", [0.0, 0.8])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adam"])
def test_the_whole_loop_is_a_plain_loop_of_torch(optimizer: Any, ema: float) -> None:
    """Order of images, weights of losses, rates, clipping, decay, average, choice of the epoch: written down once more."""
    how = Training(
        epochs=4,
        batch_size=6,
        optimizer=optimizer,
        lr=3e-2,
        schedule="step:2",
        ema=ema,
        weight_decay=0.1,
        clip=0.5,
        depth_decay=0.5,
    )
    lessons, learner = make_lessons(), make_learner(make_net(dropout=0.0), how)
    course = train(learner, lessons, how, seed=5)
    net = make_net(dropout=0.0).eval()
    parts: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, value in net.named_parameters():
        rate = 3e-2 * (0.5 if name.startswith(("stem", "stage1")) else 1)
        parts.setdefault((rate, 0.1 if value.ndim > 1 else 0.0), []).append(value)
    groups = [{"params": values, "lr": rate, "weight_decay": decay} for (rate, decay), values in parts.items()]
    kinds: dict[str, Any] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    plain = kinds[optimizer](groups, **({"momentum": 0.9, "nesterov": True} if optimizer == "sgd" else {}))
    mean = {name: value.detach().clone() for name, value in net.named_parameters()}
    targets, scale = torch.from_numpy(lessons.targets), torch.from_numpy(lessons.weights).float()
    steps, best, chosen, wanted = 0, course.start_tempered, 0, weights(make_learner(make_net(dropout=0.0)))
    for epoch in range(1, 5):
        order = lessons.train[order_of(20, 5, epoch)]
        for rows in split_batches(order, 6):
            losses = nn.functional.cross_entropy(net(lessons.read(rows, epoch)[0]), targets[rows], reduction="none")
            for group, (rate, _) in zip(plain.param_groups, parts, strict=True):
                group["lr"] = rate * 0.1 ** ((epoch - 1) // 2)
            plain.zero_grad()
            torch.autograd.backward((losses * scale[rows]).mean())
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            plain.step()
            steps += 1
            share = min(ema, (1 + steps) / (10 + steps))
            with torch.no_grad():
                for name, value in net.named_parameters():
                    mean[name].mul_(share).add_(value, alpha=1 - share)
        told = course.epochs[epoch - 1]
        assert (told.rate, told.lowest_rate) == (
            pytest.approx(3e-2 * 0.1 ** ((epoch - 1) // 2)),
            pytest.approx(1.5e-2 * 0.1 ** ((epoch - 1) // 2)),
        )
        judged = make_net(dropout=0.0)
        judged.load_state_dict(net.state_dict() | (mean if ema else {}))
        at = judge(make_learner(judged), lessons, 6)
        assert told.validation_loss == pytest.approx(at.loss, abs=1e-4)
        if at.tempered < best:
            best, chosen, wanted = at.tempered, epoch, weights(make_learner(judged))
    assert course.chosen == chosen > 0
    for name, value in wanted.items():
        assert torch.allclose(weights(learner)[name].float(), value.float(), atol=1e-4), name


@pytest.mark.parametrize("patience", [1, 3, None])
def test_a_training_that_gets_no_better_ends_in_time(patience: int | None) -> None:
    how, lessons = Training(epochs=12, batch_size=8, lr=3e-2, patience=patience), make_lessons(60, noise=0.3)
    wrong = lessons.targets.copy()
    wrong[lessons.train] = (wrong[lessons.train] + 1) % CLASSES
    learner = make_learner(make_net(dropout=0.0, width=16), how)
    train(learner, lessons, replace(how, epochs=40, patience=None), seed=0)
    course = train(learner, replace(lessons, targets=wrong), how, seed=0)
    assert course.chosen == 0
    assert len(course.epochs) == (patience or 12)


def test_patience_counts_from_the_best_epoch() -> None:
    how = Training(epochs=200, batch_size=8, lr=3e-2, patience=4)
    course = train(make_learner(how=how), make_lessons(noise=2.0), how, seed=0)
    assert course.chosen > 0
    assert len(course.epochs) == course.chosen + 4 < 200
    losses = [epoch.tempered_loss for epoch in course.epochs]
    assert course.chosen == int(np.argmin(losses)) + 1


def ends(seed: int) -> tuple[Learner, Lessons, dict[str, Tensor], float]:
    """A network that has learned something and then too much of a part of it; what it was before; its loss."""
    lessons = make_lessons(noise=1.5)
    how = Training(epochs=8, batch_size=8, lr=1e-2)
    learner = make_learner(make_net(dropout=0.0), how)
    train(learner, lessons, how, seed=seed)
    first = snapshot(learner.state)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in learner.module.parameters():
            value.add_(0.3 * torch.randn(value.shape, generator=draw))
    return learner, lessons, first, judge(learner, lessons, 8).tempered


@pytest.mark.parametrize("seed", range(6))
def test_what_lies_between_is_never_worse_than_both_ends(seed: int) -> None:
    learner, lessons, first, at_end = ends(seed)
    reached = snapshot(learner.state)
    put(learner.state, first)
    at_start = judge(learner, lessons, 8).tempered
    put(learner.state, reached)
    # As in a training: the start is where it ends if nothing was better.
    best = min(at_start, at_end)
    if at_start < at_end:
        put(learner.state, first)
        reached = first
    share = interpolate(learner, lessons, first, 8, best=best)
    found = judge(learner, lessons, 8).tempered
    assert found <= best + 1e-9
    assert share in (*SHARES, 1.0)
    for name, value in learner.state.items():
        if value.is_floating_point():
            expected = share * reached[name] + (1 - share) * first[name]
            assert torch.allclose(value, expected, atol=1e-5), name
        else:
            assert torch.equal(value, reached[name])


def test_the_way_back_is_taken_where_it_is_better() -> None:
    shares = set()
    for seed in range(8):
        learner, lessons, first, at_end = ends(seed)
        shares.add(interpolate(learner, lessons, first, 8, best=at_end))
        assert not learner.module.training
    assert min(shares) < 1.0
    learner, lessons, first, _ = ends(0)
    reached = snapshot(learner.state)
    assert interpolate(learner, lessons, first, 8, best=-1.0) == 1.0
    assert all(torch.equal(value, reached[name]) for name, value in learner.state.items())


class Breaking(nn.Module):
    """Gives NaN, or slopes without end, from a step of training on."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__()
        self.net, self.step, self.what, self.steps = make_net(), step, what, 0

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)
        if not self.training or torch.is_grad_enabled() is False:
            return logits
        self.steps += 1
        if self.steps < self.step:
            return logits
        if self.what == "loss":
            return logits * math.nan
        if self.what == "infinity":
            return logits + torch.tensor([math.inf, 0.0, 0.0])
        return logits + (logits - logits).abs().sqrt()


@pytest.mark.parametrize("what", ["loss", "infinity", "gradient"])
@pytest.mark.parametrize("step", [1, 2, 4, 6])
def test_what_is_no_number_stops_with_the_files_of_the_batch_and_is_not_kept(
    what: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regraft.train.keeper.EVERY", -1.0)
    how, lessons, memory = Training(epochs=3, batch_size=8, ema=0.9), make_lessons(), Memory()
    learner = make_learner(Breaking(step, what), how)
    with pytest.raises(Diverged) as caught:
        train(learner, lessons, how, seed=3, keeper=memory)
    assert caught.value.exit_code == 7
    # Batches of 8, 8 and 4 of 20 images.
    epoch, index = (step - 1) // 3 + 1, (step - 1) % 3
    rows = list(split_batches(lessons.train[order_of(20, 3, epoch)], 8))[index]
    got = caught.value.got
    assert f"epoch {epoch}, step {index + 1}" in got
    assert all(lessons.names[row] in got for row in rows[:5])
    assert not any(lessons.names[row] in got for row in set(lessons.train) - set(rows))
    assert (f"and {len(rows) - 5} more" in got) == (len(rows) > 5)
    assert "at rate" in got
    assert "--lr" in caught.value.fix
    # The start, and a state after each step and each epoch before.
    assert len(memory.states) == 1 + (step - 1) + (step - 1) // 3
    assert all_finite(memory.states)
    assert all(bool(torch.isfinite(value).all()) for value in learner.state.values())


def all_finite(states: list[Kept]) -> bool:
    tensors = [value for state in states for value in state.tensors.values() if value.is_floating_point()]
    return bool(tensors) and all(bool(torch.isfinite(value).all()) for value in tensors)


def test_statistics_that_are_no_numbers_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is fine, and so is every gradient: it is a running variance that broke."""
    monkeypatch.setattr("regraft.train.keeper.EVERY", -1.0)
    memory, net = Memory(), make_net()

    class Silent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net: Net = net
            self.steps = 0

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.net(images)
            self.steps += self.training
            if self.steps == 5 and self.training:
                norm = self.net.stage2[1]
                assert isinstance(norm, nn.BatchNorm2d)
                assert norm.running_var is not None
                norm.running_var.data.fill_(math.inf)
            return logits

    how = Training(epochs=3, batch_size=8)
    with pytest.raises(Diverged, match="running_var"):
        train(make_learner(Silent(), how, moving=True), make_lessons(), how, seed=0, keeper=memory)
    assert len(memory.states) == 1 + 4 + 1
    assert all_finite(memory.states)
