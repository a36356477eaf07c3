"""Heads found by evidence: what the author declares, what tracing or a dry run shows, what the user names."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from regraft.backbone.attach import HeadWeights, attach_head, fresh_heads
from regraft.backbone.boundary import boundaries_of, boundary_for, cut
from regraft.backbone.describe import describe
from regraft.backbone.features import Features
from regraft.backbone.load import load_backbone
from regraft.backbone.model import Architecture, Backbone
from regraft.backbone.source import Source
from regraft.data.preprocess import Preprocess
from regraft.errors import BackboneNotFound, HeadNotFound, UsageError

CLASSES = 4


def described(module: nn.Module, *, side: int = 16, head_path: str | None = None) -> Backbone:
    pre = Preprocess(height=side, width=side, mean=(0.5,) * 3, std=(0.5,) * 3)
    source = Source(
        module=module,
        architecture=Architecture(source="python", name="Net"),
        preprocess=pre,
        categories=None,
        weights="none",
    )
    return describe(source, head_path=head_path)


class Net(nn.Module):
    """Two convolutions and a linear layer; what comes after it is for its children to say."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())
        self.last = nn.Linear(8, CLASSES)

    def pooled(self, images: Tensor) -> Tensor:
        return self.body(self.stem(images)).mean((2, 3))  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Any:
        return self.last(self.pooled(images))


class ByName(Net):
    def forward(self, images: Tensor) -> Any:
        return {"logits": super().forward(images), "features": images}


class Pair(Net):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images), images


class Map(Net):
    def forward(self, images: Tensor) -> Any:
        return self.body(self.stem(images))


class WithSoftmax(Net):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images).softmax(1)


class Branching(Net):
    """Cannot be traced: what it does depends on values."""

    def forward(self, images: Tensor) -> Any:
        return super().forward(images if images.mean() > -9 else -images)


class BranchingSoftmax(Branching):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images).softmax(1)


class NoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Any:
        return images.mean((2, 3)) * self.scale


