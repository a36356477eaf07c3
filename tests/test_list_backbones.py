"""What can be used by name, which weights there are, and what is on disk; nothing is built or fetched for that."""

import json
from pathlib import Path

import pytest
import timm
import torchvision
from huggingface_hub import constants

from regraft.backbone.catalogue import embedded, everything, imagenet_top1, matching, of_timm, of_torchvision, published
from regraft.backbone.load import load_backbone
from regraft.backbone.sources import EMBEDDED
from regraft.cli.main import main
from regraft.errors import UsageError


@pytest.fixture(autouse=True)
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for downloaded weights, whatever this machine has."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


@pytest.fixture
def no_network_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network is built")

    monkeypatch.setattr(timm, "create_model", refuse)
    monkeypatch.setattr(torchvision.models, "get_model", refuse)
    monkeypatch.setattr("torch.nn.Module.__init__", refuse)


def on_disk() -> set[str]:
    return {row.name for row in everything() if row.on_disk} - set(EMBEDDED)


@pytest.mark.parametrize("row", embedded(), ids=lambda row: row.name)
def test_what_is_stated_of_the_embedded_is_true(row: object) -> None:
    assert [one.name for one in embedded()] == list(EMBEDDED)
    module = load_backbone(row.name).module  # type: ignore[attr-defined]
    assert row.parameters == sum(value.numel() for value in module.parameters())  # type: ignore[attr-defined]
    assert row.bytes == pytest.approx(4 * row.parameters, rel=0.02)  # type: ignore[attr-defined]
    assert row.imagenet_top1 == {"0": 75.1, "1": 76.7, "2": 77.6}[row.name[-1]]  # type: ignore[attr-defined]
    assert row.on_disk  # type: ignore[attr-defined]


def test_lists_every_network_of_torchvision_with_its_weights(no_network_is_built: None) -> None:
    rows = {row.name: row for row in of_torchvision()}
    assert {name.split(":")[1] for name in rows} == set(torchvision.models.list_models(module=torchvision.models))
    second = rows["torchvision:resnet50:IMAGENET1K_V2"]
    assert (second.default, second.imagenet_top1, second.parameters) == (True, 80.858, 25_557_032)
    assert second.bytes == pytest.approx(102.5e6, rel=1e-3)
    assert not rows["torchvision:resnet50:IMAGENET1K_V1"].default
    names = list(rows)
    assert names.index("torchvision:resnet18:IMAGENET1K_V1") < names.index("torchvision:resnet101:IMAGENET1K_V1")


def test_lists_every_network_of_timm_with_its_weights(no_network_is_built: None) -> None:
    rows = of_timm()
    assert {row.name.split(":")[1].partition(".")[0] for row in rows} == set(timm.list_models())
    assert {row.name.removeprefix("timm:") for row in rows if row.weights} == set(timm.list_models(pretrained=True))
    # What the plain name stands for, once for each.
    plain = [row.name.split(":")[1].partition(".")[0] for row in rows if row.default]
    assert len(plain) == len(set(plain)) == len(timm.list_models())
    assert [row.name for row in rows if row.name.startswith("timm:resnet50.") and row.default] == ["timm:resnet50.a1_in1k"]
    assert any(row.weights is None for row in rows)


def test_sees_what_torch_hub_keeps(disk: Path) -> None:
    assert on_disk() == set()
    folder = disk / "torch/hub/checkpoints"
    folder.mkdir(parents=True)
    (folder / "resnet18-f37072fd.pth").touch()
    assert on_disk() == {"torchvision:resnet18:IMAGENET1K_V1"}
    # A few of timm's come from an address and not from the hub of Hugging Face.
    config = timm.models.get_pretrained_cfg("gcvit_tiny.in1k")
    (folder / config.url.rpartition("/")[2]).touch()
    assert on_disk() == {"torchvision:resnet18:IMAGENET1K_V1", "timm:gcvit_tiny.in1k"}


def test_sees_whole_files_in_the_hugging_face_cache(disk: Path) -> None:
    blobs = disk / "hub/models--timm--resnet18.a1_in1k/blobs"
    snapshot = disk / "hub/models--timm--resnet18.a1_in1k/snapshots/0123abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").touch()
    (snapshot / "model.safetensors").symlink_to(blobs / "cut-short")
    assert on_disk() == set()
    (blobs / "cut-short").touch()
    assert on_disk() == {"timm:resnet18.a1_in1k"}


