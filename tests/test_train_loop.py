"""The training loop on small problems: repeatable, honest about what chose what, and gentle with what must not move."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regraft.cache.extract import Activations
from regraft.errors import Diverged
from regraft.evaluate.temperature import tempered_loss
from regraft.progress import Silent
from regraft.strategies import Training
from regraft.train.chance import order_of, seeded
from regraft.train.groups import parameter_groups
from regraft.train.judge import answer
from regraft.train.learning import reading_pixels
from regraft.train.lessons import Learner, Lessons
from regraft.train.loop import Course, split_batches, train
from regraft.train.objective import AUXILIARY_WEIGHT
from regraft.train.schedule import cosine
from regraft.train.setting import validation_fold
from regraft.train.step import Stepper
from regraft.values import Epoch

WIDTH, CLASSES = 6, 3


def make_lessons(count: int = 60, *, multi_label: bool = False, noise: float = 0.5) -> Lessons:
    """Points around one centre per class; the last fifth is for validation."""
    draw = np.random.default_rng(0)
    labels = np.arange(count) % CLASSES
    points = torch.from_numpy((3 * np.eye(CLASSES, WIDTH)[labels] + draw.normal(0, noise, (count, WIDTH))).astype(np.float32))
    targets: Any = np.eye(CLASSES, dtype=bool)[labels] if multi_label else labels
    return Lessons(
        read=lambda rows, _: (points[rows],),
        targets=targets,
        weights=np.ones((count, 1) if multi_label else count),
        train=np.arange(count * 4 // 5),
        validation=np.arange(count * 4 // 5, count),
    )


def make_learner(module: nn.Module | None = None, lr: float = 1e-2) -> Learner:
    with seeded(0):
        body = (nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2))
        network = module or nn.Sequential(*body, nn.Linear(8, CLASSES))
    groups = parameter_groups(network.named_parameters(), {}, lr=lr, depth_decay=1.0, weight_decay=0.05)

    def modes(training: bool) -> None:
        network.train(training)

    return Learner(module=network, set_modes=modes, groups=groups, state=dict(network.state_dict(keep_vars=True)))


def run(learner: Learner, lessons: Lessons, how: Training | None = None, seed: int = 0) -> Course:
    return train(learner, lessons, how or Training(epochs=5, batch_size=8), seed=seed)


def weights(learner: Learner) -> Tensor:
    return torch.cat([value.flatten().double() for value in learner.module.state_dict().values()])


def test_it_learns_and_keeps_the_epoch_with_the_smallest_validation_loss() -> None:
    learner, lessons = make_learner(), make_lessons(noise=1.2)
    course = run(learner, lessons, Training(epochs=20, batch_size=8))
    losses = [course.start_tempered, *(epoch.tempered_loss for epoch in course.epochs)]
    assert course.chosen == int(np.argmin(losses))
    assert course.chosen > 0
    logits = answer(learner, lessons.read, lessons.validation, 8)
    kept = nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(lessons.targets[lessons.validation]))
    assert float(kept) == pytest.approx(course.epochs[course.chosen - 1].validation_loss, rel=1e-5)
    assert not learner.module.training


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_tempered_loss_is_that_of_the_best_temperature(multi_label: bool) -> None:
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 4, 300)
    logits = draw.normal(0, 1, (300, 4)) + 1.5 * np.eye(4)[truth]
    targets = np.eye(4, dtype=bool)[truth] if multi_label else truth
    weights = draw.uniform(0.5, 2, (300, 4) if multi_label else 300)

    def loss(scale: float) -> float:
        value, wanted = torch.from_numpy(scale * logits), torch.from_numpy(targets)
        if multi_label:
            each = nn.functional.binary_cross_entropy_with_logits(value, wanted.double(), reduction="none")
        else:
            each = nn.functional.cross_entropy(value, wanted, reduction="none")
        return float((each * torch.from_numpy(weights)).mean())

    best = min(loss(scale) for scale in np.exp(np.arange(-3, 3, 0.01)))
    for sharper in (0.2, 1.0, 8.0):
        assert tempered_loss(sharper * logits, targets, weights) == pytest.approx(best, rel=1e-4)
    assert math.isnan(tempered_loss(logits * math.nan, targets))


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before() -> None:
    first, second, other = make_learner(), make_learner(), make_learner()
    one = run(first, make_lessons())
    torch.rand(17)
    state = torch.random.get_rng_state()
    two = run(second, make_lessons())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(weights(first), weights(second))
    strip = [[replace(epoch, seconds=0.0) for epoch in course.epochs] for course in (one, two)]
    assert strip[0] == strip[1]
    run(other, make_lessons(), seed=1)
    assert not torch.equal(weights(first), weights(other))


def test_where_nothing_is_better_than_the_start_the_start_is_kept() -> None:
    learner, lessons = make_learner(), make_lessons()
    run(learner, lessons, Training(epochs=30, batch_size=8))
    before = weights(learner)
    # Trained on wrong answers from here, while the validation images keep the right ones.
    wrong = lessons.targets.copy()
    wrong[lessons.train] = (wrong[lessons.train] + 1) % CLASSES
    course = run(learner, replace(lessons, targets=wrong))
    assert course.chosen == 0
    assert torch.equal(weights(learner), before)


def test_validation_images_are_never_learned_from() -> None:
    seen: set[int] = set()
    lessons = make_lessons()

    def read(rows: np.ndarray[Any, Any], epoch: int | None) -> tuple[Tensor, ...]:
        if epoch is not None:
            seen.update(rows.tolist())
        return lessons.read(rows, epoch)

    run(make_learner(), replace(lessons, read=read))
    assert seen == set(lessons.train.tolist())


@pytest.mark.parametrize(
    ("count", "sizes"), [(33, [16, 17]), (32, [16, 16]), (34, [16, 16, 2]), (1, [1]), (17, [17]), (5, [5])]
)
def test_no_image_is_trained_on_alone(count: int, sizes: list[int]) -> None:
    batches = list(split_batches(np.arange(count), 16))
    assert [len(batch) for batch in batches] == sizes
    assert np.array_equal(np.concatenate(batches), np.arange(count))


def test_a_batch_norm_gets_through_an_epoch_whose_last_batch_would_be_one_image() -> None:
    lessons = replace(make_lessons(), train=np.arange(17))
    assert len(run(make_learner(), lessons, Training(epochs=1, batch_size=8)).epochs) == 1


def test_several_labels_are_learned_each_by_itself() -> None:
    lessons = make_lessons(multi_label=True)
    course = run(make_learner(), lessons, Training(epochs=30, batch_size=8))
    assert course.epochs[course.chosen - 1].validation_accuracy > 0.9


def test_rare_classes_weigh_more_where_asked() -> None:
    lessons = make_lessons(noise=4.0)
    heavy = replace(lessons, weights=np.where(lessons.targets == 2, 10.0, 0.1))
    shares = []
    for chosen in (lessons, heavy):
        learner = make_learner()
        run(learner, chosen, Training(epochs=10, batch_size=8))
        shares.append((answer(learner, lessons.read, np.arange(60), 8).argmax(1) == 2).mean())
    assert shares[1] > shares[0] + 0.2


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_no_number_stops_with_the_epoch_the_rate_and_the_cure(how: str) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.steps = nn.Linear(WIDTH, CLASSES), 0

        def forward(self, value: Tensor) -> Tensor:
            self.steps += self.training
            logits: Tensor = self.layer(value)
            if self.steps < 8 or not self.training:
                return logits
            # The root of nothing has a value, and a slope without end.
            return logits * math.nan if how == "loss" else logits + (logits - logits).abs().sqrt()

    with pytest.raises(Diverged, match=r"epoch 2, step 2, at rate .*\n.*smaller rate") as caught:
        run(make_learner(Odd(), lr=0.1), make_lessons())
    assert caught.value.exit_code == 7
    assert ("a loss of nan" in caught.value.got) == (how == "loss")


def test_auxiliary_heads_are_heard_in_training_only_and_less() -> None:
    class Two(nn.Module):
        def __init__(self, *, auxiliary: bool) -> None:
            super().__init__()
            self.body, self.main, self.side = nn.Linear(WIDTH, 8), nn.Linear(8, CLASSES), nn.Linear(8, CLASSES)
            self.auxiliary = auxiliary

        def forward(self, value: Tensor) -> Any:
            hidden = self.body(value).relu()
            return (self.main(hidden), self.side(hidden), None) if self.training and self.auxiliary else self.main(hidden)

    lessons, steps = make_lessons(), []
    for auxiliary in (True, False):
        with seeded(3):
            module = Two(auxiliary=auxiliary)
        learner = make_learner(module)
        side, main = module.side.weight.clone(), module.main.weight.clone()
        course = run(learner, replace(lessons, train=np.arange(8)), Training(epochs=1, batch_size=8))
        assert answer(learner, lessons.read, [0, 1], 2).shape == (2, CLASSES)
        steps.append((course.epochs[0].loss, bool((module.side.weight != side).any()), module.main.weight - main))
    # The first loss shown is that of the main head alone; its own gradient is the same, but for how both are clipped.
    assert steps[0][0] == steps[1][0]
    assert (steps[0][1], steps[1][1]) == (True, False)
    assert AUXILIARY_WEIGHT == 0.4


def test_an_auxiliary_loss_counts_two_fifths() -> None:
    """The gradient of a shared layer is that of the main loss, and 0.4 of the other's."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(WIDTH, CLASSES, bias=False)

        def forward(self, value: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.body(value)
            return logits, -logits

    learner, lessons = make_learner(Shared(), lr=1.0), make_lessons()
    body = learner.module.body
    assert isinstance(body, nn.Linear)
    start = body.weight.detach().clone()
    rows = np.arange(8)
    targets = torch.from_numpy(lessons.targets[rows])
    wanted = start.clone().requires_grad_(True)
    logits = lessons.read(rows, None)[0] @ wanted.T
    loss = nn.functional.cross_entropy
    (loss(logits, targets) + 0.4 * loss(-logits, targets)).backward()
    descent = torch.optim.SGD(learner.module.parameters())
    Stepper(learner, lessons, Training(batch_size=8), descent, 0, Silent()).step(rows, 1, 0, 1.0)
    assert wanted.grad is not None
    shortened = wanted.grad / max(1.0, float(wanted.grad.norm()))
    assert torch.allclose(start - body.weight, shortened, atol=1e-5)


def test_the_rate_rises_then_falls_to_nothing() -> None:
    factors = [cosine(step, 200) for step in range(200)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == 1.0
    assert all(a > b for a, b in pairwise(factors[10:]))
    assert 0 < factors[-1] < 1e-3
    assert cosine(0, 1) == 1.0


def test_every_parameter_that_trains_is_in_one_group_and_norms_do_not_decay() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    module[0].requires_grad_(False)
    depths = {"0.weight": 2, "0.bias": 2, "1.weight": 1, "1.bias": 1}
    groups = parameter_groups(module.named_parameters(), depths, lr=1e-3, depth_decay=0.5, weight_decay=0.1)
    grouped = [id(value) for group in groups for value in group.parameters.values()]
    assert sorted(grouped) == sorted(id(value) for value in module.parameters() if value.requires_grad)
    named = dict(module.named_parameters())
    for group in groups:
        assert all(named[name] is value for name, value in group.parameters.items())
        assert {value.ndim > 1 for value in group.parameters.values()} == {group.weight_decay > 0}
        assert {name.startswith("1.") for name in group.parameters} == {group.lr == 5e-4}
    assert {group.lr for group in groups} == {1e-3, 5e-4}
    assert len({group.name for group in groups}) == len(groups) == 4


def test_order_and_augmentation_follow_from_seed_epoch_and_image_alone() -> None:
    assert np.array_equal(order_of(50, 1, 2), order_of(50, 1, 2))
    assert not np.array_equal(order_of(50, 1, 2), order_of(50, 1, 3))
    assert sorted(order_of(50, 1, 2)) == list(range(50))
    pixels = torch.arange(40 * 2 * 3 * 3).reshape(40, 2, 3, 3).to(torch.uint8)
    kept = Activations(rows=pixels.flatten(1).numpy(), shapes=((2, 3, 3),))
    read = reading_pixels(kept, "flip", 5)
    every = np.arange(40)
    (shown,) = read(every, 1)
    turned = (shown != pixels).flatten(1).any(dim=1)
    assert 8 < turned.sum() < 32
    assert torch.equal(shown[turned], pixels[turned].flip(2))
    # An image is shown the same way in whatever batch it stands; judged as it is.
    assert torch.equal(read(np.array([7, 3]), 1)[0], shown[[7, 3]])
    assert torch.equal(read(every, None)[0], pixels)
    assert not torch.equal(read(every, 2)[0], shown)
    assert not torch.equal(reading_pixels(kept, "flip", 6)(every, 1)[0], shown)


def test_the_validation_fold_takes_no_class_away_from_training() -> None:
    targets = np.array([0, 0, 0, 1, 1, 2])
    assert validation_fold(np.array([0, 1, 1, 0, 1, 1]), targets) == 0
    assert validation_fold(np.array([1, 0, 0, 1, 0, 0]), targets) == 1
    both = np.array([[True, False], [True, True], [True, False], [True, False]])
    assert validation_fold(np.array([1, 0, 1, 0]), both) == 1


def test_epochs_are_told_as_they_end() -> None:
    told: list[Epoch] = []
    train(make_learner(), make_lessons(), Training(epochs=3, batch_size=8), seed=0, on_epoch=told.append)
    assert [epoch.number for epoch in told] == [1, 2, 3]
    assert all(epoch.seconds > 0 and epoch.rate > 0 for epoch in told)


def rates(learner: Learner, lessons: Lessons, how: Training, again: Course | None = None) -> list[float]:
    """The rate of each epoch."""
    told: list[Epoch] = []
    train(learner, lessons, how, seed=0, again=again, on_epoch=told.append)
    return [epoch.rate for epoch in told]


def test_a_training_done_again_on_all_images_has_the_rates_that_validation_led_to() -> None:
    how = Training(epochs=12, batch_size=8, schedule="plateau")
    learner, lessons = make_learner(lr=0.3), make_lessons(noise=1.5)
    told: list[Epoch] = []
    course = train(learner, lessons, how, seed=0, on_epoch=told.append)
    assert len({epoch.rate for epoch in told}) > 1  # else nothing is tried here
    further = replace(course, chosen=len(told))
    everything = replace(lessons, train=np.arange(60), validation=np.zeros(0, np.int64))
    assert rates(make_learner(lr=0.3), everything, how, further) == [epoch.rate for epoch in told]
    # Nobody says that it got no better where nobody looks.
    assert len(set(rates(make_learner(lr=0.3), everything, how))) == 1


@pytest.mark.parametrize("cutmix", [False, True])
def test_right_for_a_mixed_image_is_what_is_right_for_the_larger_part(cutmix: bool) -> None:
    """A network that reads off the larger part is right always, however small an image's own part is."""
    truth = np.arange(24) % CLASSES
    images = torch.eye(CLASSES)[torch.from_numpy(truth)][:, :, None, None].expand(-1, -1, 8, 8).contiguous()

    class Largest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * x.mean((2, 3))

    lessons = replace(
        make_lessons(24), read=lambda rows, _: (images[rows],), targets=truth, train=np.arange(24), validation=np.arange(0)
    )
    how = Training(batch_size=8, mixup=0.0 if cutmix else 0.4, cutmix=0.4 if cutmix else 0.0, augment="none")
    learner = make_learner(Largest(), lr=1e-6)
    told: list[Epoch] = []
    train(learner, lessons, replace(how, epochs=6), seed=0, on_epoch=told.append)
    assert [epoch.accuracy for epoch in told] == [1.0] * 6
