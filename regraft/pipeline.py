"""One fit, stage by stage. Read this first."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from regraft.artifact.load import SavedModel
from regraft.artifact.save import save_model
from regraft.auditing import audit_of
from regraft.backbone.attach import HeadWeights
from regraft.cache.engines import pick_device
from regraft.cache.store import default_folder
from regraft.clock import Clock
from regraft.data.thumbnail import thumbnail
from regraft.evaluate import Mistake, mistakes
from regraft.evaluate.metrics import score
from regraft.evaluate.table import write_predictions
from regraft.evidence.mistaken import EVIDENCE_WORDS, LIMIT, mistake_overlays, wrong_answer
from regraft.fitted import Fitted
from regraft.kept import KeptImages, write_images
from regraft.memo import key_of, remembered
from regraft.parallel import part
from regraft.prepare import Prepared, prepare
from regraft.progress import Progress, Silent
from regraft.ranks import here
from regraft.recipe import Recipe
from regraft.report import gather, write_report
from regraft.report.content import Overlays
from regraft.saved import doubts, fingerprint, to_saved, versions
from regraft.strategies import Auto, Head
from regraft.task.classify import predictions_of, targets_of
from regraft.train.by_class import Classes
from regraft.train.caution import Caution, caution_of
from regraft.train.checkpoints import Identity, Resume, asked_of, forget, keepers_in, machine, of_all
from regraft.train.curves import Curves
from regraft.train.learning_curve import learning_curve
from regraft.train.observed import Observed
from regraft.train.pixel_network import PixelHead
from regraft.train.rule import rule_of_thumb
from regraft.train.setting import Model, Setting
from regraft.train.sheet import augmented_images
from regraft.train.strategy import apply_strategy
from regraft.values import Epoch, ImagePath, LearningCurve, Predictions, RunSummary, Samples, Split

# What a person says of the data beside where it is.
_OF_SPLIT = ("test", "test_share", "path_column", "label_column", "split_column", "group_column", "group_pattern")


def fit(
    recipe: Recipe, out: Path, *, resume: Resume | None = None, command: str = "", progress: Progress = Silent()
) -> Fitted | None:
    """Run the whole job and write the run folder `out`; the result's `summary` says all of it.

    `out` gets model.safetensors, config.json, predictions.parquet, images.parquet, report.html with report.json, the model
    card README.md, and metrics.jsonl where something was trained. `command` is what the report shows as the way to repeat the
    run. `resume` goes on where a training in `out` was interrupted. Raises the errors of each stage; nothing but metrics.jsonl
    and the states of a training is written to `out` before the model is there.

    Several processes that have joined work on it together, until it is trained; then they part, and rank 0 does the rest.
    None on the others.
    """
    clock, first = Clock(), here().first
    ready = prepare(recipe, clock, progress)
    trained = _trained(ready, clock, out, resume=resume, progress=progress)
    part()
    return _finished(ready, trained, clock, out, command=command, progress=progress) if first else None


def complete(
    ready: Prepared, clock: Clock, out: Path, *, resume: Resume | None = None, command: str = "", progress: Progress = Silent()
) -> Fitted:
    """From a solved head to the run folder: what a strategy trains, scores, the audit, the files."""
    trained = _trained(ready, clock, out, resume=resume, progress=progress)
    return _finished(ready, trained, clock, out, command=command, progress=progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trained:
    """What a strategy made, and in what setting; `data` is the fingerprint of the images."""

    setting: Setting
    model: Model
    data: str


def _trained(ready: Prepared, clock: Clock, out: Path, *, resume: Resume | None, progress: Progress) -> _Trained:
    recipe, first = ready.recipe, here().first
    with clock("head" if ready.strategy == ready.baseline else "training"):
        data = fingerprint_of(ready.observed)
        doubted = _doubts(recipe, ready.split, data, progress)
        told = Curves(out, tensorboard=recipe.tensorboard)
        setting = _setting(ready, told if first else _unheard, progress)
        identity = _identity(ready, data)
        keepers = of_all(lambda: keepers_in(out, identity, resume=resume, progress=progress))
        setting = replace(setting, keepers=keepers)
        with told if first else nullcontext():
            model = apply_strategy(setting, ready.strategy, ready.own)
        return _Trained(setting=setting, model=replace(model, notes=(*model.notes, *doubted)), data=data)


def _unheard(epoch: Epoch) -> None:
    """What the other processes tell of an epoch: rank 0 tells the same."""


def _finished(ready: Prepared, trained: _Trained, clock: Clock, out: Path, *, command: str, progress: Progress) -> Fitted:
    recipe, observed = ready.recipe, ready.observed
    made = _judged(ready, trained.setting, trained.model, clock, out, command)
    fitted, summary, test, cross_validation = made.fitted, made.summary, made.test, made.cross_validation
    with clock("learning curve"):
        summary = replace(summary, learning=_learning(ready, progress))
    with clock("audit"):
        audit = audit_of(ready, test, made.caution, progress)
    with clock("saving"):
        _save(fitted, summary, trained.data, recipe.seed, out, test, cross_validation)
        write_images(out, _kept(ready))
    summary = replace(summary, run=out, seconds=clock.seconds(), report=out / "report.html")
    paths = {sample.name: sample.path for sample in (*observed.train, *observed.test)}
    # A name that two sets share is a path where it is shown.
    shown = {str(sample.path): sample.path for sample in observed.test}
    with clock("pictures"):
        overlays = _overlays(ready, fitted, mistakes(test or cross_validation, LIMIT), paths)
    summary = replace(summary, seconds=clock.seconds())
    content = gather(
        summary,
        test=test,
        cross_validation=cross_validation,
        audit=audit,
        thumbnails=lambda name: thumbnail(paths.get(name) or shown.get(name) or Path(name)),
        augmented=augmented_images(ready.strategy, observed.train, ready.backbone.preprocess, recipe.seed),
        overlays=overlays,
    )
    write_report(content, out)
    # Last: what is killed before can go on, and then lacks nothing.
    forget(out)
    return replace(fitted, summary=replace(summary, seconds=clock.seconds()), audit=audit)


def fit_given(recipe: Recipe, given: Samples, *, progress: Progress = Silent()) -> tuple[Fitted, SavedModel]:
    """Fit images that are at hand, without a test set, an audit or a report, and what to save of it; nothing is written.

    `recipe.data` says how images are grouped and tested; its path is not looked at. Raises what `fit` raises.
    """
    clock = Clock()
    ready = prepare(recipe, clock, progress, given=given)
    with clock("head" if ready.strategy == ready.baseline else "training"):
        setting = _setting(ready, lambda _: None, progress)
        model = apply_strategy(setting, ready.strategy, ready.own)
    made = _judged(ready, setting, model, clock, None, "")
    saved = to_saved(made.fitted, made.summary, fingerprint=fingerprint_of(ready.observed), seed=recipe.seed)
    return replace(made.fitted, summary=replace(made.summary, seconds=clock.seconds())), saved


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """A model with what it knows of itself: how far it can be relied on, its answers to images that it was not fitted on."""

    fitted: Fitted
    caution: Caution
    test: Predictions | None
    cross_validation: Predictions
    summary: RunSummary


def _judged(ready: Prepared, setting: Setting, model: Model, clock: Clock, out: Path | None, command: str) -> _Judged:
    recipe, observed, split = ready.recipe, ready.observed, ready.split
    assert not isinstance(model.head, PixelHead), "made by the task of classes"
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
            model = replace(model, test_MK=fitted.logits(observed.test, device=recipe.device, progress=setting.progress))
        caution = caution_of(setting, model, max_error=recipe.max_error, coverage=recipe.coverage)
        fitted = replace(fitted, temperature=caution.temperature, novelty=caution.novelty, thresholds=caution.thresholds)
        test, cross_validation = _predictions(split, observed, model, caution.temperature)
        summary = _summary(ready, model, test, cross_validation, command)
        summary = replace(summary, calibrated=caution.calibrated, abstain=caution.rule)
    return _Judged(fitted=fitted, caution=caution, test=test, cross_validation=cross_validation, summary=summary)


def _overlays(ready: Prepared, fitted: Fitted, found: tuple[Mistake, ...], paths: dict[str, ImagePath]) -> Overlays:
    """The evidence for the most confident mistakes; none of images that are not at hand any more."""
    there = {name: path for name, path in paths.items() if path.exists()}

    def draw() -> dict[str, bytes]:
        return mistake_overlays(fitted, found, there, device=ready.recipe.device)

    if fitted.backbone is not ready.backbone or not isinstance(fitted.head, HeadWeights):
        return Overlays(words=EVIDENCE_WORDS, pictures=draw())
    images = (*ready.observed.train, *ready.observed.test)
    digests = {image.name: digest for image, digest in zip(images, ready.observed.digests, strict=True)}
    shown = [(one.name, digests[one.name], one.name in there, wrong_answer(one)) for one in found]
    asked = (fitted.backbone.name, fitted.backbone.weights_digest, fitted.backbone.preprocess, pick_device(ready.recipe.device))
    solved = (fitted.head.taps, fitted.head.weight_KD, fitted.head.bias_K, fitted.temperature)
    key = key_of("evidence", asked, solved, fitted.classes, shown)
    return Overlays(words=EVIDENCE_WORDS, pictures=remembered(_cache(ready), key, dict[str, bytes], draw))


def _cache(ready: Prepared) -> Path:
    return ready.recipe.cache or default_folder()


def _learning(ready: Prepared, progress: Progress) -> LearningCurve:
    """What the solved head would gain from more images, whatever is trained beside it."""
    solved, observed, split = ready.solved, ready.observed, ready.split
    groups = [sample.group for sample in observed.train]
    key = key_of(
        "learning", solved.weight_KD, solved.out_of_fold_NK, observed.digests, observed.folds_N, groups, ready.recipe.seed
    )

    def draw() -> LearningCurve:
        return learning_curve(
            observed.train_features.leading(solved.weight_KD.shape[1]),
            targets_of(observed.train, split.classes, split.multi_label),
            observed.folds_N,
            solved.out_of_fold_NK,
            classes=len(split.classes),
            l2=solved.choice.l2,
            balanced=solved.choice.balanced,
            groups=groups,
            seed=ready.recipe.seed,
            progress=progress,
        )

    return remembered(_cache(ready), key, LearningCurve, draw)


def _setting(ready: Prepared, told: Callable[[Epoch], None], progress: Progress) -> Setting:
    recipe, split = ready.recipe, ready.split
    return Setting(
        backbone=ready.backbone,
        classes=split.classes,
        targets=targets_of(ready.observed.train, split.classes, split.multi_label),
        observed=ready.observed,
        extracted=ready.extracted,
        solved=ready.solved,
        task=Classes(),
        cache=_cache(ready),
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


def _identity(ready: Prepared, data: str) -> Identity:
    recipe, backbone = ready.recipe, ready.backbone
    asked = asked_of(
        recipe.strategy,
        backbone=backbone.name,
        weights=backbone.weights_digest,
        preprocess=str(backbone.preprocess),
        seed=recipe.seed,
        classes=ready.split.classes,
        # Not `split.how`, which counts the images: those have their own check.
        **{f"data.{name}": getattr(recipe.data, name) for name in _OF_SPLIT},
    )
    limit = f"{recipe.cache_limit:,} bytes"
    where = machine(pick_device(recipe.device)) | {"engine": ready.extracted.engine, "cache size": limit}
    return Identity(asked=asked, images=data, machine=where)


def fingerprint_of(observed: Observed) -> str:
    """What identifies the images with their names and labels."""
    images = (*observed.train, *observed.test)
    return fingerprint(tuple(s.name for s in images), tuple(s.labels for s in images), observed.digests)


def _predictions(split: Split, observed: Observed, model: Model, temperature: float) -> tuple[Predictions | None, Predictions]:
    """Calibrated answers for the test images, and for those that judged the model."""
    judged = [observed.train[i] for i in model.judged]
    both = ((observed.test, model.test_MK), (judged, model.judged_NK))
    test, crossed = (
        predictions_of(samples, split.classes, split.multi_label, np.asarray(logits_NK / temperature))
        for samples, logits_NK in both
    )
    return test if observed.test else None, crossed


def _summary(
    ready: Prepared, model: Model, test: Predictions | None, cross_validation: Predictions, command: str
) -> RunSummary:
    samples, split, observed, extracted = ready.samples, ready.split, ready.observed, ready.extracted
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
        weights=ready.backbone.weights,
        history=model.history,
        compared=model.compared,
        rule=rule_of_thumb(ready.backbone, observed, extracted) if isinstance(ready.recipe.strategy, Auto) else None,
    )


def _kept(ready: Prepared) -> KeptImages:
    extracted, observed = ready.extracted, ready.observed
    return KeptImages(
        train=observed.train,
        test=observed.test,
        digests=observed.digests,
        table=extracted.table,
        engine=extracted.engine,
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
