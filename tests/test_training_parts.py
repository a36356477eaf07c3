"""What a training step is made of: schedules beside torch's own, losses by their formulas, mixtures that are what they say."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regraft.backbone.freeze import apply_plan, is_norm, plan_training
from regraft.backbone.load import load_backbone
from regraft.backbone.model import Backbone
from regraft.train.groups import depths_of, parameter_groups
from regraft.train.mixing import mixed
from regraft.train.objective import AUXILIARY_WEIGHT, Answers, losses_of, outputs_of, right, whole_loss
from regraft.train.schedule import WARM_UP, factor

CLASSES = 5


def factors(schedule: str, *, batches: int, epochs: int) -> list[float]:
    return [factor(schedule, step, batches=batches, epochs=epochs) for step in range(batches * epochs)]


def of_torch(make: Any, steps: int, **options: Any) -> list[float]:
    """The rates of one of torch's schedulers, for a rate of 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = make(optimizer, **options), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(("batches", "epochs"), [(7, 9), (1, 5), (3, 1), (10, 4)])
@pytest.mark.parametrize("every", [None, 1, 2, 5])
def test_step_is_that_of_torch(batches: int, epochs: int, every: int | None) -> None:
    size = batches * (every or math.ceil(epochs / 3))
    expected = of_torch(torch.optim.lr_scheduler.StepLR, batches * epochs, step_size=size, gamma=0.1)
    name = f"step:{every}" if every else "step"
    assert factors(name, batches=batches, epochs=epochs) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("batches", "epochs"), [(7, 9), (1, 4), (2, 1), (5, 2), (10, 4), (100, 3)])
def test_one_cycle_is_that_of_torch(batches: int, epochs: int) -> None:
    expected = of_torch(torch.optim.lr_scheduler.OneCycleLR, batches * epochs, max_lr=1.0, total_steps=batches * epochs + 1)
    # One step more than there are: torch's scheduler counts the one after the last, too.
    exact = of_torch(torch.optim.lr_scheduler.OneCycleLR, batches * epochs - 1, max_lr=1.0, total_steps=batches * epochs)
    found = factors("onecycle", batches=batches, epochs=epochs)
    assert found[:-1] == pytest.approx(exact, rel=1e-9)
    assert found[-1] == pytest.approx(1 / 25e4, rel=1e-9)
    assert found != pytest.approx(expected, rel=1e-9)  # this comparison can tell neighbours apart


@pytest.mark.parametrize("seed", range(5))
def test_plateau_is_that_of_torch(seed: int) -> None:
    losses = np.random.default_rng(seed).normal(0, 1, 25) - 0.1 * np.arange(25)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    # Its patience is the number of epochs that are let pass: it drops in the one after.
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=1, threshold=0.0, eps=0.0)
    for count in range(len(losses)):
        scheduler.step(losses[count])
        found = factor("plateau", 3 * count, batches=3, epochs=25, losses=list(losses[: count + 1]))
        assert found == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
    assert found < 0.05


def test_a_plateau_of_no_numbers_counts_as_no_better() -> None:
    assert factor("plateau", 0, batches=1, epochs=9, losses=[1.0, math.nan, math.nan]) == pytest.approx(0.1)
    assert factor("plateau", 0, batches=1, epochs=9, losses=[math.nan, 1.0, 0.5]) == 1.0


@pytest.mark.parametrize(("batches", "epochs"), [(40, 5), (1, 1), (1, 2), (3, 7), (1000, 1)])
def test_cosine_rises_in_a_line_and_falls_as_half_a_cosine(batches: int, epochs: int) -> None:
    steps = batches * epochs
    rising = max(1, round(WARM_UP * steps))
    found = factors("cosine", batches=batches, epochs=epochs)
    assert found[:rising] == pytest.approx([(i + 1) / rising for i in range(rising)])
    falling = [(1 + math.cos(math.pi * i / (steps - rising + 1))) / 2 for i in range(1, steps - rising + 1)]
    assert found[rising:] == pytest.approx(falling)
    assert all(one > other for one, other in pairwise(found[rising - 1 :]))


def test_constant_stays() -> None:
    assert set(factors("constant", batches=3, epochs=4)) == {1.0}


