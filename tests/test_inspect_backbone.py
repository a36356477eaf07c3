"""What a network is made of: every parameter in one row, what would train, what it costs, and what is said of it."""

import json
import re
from pathlib import Path

import pytest
import torch
import torchvision
from huggingface_hub import constants
from torch import nn

from regraft.backbone.attach import fresh_heads
from regraft.backbone.freeze import plan_training
from regraft.backbone.load import load_backbone
from regraft.backbone.structure import Part, Structure, flops_of, inspect, structure_of
from regraft.cli.inspect import normalisation_text, preprocess_text, shape_text, share_text
from regraft.cli.main import main
from regraft.data.preprocess import Preprocess
from regraft.errors import BackboneNotFound, RegraftError, UsageError

# Linear and convolutional heads, two that are averaged, auxiliary ones, tokens, channels last, layers after the last map,
# parameters beside layers (class tokens, scales), norms before the head.
NETWORKS = [
    ("efficientnet_lite0", None),
    ("torchvision:resnet18", None),
    ("torchvision:squeezenet1_1", None),
    ("torchvision:inception_v3", 128),
    ("torchvision:googlenet", 64),
    ("torchvision:swin_t", None),
    ("torchvision:mobilenet_v3_small", None),
    ("torchvision:densenet121", 64),
    ("timm:deit_tiny_distilled_patch16_224", None),
    ("timm:convnext_atto", 64),
    ("timm:test_vit4", None),
    ("timm:test_efficientnet", None),
    ("timm:mixer_s32_224", None),
]
RESNET18 = {"layer1": 147_968, "layer2": 525_568, "layer3": 2_099_712, "layer4": 8_393_728}


@pytest.fixture(autouse=True)
def _nothing_is_downloaded_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def resnet18() -> Structure:
    return inspect("torchvision:resnet18", classes=10, weights="none")


def sizes(module: nn.Module) -> dict[str, int]:
    return {name: value.numel() for name, value in module.named_parameters()}


@pytest.mark.parametrize(("spec", "size"), NETWORKS, ids=lambda value: str(value))
def test_every_parameter_is_in_one_row(spec: str, size: int | None) -> None:
    backbone = load_backbone(spec, weights="none", size=size)
    for classes in (None, 7):
        module = backbone.module if classes is None else fresh_heads(backbone, classes)
        for strategy in ("head", "partial:1", "norm", "full"):
            structure = structure_of(backbone, classes=classes, strategy=strategy)
            assert structure.parameters == sum(sizes(module).values())
            trained = set(plan_training(backbone, strategy).trainable)
            assert structure.trainable == sum(size for name, size in sizes(module).items() if name in trained)
            assert all(0 <= part.trainable <= part.parameters for part in structure.parts)
    assert [part.name for part in structure.stages] == [stage.name for stage in backbone.stages]
    assert [part.name for part in structure.parts if part.kind == "head"] == [head.path for head in backbone.main_heads]
    assert not [part for part in structure.parts if part.kind != "stage" and part.parameters == 0]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "swin_t", "vit_b_32", "googlenet"])
def test_agrees_with_what_torchvision_states(name: str) -> None:
    structure = inspect(f"torchvision:{name}", weights="none")
    meta = torchvision.models.get_model_weights(name).DEFAULT.meta
    auxiliary = sum(part.parameters for part in structure.parts if part.kind == "auxiliary")
    assert structure.parameters - auxiliary == meta["num_params"]
    # Stated as multiply-adds, in billions with three digits.
    assert structure.flops / 2e9 == pytest.approx(meta["_ops"], abs=6e-4)
    if not auxiliary:
        assert structure.bytes == pytest.approx(meta["_file_size"] * 2**20, rel=0.01)


@pytest.mark.parametrize(
    ("strategy", "trains"),
    [
        ("head", {"fc": 5130}),
        ("partial:1", {"layer4": RESNET18["layer4"], "fc": 5130}),
        ("partial:3", {name: RESNET18[name] for name in ("layer2", "layer3", "layer4")} | {"fc": 5130}),
        ("norm", {"relu": 128, "layer1": 512, "layer2": 1280, "layer3": 2560, "layer4": 5120, "fc": 5130}),
        ("full", {"relu": 9536, **RESNET18, "fc": 5130}),
        ("scratch", {"relu": 9536, **RESNET18, "fc": 5130}),
    ],
)
def test_says_what_a_strategy_would_train(strategy: str, trains: dict[str, int]) -> None:
    structure = inspect("torchvision:resnet18", classes=10, strategy=strategy, weights="none", size=64)
    assert {part.name: part.trainable for part in structure.parts if part.trainable} == trains
    assert {part.name: part.parameters for part in structure.parts if part.name in RESNET18} == RESNET18
    assert structure.trainable == sum(trains.values())


