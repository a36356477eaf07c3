"""The training loop, for whatever cannot be solved: a head of one's own, the last stages, a whole network.

One label per image: cross-entropy. Several: binary cross-entropy, each label by itself. Images may weigh differently; what
auxiliary heads say counts less and is heard in training only. The validation images choose the epoch, by their loss at the
temperature that suits it best: a network that learns all training images by heart gets ever surer of itself, and its plain loss
grows while it still gets better at telling classes apart.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.backbone.weights import put_state
from regraft.errors import Diverged
from regraft.evaluate.temperature import tempered_loss
from regraft.progress import Progress, Silent
from regraft.recipe import Training
from regraft.train.chance import order_of, seeded
from regraft.train.groups import Group
from regraft.train.schedule import cosine
from regraft.values import Epoch

# The batch of images `rows` as the inputs of the module, in an epoch; None shows them as they are.
Read = Callable[[NDArray[np.int64], int | None], tuple[Tensor, ...]]

# As Inception V3 was trained (Szegedy et al., 2015).
AUXILIARY_WEIGHT = 0.4
# Longer gradients are shortened: one odd batch does not throw a network off.
LONGEST_GRADIENT = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """What is learned from: how images are read, (N,) class indices or (N, K) booleans, and weights (N,) or (N, K).

    `train` and `validation` are positions among the N; the weights have mean 1 over the former.
    """

    read: Read
    targets: NDArray[np.int64] | NDArray[np.bool_]
    weights: NDArray[np.float64]
    train: NDArray[np.int64]
    validation: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """What learns: a module from inputs to logits (N, K), or in train mode to a tuple of these and auxiliary ones.

    `set_modes(training)` puts every part into its mode; `groups` hold all that trains, on `device`.
    """

    module: nn.Module
    set_modes: Callable[[bool], None]
    groups: tuple[Group, ...]
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How a training went: every epoch, and the one whose weights were kept (0: those it began with)."""

    start_loss: float
    start_accuracy: float
    start_tempered: float
    epochs: tuple[Epoch, ...]
    chosen: int


def train(
    learner: Learner,
    lessons: Lessons,
    how: Training,
    *,
    seed: int,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    progress: Progress = Silent(),
) -> Course:
    """Train `learner.module`, in place: give it a network of its own. It ends in eval mode with the weights of the best epoch.

    The same seed gives the same weights on the same processor with the same number of threads. Raises Diverged when a loss or a
    gradient is no number any more.
    """
    optimiser = torch.optim.AdamW(
        [{"params": group.parameters, "lr": group.rate, "weight_decay": group.weight_decay} for group in learner.groups]
    )
    batches = math.ceil(len(lessons.train) / how.batch)
    kept, chosen = _state(learner.module), 0
    start = judge(learner, lessons, how.batch)
    best, epochs = start.tempered if math.isfinite(start.tempered) else math.inf, list[Epoch]()
    with progress.task("training", how.epochs * len(lessons.train), "image") as task:
        for number in range(1, how.epochs + 1):
            began = time.perf_counter()
            loss, accuracy = _one_epoch(learner, lessons, how, optimiser, number, batches, seed, task.advance)
            judged = judge(learner, lessons, how.batch)
            if judged.tempered < best:
                kept, chosen, best = _state(learner.module), number, judged.tempered
            epochs.append(
                Epoch(
                    number=number,
                    loss=loss,
                    accuracy=accuracy,
                    validation_loss=judged.loss,
                    validation_accuracy=judged.accuracy,
                    tempered_loss=judged.tempered,
                    rate=max(group["lr"] for group in optimiser.param_groups),
                    seconds=time.perf_counter() - began,
                )
            )
            on_epoch(epochs[-1])
    put_state(learner.module, kept)
    learner.set_modes(False)
    return Course(
        start_loss=start.loss,
        start_accuracy=start.accuracy,
        start_tempered=start.tempered,
        epochs=tuple(epochs),
        chosen=chosen,
    )


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _one_epoch(
    learner: Learner,
    lessons: Lessons,
    how: Training,
    optimiser: torch.optim.Optimizer,
    number: int,
    batches: int,
    seed: int,
    advance: Callable[[int], None],
) -> tuple[float, float]:
    """One pass over the training images; their mean loss and accuracy on the way."""
    learner.set_modes(True)
    order = lessons.train[order_of(len(lessons.train), seed, number)]
    total, hits = 0.0, 0
    for index, rows in enumerate(split_batches(order, how.batch)):
        step = (number - 1) * batches + index
        factor = cosine(step, how.epochs * batches)
        for group, own in zip(optimiser.param_groups, learner.groups, strict=True):
            group["lr"] = own.rate * factor
        with seeded(seed, number, index):
            loss, right = _one_step(learner, lessons, rows, optimiser, number)
        total += loss * len(rows)
        hits += right
        advance(len(rows))
    return total / len(order), hits / len(order)


