"""From images on disk to a solved head: what a fit, an audit and whatever else looks at images begin with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.artifact.schema import check_class_names
from regraft.audits.audit import names_of
from regraft.audits.cells import VERSION as CELLS_VERSION
from regraft.audits.cells import search_for, search_note
from regraft.audits.copies import copies_of, find_copies, groups_of
from regraft.backbone.features import later_stages, pooling_for
from regraft.backbone.graph import TOKENS
from regraft.backbone.load import load_backbone
from regraft.backbone.model import Backbone
from regraft.cache.engines import give_back, pick_device
from regraft.cache.extract import Extracted, extract_features
from regraft.cache.store import default_folder
from regraft.clock import Clock
from regraft.data.look import VERSION as LOOK_VERSION
from regraft.data.look import Looks, looks_in
from regraft.data.materialise import on_disk
from regraft.data.native import FOR_HEAD, FOR_TRAINING, smaller_size, usual_side
from regraft.data.read import read_samples
from regraft.data.split import keep_together, split_samples
from regraft.errors import UsageError
from regraft.findings import Alike, Copies
from regraft.memo import key_of, remembered
from regraft.parallel import check_common
from regraft.progress import Progress, Silent
from regraft.ranks import here
from regraft.recipe import DEFAULT_BACKBONE, Recipe
from regraft.saved import load_classifier
from regraft.strategies import Auto, Head, Strategy
from regraft.task.classify import targets_of
from regraft.train.chance import seeded
from regraft.train.head_fit import HeadFit, fit_head
from regraft.train.memory import head_key, recall_head, remember_head
from regraft.train.observed import Observed, observe
from regraft.train.own_head import OwnHead, baseline_of, own_head_of
from regraft.train.strategy import check_strategy, resolved
from regraft.values import Sample, Samples, Split

# More of the images than this may not be left out without being asked: the issue is then the data, not a file.
MOST_REJECTED = 0.1
# Images whose comparison leaves so much behind that a quarter of a second of collecting it is well spent.
_WORTH_COLLECTING = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What is known before anything is trained. `recipe` names data on disk, `strategy` is it with its defaults filled in.

    `copies` are among the readable images, `solved` is the head that `baseline` describes, `own` a head of the user's own.
    """

    recipe: Recipe
    strategy: Strategy
    baseline: Head
    own: OwnHead | None
    backbone: Backbone
    samples: Samples
    split: Split
    extracted: Extracted
    observed: Observed
    copies: tuple[Copies, ...]
    solved: HeadFit


def prepare(recipe: Recipe, clock: Clock, progress: Progress, *, given: Samples | None = None) -> Prepared:
    """Load, read, split, extract and solve; what is `given` need not be read. Raises the errors of each stage.

    Of several processes rank 0 reads and decides, each extracts its own share, and all end with the same.
    """
    ranks = here()
    with clock("backbone"):
        # Before the data: a wrong name or device is told at once, not after 70,000 files.
        pick_device(recipe.device)
        check_common(recipe.cache or default_folder())
        # What has to be downloaded is fetched once.
        backbone = ranks.first_then(lambda: _load(recipe, progress))
        strategy = resolved(recipe.strategy)
        check_strategy(strategy, backbone)
    with clock("data"):
        found = ranks.shared(lambda: on_disk(recipe.data, recipe.cache or default_folder(), progress=progress))
        recipe = replace(recipe, data=found)
        samples, split = ranks.shared(partial(_read, recipe, given, progress))
        backbone = _for_small_images(recipe, backbone, split, progress)
        backbone = pooling_for(backbone, len(split.train) + len(split.test))
        own = own_head_of(strategy, backbone, len(split.classes), seed=recipe.seed)
        baseline = baseline_of(strategy, backbone, own)
    with clock("features"):
        extracted = _extract(recipe, samples, split, backbone, progress)
    with clock("copies"):
        split, extracted, observed, copies = with_copies(recipe, split, extracted, progress)
    with clock("head"):
        # Always: it costs little, and whatever costs more starts from it or has to beat it.
        solved = solve(recipe, baseline, split, observed, extracted, progress)
    return Prepared(
        recipe=recipe,
        strategy=strategy,
        baseline=baseline,
        own=own,
        backbone=backbone,
        samples=samples,
        split=split,
        extracted=extracted,
        observed=observed,
        copies=copies,
        solved=solved,
    )


