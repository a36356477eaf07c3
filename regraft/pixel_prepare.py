"""From images and masks on disk to a solved probe: what a fit begins with where every pixel has an answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from torch import nn

from regraft.backbone.model import Backbone
from regraft.backbone.pyramid import Level, counted_from, pyramid_boundary, pyramid_of
from regraft.cache.engines import give_back, pick_device
from regraft.cache.extract import Activations, Extracted, extract_pixels
from regraft.cache.labels import Labels, keep_labels
from regraft.cache.store import default_folder
from regraft.cache.views import views_of, views_that_fit
from regraft.clock import Clock
from regraft.data.decode import read_header
from regraft.data.label_input import labels_to_input
from regraft.data.masked import read_masked, read_masked_evaluation
from regraft.data.masks import read_labels
from regraft.data.problem import Problem
from regraft.data.settle import settle_masks, settle_test
from regraft.data.split import split_samples
from regraft.errors import UsageError
from regraft.findings import Copies
from regraft.prepare import load_named, most_rejected, with_copies
from regraft.progress import Progress, Silent
from regraft.recipe import Recipe
from regraft.segments import MaskMap
from regraft.train.by_pixel import Pixels
from regraft.train.head_fit import HeadFit, describe_fit
from regraft.train.judge import answers
from regraft.train.learning import laid_out
from regraft.train.lessons import Learner, Lessons
from regraft.train.observed import Observed
from regraft.train.path import choose_l2
from regraft.train.pixel_losses import parse_loss, pixel_class_weights
from regraft.train.pixel_network import on_values
from regraft.train.pixel_probe import sample_pixels
from regraft.values import Sample, Samples, Split

DEFAULT_DECODER = "unet"
# Levels finer than this take most of the cache and of the time, and tell little: docs/measurements.md#images-with-masks
FINEST_STRIDE = 4
_LARGEST, _SMALLEST, _STRIDE = 512, 64, 32
_LOOKED_AT = 64
_JUDGED_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedPixels:
    """What is known before anything is trained; `task` holds the probe's problem, `solved` its answers out of fold.

    `test_map` says what the values in masks of a separate test set mean, which may be others.
    """

    recipe: Recipe
    samples: Samples
    split: Split
    mask_map: MaskMap
    test_map: MaskMap
    backbone: Backbone
    extracted: Extracted
    observed: Observed
    copies: tuple[Copies, ...]
    task: Pixels
    solved: HeadFit
    usual_side: int


def prepare_pixels(recipe: Recipe, clock: Clock, progress: Progress) -> PreparedPixels:
    """Load, read, split, decode and solve the probe. Raises the errors of each stage."""
    cache = recipe.cache or default_folder()
    with clock("backbone"):
        # Before the data: a wrong name is told at once.
        pick_device(recipe.device)
        named = _padded(load_named(recipe, recipe.size, progress))
    with clock("data"):
        samples, mask_map, split, test_map = _read(recipe, progress)
        side = _usual_side(split.train)
        backbone = _windowed(recipe, named, side, progress)
        levels = tuple(level for level in pyramid_of(backbone) if level.stride >= FINEST_STRIDE)
        backbone = counted_from(backbone, levels)
    with clock("features"):
        extracted = _decoded(recipe, samples, split, backbone, progress)
    with clock("copies"):
        split, extracted, observed, copies = with_copies(recipe, split, extracted, progress)
    with clock("masks"):
        labels = _labels(observed, mask_map, test_map, backbone, cache, progress)
    with clock("head"):
        task, solved = _solve(recipe, backbone, levels, observed, extracted, labels, mask_map, progress)
        give_back()
    return PreparedPixels(
        recipe=recipe,
        samples=samples,
        split=split,
        mask_map=mask_map,
        test_map=test_map,
        backbone=backbone,
        extracted=extracted,
        observed=observed,
        copies=copies,
        task=task,
        solved=solved,
        usual_side=side,
    )


def _padded(backbone: Backbone) -> Backbone:
    return replace(backbone, preprocess=replace(backbone.preprocess, fit="pad"))


def _windowed(recipe: Recipe, named: Backbone, side: int, progress: Progress) -> Backbone:
    """The network at the size of the images, as far as it can work at that; at the size that was asked for, where one was."""
    if recipe.size is not None:
        return named
    size = min(_LARGEST, max(_SMALLEST, -(-side // _STRIDE) * _STRIDE))
    try:
        backbone = _padded(load_named(recipe, size, Silent()))
    except UsageError:
        backbone = named  # a network of one size
    progress.note(f"images of {side} pixels on the longer side, as a rule, worked with at {backbone.preprocess.width} (--size)")
    return backbone


def _read(recipe: Recipe, progress: Progress) -> tuple[Samples, MaskMap, Split, MaskMap]:
    samples = read_masked(recipe.data, progress=progress)
    progress.note(samples.tree)
    samples, mask_map = settle_masks(samples, recipe.data, progress=progress)
    for note in (*samples.notes, *mask_map.words):
        progress.note(note)
    # Images have no classes here, their pixels do.
    plain = replace(samples, classes=())
    split = split_samples(plain, recipe.data, recipe.seed, progress=progress, read_test=read_masked_evaluation)
    split, test_map = settle_test(split, recipe.data, mask_map, progress=progress)
    for note in (split.how, *split.notes):
        progress.note(note)
    return samples, mask_map, split, test_map


def _usual_side(samples: Sequence[Sample]) -> int:
    step = max(1, len(samples) // _LOOKED_AT)
    sides = []
    for sample in samples[::step]:
        try:
            header = read_header(sample.path)
        except (Problem, OSError):
            continue
        sides.append(max(header.width, header.height))
    return round(median(sides)) if sides else _LARGEST


def _decoded(recipe: Recipe, samples: Samples, split: Split, backbone: Backbone, progress: Progress) -> Extracted:
    return extract_pixels(
        [*split.train, *split.test],
        backbone.preprocess,
        cache=recipe.cache or default_folder(),
        device=recipe.device,
        most_rejected=most_rejected(recipe, samples, split),
        progress=progress,
    )


def _labels(
    observed: Observed, mask_map: MaskMap, test_map: MaskMap, backbone: Backbone, cache: Path, progress: Progress
) -> Labels:
    def read(sample: Sample, by: MaskMap) -> NDArray[np.uint8]:
        assert sample.mask is not None, "paired when it was read"
        return labels_to_input(read_labels(sample.mask, by, sample.name), backbone.preprocess)

    images = [*((sample, mask_map) for sample in observed.train), *((sample, test_map) for sample in observed.test)]
    return keep_labels(images, backbone.preprocess, read, cache=cache, progress=progress)


def _solve(
    recipe: Recipe,
    backbone: Backbone,
    levels: tuple[Level, ...],
    observed: Observed,
    extracted: Extracted,
    labels: Labels,
    mask_map: MaskMap,
    progress: Progress,
) -> tuple[Pixels, HeadFit]:
    """The probe at the best of its strengths, and the answers of probes to images that they had not seen."""
    pre, cache = backbone.preprocess, recipe.cache or default_folder()
    boundary = pyramid_boundary(backbone, levels)
    images = (*observed.train, *observed.test)
    views_that_fit(1, len(images), boundary, recipe.cache_limit)
    pixels = Activations(rows=extracted.features, shapes=((pre.height, pre.width, pre.channels),))
    views = views_of(
        images,
        observed.digests,
        pixels,
        backbone,
        boundary,
        views=1,
        augment="none",
        seed=recipe.seed,
        cache=cache,
        device=recipe.device,
        progress=progress,
    )
    count, classes = len(observed.train), len(mask_map.classes)
    views.ensure(np.arange(count), None, progress)
    sampled = sample_pixels(lambda rows: views.read(rows, None), levels, labels, count, recipe.seed, progress)
    balanced = recipe.strategy.balance == "auto"
    folds_P = observed.folds_N[sampled.images_P]
    result = choose_l2(
        sampled.features_PD,
        sampled.targets_P,
        folds_P,
        classes=classes,
        balanced=balanced,
        features="maps",
        progress=progress,
    )
    head = describe_fit("maps", {"maps": result}, int(observed.folds_N.max()) + 1, balanced)
    decoder = recipe.decoder if recipe.decoder != "auto" else DEFAULT_DECODER
    task = Pixels(
        mask_map=mask_map,
        labels=labels,
        levels=levels,
        sampled=sampled,
        l2=head.choice.l2,
        balanced=balanced,
        decoder=decoder,
        loss=parse_loss(recipe.loss, _class_weights(sampled.targets_P, classes) if balanced else None),
    )
    lessons = Lessons(
        read=lambda rows, _: laid_out(views.read(rows, None)),
        targets=np.zeros(count, np.int64),
        weights=np.ones(count),
        train=np.arange(count),
        validation=np.arange(count),
        objective=task.plain_objective(pre.channels),
    )
    parts, order = [], []
    for fold in np.unique(observed.folds_N):
        own = np.flatnonzero(observed.folds_N == fold)
        probe = task.probe(np.flatnonzero(observed.folds_N != fold)).eval()
        parts.append(answers(_still(on_values(probe, levels)), lessons, own, _JUDGED_AT_ONCE))
        order.append(own)
    rows_NM = np.concatenate(parts)[np.argsort(np.concatenate(order))]
    return task, replace(head, out_of_fold_NK=rows_NM.astype(np.float64))


def _class_weights(targets_P: NDArray[np.int64], classes: int) -> tuple[float, ...]:
    """Of classes by how many of the sampled pixels they have."""
    return tuple(float(weight) for weight in pixel_class_weights(np.bincount(targets_P, minlength=classes)))


def _still(module: nn.Module) -> Learner:
    """A module that learns nothing, to be asked."""
    return Learner(module=module, set_modes=lambda _: None, groups=(), state={})