def test_rules_keep_more_as_it_is() -> None:
    structure = inspect("torchvision:resnet18", strategy="full", freeze=("layer1", "1", "layer2.0."), weights="none", size=64)
    trains = {part.name: part.trainable for part in structure.parts}
    assert trains["layer1"] == trains["layer4"] == 0
    assert 0 < trains["layer2"] < RESNET18["layer2"]
    assert trains["layer3"] == RESNET18["layer3"]


def test_stages_have_shapes_and_numbers(resnet18: Structure) -> None:
    assert [(part.name, part.number, part.shape) for part in resnet18.stages][-2:] == [
        ("layer3", 2, (256, 14, 14)),
        ("layer4", 1, (512, 7, 7)),
    ]
    (head,) = resnet18.heads
    assert (head.path, head.kind, head.in_features) == ("fc", "linear", 512)
    assert resnet18.classes == 10


def test_auxiliary_heads_are_marked_with_what_belongs_to_them() -> None:
    structure = inspect("torchvision:googlenet", weights="none", size=64)
    rows = {part.name: part for part in structure.parts if part.kind == "auxiliary"}
    assert {"aux1.fc2", "aux2.fc2"} <= set(rows)
    assert sum(part.parameters for part in rows.values()) == sum(
        size
        for name, size in sizes(load_backbone("torchvision:googlenet", weights="none", size=64).module).items()
        if "aux" in name
    )
    assert not [part for part in structure.parts if part.kind == "unused"]


class TwoNames(nn.Module):
    """A tensor under two names, a layer that is never called, a norm before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())
        self.body[0].weight = nn.Parameter(torch.randn(8, 8, 3, 3))
        self.again = nn.Conv2d(8, 8, 3)
        self.again.weight = self.body[0].weight
        self.spare = nn.Linear(5, 5)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.again(self.body(self.stem(x)))
        return self.head(self.norm(x.mean((2, 3))))


def test_takes_a_module_and_counts_shared_and_unused_parameters_once() -> None:
    structure = inspect(TwoNames(), size=32)
    rows = {part.name: part for part in structure.parts}
    assert structure.parameters == sum(sizes(TwoNames()).values())
    assert (rows["spare"].kind, rows["spare"].parameters, rows["spare"].trainable) == ("unused", 30, 0)
    assert (rows["norm"].kind, rows["norm"].parameters) == ("between", 16)
    # Bytes are those of what is saved: the shared tensor once.
    assert structure.bytes == 4 * structure.parameters
    # 8 x 15 x 15 positions of 27, then 8 x 13 x 13 and 8 x 11 x 11 of 72, then the head; a multiply-add is two.
    assert structure.flops == 2 * (8 * 15**2 * 27 + 8 * 13**2 * 72 + 8 * 11**2 * 72 + 32)


class Branching(nn.Module):
    """Cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).mean((2, 3))
        return self.head(x if x.sum() > 0 else -x)


def test_shows_a_network_that_cannot_be_traced_without_stages() -> None:
    structure = inspect(Branching(), size=32)
    assert [(part.name, part.kind, part.parameters) for part in structure.parts] == [
        ("conv", "other", 224),
        ("head", "head", 36),
    ]
    assert any("traced" in note for note in structure.notes)


def test_attention_is_counted_and_its_fast_path_left_as_it_was() -> None:
    module = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    wrapped = nn.Sequential(nn.Flatten(2), nn.Linear(64, 16), module)
    pre = Preprocess(height=8, width=8, mean=(0.5,) * 3, std=(0.5,) * 3)
    # 3 tokens of 16: into it, queries, keys, values and output, scores and mixture, two layers.
    products = 3 * 64 * 16 + 3 * 16 * 48 + 3 * 16 * 16 + 2 * (3 * 3 * 16) + 2 * (3 * 16 * 32)
    assert flops_of(wrapped, pre) == 2 * products
    assert torch.backends.mha.get_fastpath_enabled()


