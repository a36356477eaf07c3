"""What training makes small: the loss of a batch, whose images may be mixed, weigh differently or have several labels."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.evaluate.temperature import tempered_loss
from regraft.values import FloatArray

if TYPE_CHECKING:
    from regraft.train.lessons import Lessons

# As Inception V3 was trained (Szegedy et al., 2015).
AUXILIARY_WEIGHT = 0.4


@dataclass(frozen=True, slots=True)
class Judged:
    """Mean weighted loss, how much is right (0 to 1), and the loss that chooses, on the validation images."""

    loss: float
    accuracy: float
    tempered: float


NOT_JUDGED = Judged(math.nan, math.nan, math.nan)


class Objective(Protocol):
    """What a task wants of a module's outputs. `rows` are positions among the images of the lessons."""

    def truth(self, lessons: "Lessons", rows: NDArray[np.int64], epoch: int | None, device: str) -> Any:
        """What is right for images as they are shown in an epoch (None: as they are); indexed by positions in `rows`."""

    def losses(self, value: Any, truth: Any, others: Any, share: float, smoothing: float) -> tuple[Tensor, Tensor]:
        """Losses (n,) to learn from, and those to tell of. `others`: the truth of what is mixed in, with 1 - `share`."""

    def right(self, value: Any, truth: Any) -> Tensor:
        """(n,) how much of each image is right, 0 to 1."""

    def answers(self, lessons: "Lessons", outputs: Tensor, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, M) what is kept of the outputs for images as they are: enough to judge and to score by."""

    def judged(self, lessons: "Lessons", answers_NM: FloatArray, rows: NDArray[np.int64]) -> Judged:
        """How good kept answers are."""


class ByClass:
    """One class for each image, or several labels: answers are logits (N, K)."""

    def truth(self, lessons: "Lessons", rows: NDArray[np.int64], epoch: int | None, device: str) -> "Answers":
        weights = torch.from_numpy(lessons.weights[rows]).float()
        return Answers(torch.from_numpy(lessons.targets[rows]).to(device), weights.to(device))

    def losses(
        self, value: Any, truth: "Answers", others: "Answers | None", share: float, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        return whole_loss(value, truth, others, share, smoothing)

    def right(self, value: Any, truth: "Answers") -> Tensor:
        return right(outputs_of(value)[0].detach(), truth.targets)

    def answers(self, lessons: "Lessons", outputs: Tensor, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(outputs.float().cpu().numpy(), np.float32)

    def judged(self, lessons: "Lessons", answers_NM: FloatArray, rows: NDArray[np.int64]) -> Judged:
        logits, truth = torch.from_numpy(answers_NM), self.truth(lessons, rows, None, "cpu")
        return Judged(
            loss=float(losses_of(logits, truth).mean()),
            accuracy=float(right(logits, truth.targets).float().mean()),
            # A network that learns all training images by heart gets ever surer of itself.
            tempered=tempered_loss(answers_NM, lessons.targets[rows], lessons.weights[rows]),
        )


@dataclass(frozen=True, slots=True)
class Answers:
    """The truth of n images: (n,) class indices or (n, K) booleans, and weights (n,) or (n, K)."""

    targets: Tensor
    weights: Tensor

    def __getitem__(self, rows: slice | Tensor) -> "Answers":
        return Answers(self.targets[rows], self.weights[rows])


def losses_of(logits_NK: Tensor, answers: Answers, *, smoothing: float = 0.0) -> Tensor:
    """The weighted loss of each image (n,), in nats; for several labels the mean over labels.

    One label per image: cross-entropy. Several: binary cross-entropy, each label by itself. Label smoothing moves this share of
    the truth to all classes alike, or to the other answer of each label (Szegedy et al., 2015).
    """
    logits, targets = logits_NK.float(), answers.targets
    if targets.ndim == 1:
        return nn.functional.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing) * answers.weights
    truth = targets.float() * (1 - smoothing) + smoothing / 2
    return (nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none") * answers.weights).mean(dim=1)


def whole_loss(value: Any, answers: Answers, others: Answers | None, share: float, smoothing: float) -> tuple[Tensor, Tensor]:
    """Losses (n,) to learn from, and those of the main logits alone. `others`: the truth of what is mixed in, 1 - `share`."""
    main, *auxiliary = outputs_of(value)

    def mixed(logits: Tensor) -> Tensor:
        own = losses_of(logits, answers, smoothing=smoothing)
        if others is None:
            return own
        return share * own + (1 - share) * losses_of(logits, others, smoothing=smoothing)

    loss = mixed(main)
    whole = loss + AUXILIARY_WEIGHT * torch.stack([mixed(one) for one in auxiliary]).sum(dim=0) if auxiliary else loss
    return whole, loss.detach()


def outputs_of(value: Any) -> list[Tensor]:
    """The main logits, then those of auxiliary heads; a network leaves those out that it was built without.

    Raises TypeError for anything but a tensor or several.
    """
    found = [value] if isinstance(value, Tensor) else [one for one in value if one is not None]
    if not found or not all(isinstance(one, Tensor) and one.dim() in (2, 4) and one.shape == found[0].shape for one in found):
        raise TypeError(f"gave a {type(value).__name__}, which is not logits (N, K), or several of them")
    return found


def right(logits_NK: Tensor, targets: Tensor) -> Tensor:
    """Which images are answered right: the class, or every label."""
    if targets.ndim == 1:
        return logits_NK.argmax(dim=1) == targets
    return ((logits_NK > 0) == targets).all(dim=1)
