"""Networks take images of other channel counts, and at first answer as they did before."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from timm.layers import ScaledStdConv2d, StdConv2d
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import regraft
from regraft.backbone.features import FromPixels
from regraft.backbone.stem import adapt_stem
from regraft.data.decode import load_pixels
from regraft.data.preprocess import Preprocess, with_channels
from regraft.errors import UsageError

SIDE = 32


class Branches(nn.Module):
    """Two convolutions that take the image, one of them at another scale, as CrossViT and RepVGG have them."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.small = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        smaller = nn.functional.interpolate(images, size=(20, 20), mode="bicubic")
        return torch.cat([self.large(images).mean((2, 3)), self.small(smaller).mean((2, 3))], dim=1)


class Patches(nn.Module):
    """A linear layer on patches whose pixels stand channels last ("pixels"), or plane after plane ("planes")."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order, self.embed = order, nn.Linear(3 * 8 * 8, 6)

    def forward(self, images: Tensor) -> Tensor:
        count, channels = images.shape[:2]
        patches = images.reshape(count, channels, 4, 8, 4, 8)
        axes = (0, 2, 4, 3, 5, 1) if self.order == "pixels" else (0, 2, 4, 1, 3, 5)
        return self.embed(patches.permute(axes).reshape(count, 16, -1))


class SpaceToDepth(nn.Module):
    """A convolution on blocks of 2 x 2 pixels that became channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(12, 5, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(nn.functional.pixel_unshuffle(images, 2))


class Coordinates(nn.Module):
    """A convolution on the image, its blue first, and two planes that say where a pixel is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(5, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        ramp = torch.linspace(-1, 1, images.shape[3]).expand(images.shape[0], 1, images.shape[2], -1)
        return self.conv(torch.cat([ramp, images.flip(1), ramp.mT], dim=1))


class Padded(nn.Module):
    """An image with a border of zeros, wider than itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=20)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(nn.functional.pad(images, (9, 9, 9, 9)))


STEMS: dict[str, Callable[[], nn.Module]] = {
    "test_resnet": lambda: timm.create_model("test_resnet"),
    "test_vit": lambda: timm.create_model("test_vit", img_size=SIDE),
    "test_byobnet": lambda: timm.create_model("test_byobnet"),
    "tresnet": lambda: timm.create_model("tresnet_m"),
    "repvgg": lambda: timm.create_model("repvgg_a0"),
    "lite0": lambda: timm.create_model("tf_efficientnet_lite0"),
    "squeezenet": lambda: torchvision.models.squeezenet1_1(),
    "perceptron": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 7), nn.ReLU(), nn.Linear(7, 2)),
    "branches": Branches,
    "patches of pixels": lambda: Patches("pixels"),
    "patches of planes": lambda: Patches("planes"),
    "space to depth": SpaceToDepth,
    "coordinates": Coordinates,
    "padded": Padded,
}
# The layers that take the image.
STEM_PATHS = {
    "test_resnet": ("conv1.0",),
    "test_vit": ("patch_embed.proj",),
    "test_byobnet": ("stem.conv",),
    "tresnet": ("body.conv1.conv",),
    "repvgg": ("stem.conv_kxk.conv", "stem.conv_1x1.conv"),
    "lite0": ("conv_stem",),
    "squeezenet": ("features.0",),
    "perceptron": ("1",),
    "branches": ("large", "small"),
    "patches of pixels": ("embed",),
    "patches of planes": ("embed",),
    "space to depth": ("conv",),
    "coordinates": ("conv",),
    "padded": ("conv",),
}


def made(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return STEMS[name]().eval()


def noise(channels: int, seed: int = 0, side: int = SIDE) -> Tensor:
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor) -> bool:
    return bool(torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max())))


def answers_of(module: nn.Module, images: Tensor, stem: tuple[str, ...]) -> list[Tensor]:
    """What the layers of the stem give, and the network: deep ones with random weights hardly tell two images apart."""
    seen: list[Tensor] = []
    hooks = [module.get_submodule(path).register_forward_hook(lambda _, __, value: seen.append(value)) for path in stem]
    seen.append(module(images))
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(stem) + 1
    return seen


@pytest.mark.parametrize("channels", [4, 5])
@pytest.mark.parametrize("name", STEMS)
@torch.no_grad()
def test_further_channels_change_nothing_at_first(name: str, channels: int) -> None:
    module, colours = made(name), noise(3)
    adapted = adapt_stem(module, channels, size=(SIDE, SIDE))
    expected = answers_of(module, colours, STEM_PATHS[name])
    for seed in (1, 2):
        answers = answers_of(adapted, torch.cat([colours, noise(channels - 3, seed)], dim=1), STEM_PATHS[name])
        assert all(map(close, answers, expected))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", STEMS)
