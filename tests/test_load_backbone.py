"""Networks by name: built, weights loaded in full or refused, head and stages found."""

import socket
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from regraft.backbone.features import later_stages
from regraft.backbone.load import load_backbone, rebuild_backbone
from regraft.backbone.model import Architecture
from regraft.backbone.source import ALWAYS_THERE
from regraft.backbone.sources import EMBEDDED, build
from regraft.backbone.weights import digest, put_state
from regraft.errors import BackboneNotFound, HeadNotFound, UsageError
from regraft.fitted import pretrained
from regraft.recipe import Own

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
    "timm:deit_tiny_distilled_patch16_224": ("head", 192),
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


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What would have been downloaded; random weights come in its place."""
    asked: list[object] = []
    real_tv, real_timm = torchvision.models.get_model, timm.create_model

    def get_model(name: str, weights: object = None, **options: object) -> object:
        asked.append(weights)
        return real_tv(name, weights=None, **options)

    def create_model(name: str, pretrained: bool = False, **options: object) -> object:
        if pretrained:
            asked.append(name)
        return real_timm(name.partition(".")[0], **options)

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    monkeypatch.setattr(timm, "create_model", create_model)
    return asked


V2 = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V2


@pytest.mark.parametrize(
    ("spec", "weights"),
    [
        ("torchvision:mobilenet_v2:IMAGENET1K_V2", None),
        ("torchvision:mobilenet_v2", "IMAGENET1K_V2"),
        ("torchvision:mobilenet_v2", "MobileNet_V2_Weights.IMAGENET1K_V2"),
        ("torchvision:mobilenet_v2:MobileNet_V2_Weights.IMAGENET1K_V2", None),
        ("torchvision:mobilenet_v2:IMAGENET1K_V2", "MobileNet_V2_Weights.IMAGENET1K_V2"),
        ("torchvision:mobilenet_v2", V2),
    ],
)
def test_torchvisions_weights_by_name(published: list[object], spec: str, weights: Any) -> None:
    backbone = load_backbone(spec, weights=weights)
    assert (published, backbone.weights) == ([V2], "IMAGENET1K_V2")
    assert backbone.preprocess.crop_share == pytest.approx(224 / 232)


@pytest.mark.parametrize(
    ("spec", "weights"),
    [
        ("timm:resnet18.a1_in1k", None),
        ("timm:resnet18", "a1_in1k"),
        ("timm:resnet18", "resnet18.a1_in1k"),
        ("timm:resnet18.a1_in1k", "a1_in1k"),
    ],
)
def test_timms_weights_by_tag(published: list[object], spec: str, weights: str | None) -> None:
    assert load_backbone(spec, weights=weights).weights == "timm a1_in1k"
    assert published == ["resnet18.a1_in1k"]


@pytest.mark.parametrize(
    ("spec", "weights"), [("torchvision:mobilenet_v2:IMAGENET1K_V1", "IMAGENET1K_V2"), ("timm:resnet18.a1_in1k", "a2_in1k")]
)
@pytest.mark.usefixtures("no_network")
def test_two_different_names_of_weights_are_refused(spec: str, weights: str) -> None:
    with pytest.raises(UsageError) as error:
        load_backbone(spec, weights=weights)
    assert "leave one out" in error.value.fix or "did you mean" in error.value.fix


@pytest.mark.parametrize("word", ["pretrained", "True", "DEFAULT", "pretrained=True", True, "imagenet"])
@pytest.mark.parametrize("spec", ["torchvision:resnet50", "timm:resnet50", "efficientnet_lite0"])
@pytest.mark.usefixtures("no_network")
def test_the_outdated_form_is_told_todays(spec: str, word: Any) -> None:
    with pytest.raises(BackboneNotFound) as error:
        load_backbone(spec, weights=word)
    assert "no longer" in error.value.expected
    today = {"torchvision:resnet50": "--weights IMAGENET1K_V1", "timm:resnet50": "--weights a1_in1k"}
    assert today.get(spec, "leave --weights out") in error.value.fix


@pytest.mark.parametrize(
    "spec", ["torchvision:resnet18:pretrained", "torchvision:resnet18:DEFAULT", "timm:resnet18.pretrained"]
)
def test_the_outdated_form_in_the_name_is_told_todays(spec: str) -> None:
    with pytest.raises(BackboneNotFound, match="name them: --weights "):
        load_backbone(spec)


@pytest.mark.parametrize(
    ("spec", "weights", "hint"),
    [
        ("torchvision:resnet50", "IMAGENET1K_V3", "IMAGENET1K_V2"),
        ("torchvision:resnet50", "ResNet18_Weights.IMAGENET1K_V1", "choose among IMAGENET1K_V1, IMAGENET1K_V2"),
        ("timm:resnet18", "a1_in1", "a1_in1k"),
        ("efficientnet_lite0", "IMAGENET1K_V1", "leave --weights out"),
        ("timm:test_nonsense", "none", "did you mean"),
    ],
)
def test_a_misspelt_name_of_weights_is_told_what_was_meant(spec: str, weights: str, hint: str) -> None:
    with pytest.raises(BackboneNotFound) as error:
        load_backbone(spec, weights=weights)
    assert hint in error.value.fix


def test_a_network_without_published_weights_says_what_there_is() -> None:
    without = next(
        name
        for name in timm.list_models("resnet*")
        if name not in {n.partition(".")[0] for n in timm.list_models(pretrained=True)}
    )
    with pytest.raises(BackboneNotFound, match=r"published weights.*\n.*none.*\n.*--weights none"):
        load_backbone(f"timm:{without}")


def test_the_names_that_errors_call_always_there_are_the_embedded_ones() -> None:
    assert ALWAYS_THERE.split(", ") == list(EMBEDDED)


def resnet18() -> torch.nn.Module:
    return build(Architecture(source="torchvision", name="resnet18"))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_local_file_are_loaded_in_full(tmp_path: Path, suffix: str) -> None:
    source = build(Architecture(source="torchvision", name="resnet18"))
    path = tmp_path / f"weights{suffix}"
    save_file(source.state_dict(), path) if suffix == ".safetensors" else torch.save(source.state_dict(), path)
    assert load_backbone("torchvision:resnet18", weights=str(path)).weights_digest == digest(source)


def test_weights_of_another_network_are_refused_with_the_differences(tmp_path: Path) -> None:
    save_file(build(Architecture(source="torchvision", name="resnet34")).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(BackboneNotFound, match=r"differ: layer1\.2"):
        load_backbone("torchvision:resnet18", weights=str(tmp_path / "w.safetensors"))


def test_a_file_lists_five_layers_that_differ_with_their_shapes(tmp_path: Path) -> None:
    save_file(build(Architecture(source="torchvision", name="resnet50")).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(BackboneNotFound) as error:
        load_backbone("torchvision:resnet18", weights=str(tmp_path / "w.safetensors"))
    assert "layer1.0.conv1.weight is (64, 64, 1, 1) in the file, not (64, 64, 3, 3)" in error.value.got
    assert error.value.got.count(";") == 5
    assert error.value.got.endswith("more layers")


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.backbone."])
def test_a_prefix_of_all_names_is_taken_off_and_told(tmp_path: Path, prefix: str) -> None:
    source = resnet18()
    torch.save({"model": {prefix + name: value for name, value in source.state_dict().items()}, "epoch": 3}, tmp_path / "w.pth")
    backbone = load_backbone("torchvision:resnet18", weights=str(tmp_path / "w.pth"))
    assert backbone.weights_digest == digest(source)
    assert f"w.pth: the prefix '{prefix}' of all names in the file was taken off" in backbone.notes


def test_a_prefix_that_only_the_network_has_is_put_before_and_told(tmp_path: Path) -> None:
    source = resnet18()
    torch.save(source.state_dict(), tmp_path / "w.pth")
    wrapped = Own(module=torch.nn.Sequential(OrderedDict(net=resnet18())), input_shape=(3, 64, 64))
    backbone = load_backbone(wrapped, weights=tmp_path / "w.pth")
    assert all(torch.equal(backbone.module.state_dict()[f"net.{name}"], value) for name, value in source.state_dict().items())
    assert any("prefix 'net.'" in note for note in backbone.notes)


def test_a_prefix_is_named_where_even_without_it_something_differs(tmp_path: Path) -> None:
    other = build(Architecture(source="torchvision", name="resnet34")).state_dict()
    save_file({f"module.{name}": value for name, value in other.items()}, tmp_path / "w.safetensors")
    with pytest.raises(BackboneNotFound, match=r"layer1\.2\.\w+ is not in the network; .*prefix 'module\.'"):
        load_backbone("torchvision:resnet18", weights=str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("headless", [False, True])
def test_another_head_in_the_file_matters_only_where_the_head_is_used(tmp_path: Path, prefix: str, headless: bool) -> None:
    source = torchvision.models.resnet18(num_classes=7)
    state = {prefix + name: value for name, value in source.state_dict().items() if not (headless and name.startswith("fc."))}
    save_file(state, tmp_path / "w.safetensors")
    path = str(tmp_path / "w.safetensors")
    backbone = load_backbone("torchvision:resnet18", weights=path, size=64, whole_image=True)
    assert torch.equal(backbone.module.state_dict()["layer4.1.bn2.weight"], source.layer4[1].bn2.weight)
    assert torch.equal(backbone.module.state_dict()["conv1.weight"], source.conv1.weight)
    assert backbone.head.out_features == 1000
    assert any("all but the head (fc)" in note and ("prefix" in note) == bool(prefix) for note in backbone.notes)
    with pytest.raises(BackboneNotFound, match=r"2 tensors that differ: fc\b.*\n.*`regraft fit`"):
        load_backbone("torchvision:resnet18", weights=path, size=64)


def test_a_file_with_nothing_but_a_head_is_refused(tmp_path: Path) -> None:
    save_file({"fc.weight": torch.zeros(2, 512)}, tmp_path / "w.safetensors")
    with pytest.raises(BackboneNotFound, match="differ: "):
        load_backbone("torchvision:resnet18", weights=str(tmp_path / "w.safetensors"), size=64, whole_image=True)


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


class Booby(torch.nn.Linear):
    """A module whose pickle makes a file when it is read."""

    def __init__(self, marker: Path) -> None:
        super().__init__(2, 2)
        self.payload = Payload(marker)


@pytest.mark.parametrize("inside", ["module", "state dict", "legacy"])
def test_a_pickled_module_is_refused_and_its_code_not_run(tmp_path: Path, inside: str) -> None:
    path, marker = tmp_path / "module.pth", tmp_path / "ran"
    what: object = {**resnet18().state_dict(), "extra": Payload(marker)} if inside == "state dict" else Booby(marker)
    torch.save(what, path, _use_new_zipfile_serialization=inside != "legacy")
    with pytest.raises(BackboneNotFound, match=r"state dict.*\n.*none of its code was run") as error:
        load_backbone("torchvision:resnet18", weights=str(path))
    assert not marker.exists()
    assert "weights_only" not in str(error.value)
    torch.load(path, weights_only=False)
    assert marker.exists(), "the payload does nothing, so the test says nothing"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"epoch": 3, "lr": 0.1}, "'epoch': int"),
        ([torch.zeros(2)], "a list"),
        ({}, "empty dictionary"),
        ({"state_dict": {"fc.weight": torch.zeros(2), "meta": "x"}}, "'meta': str"),
    ],
)
def test_a_file_of_other_things_says_which(tmp_path: Path, content: object, kind: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(BackboneNotFound, match="state dict") as error:
        load_backbone("torchvision:resnet18", weights=str(tmp_path / "w.pth"))
    assert kind in error.value.got


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:'torch.load' received")
def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "w.pt")
    with pytest.raises(BackboneNotFound, match="TorchScript program"):
        load_backbone("torchvision:resnet18", weights=str(tmp_path / "w.pt"))


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


def test_a_network_for_one_size_is_made_for_the_size_asked_for(tmp_path: Path) -> None:
    backbone = load_backbone("torchvision:vit_b_32", weights="none", size=96)
    assert backbone.preprocess.height == backbone.module.image_size == 96
    assert rebuild_backbone(backbone.architecture, backbone.preprocess, weights="saved").module.image_size == 96
    with pytest.raises(BackboneNotFound, match="patches of 32"):
        load_backbone("torchvision:vit_b_32", weights="none", size=100)


def test_a_network_without_a_head_gets_one_to_be_replaced() -> None:
    backbone = load_backbone("timm:eva02_tiny_patch14_224", weights="none", whole_image=True)
    assert (backbone.head.path, backbone.head.out_features) == ("head", 1000)
    again = rebuild_backbone(backbone.architecture, backbone.preprocess, weights="saved")
    assert again.head == backbone.head


def test_published_weights_without_a_head_are_not_asked_for_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **options: real(name.partition(".")[0], **options))
    assert load_backbone("timm:eva02_tiny_patch14_224.mim_in22k", whole_image=True).head.path == "head"
    with pytest.raises((HeadNotFound, BackboneNotFound)):
        pretrained("timm:eva02_tiny_patch14_224.mim_in22k")


def test_what_a_network_computed_from_its_former_weights_is_forgotten() -> None:
    """LeViT keeps the biases of its attention from the first pass on."""
    backbone = load_backbone("timm:levit_128s", weights="none")
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        before = backbone.module(images)
        state = {name: value + 1 for name, value in backbone.module.state_dict().items() if "attention_biases" in name}
        assert state
        put_state(backbone.module, state)
        assert not torch.equal(backbone.module(images), before)


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_a_normalisation_inside_the_network_is_done_outside(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision builds these two with it where weights are published, and without where they are not."""
    real = torchvision.models.get_model

    def stubbed(model: str, weights: object = None, **options: object) -> torch.nn.Module:
        torch.manual_seed(0)
        return real(model, weights=None, transform_input=weights is not None, init_weights=False)  # type: ignore[no-any-return]

    monkeypatch.setattr(torchvision.models, "get_model", stubbed)
    backbone = load_backbone(f"torchvision:{name}")
    pixels = torch.rand(1, 3, 299, 299)
    imagenet = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    means, stds = (torch.tensor(values).view(3, 1, 1) for values in (backbone.preprocess.mean, backbone.preprocess.std))
    with torch.inference_mode():
        theirs = stubbed(name, weights="some").eval()((pixels - imagenet[0]) / imagenet[1])
        ours = backbone.module((pixels - means) / stds)
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))
