"""How far a model's answers can be relied on: its temperature, how new an image is to it, and when it had better not answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from regraft.backbone.boundary import boundary_for
from regraft.backbone.features import Columns, Features
from regraft.backbone.model import PIXELS
from regraft.cache.answer import values_of
from regraft.cache.extract import extract_boundary
from regraft.cache.store import FeatureRows
from regraft.evaluate.abstain import Thresholds, choose_thresholds, judge_rule
from regraft.evaluate.calibration import expected_calibration_error
from regraft.evaluate.novelty import MOST_IMAGES, Novelty, fit_novelty
from regraft.evaluate.probability import decisions, known_truth, negative_log_likelihoods, right, sureness
from regraft.evaluate.temperature import fit_temperature
from regraft.task.classify import predictions_of
from regraft.train.own_head import OwnHead
from regraft.train.pixel_network import PixelHead
from regraft.train.setting import Model, Setting
from regraft.values import AbstainRule, Calibrated, FloatArray, Predictions, Sample

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caution:
    """What goes with a model so that it knows what it does not know. `calibrated` and `rule` say what it is worth.

    `distances` are those of the training images at `measured` from those of other folds; None where nothing measures them.
    """

    temperature: float
    novelty: Novelty | None
    thresholds: Thresholds
    calibrated: Calibrated
    rule: AbstainRule
    measured: Rows
    distances: NDArray[np.float64] | None


def caution_of(setting: Setting, model: Model, *, max_error: float | None = None, coverage: float | None = None) -> Caution:
    """Everything is chosen on the images in `model.judged`, by answers not fitted to them, and shown on the test images.

    Without test images it is shown on those that chose it.
    """
    judged = _predictions(setting, [setting.observed.train[i] for i in model.judged], model.judged_NK)
    temperature = fit_temperature(judged.logits_NK, known_truth(judged))
    test = _predictions(setting, setting.observed.test, model.test_MK) if setting.observed.test else None
    measured = _Measured.of(setting, model)
    novelty, distance_N = measured.fitted() if measured else (None, None)
    chosen_by = _Answers.of(judged, temperature, model.judged, measured.train if measured else None, distance_N)
    thresholds = choose_thresholds(chosen_by.sure, chosen_by.distance, chosen_by.right, max_error=max_error, coverage=coverage)
    shown, on = chosen_by, "validation" if model.history else "cross-validation"
    if test is not None:
        on, rows = "test", np.arange(len(test.names))
        far_M = novelty.distances(measured.test_features) if novelty and measured else None
        shown = _Answers.of(test, temperature, rows, measured.test if measured else None, far_M)
    return Caution(
        temperature=temperature,
        novelty=novelty,
        thresholds=thresholds,
        calibrated=_calibrated(test or judged, temperature, on),
        measured=measured.train if measured else np.zeros(0, np.int64),
        distances=distance_N,
        rule=judge_rule(thresholds, shown.sure, shown.distance, shown.right, on=on, max_error=max_error, coverage=coverage),
    )


def _predictions(setting: Setting, samples: Sequence[Sample], logits_NK: FloatArray) -> Predictions:
    return predictions_of(samples, setting.classes, setting.targets.ndim == 2, logits_NK)


def tempered(predictions: Predictions, temperature: float) -> Predictions:
    """The predictions with their logits divided."""
    return replace(predictions, logits_NK=predictions.logits_NK / temperature)


def _calibrated(raw: Predictions, temperature: float, on: str) -> Calibrated:
    truth, after = known_truth(raw), tempered(raw, temperature)
    return Calibrated(
        temperature=temperature,
        on=on,
        images=len(raw.names),
        nll_before=float(negative_log_likelihoods(raw, truth).mean()),
        nll_after=float(negative_log_likelihoods(after, truth).mean()),
        ece_before=expected_calibration_error(raw),
        ece_after=expected_calibration_error(after),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answers:
    """Of some images: how sure the answer is, whether it is right, and how new the image is, where that is known."""

    sure: NDArray[np.float64]
    right: NDArray[np.bool_]
    distance: NDArray[np.float64] | None

    @classmethod
    def of(
        cls,
        predictions: Predictions,
        temperature: float,
        rows: Rows,
        measured: Rows | None,
        distance_N: NDArray[np.float64] | None,
    ) -> "_Answers":
        """`rows` number the predictions as `measured` numbers the distances; images in both are looked at."""
        sure = sureness(predictions.logits_NK / temperature, predictions.multi_label)
        good = right(known_truth(predictions), decisions(predictions))
        if measured is None or distance_N is None:
            return cls(sure=sure, right=good, distance=None)
        _, here, there = np.intersect1d(rows, measured, return_indices=True)
        return cls(sure=sure[here], right=good[here], distance=distance_N[there])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """What a network gives of training images (N, D) and of test images, as `columns` say; `train` and `test` are positions."""

    columns: Columns
    train: Rows
    test: Rows
    train_features: FeatureRows | FloatArray
    test_features: FeatureRows | FloatArray
    folds_N: Rows

    @classmethod
    def of(cls, setting: Setting, model: Model) -> "_Measured | None":
        """None where the model's head reads something else than the features that were extracted."""
        observed, columns = setting.observed, setting.extracted.columns
        assert not isinstance(model.head, PixelHead), "which has no features of whole images"
        elsewhere = bool(model.head.stage) if isinstance(model.head, OwnHead) else model.head.taps not in ((), columns.taps)
        if elsewhere:
            return None
        train, test = np.arange(len(observed.train)), np.arange(len(observed.test))
        near: FeatureRows | FloatArray = observed.train_features
        far: FeatureRows | FloatArray = observed.test_features
        if model.backbone is not setting.backbone:
            train, test = _some(train, model.judged), _some(test)
            near, far = _features(setting, model, train), _features(setting, model, len(observed.train) + test)
        return cls(
            columns=columns,
            train=train,
            test=test,
            train_features=near,
            test_features=far,
            folds_N=observed.folds_N[train],
        )

    def fitted(self) -> tuple[Novelty, NDArray[np.float64]]:
        """The distance from all of the training images, and of each of them from those of the other folds."""
        return novelty_of(self.train_features, self.folds_N, self.columns)


