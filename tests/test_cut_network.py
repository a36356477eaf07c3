"""A network in two parts, and what is frozen in it."""

import copy

import pytest
import torch
from torch import nn

from regraft.backbone.attach import fresh_heads
from regraft.backbone.boundary import boundaries_of, boundary_for, cut
from regraft.backbone.freeze import apply_plan, plan_training, set_modes
from regraft.backbone.load import load_backbone
from regraft.backbone.model import Backbone
from regraft.errors import UsageError
from regraft.recipe import Own

RESNET = "torchvision:resnet18"


def resnet(**options: object) -> Backbone:
    return load_backbone(RESNET, weights="none", size=64, **options)  # type: ignore[arg-type]


def test_stages_have_the_authors_names_and_count_from_the_end() -> None:
    assert [(stage.name, stage.number) for stage in resnet().stages] == [
        ("relu", 5), ("maxpool", None), ("layer1", 4), ("layer2", 3), ("layer3", 2), ("layer4", 1),
    ]  # fmt: skip


def test_hidden_layers_after_the_last_map_are_a_stage() -> None:
    stages = load_backbone("torchvision:alexnet", weights="none", size=64).stages
    assert (stages[-1].name, stages[-1].number, stages[-1].layout) == ("classifier", 1, "flat")
    assert {name.split(".")[1] for name in stages[-1].parameters} == {"1", "4"}


@pytest.mark.parametrize(
    ("what", "name", "shape"),
    [("pixels", "pixels", (3, 64, 64)), ("layer2", "layer2", (128, 8, 8)), ("partial:1", "layer3", (256, 4, 4)),
     ("partial:5", "pixels", (3, 64, 64)), ("head", "head", (512,))],
)  # fmt: skip
def test_boundaries_by_name_and_by_number(what: str, name: str, shape: tuple[int, ...]) -> None:
    boundary = boundary_for(resnet(), what)
    assert (boundary.name, boundary.shapes) == (name, (shape,))


@pytest.mark.parametrize("what", ["partial:6", "partial:0", "partial:x", "partial:", "layer9", ""])
def test_a_boundary_that_is_not_there(what: str) -> None:
    with pytest.raises(UsageError) as error:
        boundary_for(resnet(), what)
    assert "layer3" in error.value.expected or "from 1 to 5" in error.value.expected


