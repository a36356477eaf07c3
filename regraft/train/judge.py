"""How good a module is on images that it does not learn from."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regraft.ranks import here
from regraft.train.lessons import Learner, Lessons, Read
from regraft.train.memory_limit import in_parts
from regraft.train.objective import NOT_JUDGED, Judged


def judge(learner: Learner, lessons: Lessons, batch: int) -> Judged:
    """How good the module is on the validation images; no numbers where there are none."""
    if not len(lessons.validation):
        return NOT_JUDGED
    found_VM = answers(learner, lessons, lessons.validation, batch)
    return lessons.objective.judged(lessons, found_VM, lessons.validation)


def answers(learner: Learner, lessons: Lessons, rows: NDArray[np.int64], batch: int) -> NDArray[np.float32]:
    """(n, M) what the task keeps of a module's outputs for images as they are. Raises OutOfSpace as `answer` does.

    Of several ranks each answers for its share, and all have all answers: all have to call this, or `answer`.
    """
    return _over(learner, lessons.read, rows, batch, lambda outputs, some: lessons.objective.answers(lessons, outputs, some))


def answer(learner: Learner, read: Read, rows: NDArray[np.int64] | Sequence[int], batch: int) -> NDArray[np.float32]:
    """(n, K) logits of images in eval mode, as they are; (0, 0) of none. Raises OutOfSpace where one alone is too large."""
    return _over(learner, read, np.asarray(rows, np.int64), batch, lambda logits, _: logits.float().cpu().numpy())


def _over(
    learner: Learner,
    read: Read,
    every: NDArray[np.int64],
    batch: int,
    take: Callable[[Tensor, NDArray[np.int64]], NDArray[np.float32]],
) -> NDArray[np.float32]:
    learner.set_modes(False)
    ranks = here()
    # Where not every rank would have an image, each looks at all of them.
    shared = not ranks.alone and len(every) >= ranks.size
    own = every[ranks.mine(len(every))] if shared else every
    count = len(own)
    if shared and learner.spread:  # as many passes as any other rank: the last image once more
        own = np.append(own, own[-1:].repeat(-(-len(every) // ranks.size) - count))

    def run(some: NDArray[np.int64]) -> NDArray[np.float32]:
        inputs = [value.to(learner.device) for value in read(some, None)]
        # Not inference_mode: what a network keeps of such a pass could not take part in a later backward pass.
        with torch.no_grad(), learner.precision.computing(learner.device):
            outputs: Tensor = learner.module(*inputs)
        return take(outputs, some)

    parts = [part for start in range(0, len(own), batch) for part in in_parts(own[start : start + batch], run)]
    found = np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
    return ranks.rows(found[:count]) if shared else found