@pytest.mark.parametrize(
    ("pattern", "found", "not_found"),
    [
        ("resnet18", ["torchvision:resnet18:IMAGENET1K_V1", "timm:resnet18.a1_in1k"], ["timm:resnet34.a1_in1k"]),
        ("timm:resnet*", ["timm:resnet18.a1_in1k"], ["timm:seresnet50.a1_in1k", "torchvision:resnet18:IMAGENET1K_V1"]),
        ("resnet*", ["timm:resnet18.a1_in1k", "torchvision:resnet18:IMAGENET1K_V1"], ["timm:seresnet50.a1_in1k"]),
        ("*:IMAGENET1K_V2", ["torchvision:resnet50:IMAGENET1K_V2"], ["torchvision:resnet50:IMAGENET1K_V1"]),
        ("LITE1", ["efficientnet_lite1", "timm:tf_efficientnet_lite1.in1k"], ["efficientnet_lite0"]),
        ("efficientnet_lite?", ["efficientnet_lite2"], ["timm:tf_efficientnet_lite1.in1k"]),
    ],
)
def test_finds_by_a_part_or_a_pattern(pattern: str, found: list[str], not_found: list[str]) -> None:
    names = {row.name for row in matching(pattern, everything())}
    assert names >= set(found)
    assert not names & set(not_found)


@pytest.mark.parametrize(
    ("pattern", "fix"), [("resent50", "did you mean resnet50"), ("timm:convnxt*", "convnext"), ("", "'timm:")]
)
def test_says_what_may_have_been_meant(pattern: str, fix: str) -> None:
    with pytest.raises(UsageError) as error:
        matching(pattern, everything())
    assert fix in error.value.fix


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("torchvision:resnet50", "torchvision:resnet50:IMAGENET1K_V2"),
        ("torchvision:resnet50:DEFAULT", "torchvision:resnet50:IMAGENET1K_V2"),
        ("torchvision:resnet50:IMAGENET1K_V1", "torchvision:resnet50:IMAGENET1K_V1"),
        ("torchvision:resnet50:IMAGENET1K_V3", None),
        ("timm:resnet50", "timm:resnet50.a1_in1k"),
        ("timm:resnet50.a2_in1k", "timm:resnet50.a2_in1k"),
        ("timm:resnet50.a1", None),
        ("timm:resent50", None),
        ("efficientnet_lite0", None),
        ("hub:folder:entry", None),
    ],
)
def test_knows_what_a_name_stands_for(spec: str, name: str | None) -> None:
    row = published(spec)
    assert (row.name if row else None) == name


@pytest.mark.parametrize(
    ("spec", "top1"),
    [
        ("efficientnet_lite0", 75.1),
        ("torchvision:resnet18", 69.758),
        ("torchvision:vit_b_16:IMAGENET1K_SWAG_E2E_V1", 85.304),
        ("timm:resnet50", None),
        ("torchvision:nonsense", None),
        ("nonsense", None),
    ],
)
def test_states_the_accuracy_on_imagenet(spec: str, top1: float | None) -> None:
    assert imagenet_top1(spec) == top1


def test_command_without_a_pattern_shows_what_is_there(
    disk: Path, no_network_is_built: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = disk / "torch/hub/checkpoints"
    folder.mkdir(parents=True)
    (folder / "resnet18-f37072fd.pth").touch()
    assert main(["backbones"]) == 0
    out = capsys.readouterr().out
    names = [line.split()[0] for line in out.splitlines()[2:6]]
    assert names == [*EMBEDDED, "torchvision:resnet18:IMAGENET1K_V1"]
    assert "77.6" in out
    assert "regraft backbones 'timm:resnet*'" in out
    assert f"{len(timm.list_models()):,} networks" in out
    assert max(map(len, out.splitlines())) <= 120


def test_command_with_a_pattern_lists_what_matches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backbones", "torchvision:resnet18"]) == 0
    out = capsys.readouterr().out
    assert "torchvision:resnet18:IMAGENET1K_V1" in out
    assert "46.8 MB" in out
    assert "efficientnet" not in out
    # Of timm neither accuracy nor size is known.
    assert main(["backbones", "timm:resnet18*"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["name", "weights"]


def test_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backbones", "torchvision:resnet50:*", "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["known"] > 1500
    assert [row["name"] for row in fields["backbones"]] == [f"torchvision:resnet50:IMAGENET1K_V{n}" for n in (1, 2)]
    assert fields["backbones"][1] == {
        "name": "torchvision:resnet50:IMAGENET1K_V2",
        "library": "torchvision",
        "weights": "IMAGENET1K_V2",
        "default": True,
        "on_disk": False,
        "imagenet_top1": 80.858,
        "parameters": 25_557_032,
        "bytes": pytest.approx(102.5e6, rel=1e-3),
    }


def test_command_refuses_a_pattern_that_nothing_matches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backbones", "resent50"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "resnet50" in printed.err
