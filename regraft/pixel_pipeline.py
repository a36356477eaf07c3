"""One fit where every pixel has an answer, stage by stage: the stages of `pipeline`, with masks in place of labels."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.cache.engines import pick_device
from regraft.cache.store import default_folder
from regraft.clock import Clock
from regraft.errors import UsageError
from regraft.evaluate.pixel_calibration import calibrate_pixels
from regraft.evaluate.pixel_scores import score_pixels, wrong_shares
from regraft.evaluate.pixel_threshold import choose_threshold
from regraft.fitted_pixels import FittedPixels
from regraft.memo import key_of
from regraft.pixel_prepare import PreparedPixels, prepare_pixels
from regraft.pixel_report import report_of
from regraft.progress import Progress, Silent
from regraft.recipe import Recipe
from regraft.report.write import write_pixel_report
from regraft.saved import fingerprint, versions
from regraft.saved_pixels import save_pixels
from regraft.segments import BACKGROUND, MaskFinding, PixelCounts, PixelScores, PixelSummary
from regraft.strategies import Auto, Decoding, Head, Trained
from regraft.task.classify import groups_of
from regraft.train.by_pixel import PROBE_ALONE
from regraft.train.checkpoints import Identity, Resume, asked_of, forget, keepers_in, machine
from regraft.train.curves import Curves
from regraft.train.fit_network import fit_network
from regraft.train.kept_pixels import counts_in, overlaps, pixels_in
from regraft.train.pixel_network import PixelHead
from regraft.train.setting import Model, Setting
from regraft.train.strategy import resolved

_MOST_FINDINGS = 20


def fit(
    recipe: Recipe, out: Path, *, resume: Resume | None = None, command: str = "", progress: Progress = Silent()
) -> FittedPixels:
    """Run the whole job and write the run folder `out`; the result's `summary` says all of it. Raises each stage's errors."""
    _check_supported(recipe)
    clock = Clock()
    strategy = _strategy(recipe)
    ready = prepare_pixels(recipe, clock, progress)
    data = fingerprint(*_identified(ready))
    with clock("training" if strategy else "head"):
        told = Curves(out, tensorboard=recipe.tensorboard)
        setting = _setting(ready, told, progress)
        with told:
            if strategy is None:
                model = _probe_alone(ready, setting)
            else:
                identity = _identity(ready, strategy, data)
                setting = replace(setting, keepers=keepers_in(out, identity, resume=resume, progress=progress))
                model = fit_network(setting, strategy)
    with clock("scores"):
        found = _scored(ready, model, command, progress)
        fitted, summary = replace(found.fitted, folder=out), replace(found.summary, run=out, report=out / "report.html")
    with clock("saving"):
        save_pixels(fitted, summary, out, fingerprint=data, seed=recipe.seed)
    summary = replace(summary, seconds=clock.seconds())
    images = [(sample, ready.mask_map) for sample in ready.observed.train]
    images += [(sample, ready.test_map) for sample in ready.observed.test]
    with clock("pictures"):
        content = report_of(fitted, summary, found.judged, found.plain_threshold, found.test, images, recipe.device)
        write_pixel_report(content, out)
    forget(out)
    return replace(fitted, summary=replace(summary, seconds=clock.seconds()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scored:
    """A model with its scores and what they were made of; `plain_threshold` is of probabilities before they were calibrated."""

    fitted: FittedPixels
    summary: PixelSummary
    judged: PixelCounts
    test: PixelCounts | None
    plain_threshold: float


def _check_supported(recipe: Recipe) -> None:
    """Raise UsageError for what is made for classes of images alone."""
    unused = {
        "--from RUN": recipe.go_on_from is not None,
        "--tta": recipe.tta,
        "--max-error": recipe.max_error is not None,
        "--coverage": recipe.coverage is not None,
    }
    for option, given in unused.items():
        if given:
            got = f"--task {recipe.data.task}"
            raise UsageError(expected=f"{option} with --task classification", got=got, fix="leave it out")


def _strategy(recipe: Recipe) -> Trained | None:
    """What is to be trained; None for the probe alone."""
    chosen = resolved(recipe.strategy)
    if isinstance(chosen, Decoding):
        return None if recipe.decoder == PROBE_ALONE else chosen
    if isinstance(chosen, Auto):
        raise UsageError(
            expected=f"--strategy head, partial:N, full, gradual or norm for {recipe.data.task}",
            got="auto",
            fix="leave it out for head, which trains a decoder on the frozen network",
        )
    if not isinstance(chosen, Head):
        # Half of one picture over half of another is no scene that a mask could describe well.
        return replace(chosen, mixup=0.0, cutmix=0.0)
    if chosen.module is not None:
        raise UsageError(
            expected="a decoder for every pixel", got="a head of your own", fix="choose one with --decoder, or leave it out"
        )
    return None if recipe.decoder == PROBE_ALONE else Decoding(balance=chosen.balance)


def _setting(ready: PreparedPixels, told: Curves, progress: Progress) -> Setting:
    recipe = ready.recipe
    return Setting(
        backbone=ready.backbone,
        classes=ready.mask_map.classes,
        targets=np.zeros(len(ready.observed.train), np.int64),
        observed=ready.observed,
        extracted=ready.extracted,
        solved=ready.solved,
        task=ready.task,
        cache=recipe.cache or default_folder(),
        device=recipe.device,
        seed=recipe.seed,
        progress=progress,
        cache_limit=recipe.cache_limit,
        on_epoch=told,
    )


def _probe_alone(ready: PreparedPixels, setting: Setting) -> Model:
    every = np.arange(len(ready.observed.train))
    head = PixelHead(
        levels=ready.task.levels,
        decoder=PROBE_ALONE,
        channels=ready.mask_map.channels,
        module=ready.task.probe(every).eval().requires_grad_(False),
    )
    return Model(
        strategy="head",
        backbone=ready.backbone,
        head=head,
        choice=ready.solved.choice,
        judged=every,
        judged_NK=ready.solved.out_of_fold_NK,
        test_MK=np.zeros((0, 0)),
    )


def _identity(ready: PreparedPixels, strategy: Trained, data: str) -> Identity:
    recipe, backbone = ready.recipe, ready.backbone
    asked = asked_of(
        strategy,
        backbone=backbone.name,
        weights=backbone.weights_digest,
        preprocess=str(backbone.preprocess),
        seed=recipe.seed,
        classes=ready.mask_map.classes,
        task=ready.mask_map.kind,
        decoder=ready.task.decoder,
        loss=recipe.loss,
    )
    where = machine(pick_device(recipe.device)) | {"cache size": f"{recipe.cache_limit:,} bytes"}
    return Identity(asked=asked, images=data, machine=where)


def _identified(ready: PreparedPixels) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...], tuple[bytes, ...]]:
    """Names, digests of masks as labels, digests of images: what the data is known by."""
    images = (*ready.observed.train, *ready.observed.test)
    masks = tuple((key_of(sample.mask.read_bytes()),) if sample.mask else () for sample in images)
    return tuple(sample.name for sample in images), masks, ready.observed.digests


def _scored(ready: PreparedPixels, model: Model, command: str, progress: Progress) -> _Scored:
    layout, mask_map, observed, recipe = ready.task.layout, ready.mask_map, ready.observed, ready.recipe
    assert isinstance(model.head, PixelHead), "made by the task of pixels"
    judged = _counts(ready, model.judged_NK, model.judged)
    on = "validation" if model.history else "cross-validation"
    calibrated = calibrate_pixels(*pixels_in(layout, model.judged_NK), on, len(model.judged))
    plain = choose_threshold(judged.levels_N2L) if judged.levels_N2L is not None else 0.5
    threshold = _at_temperature(plain, calibrated.temperature)
    fitted = FittedPixels(
        backbone=model.backbone,
        head=model.head,
        mask_map=mask_map,
        usual_side=ready.usual_side,
        temperature=calibrated.temperature,
        threshold=threshold,
    )
    test, lost = fitted.count(observed.test, mask_map=ready.test_map, device=recipe.device, progress=progress)
    every = np.arange(len(observed.train))
    summary = PixelSummary(
        run=Path(),
        kind=mask_map.kind,
        classes=mask_map.classes,
        backbone=model.backbone.name,
        weights=ready.backbone.weights,
        strategy=model.strategy,
        decoder=model.head.decoder,
        loss=recipe.loss,
        train=len(observed.train),
        test=len(test.names),
        window=ready.backbone.preprocess.width,
        usual_side=ready.usual_side,
        rejected=(*ready.samples.rejected, *ready.split.rejected, *observed.rejected, *lost),
        test_scores=_scores(test, threshold) if test.names else None,
        judged=_scores(judged.at(plain), plain),
        judged_by=on,
        probe=_scores(_counts(ready, ready.solved.out_of_fold_NK, every), 0.5),
        calibrated=calibrated,
        threshold=threshold,
        choice=model.choice,
        history=model.history,
        findings=_findings(ready),
        copies=ready.copies,
        mask_words=mask_map.words,
        tree=ready.samples.tree,
        notes=(*ready.samples.notes, *ready.split.notes, *ready.backbone.notes, *model.notes),
        split=ready.split.how,
        command=command,
        seconds={},
        versions=versions(),
        cache_hits=ready.extracted.hits,
        cache_misses=ready.extracted.misses,
    )
    return _Scored(fitted=fitted, summary=summary, judged=judged, test=test if test.names else None, plain_threshold=plain)


def _at_temperature(probability: float, temperature: float) -> float:
    """The same pixels from calibrated probabilities."""
    logit = np.log(probability / (1 - probability)) / temperature
    return float(1 / (1 + np.exp(-logit)))


def _scores(counts: PixelCounts, threshold: float) -> PixelScores:
    return score_pixels(counts, threshold=threshold if counts.kind == "saliency" else None)


def _counts(
    ready: PreparedPixels, rows_NM: NDArray[np.float64] | NDArray[np.float32], images: NDArray[np.int64]
) -> PixelCounts:
    samples = [ready.observed.train[i] for i in images]
    names = tuple(sample.name for sample in samples)
    return counts_in(ready.task.layout, rows_NM, names, ready.mask_map.classes, groups_of(samples))


def _findings(ready: PreparedPixels) -> tuple[MaskFinding, ...]:
    """Masks that say nothing, and those that probes which had not seen them disagree with most."""
    rows = ready.solved.out_of_fold_NK
    counts = _counts(ready, rows, np.arange(len(ready.observed.train)))
    found = []
    for sample, true in zip(ready.observed.train, counts.true_NK, strict=True):
        assert sample.mask is not None, "paired when it was read"
        if not true.sum():
            found.append(MaskFinding(name=sample.name, path=sample.mask, what="all ignored", share=1.0))
        elif true.max() == true.sum():
            empty = ready.mask_map.classes[int(true.argmax())] in (BACKGROUND, ready.mask_map.classes[0])
            found.append(MaskFinding(name=sample.name, path=sample.mask, what="empty" if empty else "full", share=1.0))
    shared, wrong = overlaps(ready.task.layout, rows), wrong_shares(counts)
    first, third = np.quantile(shared, [0.25, 0.75])
    # The probe is a weak judge: only what even to it is far from all others (Tukey's fence) is worth a person's look.
    fence = first - 1.5 * (third - first)
    for row in [int(row) for row in np.argsort(shared, kind="stable") if shared[row] < fence][:_MOST_FINDINGS]:
        sample = ready.observed.train[row]
        assert sample.mask is not None, "paired when it was read"
        found.append(MaskFinding(name=sample.name, path=sample.mask, what="disagrees", share=float(wrong[row])))
    return tuple(found)