def with_copies(
    recipe: Recipe, split: Split, extracted: Extracted, progress: Progress
) -> tuple[Split, Extracted, Observed, tuple[Copies, ...]]:
    """The split with copies on one side, what was extracted in its order, what could be read, and the copies."""
    alike = here().shared(lambda: _alike(recipe, split, extracted, progress))
    together = keep_together(split, recipe.data, recipe.seed, numbered(alike, split))
    if search_for(len(extracted.digests)) == "equal" and (note := search_note(len(extracted.digests))):
        together = replace(together, notes=(*together.notes, note))
    if together.how != split.how:
        progress.note(together.how)
    extracted = extracted.reordered(_order(split, together))
    observed = observe(together, extracted)
    if len(extracted.digests) >= _WORTH_COLLECTING:
        give_back()
    return together, extracted, observed, copies_of(alike, *described(observed.train, observed.test))


def _load(recipe: Recipe, progress: Progress) -> Backbone:
    if recipe.go_on_from is not None:
        return _network_of(recipe, recipe.go_on_from, progress)
    return load_named(recipe, recipe.size, progress)


def load_named(recipe: Recipe, size: int | None, progress: Progress) -> Backbone:
    """The backbone of the recipe at a size."""
    with seeded(recipe.seed):  # random weights follow from the seed
        backbone = load_backbone(
            recipe.backbone,
            weights=recipe.weights,
            size=size,
            whole_image=True,
            trust=recipe.trust,
            head_path=recipe.head_path,
            channels=recipe.channels,
        )
    for note in backbone.notes:
        progress.note(note)
    return backbone


def _for_small_images(recipe: Recipe, backbone: Backbone, split: Split, progress: Progress) -> Backbone:
    """The network at a smaller size where the images are far smaller than it: enlarging them further costs time and tells
    nothing new. For a head, and for `auto`, whose time is short; whoever names what is to be trained gets the network's own
    size."""
    if not isinstance(recipe.strategy, Head | Auto) or recipe.size is not None or recipe.go_on_from is not None:
        return backbone
    if any(stage.layout == TOKENS for stage in backbone.stages):
        return backbone  # made for one number of tokens
    side = usual_side(split.train)
    size = smaller_size(side, backbone.preprocess, FOR_TRAINING if isinstance(recipe.strategy, Auto) else FOR_HEAD)
    if size is None:
        return backbone
    try:
        smaller = _load(replace(recipe, size=size), Silent())
    except UsageError:
        return backbone  # a network of one size
    progress.note(f"the images are about {side} pixels wide: worked with at {size} pixels (--size)")
    return smaller


def _network_of(recipe: Recipe, run: Path, progress: Progress) -> Backbone:
    """The network of an earlier run; its head is solved anew."""
    named = None if recipe.backbone == DEFAULT_BACKBONE else recipe.backbone
    earlier = load_classifier(run, backbone=named, trust=recipe.trust)
    for note in earlier.notes:
        progress.note(note)
    return earlier.backbone


def _read(recipe: Recipe, given: Samples | None, progress: Progress) -> tuple[Samples, Split]:
    samples = given or read_samples(recipe.data, progress=progress)
    check_class_names(samples.classes)
    progress.note(samples.tree)
    for note in samples.notes:
        progress.note(note)
    split = split_samples(samples, recipe.data, recipe.seed, progress=progress)
    progress.note(split.how)
    for note in split.notes:
        progress.note(note)
    return samples, split


