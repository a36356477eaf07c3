"""How good a module is on images that it does not learn from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from regraft.evaluate.temperature import tempered_loss
from regraft.train.lessons import Learner, Lessons, Read
from regraft.train.memory_limit import in_parts
from regraft.train.objective import Answers, losses_of, right


@dataclass(frozen=True, slots=True)
class Judged:
    """Mean weighted loss, accuracy, and the loss at its best temperature, on the validation images."""

    loss: float
    accuracy: float
    tempered: float


def judge(learner: Learner, lessons: Lessons, batch: int) -> Judged:
    """How good the module is on the validation images; no numbers where there are none."""
    if not len(lessons.validation):
        return Judged(math.nan, math.nan, math.nan)
    logits_VK = answer(learner, lessons.read, lessons.validation, batch)
    logits, answers = torch.from_numpy(logits_VK), answers_to(lessons, lessons.validation, "cpu")
    rows = lessons.validation
    return Judged(
        loss=float(losses_of(logits, answers).mean()),
        accuracy=float(right(logits, answers.targets).float().mean()),
        tempered=tempered_loss(logits_VK, lessons.targets[rows], lessons.weights[rows]),
    )


def answers_to(lessons: Lessons, rows: NDArray[np.int64], device: str) -> Answers:
    """The truth of images, on a device."""
    weights = torch.from_numpy(lessons.weights[rows]).float()
    return Answers(torch.from_numpy(lessons.targets[rows]).to(device), weights.to(device))


def answer(learner: Learner, read: Read, rows: NDArray[np.int64] | Sequence[int], batch: int) -> NDArray[np.float32]:
    """(n, K) logits of images in eval mode, as they are; (0, 0) of none. Raises OutOfSpace where one alone is too large."""
    learner.set_modes(False)
    every = np.asarray(rows, np.int64)

    def run(some: NDArray[np.int64]) -> NDArray[np.float32]:
        inputs = [value.to(learner.device) for value in read(some, None)]
        # Not inference_mode: what a network keeps of such a pass could not take part in a later backward pass.
        with torch.no_grad(), learner.precision.computing(learner.device):
            logits: torch.Tensor = learner.module(*inputs)
        return logits.float().cpu().numpy()

    parts = [part for start in range(0, len(every), batch) for part in in_parts(every[start : start + batch], run)]
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
