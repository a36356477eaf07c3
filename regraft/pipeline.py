"""One fit, stage by stage. Read this first."""

from dataclasses import replace
from pathlib import Path

from regraft.artifact.save import save_model
from regraft.artifact.schema import check_class_names
from regraft.backbone.features import later_stages
from regraft.backbone.load import load_backbone
from regraft.backbone.model import Backbone
from regraft.cache.engines import give_back, pick_device
from regraft.cache.extract import Extracted, extract_features
from regraft.cache.store import default_folder
from regraft.clock import Clock
from regraft.data.materialise import on_disk
from regraft.data.native import smaller_size, usual_side
from regraft.data.read import read_samples
from regraft.data.split import split_samples
from regraft.data.thumbnail import thumbnail
from regraft.errors import UsageError
from regraft.evaluate import mistakes
from regraft.evaluate.metrics import score
from regraft.evaluate.table import write_predictions
from regraft.evidence.mistaken import LIMIT, mistake_overlays
from regraft.fitted import Fitted
from regraft.progress import Progress, Silent
from regraft.recipe import DEFAULT_BACKBONE, Recipe
from regraft.report.html import write_report
from regraft.saved import doubts, fingerprint, load, to_saved, versions
from regraft.strategies import Auto, Head
from regraft.task.classify import predictions_of, targets_of
from regraft.train.chance import seeded
from regraft.train.checkpoints import Identity, Resume, asked_of, forget, keepers_in, machine
from regraft.train.curves import Curves
from regraft.train.head_fit import HeadFit, fit_head
from regraft.train.memory import head_key, recall_head, remember_head
from regraft.train.observed import Observed, observe
from regraft.train.own_head import baseline_of, own_head_of
from regraft.train.rule import rule_of_thumb
from regraft.train.setting import Model, Setting
from regraft.train.sheet import augmented_images
from regraft.train.strategy import apply_strategy, check_strategy, resolved
from regraft.values import Predictions, RunSummary, Samples, Split

# What a person says of the data beside where it is.
_OF_SPLIT = ("test", "test_share", "path_column", "label_column", "split_column", "group_column", "group_pattern")
# More of the images than this may not be left out without being asked: the issue is then the data, not a file.
MOST_REJECTED = 0.1


def fit(recipe: Recipe, out: Path, *, resume: Resume | None = None, command: str = "", progress: Progress = Silent()) -> Fitted:
    """Run the whole job and write the run folder `out`; the result's `summary` says all of it.

    `out` gets model.safetensors, config.json, predictions.parquet and report.html, and metrics.jsonl where something was
    trained. `command` is what the report shows as the way to repeat the run. `resume` goes on where a training in `out` was
    interrupted. Raises the errors of each stage; nothing but metrics.jsonl and the states of a training is written to `out`
    before the model is there.
    """
    clock = Clock()
    with clock("backbone"):
        # Before the data: a wrong name or device is told at once, not after 70,000 files.
        pick_device(recipe.device)
        backbone = _load(recipe, progress)
        strategy = resolved(recipe.strategy)
        check_strategy(strategy, backbone)
    with clock("data"):
        recipe = replace(recipe, data=on_disk(recipe.data, recipe.cache or default_folder(), progress=progress))
        samples, split = _read(recipe, progress)
        backbone = _for_small_images(recipe, backbone, split, progress)
        own = own_head_of(strategy, backbone, len(split.classes), seed=recipe.seed)
        baseline = baseline_of(strategy, backbone, own)
    with clock("features"):
        extracted = _extract(recipe, samples, split, backbone, progress)
        observed = observe(split, extracted)
    with clock("head"):
        # Always: it costs little, and whatever costs more starts from it or has to beat it.
        solved = _solve(recipe, baseline, split, observed, extracted, progress)
    with clock("head" if strategy == baseline else "training"):
        data = fingerprint_of(observed)
        doubted = _doubts(recipe, split, data, progress)
        told = Curves(out, tensorboard=recipe.tensorboard)
        setting = _setting(recipe, split, backbone, observed, extracted, solved, told, progress)
        identity = _identity(recipe, backbone, split, extracted, data)
        setting = replace(setting, keepers=keepers_in(out, identity, resume=resume, progress=progress))
        with told:
            model = apply_strategy(setting, strategy, own)
        model = replace(model, notes=(*model.notes, *doubted))
    fitted = Fitted(
        backbone=model.backbone,
        head=model.head,
        classes=split.classes,
        multi_label=split.multi_label,
        mirrored=recipe.tta,
        folder=out,
    )
    with clock("scores"):
        if recipe.tta:
            model = replace(model, test_MK=fitted.logits(observed.test, device=recipe.device, progress=progress))
        test, cross_validation = _predictions(split, observed, model)
        summary = _summary(recipe, samples, split, backbone, observed, extracted, model, test, cross_validation, command)
    with clock("saving"):
        _save(fitted, summary, data, recipe.seed, out, test, cross_validation)
    summary = replace(summary, run=out, seconds=clock.seconds(), report=out / "report.html")
    paths = {sample.name: sample.path for sample in (*observed.train, *observed.test)}
    write_report(
        summary,
        test=test,
        cross_validation=cross_validation,
        thumbnails=lambda name: thumbnail(paths[name]),
        augmented=augmented_images(strategy, observed.train, backbone.preprocess, recipe.seed),
        evidence=mistake_overlays(fitted, mistakes(test or cross_validation, LIMIT), paths, device=recipe.device),
        out=out / "report.html",
    )
    # Last: what is killed before can go on, and then lacks nothing.
    forget(out)
    return replace(fitted, summary=replace(summary, seconds=clock.seconds()))