def test_a_suffix_takes_any_number_of_images() -> None:
    """Sizes that were read off earlier tensors follow the number of images."""
    backbone = load_backbone("timm:vit_tiny_patch16_224", weights="none")
    parts = cut(backbone, boundary_for(backbone, "partial:1"), to_train=False)
    images = torch.randn(5, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(parts.suffix.eval()(*parts.prefix(images)), backbone.module(images))


def test_dropout_is_at_work_in_a_suffix_that_trains() -> None:
    """The author's functional dropout, too, which a graph recorded in eval mode would have left out for good."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.mix, self.fc = nn.Conv2d(3, 64, 4), nn.Conv2d(64, 64, 2, stride=2), nn.Linear(64, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            values = nn.functional.dropout(self.mix(self.stem(images)), 0.5, self.training)
            return self.fc(values.mean((2, 3)))  # type: ignore[no-any-return]

    backbone = load_backbone(Own(module=Net(), input_shape=(3, 16, 16)))
    parts = cut(backbone, boundary_for(backbone, "stem"))
    values = parts.prefix(torch.randn(2, 3, 16, 16))
    suffix = copy.deepcopy(parts.suffix)
    with torch.inference_mode():
        still, again = suffix.eval()(*values), suffix.eval()(*values)
        moving, moved = suffix.train()(*values), suffix.train()(*values)
        back = suffix.eval()(*values)
    assert torch.equal(still, again)
    assert torch.equal(still, back)
    assert not torch.equal(moving, moved)


def test_training_a_suffix_trains_the_network_it_was_cut_from() -> None:
    backbone = resnet()
    parts = cut(backbone, boundary_for(backbone, "partial:1"))
    names = {name for name, _ in parts.suffix.named_parameters()}
    assert names
    assert {id(value) for value in parts.suffix.parameters()} <= {id(value) for value in backbone.module.parameters()}
    expected = {*backbone.stages[-1].parameters, "fc.weight", "fc.bias"}
    assert len(names) == len(expected)


# -- what trains and what stays


@pytest.mark.parametrize(
    ("strategy", "trains", "stays"),
    [
        ("head", {"fc.weight"}, {"layer4.1.conv2.weight", "layer4.1.bn2.weight"}),
        ("partial:1", {"fc.weight", "layer4.0.conv1.weight", "layer4.0.bn1.weight"}, {"layer3.0.conv1.weight"}),
        ("norm", {"fc.weight", "bn1.weight", "layer3.1.bn2.bias"}, {"conv1.weight", "layer4.0.conv1.weight"}),
        ("full", {"conv1.weight", "fc.bias"}, set()),
    ],
)
def test_strategies_sort_every_parameter(strategy: str, trains: set[str], stays: set[str]) -> None:
    plan = plan_training(resnet(), strategy)
    assert trains <= set(plan.trainable)
    assert stays <= set(plan.frozen)
    assert not set(plan.trainable) & set(plan.frozen)
    assert len(plan.trainable) + len(plan.frozen) == len(list(resnet().module.parameters()))


@pytest.mark.parametrize(
    ("rule", "stays"),
    [("layer4", "layer4.0.conv1.weight"), ("1", "layer4.0.conv1.weight"), ("layer4.0.", "layer4.0.conv1.weight")],
)
def test_freezing_by_stage_name_number_or_prefix(rule: str, stays: str) -> None:
    plan = plan_training(resnet(), "partial:2", freeze=[rule])
    assert stays in plan.frozen
    assert {"layer3.0.conv1.weight", "fc.weight"} <= set(plan.trainable)


@pytest.mark.parametrize("rule", ["layer9", "9", "", "conv7"])
def test_a_rule_that_matches_nothing_is_an_error(rule: str) -> None:
    with pytest.raises(UsageError, match="layer4"):
        plan_training(resnet(), "full", freeze=[rule])


@pytest.mark.parametrize("strategy", ["heads", "partial", "partial:9", ""])
def test_a_strategy_that_is_not_there(strategy: str) -> None:
    with pytest.raises(UsageError):
        plan_training(resnet(), strategy)


def epoch_of(module: nn.Module, strategy: str, backbone: Backbone) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The state before an epoch of a few steps and two passes of evaluation, and what was meant to train."""
    plan = plan_training(backbone, strategy)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    apply_plan(module, plan)
    set_modes(module, plan, training=True)
    optimiser = torch.optim.SGD([value for value in module.parameters() if value.requires_grad], lr=1e-5)
    draw = torch.Generator().manual_seed(0)
    for _ in range(3):
        optimiser.zero_grad()
        module(torch.randn(4, 3, 64, 64, generator=draw)).logsumexp(1).sum().backward()
        optimiser.step()
    set_modes(module, plan, training=False)
    with torch.inference_mode():
        images = torch.randn(2, 3, 64, 64, generator=draw)
        assert torch.equal(module(images), module(images))
    return before, plan.trainable


@pytest.mark.parametrize("strategy", ["head", "partial:2", "norm", "full"])
def test_frozen_parameters_and_all_statistics_keep_their_bits_over_an_epoch(strategy: str) -> None:
    backbone = resnet()
    module = fresh_heads(backbone, 3)
    before, trainable = epoch_of(module, strategy, backbone)
    moved = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert moved <= set(trainable)
    assert not [name for name in moved if "running" in name or "num_batches" in name]


def test_from_scratch_statistics_follow_the_images() -> None:
    backbone = resnet()
    module = fresh_heads(backbone, 3)
    before, _ = epoch_of(module, "scratch", backbone)
    assert not torch.equal(module.state_dict()["bn1.running_mean"], before["bn1.running_mean"])


def test_dropout_of_a_frozen_part_stays_off_and_that_of_the_head_works() -> None:
    backbone = load_backbone("torchvision:alexnet", weights="none", size=64)
    plan = plan_training(backbone, "partial:1")
    set_modes(backbone.module, plan, training=True)
    modes = {name: part.training for name, part in backbone.module.named_modules()}
    assert not any(mode for name, mode in modes.items() if name.startswith("features"))
    assert modes["classifier.0"]
    set_modes(backbone.module, plan_training(backbone, "head"), training=True)
    assert backbone.module.get_submodule("classifier.0").training


def test_every_boundary_is_told_apart() -> None:
    names = [place.name for place in boundaries_of(resnet())]
    assert names == ["pixels", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "head"]


@pytest.mark.parametrize("spec", ["torchvision:resnet18", "torchvision:vgg11", "efficientnet_lite0"])
def test_stages_do_not_depend_on_the_size_of_the_images(spec: str) -> None:
    small, large = (load_backbone(spec, weights="none", size=size).stages for size in (32, 96))
    assert [(stage.name, stage.number, stage.parameters) for stage in small if stage.number] == [
        (stage.name, stage.number, stage.parameters) for stage in large if stage.number
    ]


def test_a_rule_means_a_name_before_a_number() -> None:
    block = lambda width: nn.Sequential(nn.Conv2d(width, 8, 3, 2, 1), nn.ReLU())  # noqa: E731
    module = nn.Sequential(block(3), block(8), block(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    backbone = load_backbone(Own(module=module, input_shape=(3, 32, 32)))
    assert [(stage.name, stage.number) for stage in backbone.stages] == [("0", 3), ("1", 2), ("2", 1)]
    assert plan_training(backbone, "full", freeze=["1"]).frozen == ("1.0.weight", "1.0.bias")


def test_a_number_beyond_reason_is_no_traceback() -> None:
    with pytest.raises(UsageError):
        boundary_for(resnet(), "partial:" + "9" * 5000)
