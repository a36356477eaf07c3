"""`regraft.rank`: which backbone suits some images, told by solved heads on the frozen features of a part of them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from regraft.backbone.catalogue import imagenet_top1
from regraft.backbone.features import later_stages, pooling_for
from regraft.backbone.load import load_backbone
from regraft.backbone.model import Backbone
from regraft.backbone.sources import EMBEDDED
from regraft.cache.engines import pick_device
from regraft.cache.extract import Extracted, extract_features
from regraft.cache.store import default_folder
from regraft.data.materialise import on_disk
from regraft.data.names import count_of
from regraft.data.read import read_samples
from regraft.data.split import fold_numbers, split_samples
from regraft.data.subset import nested_subset
from regraft.errors import OutOfSpace, RegraftError, TooFewImages, TooManyUnreadable, UsageError, first_line
from regraft.evaluate.compare import mean_and_error
from regraft.evaluate.metrics import score
from regraft.evaluate.probability import decisions, known_truth, negative_log_likelihoods, right
from regraft.prepare import MOST_REJECTED, solve
from regraft.progress import Progress, Silent
from regraft.recipe import Data, Device, Recipe
from regraft.strategies import Head
from regraft.task.classify import predictions_of
from regraft.train.folds import INDIFFERENT
from regraft.train.observed import observe
from regraft.values import RankedBackbone, Ranking, Split

IMAGES = 1000
# A backbone is as good as the best unless it is worse by more than so many standard errors of the difference on the same
# images: about a 95 % interval. Not one, as is common for choosing the simpler model: folds share their training images, so
# that the true error is larger than the one that is seen, and the best of several owes part of its lead to chance.
ERRORS_APART = 2.0
# What goes wrong with the images or the disk goes wrong with every backbone.
_NOT_THE_BACKBONE = (TooFewImages, TooManyUnreadable, OutOfSpace)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A row, and what it was made of: the likelihood of each image out of fold, (N,) in nats, with its name and group."""

    row: RankedBackbone
    names: tuple[str, ...]
    groups: tuple[str, ...]
    nll_N: NDArray[np.float64]
    baseline: float


def rank(
    data: str | Path | Data,
    *,
    backbones: Sequence[str] = tuple(EMBEDDED),
    images: int = IMAGES,
    weights: str | None = None,
    size: int | None = None,
    seed: int = 0,
    device: Device = "auto",
    cache: str | Path | None = None,
    trust: bool = False,
    progress: Progress = Silent(),
) -> Ranking:
    """Compare backbones on a part of the training images: the split is that of `fit`, and its test images are not touched.

    A head is solved on the frozen features of each and judged out of fold, on the same images for all. Backbones that are no
    worse than the best by more than two standard errors of the paired difference are tied with it, and the smallest of those
    is recommended. `images` is the size of the part, by class and with groups whole; a smaller one is inside of a larger.
    `weights` "none" gives all of them random weights; `trust` lets remote hub repositories run their authors' code.

    A backbone that cannot be had or used has a row that says why. Raises the error of the first where that is so for all,
    UsageError, DataUnusable, OutOfSpace.
    """
    names = _checked(backbones, images, weights)
    recipe = Recipe(
        data=data if isinstance(data, Data) else Data(path=data),
        weights=weights,
        size=size,
        seed=seed,
        device=device,
        cache=default_folder() if cache is None else Path(cache),
        trust=trust,
    )
    pick_device(device)
    recipe = replace(recipe, data=on_disk(recipe.data, recipe.cache or default_folder(), progress=progress))
    split = _part(recipe, images, progress)
    judged: list[Judged] = []
    failed: list[tuple[str, RegraftError]] = []
    for number, name in enumerate(names, 1):
        progress.note(f"{number} of {len(names)}: {name}")
        outcome = _attempt(name, recipe, split, progress)
        if isinstance(outcome, Judged):
            judged.append(outcome)
        else:
            failed.append((name, outcome))
    if not judged:
        raise failed[0][1]
    return compare(judged, failed, split)


def _checked(backbones: Sequence[str], images: int, weights: str | None) -> tuple[str, ...]:
    names = tuple(dict.fromkeys((backbones,) if isinstance(backbones, str) else backbones))
    if not names or not all(names):
        raise UsageError(
            expected="the names of backbones",
            got="none" if not names else "an empty one",
            fix="--backbones efficientnet_lite0,efficientnet_lite1",
        )
    if isinstance(images, bool) or not isinstance(images, int) or images < 10:
        raise UsageError(expected="--images of 10 or more", got=repr(images), fix=f"leave it out for {IMAGES:,}")
    if weights not in (None, "none"):
        raise UsageError(
            expected="--weights none, or no --weights: one file cannot hold the weights of several networks",
            got=repr(weights),
            fix="name published weights in the backbone, for example torchvision:resnet50:IMAGENET1K_V1",
        )
    return names