class ThreeBranches(Net):
    """Logits that are put together out of two layers, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Any:
        pooled = self.pooled(images)
        return torch.cat([self.last(pooled), self.other(pooled)], dim=1)


def test_who_found_it_is_said() -> None:
    by = {
        spec: load_backbone(spec, weights="none", size=size).head.found_by
        for spec, size in {"timm:convnext_atto": 32, "torchvision:resnet18": 32}.items()
    }
    assert by["timm:convnext_atto"].startswith("its author")
    assert by["torchvision:resnet18"].startswith("the traced forward pass")
    assert described(Branching()).head.found_by.startswith("a dry run")
    assert described(Net(), head_path="last").head.found_by.startswith("you")


@pytest.mark.parametrize(("kind", "words"), [(ByName, "dictionary with logits"), (Pair, "tuple of 2"), (Map, r"shape \(1, 8")])
def test_an_output_that_is_not_logits_is_told_with_the_cure(kind: type[Net], words: str) -> None:
    with pytest.raises(BackboneNotFound, match=words) as error:
        described(kind())
    assert "wrap it in a module" in error.value.fix


def test_a_network_without_layers_has_no_head() -> None:
    with pytest.raises(HeadNotFound, match="none in its forward pass"):
        described(NoLayers())


def test_logits_put_together_from_two_layers_are_not_guessed_at() -> None:
    with pytest.raises(HeadNotFound, match="2 candidates: last, other"):
        described(ThreeBranches())
    chosen = described(ThreeBranches(), head_path="other")
    assert (chosen.head.path, chosen.head.is_output) == ("other", False)


@pytest.mark.parametrize("network", [Net, Branching])
def test_a_head_path_that_names_nothing_says_what_was_meant(network: type[Net]) -> None:
    with pytest.raises(UsageError, match="last") as error:
        described(network(), head_path="lost")
    assert "did you mean" in error.value.fix


def test_two_heads_that_are_averaged_share_the_output_evenly() -> None:
    backbone = load_backbone("timm:deit_tiny_distilled_patch16_224", weights="none")
    assert [(head.path, head.share, head.is_output) for head in backbone.main_heads] == [
        ("head", 0.5, True),
        ("head_dist", 0.5, True),
    ]


def test_auxiliary_heads_are_found_and_made_new_too() -> None:
    backbone = load_backbone("torchvision:googlenet", weights="none", size=64)
    assert [head.path for head in backbone.auxiliary_heads] == ["aux1.fc2", "aux2.fc2"]
    module = fresh_heads(backbone, CLASSES).train()
    assert [output.shape[1] for output in module(torch.randn(2, 3, 64, 64))] == [CLASSES] * 3


def test_what_follows_the_head_is_seen() -> None:
    assert described(Net()).head.is_output
    assert not described(WithSoftmax()).head.is_output
    assert not load_backbone("torchvision:squeezenet1_1", weights="none", size=64).head.is_output
    assert described(Branching()).head.is_output
    assert not described(BranchingSoftmax()).head.is_output


@pytest.mark.parametrize("network", [Net, WithSoftmax, Branching, BranchingSoftmax])
def test_a_solved_head_gives_its_own_logits_whatever_the_network_did_with_them(network: type[Net]) -> None:
    backbone, images = described(network()), torch.randn(3, 3, 16, 16)
    head = HeadWeights(taps=(), weight_KD=torch.randn(2, 8).numpy(), bias_K=torch.randn(2).numpy())
    with torch.inference_mode():
        expected = Features(backbone, ())(images) @ torch.from_numpy(head.weight_KD).T + torch.from_numpy(head.bias_K)
        assert torch.allclose(attach_head(backbone, head)(images), expected, atol=1e-6)


def test_a_network_that_cannot_be_traced_is_cut_before_its_head_and_says_so() -> None:
    backbone, images = described(Branching()), torch.randn(3, 3, 16, 16)
    assert any("cannot be traced" in note for note in backbone.notes)
    assert [place.name for place in boundaries_of(backbone)] == ["pixels", "head"]
    with torch.inference_mode():
        for place in boundaries_of(backbone):
            parts = cut(backbone, place)
            assert torch.equal(parts.suffix.eval()(*parts.prefix(images)), backbone.module(images))
    with pytest.raises(UsageError, match="number of stages"):
        boundary_for(backbone, "partial:1")


def test_an_untraceable_network_that_goes_on_after_its_head_cannot_be_cut_there() -> None:
    backbone = described(BranchingSoftmax())
    with pytest.raises(UsageError, match="cannot be traced"):
        cut(backbone, boundary_for(backbone, "head"))


def test_a_recorded_branch_is_not_trusted() -> None:
    """Torch.fx records a branch on a Python value as it went once; the answer shows it."""

    class Counting(Net):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, images: Tensor) -> Any:
            self.calls += 1
            return super().forward(images) * self.calls

    assert described(Counting()).graph is None


def test_what_else_a_network_returns_in_train_mode_is_no_head() -> None:
    """A reconstruction, or an embedding of another width, makes no logits."""

    class Decoding(Net):
        def __init__(self) -> None:
            super().__init__()
            self.decoder, self.embedding = nn.ConvTranspose2d(8, 3, 3), nn.Linear(8, 7)

        def forward(self, images: Tensor) -> Any:
            pooled = self.pooled(images)
            if not self.training:
                return self.last(pooled)
            return self.last(pooled), self.decoder(self.stem(images)), self.embedding(pooled)

    assert [head.path for head in described(Decoding()).heads] == ["last"]


def test_a_network_that_has_no_answer_to_an_empty_image_is_traced_all_the_same() -> None:
    class Standardising(Net):
        def forward(self, images: Tensor) -> Any:
            return super().forward((images - images.mean((1, 2, 3), keepdim=True)) / images.std((1, 2, 3), keepdim=True))

    assert described(Standardising()).graph is not None


def test_a_map_with_as_many_channels_as_rows_is_not_guessed_at() -> None:
    module = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES)
    )
    pre = Preprocess(height=64, width=128, mean=(0.5,) * 3, std=(0.5,) * 3)
    source = Source(
        module=module, architecture=Architecture(source="python", name="Net"), preprocess=pre, categories=None, weights="none"
    )
    with pytest.raises(BackboneNotFound, match="told from their rows"):
        describe(source)
