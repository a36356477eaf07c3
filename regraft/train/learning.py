"""From a network and a plan to something that learns, and the images it learns from."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.backbone.features import FromPixels
from regraft.backbone.freeze import Plan, apply_modes, apply_plan, modes_of
from regraft.backbone.model import Backbone, Boundary
from regraft.cache.extract import Activations
from regraft.cache.views import Views
from regraft.data.augment import augmentation
from regraft.errors import UsageError, first_line
from regraft.progress import Progress, Silent
from regraft.strategies import Augment, Training
from regraft.train.chance import augment_seeds, seeded, view_of
from regraft.train.contract import Network
from regraft.train.groups import depths_of, parameter_groups
from regraft.train.lessons import Drawn, Learner, Lessons, Read
from regraft.train.loop import put, snapshot
from regraft.train.objective import outputs_of


def learner_of(network: Network, boundary: Boundary, plan: Plan, how: Training, device: str) -> Learner:
    """What `plan` trains of a network from a boundary on, ready to learn; the rest is frozen."""
    own, suffix = network.backbone, network.suffix(boundary)
    modes = modes_of(own.module, plan)
    apply_plan(own.module, plan)
    for layer in network.heads:
        layer.requires_grad_(True)
    module = (suffix if boundary.nodes else FromPixels(suffix, own.preprocess)).to(device)
    own.module.to(device)
    channels_last(module)

    def set_modes(training: bool) -> None:
        # First the suffix, which may run another graph in train mode; then its layers, frozen ones and statistics apart.
        module.train(training)
        apply_modes(own.module, modes, training=training)

    named, tensors = network.named_parameters(), network.tensors()
    changing = {name for name, value in named if value.requires_grad}
    if plan.move_statistics:
        changing |= tensors.keys() - {name for name, _ in named}
    groups = parameter_groups(named, depths_of(own), lr=how.base_lr, depth_decay=how.depth_decay, weight_decay=how.weight_decay)
    return Learner(
        module=module,
        set_modes=set_modes,
        groups=groups,
        state={name: value for name, value in tensors.items() if name in changing},
        device=device,
        moves_statistics=plan.move_statistics,
    )


def channels_last(module: nn.Module) -> None:
    """Lay the weights out as convolutions are fastest with: docs/measurements.md#training"""
    for value in (*module.parameters(), *module.buffers()):
        if value.dim() == 4:  # `module.to(memory_format=...)` refuses networks that hold tensors of five dimensions
            value.data = value.data.contiguous(memory_format=torch.channels_last)


def reading(activations: Activations) -> Read:
    """Values from the cache, the same in every epoch."""
    return lambda rows, _: laid_out(activations[rows])


def preparing_views(views: Views, train: NDArray[np.int64], seed: int, progress: Progress = Silent()) -> Callable[[int], None]:
    """Computes the views that an epoch shows its images `train` in, together. Of several ranks all have to call it."""
    ready: set[int] = set()

    def prepare(epoch: int) -> None:
        if epoch not in ready:
            views.ensure(train, view_of(train, len(views), seed, epoch), progress)
            ready.add(epoch)

    return prepare


def reading_views(
    views: Views,
    train: NDArray[np.int64],
    seed: int,
    progress: Progress = Silent(),
    *,
    prepare: Callable[[int], None] | None = None,
) -> Read:
    """Values from the cache, in another view in every epoch. `train` are the images of an epoch, computed together.

    `prepare` is what `preparing_views` gave, where epochs are prepared elsewhere too.
    """
    ready = prepare or preparing_views(views, train, seed, progress)

    def read(rows: NDArray[np.int64], epoch: int | None) -> tuple[Tensor, ...]:
        if epoch is None:
            return laid_out(views.read(rows, None))
        ready(epoch)
        return laid_out(views.read(rows, view_of(rows, len(views), seed, epoch)))

    return read


def drawn_for_views(views: Views, seed: int) -> Drawn:
    """What the views that `reading_views` shows were drawn from."""
    return lambda rows, epoch: views.drawn(rows, view_of(rows, len(views), seed, epoch))


def laid_out(values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Maps (N, C, H, W) as convolutions are fastest with."""
    return tuple(
        value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 and value.is_floating_point() else value
        for value in values
    )


def reading_pixels(pixels: Activations, augment: Augment, seed: int, *, epochs: int = 1, sizes: Sequence[int] = ()) -> Read:
    """Pixels (n, H, W, C), augmented anew in every epoch, and as large as its turn among `sizes` says."""
    changes = augmentation(augment)

    def read(rows: NDArray[np.int64], epoch: int | None) -> tuple[Tensor, ...]:
        (values,) = pixels[rows]
        if epoch is None:
            return (values,)
        changed = changes(values, augment_seeds(rows, seed, epoch))
        return (resized(changed, sizes[(epoch - 1) * len(sizes) // epochs]),) if sizes else (changed,)

    return read


def resized(pixels: Tensor, side: int) -> Tensor:
    """Pixels (N, H, W, C) uint8 with `side` as their shorter side."""
    height, width = pixels.shape[1:3]
    if side == min(height, width):
        return pixels
    share = side / min(height, width)
    shape = (round(height * share), round(width * share))
    maps = nn.functional.interpolate(pixels.permute(0, 3, 1, 2).float(), shape, mode="bilinear", antialias=True)
    return maps.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def check_train_mode(learner: Learner, lessons: Lessons, backbone: Backbone, epochs: Sequence[int] = (1,)) -> None:
    """Raise UsageError where a network does in eval mode only what it should: auxiliary heads want larger images.

    `epochs` are those that show images of different sizes.
    """
    state = learner.module.state_dict(keep_vars=True)
    before = snapshot(state)
    learner.set_modes(True)
    try:
        with torch.no_grad(), seeded(0):
            for epoch in epochs:
                inputs = lessons.read(lessons.train[:2], epoch)
                outputs_of(learner.module(*(value.to(learner.device) for value in inputs)))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        pre = backbone.preprocess
        raise UsageError(
            expected=f"{backbone.name} to take images of {pre.height}x{pre.width} pixels in train mode",
            got=first_line(error),
            fix="give a larger --size, or --strategy head, which does not train the network; forward has to give logits",
        ) from error
    finally:
        put(state, before)
        learner.set_modes(False)
