"""Explanations: the evidence lies where it is known to lie, adds up where it must, and comes for every network."""

import io
import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from regraft.backbone.attach import HeadWeights
from regraft.backbone.features import Features, FromPixels, later_stages
from regraft.backbone.load import load_backbone
from regraft.cli.main import main
from regraft.errors import OutputExists, UnknownClass, UsageError
from regraft.evaluate import Mistake
from regraft.evidence.explain import explain, heat_of
from regraft.evidence.files import check_folder, picture_name, write_picture
from regraft.evidence.measure import grad_cam, summed
from regraft.evidence.method import method_for
from regraft.evidence.mistaken import mistake_overlays, wrong_answer
from regraft.evidence.overlay import coloured, overlay
from regraft.evidence.watched import watched
from regraft.fitted import Fitted, pretrained
from regraft.recipe import Own
from regraft.row_table import table_rows, write_table
from regraft.rows import CsvRows, JsonRows
from regraft.train.chance import seeded
from regraft.train.own_head import OwnHead
from regraft.values import Explanation, Prediction

SIDE, SQUARE = 48, 18
COLOURS = {"red": (200, 40, 40), "blue": (40, 40, 200)}


@pytest.fixture(scope="module")
def photos() -> list[Path]:
    spec = find_spec("foolbox")
    assert spec is not None
    assert spec.origin is not None
    return sorted((Path(spec.origin).parent / "data").glob("imagenet_*.jpg"))


@pytest.fixture(scope="module")
def lite0() -> Fitted:
    return pretrained("efficientnet_lite0")


# A problem whose evidence has a known place: a red and a blue square are labels of their own, a green one says nothing. That
# both may be there, or neither, keeps a network from telling one by the absence of the other.


def squares(
    count: int, seed: int, *, shown: float = 0.5, side: int = SIDE
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Noise with squares: images (N, H, W, 3), what is on them (N, 2), and of one label each, there with the chance `shown`,
    its number (N,) and the top and left of its square (N, 2)."""
    chance, square = np.random.default_rng(seed), side * SQUARE // SIDE
    images = chance.normal(120, 30, (count, side, side, 3))
    there, asked = chance.random((count, 2)) < 0.5, chance.integers(0, 2, count)
    there[np.arange(count), asked] = chance.random(count) < shown
    corners = chance.integers(0, side - square + 1, (count, 3, 2))
    colours = np.array([*COLOURS.values(), (40, 160, 40)])
    for image, on, number, corner in zip(images, there, asked, corners, strict=True):
        # The one that is asked for lies on top.
        for one in (2, 1 - number, number):
            if one == 2 or on[one]:
                top, left = corner[one]
                image[top : top + square, left : left + square] = colours[one]
    return np.clip(images, 0, 255).astype(np.uint8), there, asked, corners[np.arange(count), asked]


def in_square(heat_HW: NDArray[np.float32], corner: NDArray[np.int64]) -> bool:
    """Whether the place of most evidence lies in the square that decides."""
    y, x = np.unravel_index(int(np.argmax(heat_HW)), heat_HW.shape)
    (top, left), square = corner, heat_HW.shape[0] * SQUARE // SIDE
    return bool(top <= y < top + square and left <= x < left + square)


def saved(images: NDArray[np.uint8], folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number:03}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def learn(network: nn.Module, *, steps: int) -> nn.Module:
    """Trained on the squares until it has them right."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    network.train()
    for step in range(steps):
        images, there, _, _ = squares(32, step)
        loss = nn.functional.binary_cross_entropy_with_logits(network(normalised(images)), torch.from_numpy(there).float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def normalised(images: NDArray[np.uint8]) -> Tensor:
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25


def fitted_to(network: nn.Module, classes: Sequence[str] = tuple(COLOURS), side: int = SIDE) -> Fitted:
    own = Own(module=network, input_shape=(3, side, side), mean=(0.5,) * 3, std=(0.25,) * 3)
    backbone = load_backbone(own)
    # The whole image: nothing is cropped away.
    backbone = replace(backbone, preprocess=replace(backbone.preprocess, fit="squash"))
    return Fitted(backbone=backbone, head=None, classes=tuple(classes), multi_label=True)


def vit(registers: int = 0) -> nn.Module:
    return VisionTransformer(
        img_size=SIDE, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=2, reg_tokens=registers
    )


def swin() -> nn.Module:
    return SwinTransformer(
        img_size=SIDE, patch_size=4, embed_dim=16, depths=(1, 1), num_heads=(1, 2), window_size=6, num_classes=2
    )


def strided() -> nn.Module:
    """A last map of 3 x 3 places."""
    widths = (3, 16, 32, 32, 32)
    layers = [
        nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU(inplace=True)) for a, b in itertools.pairwise(widths)
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2))


