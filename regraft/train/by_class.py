"""Training for classes of images: a linear head on pooled features, which begins as the solved one."""

from typing import cast

import numpy as np
from numpy.typing import NDArray

from regraft.backbone.attach import HeadWeights
from regraft.backbone.model import Backbone, Boundary
from regraft.evaluate.interval import wilson
from regraft.evaluate.probability import decisions, right
from regraft.strategies import Scratch, Trained
from regraft.task.classify import predictions_of
from regraft.train.chance import seeded
from regraft.train.contract import Network
from regraft.train.convex import make_loss, solve_design
from regraft.train.design import make_design
from regraft.train.lessons import Lessons
from regraft.train.network import Beginning, Copy, copy_to_train, taken_apart
from regraft.train.objective import ByClass
from regraft.train.path import balanced_weights
from regraft.train.setting import Setting
from regraft.values import FloatArray, Interval


class Classes:
    """Each image has a class, or several labels."""

    right = "% right"

    def boundary(self, backbone: Backbone, place: Boundary) -> Boundary:
        return place

    def objective(self, setting: Setting, strategy: Trained) -> ByClass:
        return ByClass()

    def network(self, setting: Setting, lessons: Lessons, strategy: Trained) -> Copy:
        start = None if isinstance(strategy, Scratch) else beginning(setting, lessons, strategy)
        with seeded(setting.seed):
            return copy_to_train(setting.backbone, start, len(setting.classes), setting.extracted.columns.last_width)

    def taken_apart(self, network: Network, setting: Setting, name: str) -> tuple[Backbone, HeadWeights]:
        assert isinstance(network, Copy), "made by `network`"
        return taken_apart(network, setting.backbone, name)

    def rightness(self, setting: Setting, rows: NDArray[np.int64], answers_NM: FloatArray) -> NDArray[np.float64]:
        samples = [setting.observed.train[i] for i in rows]
        predictions = predictions_of(samples, setting.classes, setting.targets.ndim == 2, answers_NM)
        assert predictions.targets is not None
        return right(predictions.targets, decisions(predictions)).astype(np.float64)

    def interval(self, rightness_N: NDArray[np.float64]) -> Interval:
        return wilson(int(rightness_N.sum()), len(rightness_N))


def beginning(setting: Setting, lessons: Lessons, strategy: Trained) -> Beginning:
    """The solved head as a training begins with it: it has not seen the validation images, which judge what it becomes.

    It reads the same features as the head that was chosen.
    """
    backbone, columns = setting.backbone, setting.extracted.columns
    wanted = setting.solved.features if strategy.features == "auto" else strategy.features
    tapped = wanted == "stages" and backbone.graph is not None
    taps = columns.taps if tapped else ()
    width = columns.width if tapped else columns.last_width
    rows_ND = setting.observed.train_features.leading(width).take(lessons.train)[:]
    design = make_design(cast(FloatArray, rows_ND))
    mean_D, scale_D = design.standardiser.mean_D, design.standardiser.scale_D
    if strategy.start == "random":
        return Beginning(taps=taps, solved=None, mean_D=mean_D, scale_D=scale_D)
    features = "stages" if taps else "last"
    strengths = [one for one in setting.solved.choice.tried if one.features == features] or setting.solved.choice.tried
    best = min(strengths, key=lambda strength: strength.nll)
    classes, targets = len(setting.classes), setting.targets[lessons.train]
    balanced = strategy.balance == "auto"
    weights_LN = balanced_weights(setting.targets, classes)[:, lessons.train] if balanced else np.ones((1, len(targets)))
    loss = make_loss(targets, weights_LN[None], classes, design)
    head = solve_design(design, loss, None, classes=classes, l2=best.l2, tolerance=1e-5)
    return Beginning(taps=taps, solved=head, mean_D=mean_D, scale_D=scale_D)
