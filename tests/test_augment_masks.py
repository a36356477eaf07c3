"""Labels move as the pixels of their images do, for the same seed, and are never mixed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from regraft.data.augment import NAMES, augmentation, named
from regraft.data.augment_labels import augment_labels
from regraft.errors import UsageError
from regraft.segments import IGNORE

DRAWN = tuple(name for name in NAMES if name != "none")
LEVELS = torch.tensor([0, 80, 160, 240], dtype=torch.uint8)


def labels(count: int = 24, height: int = 40, width: int = 56) -> Tensor:
    """Blobs of four labels."""
    rng = np.random.default_rng((count, height, width))
    small = torch.from_numpy(rng.integers(0, 4, (count, 1, 4, 4)).astype(np.float32))
    return torch.nn.functional.interpolate(small, (height, width))[:, 0].to(torch.uint8)


def seeds(count: int, epoch: int = 0) -> list[tuple[int, ...]]:
    return [(3, epoch, image) for image in range(count)]


def inner(given: Tensor) -> Tensor:
    """Pixels whose neighbours up to two away all have their label."""
    wide = given[:, None].float()
    high, low = (sign * torch.nn.functional.max_pool2d(sign * wide, 5, 1, 2) for sign in (1, -1))
    return (high == low)[:, 0]


def agree(shown: Tensor, moved: Tensor) -> bool:
    """Whether levels are those of labels, but for a few in corners, where reflections leave slivers less than a pixel wide."""
    return float((shown == LEVELS[moved.long()]).float().mean()) > 0.999


@pytest.mark.parametrize("how", DRAWN)
def test_labels_go_where_the_picture_of_them_goes(how: str) -> None:
    """The picture is the labels as levels far apart, in the channel of alpha, which no change of colours touches."""
    given = labels()
    image = torch.full((*given.shape, 4), 128, dtype=torch.uint8)
    image[..., 3] = LEVELS[given.long()]
    shown = augmentation(how)(image, seeds(24))[..., 3]
    moved = augment_labels(how)(given, seeds(24), 4)
    sure = inner(moved)
    assert float(sure.float().mean()) > 0.4
    assert agree(shown[sure], moved[sure])
    assert not torch.equal(moved, given)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("how", DRAWN)
def test_the_same_for_grey_and_colour_where_only_the_place_changes(how: str, channels: int) -> None:
    ours = named(how)
    assert ours is not None
    given, count = labels(60), 60
    image = LEVELS[given.long()][..., None].expand(-1, -1, -1, channels).contiguous()
    drawn = [ours.draw(seed, 40, 56, channels) for seed in seeds(count)]
    plain = [i for i, one in enumerate(drawn) if not one.painted and one.hole is None]
    shown = replace(ours, tone=0.0)(image, seeds(count))[..., 0]
    moved = augment_labels(how)(given, seeds(count), channels)
    sure = inner(moved)[plain]
    assert len(plain) > 3
    assert agree(shown[plain][sure], moved[plain][sure])


@pytest.mark.parametrize("how", [*NAMES, v2.RandomResizedCrop((40, 56), antialias=True)], ids=str)
def test_batches_and_their_order_change_nothing(how: str) -> None:
    augment, given = augment_labels(how), labels()
    before = given.clone()
    whole = augment(given, seeds(24), 3)
    assert (whole.shape, whole.dtype) == (given.shape, torch.uint8)
    assert torch.equal(augment(given, seeds(24), 3), whole)
    assert torch.equal(augment(given.flip(0), seeds(24)[::-1], 3).flip(0), whole)
    parts = [augment(given[i : i + 5], seeds(24)[i : i + 5], 3) for i in range(0, 24, 5)]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(given, before)


@pytest.mark.parametrize("how", DRAWN)
def test_no_label_comes_in_that_was_not_there(how: str) -> None:
    given = torch.where(labels(40) == 2, IGNORE, 7).to(torch.uint8)
    moved = augment_labels(how)(given, seeds(40), 3)
    assert set(moved.unique().tolist()) <= {7, IGNORE}
    assert augment_labels(how)(given[:0], [], 3).shape == (0, 40, 56)


def test_none_gives_back_what_it_got() -> None:
    given = labels()
    assert augment_labels("none")(given, seeds(24), 3) is given


def test_transforms_of_torchvision_move_both_alike() -> None:
    turn = v2.RandomAffine(30, (0.2, 0.2), (0.7, 1.3), interpolation=v2.InterpolationMode.NEAREST)
    how = v2.Compose([v2.RandomHorizontalFlip(), turn, v2.RandomErasing(p=0.0)])
    given = labels()
    image = LEVELS[given.long()][..., None].expand(-1, -1, -1, 3).contiguous()
    shown = augmentation(how)(image, seeds(24))[..., 0]
    moved = augment_labels(how)(given, seeds(24), 3)
    assert torch.equal(shown, LEVELS[moved.long()])
    assert not torch.equal(moved, given)


def test_colours_changed_in_between_do_not_bring_the_draw_out_of_step() -> None:
    how = v2.Compose([v2.ColorJitter(0.4, 0.4, 0.4), v2.RandomHorizontalFlip(), v2.RandomApply([v2.GaussianBlur(3)])])
    given = labels(40)
    image = given[..., None].mul(80).expand(-1, -1, -1, 3).contiguous()
    shown = augmentation(how)(image, seeds(40))[..., 0].float()
    moved = augment_labels(how)(given, seeds(40), 3)
    mirrored = (moved != given).flatten(1).any(1)
    assert 5 < int(mirrored.sum()) < 35
    for picture, one in zip(shown, moved, strict=True):
        both = torch.stack([picture.flatten(), one.flatten().float(), one.flip(1).flatten().float()])
        _, fits, mirror = torch.corrcoef(both)[0]
        assert fits > mirror


def test_a_fill_for_masks_is_kept() -> None:
    how = v2.RandomAffine((45, 45), fill={tv_tensors.Mask: IGNORE, "others": 0})
    moved = augment_labels(how)(torch.ones((2, 30, 30), dtype=torch.uint8), seeds(2), 3)
    assert set(moved.unique().tolist()) == {1, IGNORE}


def only_images(image: Tensor) -> Tensor:
    return image


def drops_the_mask(*pair: Tensor) -> Tensor:
    return pair[0]


def blurs_the_mask(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return image, mask.float() * 0.5


def shrinks(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return image[..., ::2], mask[..., ::2]


@pytest.mark.parametrize(
    ("how", "got"),
    [
        (only_images, "TypeError"),
        (drops_the_mask, "a "),
        (blurs_the_mask, r"a mask \(1, 40, 56\) of float32"),
        (shrinks, r"a mask \(1, 40, 28\) of uint8"),
    ],
)
def test_transforms_that_know_no_masks_are_refused(how: object, got: str) -> None:
    with pytest.raises(UsageError, match=f"{how.__name__} to move image and mask alike[\\s\\S]*got {got}"):  # type: ignore[attr-defined]
        augment_labels(how)(labels(), seeds(24), 3)  # type: ignore[arg-type]


def test_what_cannot_be_meant() -> None:
    with pytest.raises(UsageError, match="did you mean rotate"):
        augment_labels("rotat")
    with pytest.raises(UsageError, match="a transform of your own"):
        augment_labels(3)  # type: ignore[arg-type]
    for bad in (labels().long(), labels()[0], labels()[:5]):
        with pytest.raises(UsageError, match="labels \\(N, H, W\\) of uint8"):
            augment_labels("flip")(bad, seeds(24), 3)