def test_leaves_the_backbone_as_it_was() -> None:
    backbone = load_backbone("efficientnet_lite0", size=64)
    before = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    first = inspect(backbone, classes=3, strategy="full")
    assert inspect(backbone, classes=3, strategy="full") == first
    assert all(torch.equal(value, before[name]) for name, value in backbone.module.state_dict().items())
    assert not any(value.requires_grad for value in backbone.module.parameters())


def test_random_numbers_of_the_caller_are_not_touched() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    inspect("timm:test_resnet", classes=3, weights="none")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("spec", ["torchvision:resnet18", "timm:test_resnet.r160_in1k"])
def test_published_weights_that_are_not_here_are_not_needed(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it goes to the network"))
    structure = inspect(spec, size=64)
    assert structure.weights == "none"
    assert any("not on disk" in note for note in structure.notes)
    assert structure.source == spec.partition(".")[0]


def test_a_tag_says_how_large_the_head_is_and_what_images_look_like() -> None:
    structure = inspect("timm:vit_tiny_patch16_224.augreg_in21k")
    assert structure.heads[0].out_features == 21_843
    assert structure.parameters - inspect("timm:vit_tiny_patch16_224").parameters == (21_843 - 1000) * 193
    assert structure.preprocess.mean == (0.5, 0.5, 0.5)
    assert inspect("torchvision:resnet50", weights="IMAGENET1K_V1", size=64).preprocess.crop_share == pytest.approx(224 / 256)
    assert inspect("torchvision:resnet50", weights="IMAGENET1K_V2", size=64).preprocess.crop_share == pytest.approx(224 / 232)


def test_a_file_of_weights_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    torch.save(load_backbone("timm:test_resnet", weights="none").module.state_dict(), path)
    assert inspect("timm:test_resnet", weights=str(path)).weights == "mine.pth"
    with pytest.raises(BackboneNotFound, match="exactly"):
        inspect("timm:test_efficientnet", weights=str(path))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strategy": "nonsense"}, ["nonsense", "partial:N"]),
        ({"strategy": "partial:99"}, ["partial:N with N from 1 to 5"]),
        ({"strategy": "partial:0"}, ["from 1 to 5"]),
        ({"classes": 1}, ["two classes"]),
        ({"freeze": ("layer9",)}, ["layer9", "layer4"]),
        ({"head_path": "fx"}, ["fx", "did you mean fc"]),
        ({"weights": "IMAGENET1K_V9"}, ["IMAGENET1K_V9", "IMAGENET1K_V1"]),
        ({"weights": "nowhere.pth"}, ["nowhere.pth"]),
        ({"size": -3}, ["--size from 16"]),
    ],
    ids=str,
)
def test_refuses_what_cannot_be_meant(options: dict[str, object], words: list[str]) -> None:
    with pytest.raises(RegraftError) as error:
        inspect("torchvision:resnet18", **{"weights": "none", **options})  # type: ignore[arg-type]
    assert isinstance(error.value, UsageError)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_refuses_a_size_that_the_network_does() -> None:
    with pytest.raises(BackboneNotFound, match="100x100"):
        inspect("timm:test_vit", size=100)


@pytest.mark.parametrize(
    ("spec", "fix"),
    [
        ("torchvision:resent18", "resnet18"),
        ("timm:resnet18.a1_in2k", "a1_in1k"),
        ("torchvision:resnet18:IMAGENET1K_V7", "IMAGENET1K_V1"),
        ("nonsense", "efficientnet_lite"),
    ],
)
def test_misspelt_names_are_not_taken_for_missing_weights(spec: str, fix: str) -> None:
    with pytest.raises(BackboneNotFound) as error:
        inspect(spec)
    assert fix in error.value.fix


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.mark.parametrize(
    ("pre", "text"),
    [
        (Preprocess(height=224, width=224, **IMAGENET), "shorter side to 256, central 224 x 224 of it, bicubic"),
        (Preprocess(height=224, width=224, crop_share=1.0, **IMAGENET), "central square to 224 x 224, bicubic"),
        (Preprocess(height=64, width=128, crop_share=1.0, **IMAGENET), "central part of that shape to 64 x 128, bicubic"),
        (
            Preprocess(height=64, width=128, fit="squash", interpolation="bilinear", **IMAGENET),
            "squashed to 64 x 128, bilinear",
        ),
        (
            Preprocess(height=64, width=64, fit="pad", **IMAGENET),
            "the whole of it inside of 64 x 64, the rest (255, 255, 255), bicubic",
        ),
    ],
)
def test_preprocessing_in_words(pre: Preprocess, text: str) -> None:
    assert preprocess_text(pre) == text
    assert normalisation_text(pre) == "divided by 255, minus 0.485, 0.456, 0.406, divided by 0.229, 0.224, 0.225"