def novelty_of(features_ND: FeatureRows | FloatArray, folds_N: Rows, columns: Columns) -> tuple[Novelty, NDArray[np.float64]]:
    """The distance from N images with features (N, D), and (N,) that of each image from those of the other folds alone."""
    distance_N = np.zeros(len(folds_N))
    for fold in np.unique(folds_N):
        others, own = np.flatnonzero(folds_N != fold), np.flatnonzero(folds_N == fold)
        distance_N[own] = _fit_on(features_ND, others, columns).distances(_rows(features_ND, own))
    usual = max(float(np.median(distance_N)), 1e-6)
    return replace(_fit_on(features_ND, np.arange(len(folds_N)), columns), usual=usual), distance_N / usual


def _fit_on(features_ND: FeatureRows | FloatArray, rows: Rows, columns: Columns) -> Novelty:
    return fit_novelty(features_ND[_some(rows)], columns.taps, columns.blocks)


def _rows(features_ND: FeatureRows | FloatArray, rows: Rows) -> FeatureRows | FloatArray:
    return features_ND.take(rows) if isinstance(features_ND, FeatureRows) else features_ND[rows]


def _some(rows: Rows, first: Rows | None = None) -> Rows:
    """At most MOST_IMAGES of them, evenly spaced: those in `first` before any others."""
    if len(rows) <= MOST_IMAGES:
        return rows
    if first is None or not len(first):
        return rows[np.linspace(0, len(rows) - 1, MOST_IMAGES).astype(np.int64)]
    kept = _some(np.asarray(first, np.int64))
    others = np.setdiff1d(rows, kept)
    more = others[np.linspace(0, len(others) - 1, MOST_IMAGES - len(kept)).astype(np.int64)]
    return np.union1d(kept, more)


def _features(setting: Setting, model: Model, rows: Rows) -> FloatArray:
    """(N, D) of a trained network for some of the setting's images, the columns of the features that were extracted before.

    From the decoded pixels that the training kept.
    """
    features = Features(model.backbone, setting.extracted.columns.taps)
    pixels = extract_boundary(
        [setting.images[i] for i in rows],
        [setting.observed.digests[i] for i in rows],
        setting.backbone,
        boundary_for(setting.backbone, PIXELS),
        cache=setting.cache,
        device=setting.device,
        progress=setting.progress,
    )
    found = list(values_of(pixels, features, model.backbone.preprocess, device=setting.device))
    return np.array(found, np.float32).reshape(len(rows), features.columns.width)