def _extract(recipe: Recipe, samples: Samples, split: Split, backbone: Backbone, progress: Progress) -> Extracted:
    extracted = extract_features(
        [*split.train, *split.test],
        backbone,
        later_stages(backbone),
        cache=recipe.cache or default_folder(),
        device=recipe.device,
        most_rejected=most_rejected(recipe, samples, split),
        with_looks=True,
        progress=progress,
    )
    if extracted.misses:
        give_back()
    return extracted


def most_rejected(recipe: Recipe, samples: Samples, split: Split) -> int | None:
    """How many more images may turn out unreadable; None: any number."""
    already = len(samples.rejected) + len(split.rejected)
    images = len(split.train) + len(split.test)
    return None if recipe.data.skip_bad else max(0, int(MOST_REJECTED * (images + already)) - already)


def solve(
    recipe: Recipe, strategy: Head, split: Split, observed: Observed, extracted: Extracted, progress: Progress
) -> HeadFit:
    """The head at its optimum, solved or remembered. Raises NotConverged, DataUnusable."""
    cache, classes = recipe.cache or default_folder(), len(split.classes)
    targets = targets_of(observed.train, split.classes, split.multi_label)
    digests = observed.digests[: len(observed.train)]
    key = head_key(extracted.table, digests, targets, observed.folds_N, classes, strategy)
    head = here().shared(lambda: recall_head(cache, key))
    if head is None:
        features, columns = observed.train_features, extracted.columns
        head = fit_head(strategy, features, columns, targets, observed.folds_N, classes=classes, progress=progress)
        if here().first:
            remember_head(cache, key, head)
    return head


def looks_of(extracted: Extracted) -> Looks:
    """The looks of the images, in the order of their features."""
    assert extracted.looks is not None, "asked for when the features were extracted"
    return looks_in(extracted.looks[:])


def _alike(recipe: Recipe, split: Split, extracted: Extracted, progress: Progress) -> tuple[Alike, ...]:
    samples = [*split.train, *split.test]
    kept = [samples[i] for i in extracted.kept_M]
    inside = int(np.count_nonzero(extracted.kept_M < len(split.train)))
    names = names_of(kept[:inside], kept[inside:])
    search, note = search_for(len(names)), search_note(len(names))
    key = key_of("copies", LOOK_VERSION, names, extracted.digests, *([CELLS_VERSION] if search == "cells" else []))

    def find() -> tuple[Alike, ...]:
        if note is not None:
            progress.note(note)
        return find_copies(looks_of(extracted), extracted.digests, names, search=search, progress=progress)

    # Not remembered where most is not looked for: it costs little, and is to be said each time.
    return find() if search == "equal" else remembered(recipe.cache or default_folder(), key, tuple[Alike, ...], find)


def described(train: Sequence[Sample], test: Sequence[Sample]) -> tuple[list[str], list[str], list[str]]:
    """Names, labels and parts of the images."""
    labels = [", ".join(sample.labels) for sample in (*train, *test)]
    return names_of(train, test), labels, ["train"] * len(train) + ["test"] * len(test)


def numbered(alike: Sequence[Alike], split: Split) -> NDArray[np.int64]:
    """For each of the split's images, training images first, the number of those that show the same; -1 for one alone.

    Where test images are given they tie nothing: they must not decide how the training images are used.
    """
    names = names_of(split.train, split.test)
    judging = set() if split.drawn else set(names[len(split.train) :])
    groups = groups_of([pair for pair in alike if not judging & {pair.one, pair.other}])
    numbers = {group: number for number, group in enumerate(sorted(set(groups.values())))}
    return np.array([numbers[groups[name]] if name in groups else -1 for name in names], np.int64)


def _order(before: Split, after: Split) -> NDArray[np.int64]:
    """Where each image of the one split stood in the other."""
    if not after.drawn:
        return np.arange(len(after.train) + len(after.test), dtype=np.int64)
    place = {sample.name: i for i, sample in enumerate((*before.train, *before.test))}
    return np.array([place[sample.name] for sample in (*after.train, *after.test)], np.int64)