@torch.no_grad()
def test_fewer_channels_answer_grey_as_three_did(name: str, channels: int) -> None:
    module, grey = made(name), noise(1)
    adapted = adapt_stem(module, channels, size=(SIDE, SIDE))
    expected = answers_of(module, grey.expand(-1, 3, -1, -1), STEM_PATHS[name])
    answers = answers_of(adapted, grey.expand(-1, channels, -1, -1), STEM_PATHS[name])
    assert all(map(close, answers, expected))


@torch.no_grad()
def test_a_grey_network_takes_colours() -> None:
    module, grey = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), noise(1)
    adapted = adapt_stem(module, 3, size=(SIDE, SIDE), present=1)
    assert close(adapted(grey.expand(-1, 3, -1, -1)), module(grey))
    assert not close(adapted(grey * torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)), module(grey))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_byobnet", "test_nfnet", "tresnet_m", "repvgg_a0"])
@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_tensors_are_those_of_the_authors_own_network(name: str, channels: int) -> None:
    size = timm.create_model(name).pretrained_cfg["input_size"][1:]
    adapted = adapt_stem(timm.create_model(name), channels, size=size)
    theirs = timm.create_model(name, in_chans=channels)
    assert type(adapted) is type(theirs)
    theirs.load_state_dict(adapted.state_dict())
    shapes = {path: (layer.in_channels, layer.weight.shape) for path, layer in theirs.named_modules() if is_conv(layer)}
    assert shapes == {
        path: (layer.in_channels, layer.weight.shape) for path, layer in adapted.named_modules() if is_conv(layer)
    }


def is_conv(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d)


def test_the_network_itself_stays_as_it_was() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)).train()
    module[1].eval()
    module[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    adapted = adapt_stem(module, 4, size=(SIDE, SIDE))
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert not {value.data_ptr() for value in adapted.state_dict().values()} & {
        v.data_ptr() for v in module.state_dict().values()
    }
    assert (
        [part.training for part in adapted.modules()]
        == [part.training for part in module.modules()]
        == [True, True, False, True]
    )
    assert [value.requires_grad for value in adapted.parameters()] == [value.requires_grad for value in module.parameters()]
    assert not any(part._forward_pre_hooks for part in adapted.modules())
    assert torch.equal(adapted[1].running_mean, before["1.running_mean"])
    assert list(adapted.state_dict()) == list(before)
    same = adapt_stem(module, 3)
    assert same is not module
    assert all(torch.equal(before[name], value) for name, value in same.state_dict().items())


def test_saved_tensors_load_into_a_network_that_was_built_again() -> None:
    adapted = adapt_stem(made("test_resnet"), 4, size=(SIDE, SIDE))
    again = adapt_stem(timm.create_model("test_resnet").eval(), 4, size=(SIDE, SIDE))
    again.load_state_dict(adapted.state_dict())
    with torch.no_grad():
        assert torch.equal(again(noise(4)), adapted(noise(4)))


def test_new_channels_learn() -> None:
    adapted = adapt_stem(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)), 4, size=(SIDE, SIDE))
    adapted(noise(4)).square().sum().backward()
    assert not adapted[0].weight[:, 3].any()
    assert adapted[0].weight.grad[:, 3].abs().min() > 0


@pytest.mark.parametrize("layer", [StdConv2d, ScaledStdConv2d])
@torch.no_grad()
def test_layers_that_standardise_their_weights_get_larger_by_one_factor(layer: Callable[..., nn.Module]) -> None:
    module = layer(3, 6, 3, bias=False)
    adapted = adapt_stem(module, 4, size=(SIDE, SIDE))
    answers = [adapted(torch.cat([noise(3), noise(1, seed)], dim=1)) for seed in (1, 2)]
    assert close(*answers)
    assert close(answers[0], module(noise(3)) * (4 / 3) ** 0.5)


class OneByOne(nn.Module):
    """Reads channels by number, as torchvision's Inception V3 does with its published weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(torch.stack([images[:, channel] * 0.5 - channel for channel in range(3)], dim=1))


class Mixed(nn.Module):
    """Takes the image by one layer that can be adapted, and adds it where it cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images) + images