def split_batches(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Batches of `size` and a shorter last one; a single image left over joins the batch before it.

    Batch normalisation cannot tell the spread of one image.
    """
    starts = list(range(0, len(rows), size))
    if len(starts) > 1 and len(rows) - starts[-1] == 1:
        starts.pop()
    for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
        yield rows[start:stop]


def _one_step(
    learner: Learner, lessons: Lessons, rows: NDArray[np.int64], optimiser: torch.optim.Optimizer, number: int
) -> tuple[float, int]:
    inputs = [value.to(learner.device) for value in lessons.read(rows, number)]
    optimiser.zero_grad(set_to_none=True)
    main, *auxiliary = outputs_of(learner.module(*inputs))
    targets, weights = _answers(lessons, rows, learner.device)
    loss = _losses(main, targets, weights).mean()
    whole = loss + AUXILIARY_WEIGHT * sum(_losses(logits, targets, weights).mean() for logits in auxiliary)
    torch.autograd.backward(whole)
    trained = [value for group in learner.groups for value in group.parameters]
    length = nn.utils.clip_grad_norm_(trained, LONGEST_GRADIENT)
    if not (math.isfinite(whole.item()) and math.isfinite(length.item())):
        raise _diverged(whole.item(), number, max(group["lr"] for group in optimiser.param_groups))
    optimiser.step()
    return loss.item(), int(_right(main.detach(), targets).sum())


def outputs_of(value: Any) -> list[Tensor]:
    """The main logits, then those of auxiliary heads; a network leaves those out that it was built without.

    Raises TypeError for anything but a tensor or several.
    """
    found = [value] if isinstance(value, Tensor) else [one for one in value if one is not None]
    if not found or not all(isinstance(one, Tensor) and one.dim() == 2 and one.shape == found[0].shape for one in found):
        raise TypeError(f"gave a {type(value).__name__}, which is not logits (N, K), or several of them")
    return found


def _diverged(loss: float, number: int, rate: float) -> Diverged:
    what = "gradients without end" if math.isfinite(loss) else f"a loss of {loss}"
    return Diverged(
        expected="a loss and gradients that are numbers",
        got=f"{what} in epoch {number}, at rate {rate:.2g}",
        fix=f"give a smaller rate, for example rate={rate / 10:.1g}; if that changes nothing, the weights hold no numbers",
    )


def _answers(lessons: Lessons, rows: NDArray[np.int64], device: str) -> tuple[Tensor, Tensor]:
    weights = torch.from_numpy(lessons.weights[rows]).float()
    return torch.from_numpy(lessons.targets[rows]).to(device), weights.to(device)


def _losses(logits_NK: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The weighted loss of each image, in nats; for several labels the mean over labels."""
    if targets.ndim == 1:
        return nn.functional.cross_entropy(logits_NK.float(), targets, reduction="none") * weights
    losses_NK = nn.functional.binary_cross_entropy_with_logits(logits_NK.float(), targets.float(), reduction="none")
    return (losses_NK * weights).mean(dim=1)


def _right(logits_NK: Tensor, targets: Tensor) -> Tensor:
    """Which images are answered right: the class, or every label."""
    if targets.ndim == 1:
        return logits_NK.argmax(dim=1) == targets
    return ((logits_NK > 0) == targets).all(dim=1)


@dataclass(frozen=True, slots=True)
class Judged:
    """Mean weighted loss, accuracy, and the loss at its best temperature, on the validation images."""

    loss: float
    accuracy: float
    tempered: float


def judge(learner: Learner, lessons: Lessons, batch: int) -> Judged:
    """How good the module is on the validation images."""
    logits_VK = answer(learner, lessons.read, lessons.validation, batch)
    logits, (targets, weights) = torch.from_numpy(logits_VK), _answers(lessons, lessons.validation, "cpu")
    rows = lessons.validation
    return Judged(
        loss=float(_losses(logits, targets, weights).mean()),
        accuracy=float(_right(logits, targets).float().mean()),
        tempered=tempered_loss(logits_VK, lessons.targets[rows], lessons.weights[rows]),
    )


def answer(learner: Learner, read: Read, rows: NDArray[np.int64] | Sequence[int], batch: int) -> NDArray[np.float32]:
    """(n, K) logits of images in eval mode, as they are; (0, 0) of none."""
    learner.set_modes(False)
    every = np.asarray(rows, np.int64)
    parts = []
    # Not inference_mode: what a network keeps of such a pass could not take part in a later backward pass.
    with torch.no_grad():
        for start in range(0, len(every), batch):
            inputs = [value.to(learner.device) for value in read(every[start : start + batch], None)]
            parts.append(learner.module(*inputs).float().cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