def _load(recipe: Recipe, progress: Progress) -> Backbone:
    if recipe.go_on_from is not None:
        return _network_of(recipe, recipe.go_on_from, progress)
    with seeded(recipe.seed):  # random weights follow from the seed
        backbone = load_backbone(
            recipe.backbone,
            weights=recipe.weights,
            size=recipe.size,
            whole_image=True,
            trust=recipe.trust,
            head_path=recipe.head_path,
            channels=recipe.channels,
        )
    for note in backbone.notes:
        progress.note(note)
    return backbone


def _for_small_images(recipe: Recipe, backbone: Backbone, split: Split, progress: Progress) -> Backbone:
    """For `auto`, whose time is short, the network at a smaller size where the images are far smaller than it: enlarging them
    costs steps and tells nothing new."""
    if not isinstance(recipe.strategy, Auto) or recipe.size is not None or recipe.go_on_from is not None:
        return backbone
    side = usual_side(split.train)
    size = smaller_size(side, backbone.preprocess)
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
    earlier = load(run, backbone=named, trust=recipe.trust)
    for note in earlier.notes:
        progress.note(note)
    return earlier.backbone


def _read(recipe: Recipe, progress: Progress) -> tuple[Samples, Split]:
    samples = read_samples(recipe.data, progress=progress)
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
    images = [*split.train, *split.test]
    already = len(samples.rejected) + len(split.rejected)
    most = None if recipe.data.skip_bad else max(0, int(MOST_REJECTED * (len(images) + already)) - already)
    extracted = extract_features(
        images,
        backbone,
        later_stages(backbone),
        cache=recipe.cache or default_folder(),
        device=recipe.device,
        most_rejected=most,
        progress=progress,
    )
    give_back()
    return extracted


def _solve(
    recipe: Recipe, strategy: Head, split: Split, observed: Observed, extracted: Extracted, progress: Progress
) -> HeadFit:
    cache, classes = recipe.cache or default_folder(), len(split.classes)
    targets = targets_of(observed.train, split.classes, split.multi_label)
    digests = observed.digests[: len(observed.train)]
    key = head_key(extracted.table, digests, targets, observed.folds_N, classes, strategy)
    head = recall_head(cache, key)
    if head is None:
        features, columns = observed.train_features, extracted.columns
        head = fit_head(strategy, features, columns, targets, observed.folds_N, classes=classes, progress=progress)
        remember_head(cache, key, head)
    return head


