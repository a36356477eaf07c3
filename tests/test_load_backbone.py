"""Networks by name: built, weights loaded in full or refused, head and stages found."""

import socket
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from regraft.backbone.features import later_stages
from regraft.backbone.load import load_backbone, rebuild_backbone
from regraft.backbone.model import Architecture
from regraft.backbone.sources import EMBEDDED, build
from regraft.backbone.weights import digest
from regraft.errors import BackboneNotFound
from regraft.fitted import pretrained

HEADS = {
    "torchvision:resnet18": ("fc", 512),
    "torchvision:alexnet": ("classifier.6", 4096),
    "torchvision:mobilenet_v3_small": ("classifier.3", 1024),
    "torchvision:squeezenet1_1": ("classifier.1", 512),
    "torchvision:shufflenet_v2_x0_5": ("fc", 1024),
    "torchvision:vit_b_32": ("heads.head", 768),
    "torchvision:swin_t": ("head", 768),
    "timm:convnext_atto": ("head.fc", 320),
    "timm:vit_tiny_patch16_224": ("head", 192),
    "timm:mobilenetv3_small_100": ("classifier", 1024),
    "timm:deit_tiny_distilled_patch16_224": ("head_dist", 192),
}


@pytest.mark.parametrize(("spec", "head"), HEADS.items())
def test_head_is_found_by_tracing(spec: str, head: tuple[str, int]) -> None:
    found = load_backbone(spec, weights="none").head
    assert (found.path, found.in_features) == head


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_weights_are_whole_and_their_own(name: str) -> None:
    backbone = load_backbone(name)
    assert backbone.preprocess.mean == pytest.approx((127 / 255,) * 3)
    assert backbone.preprocess.height == EMBEDDED[name][1]
    assert backbone.categories is not None
    assert len(backbone.categories) == 1000
    assert backbone.weights_digest != digest(build(Architecture(source="builtin", name=name)))


def test_loaded_network_has_nothing_to_train_and_is_in_eval_mode() -> None:
    module = load_backbone("efficientnet_lite0").module
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not any(part.training for part in module.modules())


STAGES = {
    "torchvision:resnet18": ("layer1", "layer2", "layer3"),
    "timm:tf_efficientnet_lite0": ("blocks.2", "blocks.3", "blocks.4", "blocks.5", "blocks.6"),
    "timm:convnext_atto": ("stages.1", "stages.2", "stages.3"),
    "timm:vit_tiny_patch16_224": ("blocks.8", "blocks.9", "blocks.10", "blocks.11", "norm"),
}


@pytest.mark.parametrize(("spec", "expected"), STAGES.items())
def test_later_stages_carry_the_authors_names(spec: str, expected: tuple[str, ...]) -> None:
    assert set(expected) <= set(later_stages(load_backbone(spec, weights="none")))


def test_a_last_map_too_wide_to_pool_does_not_hide_the_stages_before_it() -> None:
    assert "stages.3" in later_stages(load_backbone("timm:nfnet_l0", weights="none", size=64))