def _part(recipe: Recipe, images: int, progress: Progress) -> Split:
    """The split as `fit` makes it, cut down to the images that are compared on; no test images."""
    samples = read_samples(recipe.data, progress=progress)
    for note in samples.notes:
        progress.note(note)
    split = split_samples(samples, recipe.data, recipe.seed, progress=progress)
    part = nested_subset(split.train, images, recipe.seed)
    how = f"{len(part):,} of {count_of(len(split.train), 'training image')}, each class in its proportion"
    if len(part) == len(split.train):
        how = f"all {count_of(len(part), 'training image')}"
    left = f"; the {count_of(len(split.test), 'test image')} are not looked at" if split.test else ""
    progress.note(f"compared on {how}{left}")
    return replace(split, train=part, test=(), folds_N=fold_numbers(part, None, recipe.seed), how=how)


def _attempt(name: str, recipe: Recipe, split: Split, progress: Progress) -> Judged | RegraftError:
    """How a backbone does, or why that cannot be told."""
    try:
        return _judge(name, recipe, split, progress)
    except _NOT_THE_BACKBONE:
        raise
    except RegraftError as error:
        failure = error
    except (MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        failure = OutOfSpace(expected=f"enough memory for {name}", got=first_line(error), fix="use a smaller --size")
    progress.note(f"{name} failed: {failure.got}")
    return failure


def _is_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _judge(name: str, recipe: Recipe, split: Split, progress: Progress) -> Judged:
    start = time.perf_counter()
    # Random weights are the same on every run; whoever calls this keeps the state of their own generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        backbone = load_backbone(name, weights=recipe.weights, size=recipe.size, whole_image=True, trust=recipe.trust)
        backbone = pooling_for(backbone, len(split.train))
    extracted = _extract(backbone, recipe, split, progress)
    observed = observe(split, extracted)
    head = solve(recipe, Head(), split, observed, extracted, progress)
    out_of_fold = predictions_of(observed.train, split.classes, split.multi_label, head.out_of_fold_NK)
    truth, groups = known_truth(out_of_fold), tuple(sample.group or f"/{sample.name}" for sample in observed.train)
    nll_N = negative_log_likelihoods(out_of_fold, truth)
    nll, nll_error = mean_and_error(nll_N, groups)
    accuracy, accuracy_error = mean_and_error(right(truth, decisions(out_of_fold)).astype(np.float64), groups)
    progress.note(f"{name}: {100 * accuracy:.1f} % right, {nll:.3f} nats")
    row = RankedBackbone(
        backbone=name,
        status="ok",
        accuracy=accuracy,
        accuracy_error=accuracy_error,
        nll=nll,
        nll_error=nll_error,
        features=head.features,
        imagenet_top1=imagenet_top1(name) if recipe.weights is None else None,
        parameters=sum(value.numel() for value in backbone.module.parameters()),
        images_per_s=next(timing.images_per_s for timing in extracted.engines if timing.chosen),
        engine=extracted.engine,
        cached=extracted.misses == 0,
        seconds=time.perf_counter() - start,
    )
    names = tuple(sample.name for sample in observed.train)
    return Judged(row=row, names=names, groups=groups, nll_N=nll_N, baseline=score(out_of_fold).baseline)


def _extract(backbone: Backbone, recipe: Recipe, split: Split, progress: Progress) -> Extracted:
    assert recipe.cache is not None, "set when the recipe was made"
    return extract_features(
        split.train,
        backbone,
        later_stages(backbone),
        cache=recipe.cache,
        device=recipe.device,
        most_rejected=None if recipe.data.skip_bad else int(MOST_REJECTED * len(split.train)),
        progress=progress,
    )


def compare(judged: Sequence[Judged], failed: Sequence[tuple[str, RegraftError]], split: Split) -> Ranking:
    best = min(judged, key=lambda one: one.row.nll)
    rows = sorted((_beside(one, best) for one in judged), key=lambda row: row.nll)
    smallest = min((row for row in rows if row.tied), key=lambda row: (row.parameters, row.nll))
    failures = (RankedBackbone(backbone=name, status="failed", reason=f"{error.got} ({error.fix})") for name, error in failed)
    return Ranking(
        backbones=(*rows, *failures),
        best=best.row.backbone,
        recommended=smallest.backbone,
        images=len(best.names),
        folds=int(split.folds_N.max()) + 1,
        classes=split.classes,
        baseline=best.baseline,
        how=split.how,
    )


def _beside(one: Judged, best: Judged) -> RankedBackbone:
    """A row with its distance from the best, on the images that both could read."""
    theirs = dict(zip(best.names, best.nll_N, strict=True))
    both = [index for index, name in enumerate(one.names) if name in theirs]
    differences_N = np.array([one.nll_N[index] - theirs[one.names[index]] for index in both])
    behind, error = mean_and_error(differences_N, [one.groups[index] for index in both])
    return replace(one.row, behind=behind, behind_error=error, tied=behind <= max(INDIFFERENT, ERRORS_APART * error))