@pytest.mark.parametrize(
    ("shape", "layout", "text"),
    [
        ((512, 7, 7), "map", "512 x 7 x 7"),
        ((7, 7, 768), "map-channels-last", "7 x 7 x 768 (channels last)"),
        ((197, 192), "tokens", "197 x 192 (tokens)"),
        ((4096,), "flat", "4096"),
        ((), "", ""),
    ],
)
def test_shapes_in_words(shape: tuple[int, ...], layout: str, text: str) -> None:
    assert shape_text(Part(name="a", kind="stage", parameters=0, trainable=0, shape=shape, layout=layout)) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"), [(3, 4, "75 %"), (7, 7, "100 %"), (0, 7, "0 %"), (13, 10_000, "0.13 %"), (0, 0, "0 %")]
)
def test_shares_in_words(part: int, whole: int, text: str) -> None:
    assert share_text(part, whole) == text


def test_command_prints_a_table_whose_columns_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["inspect", "torchvision:resnet18", "--classes", "10", "--strategy", "partial:2", "--size", "64"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    table, _, rest = out.partition("\n\n")
    rows = [re.findall(r"[\d,]+", line)[-3:] for line in table.splitlines()[2:]]
    figures = [[int(cell.replace(",", "")) for cell in row] for row in rows]
    *parts, total = figures
    assert [sum(column) for column in zip(*parts, strict=True)] == total == [11_181_642, 10_498_570, 683_072]
    assert "fc (linear, 512 to 1,000), found by" in rest
    assert "11,181,642, of which 10,498,570 train (94 %)" in rest
    assert "GFLOPs" in rest
    assert "multiply-adds" in rest
    assert "not on disk" in rest
    assert max(len(line) for line in table.splitlines()) <= 80


def test_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "efficientnet_lite0", "--classes", "5", "--freeze", "classifier.bias", "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["source"] == "efficientnet_lite0"
    (head,) = fields["head"]
    assert {key: head[key] for key in ("path", "kind", "in_features", "role")} == {
        "path": "classifier", "kind": "linear", "in_features": 1280, "role": "main",
    }  # fmt: skip
    assert head["found_by"]
    assert fields["stages"][0].keys() >= {"name", "parameters", "trainable", "shape", "number"}
    total = sum(row["parameters"] for row in (*fields["stages"], *fields["others"]))
    assert fields["parameters"] == {"total": total, "trainable": 5 * 1280}
    assert total == 4_652_008 - 995 * 1281
    assert fields["preprocess"]["height"] == 224
    assert fields["megabytes"] == pytest.approx(4 * total / 1e6, rel=0.03)
    assert fields["gflops"] == pytest.approx(0.77, abs=0.03)
    assert fields["classes"] == 5
    assert fields["notes"] == []


def test_command_explains_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "timm:test_resnet", "--strategy", "partial:99", "--weights", "none", "--json"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "partial:N with N from 1 to" in printed.err


@pytest.mark.parametrize(
    ("spec", "size", "tried"),
    [("torchvision:resnet18", 64, {32: True, 96: True}), ("timm:vit_tiny_patch16_224", None, {96: False, 256: False})],
)
def test_other_sizes_are_tried(spec: str, size: int | None, tried: dict[int, bool]) -> None:
    assert dict(inspect(spec, weights="none", size=size).other_sizes) == tried


def test_strides_follow_from_the_maps() -> None:
    structure = inspect("torchvision:resnet18", weights="none", size=64)
    assert [part.stride(64) for part in structure.stages if part.number] == [2, 4, 8, 16, 32]
    swin = inspect("torchvision:swin_t", weights="none", size=64)
    assert swin.stages[0].stride(64) == 4
    assert {part.stride(224) for part in inspect("timm:vit_tiny_patch16_224", weights="none").stages} == {None}