def test_weights_without_a_head_get_the_plain_names_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that features are the pooled output, and the saved run builds the same network again."""
    real = timm.create_model

    def stubbed(name: str, pretrained: bool = False, **options: object) -> object:
        return real(name.partition(".")[0], num_classes=0) if pretrained else real(name, **options)

    monkeypatch.setattr(timm, "create_model", stubbed)
    backbone = load_backbone("timm:vit_tiny_patch16_224.augreg_in21k", whole_image=True)
    assert (backbone.head.path, backbone.head.in_features) == ("head", 192)
    again = rebuild_backbone(backbone.architecture, backbone.preprocess, weights="saved")
    shapes = [{name: value.shape for name, value in one.module.state_dict().items()} for one in (backbone, again)]
    assert shapes[0] == shapes[1]


def test_the_map_that_the_head_averages_itself_is_not_pooled_again() -> None:
    assert "layer4" not in later_stages(load_backbone("torchvision:resnet18", weights="none"))


def test_size_changes_the_input_and_whole_image_the_crop() -> None:
    backbone = load_backbone("torchvision:resnet18", weights="none", size=96, whole_image=True)
    assert (backbone.preprocess.height, backbone.preprocess.width, backbone.preprocess.crop_share) == (96, 96, 1.0)
    assert load_backbone("torchvision:resnet18", weights="none").preprocess.crop_share == pytest.approx(0.875)


def test_size_that_the_network_refuses_is_an_error_with_the_cure() -> None:
    with pytest.raises(BackboneNotFound, match=r"100x100.*\n.*\n.*--size"):
        load_backbone("timm:vit_tiny_patch16_224", weights="none", size=100)


WRONG = {
    "efficientnet_lite9": "efficientnet_lite0",
    "resnet18": "timm:resnet18 or torchvision:resnet18",
    "timm:resnet1888": "resnet18",
    "torchvision:resnet_18": "resnet18",
    "torchvision:resnet18:IMAGENET1K_V7": "IMAGENET1K_V1",
    "hf-hub:someone/model": "embedded",
    "timm:hf-hub:someone/model": "embedded",
    "timm:local-dir:/etc": "embedded",
    "../../model": "efficientnet_lite0",
    "": "efficientnet_lite0",
}


@pytest.mark.parametrize(("spec", "hint"), WRONG.items())
def test_wrong_name_is_told_what_was_meant(spec: str, hint: str) -> None:
    with pytest.raises(BackboneNotFound) as error:
        load_backbone(spec)
    assert hint in error.value.fix


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("spec", ["timm:resnet18.a1_in1k", "torchvision:resnet18:IMAGENET1K_V1"])
@pytest.mark.timeout(20)
def test_weights_that_cannot_be_had_name_the_embedded_ones_and_local_files(spec: str) -> None:
    with pytest.raises(BackboneNotFound) as error:
        load_backbone(spec)
    assert "efficientnet_lite0" in error.value.fix
    assert "--weights" in error.value.fix


@pytest.mark.usefixtures("no_network")
def test_rebuilding_a_saved_architecture_never_needs_the_network() -> None:
    preprocess = load_backbone("torchvision:resnet18", weights="none").preprocess
    assert rebuild_backbone(Architecture(source="torchvision", name="resnet18"), preprocess, weights="saved").head.path == "fc"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_local_file_are_loaded_in_full(tmp_path: Path, suffix: str) -> None:
    source = build(Architecture(source="torchvision", name="resnet18"))
    path = tmp_path / f"weights{suffix}"
    save_file(source.state_dict(), path) if suffix == ".safetensors" else torch.save(source.state_dict(), path)
    assert load_backbone("torchvision:resnet18", weights=str(path)).weights_digest == digest(source)


def test_weights_of_another_network_are_refused_with_the_differences(tmp_path: Path) -> None:
    save_file(build(Architecture(source="torchvision", name="resnet34")).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(BackboneNotFound, match=r"differences: layer1\.2"):
        load_backbone("torchvision:resnet18", weights=str(tmp_path / "w.safetensors"))


def test_a_pickled_module_is_refused_and_its_code_not_run(tmp_path: Path) -> None:
    path = tmp_path / "module.pth"
    torch.save(build(Architecture(source="torchvision", name="squeezenet1_1")), path)
    with pytest.raises(BackboneNotFound, match="state dict"):
        load_backbone("torchvision:squeezenet1_1", weights=str(path))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 99])
def test_a_weights_file_of_something_else(tmp_path: Path, suffix: str, content: bytes) -> None:
    (tmp_path / f"w{suffix}").write_bytes(content)
    with pytest.raises(BackboneNotFound, match="state dict"):
        load_backbone("torchvision:resnet18", weights=str(tmp_path / f"w{suffix}"))


def test_weights_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BackboneNotFound, match="not a file"):
        load_backbone("torchvision:resnet18", weights=str(tmp_path / "none.pth"))


def test_random_weights_have_no_class_names_to_answer_with() -> None:
    with pytest.raises(BackboneNotFound, match="classes have names"):
        pretrained("torchvision:resnet18", weights="none")