def answers(*, multi_label: bool, count: int = 12, even: bool = False) -> Answers:
    draw = np.random.default_rng(1)
    shape = (count, CLASSES) if multi_label else (count,)
    targets = draw.random(shape) < 0.4 if multi_label else draw.integers(0, CLASSES, shape)
    weights = np.ones(shape) if even else draw.uniform(0.2, 3, shape)
    return Answers(torch.from_numpy(targets), torch.from_numpy(weights).float())


def logits(count: int = 12) -> Tensor:
    return torch.from_numpy(np.random.default_rng(2).normal(0, 3, (count, CLASSES)).astype(np.float32))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy_is_that_of_torch_and_of_its_formula(smoothing: float) -> None:
    truth = answers(multi_label=False)
    found = losses_of(logits(), truth, smoothing=smoothing)
    plain = nn.functional.cross_entropy(logits(), truth.targets, reduction="none", label_smoothing=smoothing)
    assert torch.allclose(found, plain * truth.weights, rtol=1e-6)
    shares = smoothing / CLASSES + (1 - smoothing) * nn.functional.one_hot(truth.targets, CLASSES)
    formula = -(shares.double() * logits().double().log_softmax(1)).sum(1) * truth.weights
    assert torch.allclose(found.double(), formula, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_the_loss_of_several_labels_is_the_mean_of_each_by_itself(smoothing: float) -> None:
    truth = answers(multi_label=True)
    found = losses_of(logits(), truth, smoothing=smoothing)
    wanted = truth.targets.double() * (1 - smoothing) + smoothing / 2
    probability = logits().double().sigmoid()
    each = -(wanted * probability.log() + (1 - wanted) * (1 - probability).log())
    assert torch.allclose(found.double(), (each * truth.weights).mean(1), rtol=1e-4)
    plain = nn.functional.binary_cross_entropy_with_logits(logits(), wanted.float(), reduction="none")
    assert torch.allclose(found, (plain * truth.weights).mean(1), rtol=1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_gradient_of_what_is_learned_from_is_that_of_differences(multi_label: bool) -> None:
    truth, share, smoothing = answers(multi_label=multi_label), 0.3, 0.1
    others = Answers(truth.targets.flip(0), truth.weights.flip(0))

    def formula(value_NK: Tensor) -> float:
        """In float64, by hand: main logits and an auxiliary head that gives 0.7 of them, both mixed and smoothed."""
        total = 0.0
        for weight, logits_NK in ((1.0, value_NK), (0.4, 0.7 * value_NK)):
            for part, one in ((share, truth), (1 - share, others)):
                if multi_label:
                    wanted = one.targets.double() * (1 - smoothing) + smoothing / 2
                    losses = (nn.functional.softplus(logits_NK) - wanted * logits_NK) * one.weights / CLASSES
                else:
                    hot = nn.functional.one_hot(one.targets, CLASSES) * (1 - smoothing) + smoothing / CLASSES
                    losses = -hot * logits_NK.log_softmax(1) * one.weights[:, None]
                total += weight * part * float(losses.sum())
        return total

    value = logits().requires_grad_(True)
    whole, _ = whole_loss((value, 0.7 * value), truth, others, share, smoothing)
    assert float(whole.sum().detach()) == pytest.approx(formula(logits().double()), rel=1e-5)
    torch.autograd.backward(whole.sum())
    assert value.grad is not None
    for place in np.ndindex(12, CLASSES):
        step = torch.zeros(12, CLASSES, dtype=torch.float64)
        step[place] = 1e-5
        slope = (formula(logits().double() + step) - formula(logits().double() - step)) / 2e-5
        assert float(value.grad[place]) == pytest.approx(slope, abs=1e-5, rel=1e-4)


def test_half_precision_is_judged_in_full() -> None:
    truth = answers(multi_label=False)
    assert losses_of(logits().bfloat16(), truth).dtype == torch.float32
    assert torch.equal(losses_of(logits().bfloat16(), truth), losses_of(logits().bfloat16().float(), truth))


@pytest.mark.parametrize("multi_label", [False, True])
def test_mixed_truth_counts_by_its_share(multi_label: bool) -> None:
    truth = answers(multi_label=multi_label)
    partners = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    whole, own = whole_loss(logits(), truth, truth[partners], 0.3, 0.1)
    first, second = (losses_of(logits(), one, smoothing=0.1) for one in (truth, truth[partners]))
    assert torch.allclose(whole, 0.3 * first + 0.7 * second)
    assert torch.equal(own, whole)
    assert not torch.allclose(whole, first)


def test_auxiliary_logits_count_two_fifths_each_and_are_not_told() -> None:
    truth = answers(multi_label=False)
    one, other = logits().flip(0), logits().flip(1)
    whole, own = whole_loss((logits(), one, None, other), truth, None, 1.0, 0.0)
    assert torch.equal(own, losses_of(logits(), truth))
    expected = own + 0.4 * losses_of(one, truth) + 0.4 * losses_of(other, truth)
    assert torch.allclose(whole, expected)
    assert AUXILIARY_WEIGHT == 0.4


@pytest.mark.parametrize(
    "value", [{"logits": torch.zeros(2, 3)}, (), (None,), torch.zeros(3), (torch.zeros(2, 3), torch.zeros(2, 4))]
)
def test_what_is_no_logits_is_told(value: Any) -> None:
    with pytest.raises(TypeError, match="not logits"):
        outputs_of(value)


def test_right_means_the_class_or_every_label() -> None:
    given = torch.tensor([[2.0, 1.0], [-1.0, -2.0]])
    assert right(given, torch.tensor([0, 1])).tolist() == [True, False]
    assert right(given, torch.tensor([[True, True], [False, True]])).tolist() == [True, False]


def pixels(count: int = 8, side: int = 20) -> Tensor:
    """Each image has one value, its number: what is left of it can be counted."""
    return torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, side, side + 7, 3).clone()


@pytest.mark.parametrize("step", range(12))
@pytest.mark.parametrize("kind", ["pixels", "maps", "two maps"])
def test_cutmix_says_the_area_that_is_left(kind: str, step: int) -> None:
    base = pixels() if kind == "pixels" else pixels().permute(0, 3, 1, 2).float()
    # Maps of another size, too: the share is that of the first.
    given = (base, base[:, :, ::2, ::2].contiguous()) if kind == "two maps" else (base,)
    before = [value.clone() for value in given]
    batch = mixed(given, (0, 1, step), mixup=0.0, cutmix=1.0)
    assert batch.partners is not None
    assert sorted(batch.partners.tolist()) == list(range(8))
    assert all(torch.equal(value, old) for value, old in zip(given, before, strict=True))
    changed = batch.inputs[0].float()
    for image, partner in enumerate(batch.partners.tolist()):
        left = float((changed[image] == image).float().mean())
        assert left == pytest.approx(1.0 if partner == image else batch.share, abs=1e-6)
        others = set(changed[image].unique().int().tolist()) - {image}
        assert others <= {partner}


def test_cutmix_cuts_one_box_of_any_size_anywhere() -> None:
    shares, corners = [], set()
    for step in range(300):
        batch = mixed((pixels(2),), (0, 1, step), mixup=0.0, cutmix=1.0)
        assert batch.partners is not None
        shares.append(batch.share)
        if batch.partners.tolist() == [1, 0] and batch.share < 1:
            rows, columns = np.nonzero(batch.inputs[0][0, :, :, 0].numpy() == 1)
            height, width = (int(places.max() - places.min()) + 1 for places in (rows, columns))
            assert height * width == len(rows)
            corners.add((int(rows.min()) > 0, int(columns.min()) > 0))
    # Alpha 1: all shares alike.
    assert 0.42 < np.mean(shares) < 0.58
    assert min(shares) < 0.1
    assert max(shares) > 0.9
    assert len(corners) == 4


@pytest.mark.parametrize("step", range(5))
def test_mixup_blends_by_the_share_it_says(step: int) -> None:
    values = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
    batch = mixed((values,), (0, 2, step), mixup=0.4, cutmix=0.0)
    assert batch.partners is not None
    assert torch.allclose(batch.inputs[0], batch.share * values + (1 - batch.share) * values[batch.partners])
    images = mixed((pixels(),), (0, 2, step), mixup=0.4, cutmix=0.0)
    assert images.share == batch.share
    assert images.inputs[0].dtype == torch.uint8
    assert images.partners is not None
    expected = images.share * torch.arange(8) + (1 - images.share) * images.partners
    assert torch.equal(images.inputs[0][:, 3, 3, 1].float(), expected.round())


def test_mixing_follows_from_what_is_counted_and_both_ways_come_up() -> None:
    ways, seeds = [], []
    for step in range(40):
        one, other = (mixed((pixels(),), (5, 1, step), mixup=0.4, cutmix=1.0) for _ in range(2))
        assert one.share == other.share
        assert torch.equal(one.inputs[0], other.inputs[0])
        seeds.append(torch.equal(one.inputs[0], mixed((pixels(),), (6, 1, step), mixup=0.4, cutmix=1.0).inputs[0]))
        partners = one.partners
        assert partners is not None
        # A box leaves each image with its own value somewhere; a mixture moves all of its pixels.
        moved = [i for i in range(8) if int(partners[i]) != i]
        ways.append(all(bool((one.inputs[0][i] == i).any()) for i in moved))
    assert 8 < sum(ways) < 40
    assert sum(seeds) < 5


def test_what_has_no_places_is_blended_where_cutmix_is_asked_for() -> None:
    values = torch.randn(6, 4)
    batch = mixed((values,), (0, 1, 0), mixup=0.0, cutmix=1.0)
    assert batch.partners is not None
    assert torch.allclose(batch.inputs[0], batch.share * values + (1 - batch.share) * values[batch.partners])


@pytest.mark.parametrize(("count", "mixup"), [(1, 1.0), (8, 0.0)])
def test_nothing_to_mix_stays(count: int, mixup: float) -> None:
    given = (pixels(count),)
    batch = mixed(given, (0, 1, 0), mixup=mixup, cutmix=0.0)
    assert (batch.inputs, batch.partners, batch.share) == (given, None, 1.0)


BACKBONES = ("torchvision:resnet18", "timm:vit_tiny_patch16_224", "timm:mobilenetv3_small_100")


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return load_backbone(request.param, weights="none")


@pytest.mark.parametrize("trains", ["full", "partial:1", "norm", "scratch"])
def test_every_parameter_that_trains_is_in_one_group_with_the_rate_of_its_depth(backbone: Backbone, trains: str) -> None:
    apply_plan(backbone.module, plan_training(backbone, trains))
    named, depths = list(backbone.module.named_parameters()), depths_of(backbone)
    groups = parameter_groups(named, depths, lr=1e-2, depth_decay=0.5, weight_decay=0.1)
    grouped = [name for group in groups for name in group.parameters]
    assert sorted(grouped) == sorted(name for name, value in named if value.requires_grad)
    assert all(value is dict(named)[name] for group in groups for name, value in group.parameters.items())
    assert len({group.name for group in groups}) == len(groups)
    norms = {
        f"{path}.{name}"
        for path, layer in backbone.module.named_modules()
        if is_norm(layer)
        for name, _ in layer.named_parameters(recurse=False)
    }
    numbers = {name: stage.number for stage in backbone.stages for name in stage.parameters}
    deepest = max(number for number in numbers.values() if number is not None)
    heads = tuple(f"{head.path}." for head in backbone.heads)
    for group in groups:
        for name in group.parameters:
            if name in norms or name.endswith("bias"):
                assert group.weight_decay == 0, name
            elif dict(named)[name].ndim > 1:
                assert group.weight_decay == 0.1, name
            if name.startswith(heads):
                assert group.lr == 1e-2
            else:
                number = numbers.get(name, deepest)
                assert group.lr == pytest.approx(1e-2 * 0.5 ** ((number or 1) - 1)), name


def test_rates_fall_from_the_head_to_the_pixels() -> None:
    resnet = load_backbone("torchvision:resnet18", weights="none")
    depths = depths_of(resnet)
    ends = ["conv1.weight", "layer1.0.conv1.weight", "layer2.0.conv1.weight", "layer3.0.conv1.weight", "layer4.1.bn2.bias"]
    found = [depths[name] for name in ends]
    assert found[1:] == [3, 2, 1, 0]
    assert found[0] >= 3
    assert "fc.weight" not in depths