class Twice(nn.Module):
    """A layer that takes the image, and then what it made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(self.conv(images))


class ThreeLayers(nn.Module):
    """A layer for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.red, self.rest = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.red(images[:, :1]) + self.rest(images[:, 1:])


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.Conv2d(3, 6, 3, groups=3), "a convolution in 3 groups"),
        (weight_norm(nn.Conv2d(3, 6, 3)), "computed from others"),
        (nn.Sequential(nn.BatchNorm2d(3, affine=True), nn.Conv2d(3, 4, 3)), "something else that refuses"),
        (OneByOne(), "channels are read one by one"),
        (Mixed(), "conv, and something else that refuses: The size of tensor"),
        (Twice(), "conv, and something else that refuses: Given groups=1"),
        (ThreeLayers(), r"red: it takes 1, 0, 0 features of the 3 channels"),
        (nn.Flatten(), "none that is a Conv2d or Linear"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
@pytest.mark.parametrize("channels", [2, 4])
def test_what_cannot_be_adapted_is_refused_with_the_reason(module: nn.Module, reason: str, channels: int) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        adapt_stem(module, channels, size=(SIDE, SIDE))
    assert f"one of {channels} channels" in caught.value.expected
    assert not any(part._forward_pre_hooks for part in module.modules())


def test_what_the_network_was_made_for_has_to_be_known() -> None:
    with pytest.raises(UsageError, match=r"expected Conv2d to take images of 32x16 pixels in 3 channels\n.*to have 5 channels"):
        adapt_stem(nn.Conv2d(5, 4, 3), 4, size=(32, 16))
    with pytest.raises(UsageError, match=r"32x16 pixels in 3 channels\n.*shapes cannot be multiplied"):
        adapt_stem(made("perceptron"), 4, size=(32, 16))


def test_no_channel_is_refused() -> None:
    with pytest.raises(UsageError, match="got 0"):
        adapt_stem(nn.Conv2d(3, 4, 3), 0)


@torch.no_grad()
def test_a_grey_file_is_answered_alike_in_one_channel_and_in_three(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70)).astype(np.uint8)).save(path)
    three = Preprocess(height=64, width=64, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    module = made("lite0")
    answers = {}
    for channels in (1, 3, 4):
        preprocess = with_channels(three, channels)
        pixels = torch.from_numpy(load_pixels(path, preprocess)[np.newaxis])
        answers[channels] = FromPixels(adapt_stem(module, channels, size=(64, 64)), preprocess)(pixels)
    assert close(answers[1], answers[3])
    assert close(answers[4], answers[3])


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Discs and squares, which are in the alpha channel alone; what lies under it is noise."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:48j, -1:1:48j]
    for name, inside in (("disc", np.hypot(x, y)), ("square", np.maximum(abs(x), abs(y)))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(12):
            pixels = random.integers(0, 256, (48, 48, 4)).astype(np.uint8)
            pixels[:, :, 3] = np.where(inside < random.uniform(0.4, 0.9), 255, 0)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{index}.png")
    return tmp_path / "photos"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_fit_on_images_of_other_channels_is_saved_and_loaded(masks: Path, tmp_path: Path, channels: int) -> None:
    run = regraft.fit(
        masks, out=tmp_path / "run", cache=tmp_path / "cache", size=64, test="none", device="cpu", channels=channels
    )
    assert run.backbone.preprocess.channels == channels
    assert run.backbone.module.get_submodule("conv_stem").in_channels == channels
    assert any("changed for" in note for note in run.summary.notes) == (channels != 3)
    paths = sorted(masks.rglob("*.png"))
    again = regraft.load(tmp_path / "run")
    assert again.backbone.preprocess == run.backbone.preprocess
    for before, after in zip(run.predict(paths), again.predict(paths), strict=True):
        assert dict(after.top) == pytest.approx(dict(before.top), abs=1e-6)
    images = torch.randn(2, channels, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(run.to_torch()(images), again.to_torch()(images))


def test_features_of_other_channels_are_not_taken_from_the_cache(masks: Path, tmp_path: Path) -> None:
    def hits(channels: int | None) -> int:
        options = {"cache": tmp_path / "cache", "size": 64, "test": "none", "device": "cpu", "overwrite": True}
        return regraft.fit(masks, out=tmp_path / "run", channels=channels, **options).summary.cache_hits

    assert [hits(channels) for channels in (3, 1, 4, None, 1)] == [0, 0, 0, 24, 24]


def test_a_fit_has_images_of_one_three_or_four_channels(masks: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--channels 1"):
        regraft.fit(masks, out=tmp_path / "run", channels=2)


def test_a_network_of_ones_own_is_named_again_and_adapted_again(masks: Path, tmp_path: Path) -> None:
    own = regraft.Own(
        module=nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    )
    options = {"cache": tmp_path / "cache", "size": 48, "test": "none", "device": "cpu"}
    run = regraft.fit(masks, out=tmp_path / "run", backbone=own, channels=1, **options)
    again = regraft.load(tmp_path / "run", backbone=own)
    assert again.backbone.module[0].in_channels == 1
    assert own.module[0].in_channels == 3
    paths = sorted(masks.rglob("*.png"))[:3]
    assert [prediction.top for prediction in again.predict(paths)] == [prediction.top for prediction in run.predict(paths)]