def _setting(
    recipe: Recipe,
    split: Split,
    backbone: Backbone,
    observed: Observed,
    extracted: Extracted,
    solved: HeadFit,
    told: Curves,
    progress: Progress,
) -> Setting:
    return Setting(
        backbone=backbone,
        classes=split.classes,
        targets=targets_of(observed.train, split.classes, split.multi_label),
        observed=observed,
        extracted=extracted,
        solved=solved,
        cache=recipe.cache or default_folder(),
        device=recipe.device,
        seed=recipe.seed,
        progress=progress,
        cache_limit=recipe.cache_limit,
        on_epoch=told,
    )


def _doubts(recipe: Recipe, split: Split, data: str, progress: Progress) -> tuple[str, ...]:
    if recipe.go_on_from is None:
        return ()
    only_head = isinstance(recipe.strategy, Head)
    notes = doubts(recipe.go_on_from, data=data, split=split.how, seed=recipe.seed, only_head=only_head)
    for note in notes:
        progress.note(note)
    return notes


def _identity(recipe: Recipe, backbone: Backbone, split: Split, extracted: Extracted, data: str) -> Identity:
    asked = asked_of(
        recipe.strategy,
        backbone=backbone.name,
        weights=backbone.weights_digest,
        preprocess=str(backbone.preprocess),
        seed=recipe.seed,
        classes=split.classes,
        # Not `split.how`, which counts the images: those have their own check.
        **{f"data.{name}": getattr(recipe.data, name) for name in _OF_SPLIT},
    )
    where = machine(pick_device(recipe.device)) | {"engine": extracted.engine, "cache size": f"{recipe.cache_limit:,} bytes"}
    return Identity(asked=asked, images=data, machine=where)


def fingerprint_of(observed: Observed) -> str:
    """What identifies the images with their names and labels."""
    images = (*observed.train, *observed.test)
    return fingerprint(tuple(s.name for s in images), tuple(s.labels for s in images), observed.digests)


def _predictions(split: Split, observed: Observed, model: Model) -> tuple[Predictions | None, Predictions]:
    judged = [observed.train[i] for i in model.judged]
    test = predictions_of(observed.test, split.classes, split.multi_label, model.test_MK) if observed.test else None
    return test, predictions_of(judged, split.classes, split.multi_label, model.judged_NK)


def _summary(
    recipe: Recipe,
    samples: Samples,
    split: Split,
    backbone: Backbone,
    observed: Observed,
    extracted: Extracted,
    model: Model,
    test: Predictions | None,
    cross_validation: Predictions,
    command: str,
) -> RunSummary:
    return RunSummary(
        run=Path(),
        backbone=model.backbone.name,
        strategy=model.strategy,
        classes=split.classes,
        train=len(observed.train),
        test=len(observed.test),
        rejected=(*samples.rejected, *split.rejected, *observed.rejected),
        test_scores=score(test) if test else None,
        cross_validation=score(cross_validation),
        seconds={},
        engine=extracted.engine,
        engines=extracted.engines,
        cache_hits=extracted.hits,
        cache_misses=extracted.misses,
        head=model.choice,
        tree=samples.tree,
        notes=(*samples.notes, *split.notes, *model.backbone.notes, *model.notes),
        split=split.how,
        command=command,
        versions=versions(),
        history=model.history,
        compared=model.compared,
        rule=rule_of_thumb(backbone, observed, extracted) if isinstance(recipe.strategy, Auto) else None,
    )


def _save(
    fitted: Fitted,
    summary: RunSummary,
    data: str,
    seed: int,
    out: Path,
    test: Predictions | None,
    cross_validation: Predictions,
) -> None:
    save_model(to_saved(fitted, summary, fingerprint=data, seed=seed), out)
    parts = {"test": test} if test else {}
    write_predictions(out / "predictions.parquet", {**parts, summary.judged_by: cross_validation})