class Vgg(nn.Sequential):
    """Convolutions, and hidden layers that read every place by itself."""

    def __init__(self) -> None:
        blocks = [
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2))
            for a, b in ((3, 16), (16, 32), (32, 32))
        ]
        super().__init__(*blocks, nn.Flatten(), nn.Linear(32 * 36, 32), nn.ReLU(inplace=True), nn.Linear(32, 2))


class Branching(nn.Module):
    """A network that cannot be recorded, since its forward pass looks at values; `blind`: and keeps no gradients."""

    def __init__(self, *, blind: bool = False) -> None:
        super().__init__()
        self.blind = blind
        self.features = nn.Sequential(nn.Conv2d(3, 16, 5, 4), nn.ReLU(), nn.Conv2d(16, 16, 3, 2), nn.ReLU())
        self.fc = nn.Linear(16, 2)

    def forward(self, images: Tensor) -> Tensor:
        value = self.features(images).amax(dim=(2, 3))
        if value.sum() > 1e9:
            value = value / 2
        return self.fc(value.detach() if self.blind and not self.training else value)


IG = "integrated gradients"
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, str]] = {
    "vit": (vit, 90, IG),
    "vit with registers": (lambda: vit(4), 90, IG),
    "swin": (swin, 100, IG),
    "few places": (strided, 80, IG),
    "vgg": (Vgg, 50, "Grad-CAM"),
    "not recorded": (Branching, 100, IG),
    "without gradients": (lambda: Branching(blind=True), 100, "occlusion"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_evidence_lies_where_it_is_known_to_lie(name: str, tmp_path: Path) -> None:
    make, steps, method = NETWORKS[name]
    torch.manual_seed(0)
    fitted = fitted_to(learn(make(), steps=steps))
    assert method_for(fitted, "cpu").name == method
    images, there, asked, corners = squares(20, 10_000, shown=1)
    found = list(explain(fitted, saved(images, tmp_path), of=[fitted.classes[k] for k in asked]))
    assert [one.of for one in found] == [fitted.classes[k] for k in asked]
    right = [{label for label, share in one.prediction.top if share > 0.5} for one in found]
    learned = [row for row, labels in enumerate(right) if labels == {fitted.classes[k] for k in np.flatnonzero(there[row])}]
    assert len(learned) >= 15
    hits = [in_square(found[row].heat_HW, corners[row]) for row in learned]
    assert np.mean(hits) >= 0.85


@pytest.mark.parametrize(
    ("spec", "size", "method"),
    [
        ("torchvision:resnet18", 160, "Grad-CAM"),
        ("torchvision:resnet18", 64, IG),
        ("torchvision:squeezenet1_1", 128, "Grad-CAM"),
        ("torchvision:densenet121", 160, "Grad-CAM"),
        ("timm:vit_tiny_patch16_224", 224, IG),
    ],
)
def test_every_kind_of_network_is_explained(spec: str, size: int, method: str, tmp_path: Path) -> None:
    with seeded(0):
        backbone = load_backbone(spec, weights="none", size=size)
    fitted = Fitted(backbone=backbone, head=None, classes=tuple(f"class {k}" for k in range(1000)))
    assert method_for(fitted, "cpu").name == method
    paths = saved(squares(2, 3, side=size)[0], tmp_path)
    for one, other in zip(explain(fitted, paths), fitted.predict(paths), strict=True):
        assert one.heat_HW.shape == (size, size)
        assert one.heat_HW.min() >= 0
        assert one.heat_HW.max() == 1
        assert one.heat_HW.std() > 0.05
        assert dict(one.prediction.top) == pytest.approx(dict(other.top), abs=1e-5)


def test_a_head_on_several_stages_is_explained_by_all_of_them(tmp_path: Path) -> None:
    fitted, _ = on_stages(side=160)
    network = watched(fitted)
    assert network is not None
    images, _, asked, corners = squares(16, 20_000, shown=1, side=160)
    paths = saved(images, tmp_path)
    found = list(explain(fitted, paths, of=[fitted.classes[k] for k in asked]))
    # By the last map alone it is six in ten.
    assert np.mean([in_square(one.heat_HW, corner) for one, corner in zip(found, corners, strict=True)]) >= 0.75
    plain = fitted.predict(paths)
    for one, other in zip(found, plain, strict=True):
        assert dict(one.prediction.top) == pytest.approx(dict(other.top), abs=1e-5)


def test_what_the_places_say_adds_up_to_the_logit() -> None:
    """Zhou et al. 2016: for a linear head on averaged maps each place's part of the logit is known, and Grad-CAM is it."""
    fitted, bias_K = on_stages(side=160, largest=False)
    network = watched(fitted)
    assert network is not None
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits_NK = fitted.to_torch()(images)
        maps = network.before(images)
        torch.testing.assert_close(network(images), logits_NK)
    assert len(maps) == 6
    evidence = grad_cam(network, maps, torch.tensor([0, 1]), (5, 5)).sum(dim=(1, 2)).detach()
    assert evidence.numpy() + bias_K == pytest.approx(logits_NK.diag().numpy(), abs=1e-3)


def test_evidence_of_finer_maps_goes_to_the_place_that_holds_it() -> None:
    coarse, fine = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 4, 4)
    coarse[0, 0, 0, 1], fine[0, 0, 3, 2:] = 1, 0.5
    torch.testing.assert_close(summed([coarse, fine])[0, 0], torch.tensor([[0.0, 1.0], [0.0, 1.0]]))


def test_hiding_the_evidence_lowers_the_logit_more_than_hiding_as_much_anywhere(lite0: Fitted, photos: list[Path]) -> None:
    """The deletion test of Petsiuk et al. 2018, at one size: a fifth of the image in its mean colour."""
    network, chance, gains = lite0.to_torch(), np.random.default_rng(0), []
    normalise = FromPixels(nn.Identity(), lite0.backbone.preprocess)
    for one in explain(lite0, photos):
        anywhere = [np.kron(chance.permutation(49).reshape(7, 7), np.ones((32, 32))) for _ in range(2)]
        hidden = [without(one.pixels_HWC, order_HW) for order_HW in (one.heat_HW, *anywhere)]
        with torch.no_grad():
            logits = network(normalise(torch.from_numpy(np.stack(hidden))))[:, lite0.classes.index(one.of)]
        gains.append(float(logits[1:].mean() - logits[0]))
    assert np.mean(gains) > 2.5 * np.std(gains, ddof=1) / np.sqrt(len(gains))
    assert np.mean(np.array(gains) > 0) >= 0.7


def test_heat_maps_are_shares_of_the_image_s_shape_and_the_same_every_time(lite0: Fitted, photos: list[Path]) -> None:
    several, again = list(explain(lite0, photos[:3])), list(explain(lite0, photos[:3]))
    alone = next(explain(lite0, [photos[1]], of=several[1].of))
    for one, other in zip(several, again, strict=True):
        assert one.heat_HW.shape == one.pixels_HWC.shape[:2] == (224, 224)
        assert one.heat_HW.dtype == np.float32
        assert (one.heat_HW.min(), one.heat_HW.max()) == (pytest.approx(0, abs=0.2), 1)
        assert np.array_equal(one.heat_HW, other.heat_HW)
    assert alone.heat_HW == pytest.approx(several[1].heat_HW, abs=1e-3)
    assert alone.of == alone.prediction.top[0][0]
    assert alone.probability == pytest.approx(alone.prediction.top[0][1])
    assert next(explain(lite0, [photos[1]], of="beaver")).probability < 0.1


def test_both_sides_of_an_image_are_explained_where_both_were_asked(lite0: Fitted, photos: list[Path], tmp_path: Path) -> None:
    turned = tmp_path / "turned.png"
    first = next(explain(lite0, photos[:1]))
    Image.fromarray(first.pixels_HWC).save(tmp_path / "as-seen.png")
    Image.fromarray(np.ascontiguousarray(first.pixels_HWC[:, ::-1])).save(turned)
    whole = replace(lite0.backbone, preprocess=replace(lite0.backbone.preprocess, fit="squash"))
    one, other = explain(replace(lite0, backbone=whole, mirrored=True), [tmp_path / "as-seen.png", turned])
    assert other.heat_HW[:, ::-1] == pytest.approx(one.heat_HW, abs=1e-3)
    assert one.heat_HW != pytest.approx(first.heat_HW, abs=1e-3)


def test_images_that_fail_are_told_and_the_others_come(lite0: Fitted, photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    bad, good, missing = explain(lite0, [tmp_path / "text.jpg", photos[0], tmp_path / "missing.jpg"])
    assert [one.prediction.status for one in (bad, good, missing)] == ["failed", "ok", "failed"]
    assert [one.prediction for one in (bad, good, missing)] == lite0.predict(
        [tmp_path / "text.jpg", photos[0], tmp_path / "missing.jpg"]
    )
    assert bad.heat_HW.size == 0


def test_a_class_that_is_none_is_an_error_for_a_person(lite0: Fitted, photos: list[Path]) -> None:
    with pytest.raises(UnknownClass, match="did you mean beaver"):
        next(explain(lite0, photos[:1], of="beavr"))
    with pytest.raises(UsageError, match="a class for each of 2 images"):
        next(explain(lite0, photos[:2], of=["beaver"]))


def test_a_head_on_a_map_of_its_own_is_explained(tmp_path: Path) -> None:
    backbone = fitted_to(Vgg()).backbone
    stage = next(stage for stage in reversed(backbone.stages) if stage.layout == "map")
    head = OwnHead(module=nn.Conv2d(32, 2, 1), stage=stage.name)
    fitted = Fitted(backbone=backbone, head=head, classes=tuple(COLOURS))
    network = watched(fitted)
    assert network is not None
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(network(images), fitted.to_torch()(images))
        (found,) = network.before(images)
        by_place = head.module(found)[:, 0]
    bias = head.module.bias
    assert bias is not None
    evidence = grad_cam(network, (found,), torch.tensor([0, 0]), (6, 6)).detach()
    torch.testing.assert_close(36 * evidence, by_place.detach() - bias[0].detach(), atol=1e-5, rtol=1e-4)


def test_what_speaks_against_a_class_is_no_evidence() -> None:
    assert heat_of(np.array([[-3.0, 2.0], [4.0, np.nan]], np.float32)).tolist() == [[0, 0.5], [1, 0]]
    assert not heat_of(np.full((2, 2), -1, np.float32)).any()


def test_pictures_are_small_and_show_image_and_evidence() -> None:
    chance = np.random.default_rng(0)
    noise = overlay(explanation(chance.integers(0, 256, (224, 224, 3), np.uint8), chance.random((224, 224))))
    assert len(noise) <= 10_000
    assert Image.open(io.BytesIO(noise)).size == (224, 224)
    heat = np.zeros((32, 48))
    heat[:8, :8] = 1
    for channels in (1, 3, 4):
        picture = Image.open(io.BytesIO(overlay(explanation(np.full((32, 48, channels), 200, np.uint8), heat))))
        assert picture.size == (192, 128)
        hot, cold = picture.getpixel((8, 8)), picture.getpixel((150, 100))
        assert isinstance(hot, tuple)
        assert isinstance(cold, tuple)
        assert hot[0] > hot[2] + 40, "yellow"
        assert max(cold) - min(cold) <= 4, "grey"
    assert Image.open(io.BytesIO(overlay(explanation(np.zeros((300, 600, 3), np.uint8), np.zeros((300, 600)))))).size == (
        224,
        112,
    )


def test_colours_are_those_of_inferno() -> None:
    colormaps = pytest.importorskip("matplotlib").colormaps
    heat = np.linspace(0, 1, 256, dtype=np.float32)[np.newaxis]
    assert coloured(heat)[0] == pytest.approx(255 * colormaps["inferno"](heat[0])[:, :3], abs=7)


def test_mistakes_are_shown_with_the_evidence_for_the_wrong_answer(lite0: Fitted, photos: list[Path]) -> None:
    names = [path.name for path in photos[:3]]
    wrong = [Mistake(name=name, truth=("jeep",), predicted=("beaver",), confidence=0.9) for name in [*names, "gone.jpg"]]
    paths = {path.name: path for path in photos} | {"gone.jpg": Path("gone.jpg")}
    pictures = mistake_overlays(lite0, wrong, paths)
    assert list(pictures) == names
    assert pictures[names[0]] == overlay(next(explain(lite0, photos[:1], of="beaver")))
    assert list(mistake_overlays(lite0, wrong, paths, limit=1)) == names[:1]
    assert mistake_overlays(lite0, wrong, {}) == {}


def test_of_several_labels_the_wrong_one_is_explained() -> None:
    def asked(truth: tuple[str, ...], predicted: tuple[str, ...]) -> str | None:
        return wrong_answer(Mistake(name="", truth=truth, predicted=predicted, confidence=1))

    assert asked(("a",), ("a", "b")) == "b"
    assert asked(("a", "c"), ("c",)) == "a"
    assert asked(("a",), ("b",)) == "b"


def test_names_of_pictures_are_safe_and_each_is_its_own(tmp_path: Path) -> None:
    paths = ["a/x.jpg", "b/x.jpg", "A/x.jpg", "x.png", "..", "=cmd|x.jpg", "ü.jpg", "a\nb.jpg", "caf\udce9.jpg", "y" * 300]
    names = [picture_name(path) for path in paths]
    assert len({name.casefold() for name in names}) == len(paths)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{,80}\.jpg", name) for name in names), names
    assert write_picture(tmp_path / "new", paths[0], b"picture").read_bytes() == b"picture"


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    check_folder(tmp_path / "new" / "deep", keep=False)
    (tmp_path / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(OutputExists, match="something is in it"):
        check_folder(tmp_path, keep=False)
    check_folder(tmp_path, keep=True)
    with pytest.raises(OutputExists, match="a file"):
        check_folder(tmp_path / "mine.jpg", keep=True)


def test_predict_writes_a_picture_for_every_row(
    photos: list[Path], tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.jpg").write_text("no image")
    given = [str(photos[0]), "text.jpg", str(photos[1])]
    command = ["predict", "efficientnet_lite0", *given, "--explain", "evidence", "--json"]
    assert main(command) == 5
    rows = [json.loads(line) for line in capsysbinary.readouterr().out.decode().splitlines()]
    assert [row["path"] for row in rows] == given
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    assert rows[1]["explanation"] is None
    pictures = [rows[0]["explanation"], rows[2]["explanation"]]
    assert sorted(pictures) == sorted(str(path) for path in Path("evidence").iterdir())
    assert all(Image.open(picture).format == "JPEG" for picture in pictures)
    assert main(command) == 2
    assert b"new or empty" in capsysbinary.readouterr().err
    Path("evidence/mine.txt").write_text("mine")
    Path(pictures[0]).write_bytes(b"")
    assert main([*command, "--overwrite"]) == 5
    assert Path("evidence/mine.txt").read_text() == "mine"
    assert Image.open(pictures[0]).format == "JPEG"


def test_a_table_with_pictures_is_gone_on_with(photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["predict", "efficientnet_lite0", "--explain", "evidence", "--out", "rows.parquet"]
    assert main([*command, str(photos[0])]) == 0
    assert main([*command, "--resume", str(photos[0]), str(photos[1])]) == 0
    rows = pq.read_table("rows.parquet").to_pylist()
    assert [row["path"] for row in rows] == [str(path) for path in photos[:2]]
    assert sorted(row["explanation"] for row in rows) == sorted(str(path) for path in Path("evidence").iterdir())
    assert main(["predict", "efficientnet_lite0", "--out", "rows.parquet", "--resume", str(photos[0])]) == 2


def test_rows_with_and_without_pictures_are_not_mixed(tmp_path: Path) -> None:
    row = Prediction(path="a.jpg", status="ok", top=(("cat", 0.5),), explanation="e/a.jpg")
    for explained in (JsonRows(explained=True), CsvRows(1, explained=True)):
        assert explained.decode(explained.encode(row)) == row
    for one, other in ((JsonRows(explained=True), JsonRows()), (CsvRows(1, explained=True), CsvRows(1))):
        for form, encoded in ((one, other.encode(row)), (other, one.encode(row))):
            with pytest.raises(ValueError, match="row"):
                form.decode(encoded)
    write_table(tmp_path / "rows.parquet", [row], 1, explained=True)
    assert list(table_rows(tmp_path / "rows.parquet", explained=True)) == [row]
    with pytest.raises(UsageError):
        list(table_rows(tmp_path / "rows.parquet"))


def explanation(pixels_HWC: NDArray[np.uint8], heat_HW: NDArray[np.float64]) -> Explanation:
    seen = Prediction(path="", status="ok")
    return Explanation(prediction=seen, of="a", probability=1, heat_HW=heat_HW.astype(np.float32), pixels_HWC=pixels_HWC)


def without(pixels_HWC: NDArray[np.uint8], order_HW: NDArray[np.float64] | NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image with the fifth of its places that come last in `order_HW` in its mean colour."""
    hide = order_HW >= np.quantile(order_HW, 0.8)
    return np.where(hide[..., np.newaxis], pixels_HWC.mean(axis=(0, 1)), pixels_HWC).astype(np.uint8)


def on_stages(*, side: int, largest: bool = True) -> tuple[Fitted, NDArray[np.float32]]:
    """Lite0 with a head on the stages, fitted to the squares by ridge regression, and its biases; `largest` False: on means."""
    backbone = load_backbone("efficientnet_lite0", size=side)
    backbone = replace(backbone, preprocess=replace(backbone.preprocess, fit="squash"))
    taps = later_stages(backbone)
    features = Features(backbone, taps)
    images, there, _, _ = squares(48, 1, side=side)
    with torch.no_grad():
        rows = [FromPixels(features, backbone.preprocess)(torch.from_numpy(part)) for part in np.split(images, 3)]
    features_ND = torch.cat(rows).double().numpy()
    if not largest:
        features_ND[:, largest_columns(features)] = 0
    mean_D, scale_D = features_ND.mean(axis=0), features_ND.std(axis=0) + 1e-6
    known_ND, targets_NK = (features_ND - mean_D) / scale_D, there * 2.0 - 1
    dual_NK = np.linalg.solve(known_ND @ known_ND.T + 100 * np.eye(len(known_ND)), targets_NK - targets_NK.mean(axis=0))
    weight_KD = (known_ND.T @ dual_NK).T / scale_D
    if not largest:
        weight_KD[:, largest_columns(features)] = 0
    bias_K = (targets_NK.mean(axis=0) - weight_KD @ mean_D).astype(np.float32)
    head = HeadWeights(taps=taps, weight_KD=weight_KD.astype(np.float32), bias_K=bias_K)
    return Fitted(backbone=backbone, head=head, classes=tuple(COLOURS), multi_label=True), bias_K


def largest_columns(features: Features) -> list[int]:
    """The columns that hold maxima: the second half of each tap's."""
    at, columns = features.columns.last_width, list[int]()
    with torch.no_grad():
        values = features.prefix(torch.zeros(1, 3, 160, 160))[1:]
    for value in values:
        columns += range(at + value.shape[1], at + 2 * value.shape[1])
        at += 2 * value.shape[1]
    return columns
