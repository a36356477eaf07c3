"""Every decoder on networks of three layouts: a convolutional one, a pyramid transformer, a plain transformer."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate
from torchvision.models.swin_transformer import SwinTransformer

from regraft.backbone.boundary import prefix_of
from regraft.backbone.decoders import DECODERS, Decoder, Refined, make_decoder
from regraft.backbone.freeze import apply_plan, plan_training, set_modes
from regraft.backbone.load import load_backbone
from regraft.backbone.model import Backbone
from regraft.backbone.pixel_probe import PixelProbe
from regraft.backbone.pyramid import Level, counted_from, pyramid_boundary, pyramid_of
from regraft.backbone.segmenter import Segmenter, background_of, plan_for, takes_any_size
from regraft.errors import UsageError

SIDE, OUTPUTS = 64, 3
SIZES = ((SIDE, SIDE), (65, 97), (200, 31), (1, 1))


def convolutional() -> Backbone:
    return load_backbone("efficientnet_lite0", weights="none", size=SIDE)


def pyramid_transformer() -> Backbone:
    swin = SwinTransformer([4, 4], 24, [1, 1, 2, 1], [1, 2, 4, 8], [4, 4], num_classes=5)
    return load_backbone(swin, size=SIDE)


def plain_transformer() -> Backbone:
    return load_backbone(timm.create_model("vit_tiny_patch16_224", img_size=SIDE, depth=5, num_classes=5), size=SIDE)


@dataclass(frozen=True)
class Given:
    """A network, its levels, and what it gives there for two images; means and scales of each channel of those."""

    backbone: Backbone
    levels: tuple[Level, ...]
    images: Tensor
    values: tuple[Tensor, ...]
    mean_D: np.ndarray
    scale_D: np.ndarray

    def probe(self) -> PixelProbe:
        draw = np.random.default_rng(0)
        weight_CD, bias_C = draw.normal(size=(OUTPUTS, len(self.mean_D))) * 0.1, draw.normal(size=OUTPUTS)
        return PixelProbe.of(self.levels, weight_CD, bias_C, self.mean_D, self.scale_D, (SIDE, SIDE))

    def decoder(self, kind: str, outputs: int = OUTPUTS) -> Decoder:
        torch.manual_seed(0)
        return make_decoder(kind, self.levels, outputs, height=SIDE, width=SIDE, mean_D=self.mean_D, scale_D=self.scale_D)


@pytest.fixture(scope="module", params=[convolutional, pyramid_transformer, plain_transformer], ids=lambda make: make.__name__)
def given(request: pytest.FixtureRequest) -> Given:
    torch.manual_seed(0)
    backbone = request.param()
    levels = pyramid_of(backbone)
    images = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        values = prefix_of(backbone, pyramid_boundary(backbone, levels))(images)
    maps = explicit_maps(values, levels)
    mean_D = np.concatenate([each.mean(dim=(0, 2, 3)).numpy() for each in maps])
    scale_D = np.concatenate([each.std(dim=(0, 2, 3)).numpy() + 1e-3 for each in maps])
    return Given(backbone, levels, images, values, mean_D, scale_D)


def explicit_maps(values: tuple[Tensor, ...], levels: tuple[Level, ...]) -> list[Tensor]:
    """Channels first, written out for square grids."""
    maps = []
    for value, level in zip(values, levels, strict=True):
        if value.dim() == 3:
            side = round((value.shape[1] - level.extra_tokens) ** 0.5)
            maps.append(torch.stack([row[-side * side :].T.reshape(-1, side, side) for row in value]))
        else:
            maps.append(value if value.shape[1] == level.channels else torch.einsum("nhwc->nchw", value))
    return maps


def test_the_probe_is_one_linear_layer_on_all_maps_enlarged_and_side_by_side(given: Given) -> None:
    probe, finest = given.probe(), explicit_maps(given.values, given.levels)[0].shape[2:]
    maps = [
        interpolate(each.double(), size=finest, mode="bilinear", align_corners=False)
        for each in explicit_maps(given.values, given.levels)
    ]
    rows = torch.cat(maps, dim=1).permute(0, 2, 3, 1).numpy()
    weight_CD = torch.cat([part.weight.flatten(1) for part in probe.linear.parts], dim=1).detach().double().numpy()
    logits = ((rows - given.mean_D) / given.scale_D) @ weight_CD.T + probe.linear.bias.detach().numpy()
    expected = interpolate(torch.from_numpy(logits).permute(0, 3, 1, 2), size=(SIDE, SIDE), mode="bilinear")
    assert torch.allclose(probe(given.values).double(), expected, atol=1e-4)


@pytest.mark.parametrize("kind", DECODERS)
def test_gives_logits_for_every_pixel_of_any_image(kind: str, given: Given) -> None:
    segmenter = Segmenter(given.backbone, given.levels, Refined(given.probe(), given.decoder(kind))).eval()
    with torch.no_grad():
        for size in SIZES:
            logits = segmenter(torch.randn(1, 3, *size))
            assert logits.shape == (1, OUTPUTS, *size)
            assert logits.isfinite().all()


@pytest.mark.parametrize("kind", DECODERS)
def test_begins_at_exactly_the_probe_and_leaves_it(kind: str, given: Given) -> None:
    probe = given.probe()
    refined = Refined(probe, given.decoder(kind)).train()
    assert torch.equal(refined(given.values), probe(given.values))
    target = torch.rand(2, OUTPUTS, SIDE, SIDE).round()
    optimiser = torch.optim.SGD(refined.decoder.parameters(), lr=1.0)
    for _ in range(2):  # the last layer alone has gradients while it is zero
        optimiser.zero_grad()
        binary_cross_entropy_with_logits(refined(given.values), target).backward()
        optimiser.step()
    silent = [name for name, value in refined.decoder.named_parameters() if value.grad is None or not value.grad.any()]
    assert not silent
    assert not torch.equal(refined(given.values), probe(given.values))


@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoder_alone_has_gradients_everywhere_for_one_image(kind: str, given: Given) -> None:
    decoder = given.decoder(kind, outputs=1).train()
    decoder([value[:1] for value in given.values]).square().mean().backward()
    assert not [name for name, value in decoder.named_parameters() if value.grad is None or not value.grad.any()]


@pytest.mark.parametrize("kind", DECODERS)
def test_an_image_has_the_same_answer_in_any_batch_and_mode_keeps_no_statistics(kind: str, given: Given) -> None:
    decoder = given.decoder(kind).eval()
    alone = torch.cat([decoder([value[i : i + 1] for value in given.values]) for i in range(2)])
    assert torch.allclose(decoder(given.values), alone, atol=1e-4)
    assert not [name for name, _ in decoder.named_buffers() if "running" in name]


@pytest.mark.parametrize("kind", ["linear", "fpn"])
def test_a_frozen_network_stays_as_it_is_bit_for_bit(kind: str, given: Given) -> None:
    segmenter = Segmenter(given.backbone, given.levels, given.decoder(kind))
    plan = plan_for(segmenter, plan_training(given.backbone, "head"))
    apply_plan(segmenter, plan)
    set_modes(segmenter, plan, training=True)
    before = copy.deepcopy(segmenter.state_dict())
    optimiser = torch.optim.Adam([value for value in segmenter.parameters() if value.requires_grad], lr=1e-2)
    segmenter(given.images).square().mean().backward()
    optimiser.step()
    after = segmenter.state_dict()
    changed = {name.partition(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"decoder"}


def test_partial_training_reaches_the_last_stage_and_shares_nothing_with_the_network_given(given: Given) -> None:
    before = copy.deepcopy(given.backbone.module.state_dict())
    segmenter = Segmenter(given.backbone, given.levels, given.decoder("small"))
    plan = plan_for(segmenter, plan_training(counted_from(given.backbone, given.levels), "partial:1"))
    apply_plan(segmenter, plan)
    set_modes(segmenter, plan, training=True)
    segmenter(given.images).square().mean().backward()
    trained = [value for name, value in segmenter.encoder.named_parameters() if f"encoder.{name}" in plan.trainable]
    assert trained
    assert all(value.grad is not None for value in trained)
    torch.optim.SGD(trained, lr=1.0).step()
    assert all(torch.equal(value, before[name]) for name, value in given.backbone.module.state_dict().items())


def test_a_segmenter_at_its_window_gives_what_the_decoder_gives_on_the_pyramid(given: Given) -> None:
    segmenter = Segmenter(given.backbone, given.levels, given.probe())
    assert torch.allclose(segmenter(given.images), given.probe()(given.values), atol=1e-5)
    assert segmenter.any_size == (given.levels[0].layout != "tokens")


@pytest.mark.parametrize("size", [(SIDE, SIDE // 2 + 1), (SIDE // 2 + 1, SIDE)])
def test_what_is_beyond_the_edge_is_background_and_is_cut_off_again(size: tuple[int, int], given: Given) -> None:
    segmenter = Segmenter(given.backbone, given.levels, given.probe())
    top, left = (0, 0) if segmenter.any_size else ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2)
    inside = (..., slice(top, top + size[0]), slice(left, left + size[1]))
    image = torch.randn(1, 3, *size)
    whole = background_of(given.backbone.preprocess).expand(1, 3, SIDE, SIDE).clone()
    whole[inside] = image
    assert torch.allclose(segmenter(image), segmenter(whole)[inside], atol=1e-5)


@pytest.mark.parametrize("spec", ["efficientnet_lite0", "timm:resnet18", "timm:convnext_atto", "torchvision:swin_t"])
def test_at_another_size_the_record_gives_what_hooks_see(spec: str) -> None:
    backbone = load_backbone(spec, weights="none", size=SIDE)
    assert takes_any_size(backbone, pyramid_of(backbone))
    layers = dict(backbone.module.named_modules())
    levels = [level for level in pyramid_of(backbone) if level.stage in layers]
    images, seen = torch.randn(1, 3, 96, 160), dict[str, Tensor]()
    hooks = [layers[level.stage].register_forward_hook(keeper(seen, level.stage)) for level in levels]
    with torch.no_grad():
        backbone.module(images)
        [hook.remove() for hook in hooks]
        values = prefix_of(backbone, pyramid_boundary(backbone, levels))(images)
    assert len(levels) >= 3
    assert all(torch.equal(value, seen[level.stage]) for value, level in zip(values, levels, strict=True))


def keeper(seen: dict[str, Tensor], name: str) -> Callable[[nn.Module, object, Tensor], None]:
    def keep(_: nn.Module, __: object, value: Tensor) -> None:
        seen[name] = value.clone()

    return keep


def test_a_network_of_one_size_is_not_asked_for_another() -> None:
    small = {"img_size": SIDE, "embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
    backbone = load_backbone(timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **small), size=SIDE)
    levels = pyramid_of(backbone)
    assert [level.stride for level in levels] == [4, 8, 16, 32]
    assert not takes_any_size(backbone, levels)


def test_says_which_decoders_there_are(given: Given) -> None:
    with pytest.raises(UsageError, match="unet"):
        given.decoder("u-net")
