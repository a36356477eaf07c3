"""What is drawn for an image follows from its seed alone; images keep their shape, and what does not move stays exact."""

import io
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from regraft.data.augment import NAMES, augmentation, describe
from regraft.data.contact import contact_sheet
from regraft.errors import UsageError

DRAWN = tuple(name for name in NAMES if name != "none")


def name_of(value: object) -> str:
    """The same in every process: functions have addresses in their texts, and tensors are long."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return str(getattr(value, "__name__", type(value).__name__)) if callable(value) else str(value)


def images(count: int = 12, height: int = 20, width: int = 31, channels: int = 3) -> Tensor:
    rng = np.random.default_rng((count, height, width, channels))
    return torch.from_numpy(rng.integers(0, 256, (count, height, width, channels), np.uint8))


def seeds(count: int, epoch: int = 0) -> list[tuple[int, ...]]:
    return [(7, 4, epoch, image) for image in range(count)]


def own() -> Callable[[Tensor], Tensor]:
    return v2.Compose([v2.RandomHorizontalFlip(), v2.ColorJitter(0.3, 0.3), v2.RandomResizedCrop((20, 31), antialias=True)])


def drawing_everywhere(image: Tensor) -> Tensor:
    """Draws from all three global generators."""
    noise = torch.rand(()) * 90 + random.random() * 90 + np.random.random() * 60  # noqa: NPY002
    return torch.full_like(image, int(noise))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("how", [*NAMES, own(), drawing_everywhere], ids=name_of)
def test_batches_and_their_order_change_nothing(how: str | Callable[[Tensor], Tensor], channels: int) -> None:
    if channels == 4 and isinstance(how, v2.Compose):
        pytest.skip("torchvision's colour jitter takes no alpha")
    augment, given = augmentation(how), images(40, channels=channels)
    whole = augment(given, seeds(40))
    assert (whole.shape, whole.dtype) == (given.shape, torch.uint8)
    assert torch.equal(augment(given, seeds(40)), whole)
    backwards = augment(given.flip(0), seeds(40)[::-1]).flip(0)
    assert torch.equal(backwards, whole)
    parts = [augment(given[i : i + 7], seeds(40)[i : i + 7]) for i in range(0, 40, 7)]
    assert torch.equal(torch.cat(parts), whole)
    alone = torch.cat([augment(given[i : i + 1], seeds(40)[i : i + 1]) for i in range(40)])
    assert torch.equal(alone, whole)


@pytest.mark.parametrize("how", [*DRAWN, drawing_everywhere], ids=name_of)
def test_epochs_differ(how: str | Callable[[Tensor], Tensor]) -> None:
    given, augment = images(), augmentation(how)
    assert not torch.equal(augment(given, seeds(12, epoch=0)), augment(given, seeds(12, epoch=1)))


def darkening(image: Tensor) -> Tensor:
    return image.zero_()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("how", [*NAMES, darkening], ids=name_of)
def test_the_argument_stays_as_it_is(how: str | Callable[[Tensor], Tensor], channels: int) -> None:
    given = images(30, channels=channels)
    before = given.clone()
    changed = augmentation(how)(given, seeds(30))
    if how != "none":
        changed.zero_()
    assert torch.equal(given, before)


def test_none_gives_back_what_it_got() -> None:
    given = images()
    assert augmentation("none")(given, seeds(12)) is given


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (1, 40), (224, 3)])
@pytest.mark.parametrize("how", DRAWN)
def test_any_size_works(how: str, shape: tuple[int, int]) -> None:
    given = images(30, *shape)
    assert augmentation(how)(given, seeds(30)).shape == given.shape


def test_no_images_are_none() -> None:
    assert [len(augmentation(how)(images(0), [])) for how in (*NAMES, own())] == [0] * 7


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_half_is_mirrored_exactly_and_the_rest_as_it_was(channels: int) -> None:
    given = images(400, 8, 9, channels)
    changed = augmentation("flip")(given, seeds(400))
    same = (changed == given).flatten(1).all(1)
    mirrored = (changed == given.flip(2)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 160 <= int(mirrored.sum()) <= 240  # four deviations


@pytest.mark.parametrize("how", ["light", "rotate", "strong"])
def test_plain_images_stay_plain(how: str) -> None:
    """Nothing is filled in at the borders: they are reflected."""
    given = torch.full((60, 24, 24, 4), 128, dtype=torch.uint8)
    alpha = augmentation(how)(given, seeds(60))[..., 3]
    assert bool((alpha == 128).all())


def gradient(count: int, side: int) -> Tensor:
    """Alpha is a slope from left to right from 50 to 200, which no change of colours touches; the rest is middle grey."""
    given = torch.full((count, side, side, 4), 128, dtype=torch.uint8)
    given[..., 3] = torch.linspace(50, 200, side).round().to(torch.uint8)
    return given


def test_crops_stay_inside_and_show_the_share_they_say() -> None:
    alpha = augmentation("light")(gradient(400, 64), seeds(400))[..., 3].to(torch.int64)
    assert int(alpha.min()) >= 50
    assert int(alpha.max()) <= 200
    assert 160 <= int((alpha[:, 0, -1] < alpha[:, 0, 0]).sum()) <= 240  # mirrored: four deviations
    # Rows are alike, for nothing is turned; how much of the slope is seen is the width of the crop.
    assert int((alpha - alpha[:, :1]).abs().max()) == 0
    shown = (alpha[:, 0, -1] - alpha[:, 0, 0]).abs() / 150
    assert float(shown.min()) > (0.7 * 0.9) ** 0.5 - 0.02
    assert float(shown.min()) < 0.85
    assert float(shown.max()) > 0.98


def test_tone_changes_by_as_much_as_it_says() -> None:
    given = torch.full((400, 4, 4, 1), 120, dtype=torch.uint8)
    changed = augmentation("light")(given, seeds(400)).float() / 120
    assert 0.84 < float(changed.min()) < 0.87
    assert 1.13 < float(changed.max()) < 1.16


def test_rotation_moves_the_corners() -> None:
    """Rows of the slope are no longer alike where an image is turned, and at most by 20 degrees."""
    alpha = augmentation("rotate")(gradient(200, 64), seeds(200))[:, :, 32, 3].to(torch.int64)
    tilts = (alpha[:, 42] - alpha[:, 22]).abs() / 20 / (150 / 64)
    assert float((tilts > 0.05).float().mean()) > 0.6
    assert float(tilts.max()) <= np.sin(np.radians(20)) + 0.05


@pytest.mark.parametrize("how", ["trivial", "strong"])
def test_operations_change_most_images_and_leave_alpha_of_colours_alone(how: str) -> None:
    given = images(200, 16, 16, 4)
    changed = augmentation(how)(given, seeds(200))
    assert float((changed == given).flatten(1).all(1).float().mean()) < 0.1
    if how == "trivial":
        # 9 of 14 operations do not move anything, and then alpha is as it was or mirrored.
        alpha, before = changed[..., 3], given[..., 3]
        still = (alpha == before).flatten(1).all(1) | (alpha == before.flip(2)).flatten(1).all(1)
        assert 0.5 < float(still.float().mean()) < 0.8


def test_a_quarter_has_a_part_erased() -> None:
    given = torch.full((400, 24, 24, 3), 128, dtype=torch.uint8)
    changed = augmentation("strong")(given, seeds(400))
    # Whatever else is done to a plain image leaves it plain.
    holes = (changed != changed.flatten(1, 2).mode(1).values[:, None, None]).any(-1).float().mean((1, 2))
    assert 0.17 < float((holes > 0).float().mean()) < 0.34
    assert float(holes.max()) < 0.4


@pytest.mark.parametrize("how", [own(), drawing_everywhere, "strong"], ids=name_of)
def test_global_randomness_is_left_alone(how: str | Callable[[Tensor], Tensor]) -> None:
    def drawn() -> tuple[float, float, float]:
        return float(torch.rand(())), random.random(), float(np.random.random())  # noqa: NPY002

    def seed() -> None:
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002

    seed()
    expected = drawn()
    seed()
    augmentation(how)(images(), seeds(12))
    assert drawn() == expected


def test_floats_of_a_transform_are_pixels() -> None:
    given = images()
    assert torch.equal(augmentation(v2.ToDtype(torch.float32, scale=True))(given, seeds(12)), given)


def failing(image: Tensor) -> Tensor:
    raise KeyError("no such layer")


@pytest.mark.parametrize(
    ("transform", "got"),
    [
        (v2.CenterCrop(16), "(3, 16, 16)"),
        (v2.Grayscale(), "(1, 20, 31)"),
        (v2.ToPILImage(), "a Image"),
        (lambda image: image.to(torch.int64), "int64"),
        (v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)]), "values from -2 to 2"),
        (lambda image: image / 255 * torch.nan, "values from nan to nan"),
        (failing, "KeyError: 'no such layer'"),
    ],
)
def test_transforms_that_give_something_else_are_told(transform: Callable[[Tensor], object], got: str) -> None:
    state = torch.get_rng_state()
    with pytest.raises(UsageError) as caught:
        augmentation(transform)(images(), seeds(12))
    assert got in caught.value.got
    assert "(3, 20, 31)" in caught.value.expected
    assert torch.equal(torch.get_rng_state(), state)


def test_a_transform_that_breaks_is_told_by_its_own_line() -> None:
    with pytest.raises(UsageError) as caught:
        augmentation(failing)(images(), seeds(12))
    line = failing.__code__.co_firstlineno + 1
    assert f"line {line} of {__file__}" in caught.value.got
    assert "normalis" not in caught.value.fix


def test_a_library_s_transform_that_breaks_on_what_it_is_given_is_told_what_to_leave_out() -> None:
    with pytest.raises(UsageError, match="leave normalising") as caught:
        augmentation(v2.Normalize([0.5] * 3, [0.25] * 3))(images(), seeds(12))
    assert "site-packages" not in caught.value.got


def test_unknown_names_are_told() -> None:
    with pytest.raises(UsageError, match="did you mean rotate") as caught:
        augmentation("rotated")
    assert all(name in caught.value.expected for name in NAMES)
    with pytest.raises(UsageError, match="choose one of them"):
        describe("zzz")
    with pytest.raises(UsageError, match="got 5"):
        augmentation(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "count"), [(images().float(), 12), (images(), 11), (images()[0], 12), (images(channels=2), 12)], ids=name_of
)
@pytest.mark.parametrize("how", ["none", "light", own()], ids=name_of)
def test_other_arguments_are_told(how: str | Callable[[Tensor], Tensor], given: Tensor, count: int) -> None:
    with pytest.raises(UsageError):
        augmentation(how)(given, seeds(count))


def test_describes_each_in_words() -> None:
    assert describe("none") == "none: images as they are"
    assert describe("light").startswith("light: mirrored, crops of 70 to 100 % of the area")
    assert describe(drawing_everywhere) == "drawing_everywhere: a transform of your own"
    assert len({describe(name) for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize(
    ("side", "shown"), [((28, 28), (84, 84)), ((224, 112), (96, 48)), ((64, 60), (64, 60)), ((1, 900), (1, 96))]
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_contact_sheets_are_grids(side: tuple[int, int], shown: tuple[int, int], channels: int) -> None:
    pixels = images(6, *side, channels).numpy()
    sheet = contact_sheet([[image] * 6 for image in pixels[:3]] + [[pixels[3]]])
    with Image.open(io.BytesIO(sheet)) as image:
        image.load()
        assert (image.format, image.mode) == ("PNG", "RGB")
        assert image.size == (6 * shown[1] + 5 * 4, 4 * shown[0] + 3 * 4)
        assert image.getpixel((image.width - 1, image.height - 1)) == (255, 255, 255)


def test_contact_sheets_show_the_pixels() -> None:
    pixels = images(2, 28, 28).numpy()
    clear = np.dstack([pixels[1], np.zeros((28, 28), np.uint8)])
    with Image.open(io.BytesIO(contact_sheet([[pixels[0], clear]]))) as image:
        shown = np.asarray(image)
    assert np.array_equal(shown[:84:3, :84:3], pixels[0])
    assert (shown[:, 84:] == 255).all()


@pytest.mark.parametrize(
    "rows", [[], [[]], [[np.zeros((4, 4), np.uint8)]], [[np.zeros((4, 4, 3))]], [[np.zeros((4, 4, 2), np.uint8)]]]
)
def test_contact_sheets_of_nothing_are_refused(rows: list[list[np.ndarray]]) -> None:
    with pytest.raises(UsageError):
        contact_sheet(rows)
