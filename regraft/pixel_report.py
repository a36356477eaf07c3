"""What the report of a model that answers for every pixel is drawn from, pictures included."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from regraft.data.decode import decode_image
from regraft.data.masks import read_labels
from regraft.evaluate.pixel_calibration import reliability_of_levels
from regraft.evaluate.pixel_scores import image_scores, score_pixels, telling_images
from regraft.evaluate.pixel_threshold import ThresholdChoice, judged_threshold
from regraft.findings import Copies
from regraft.fitted_pixels import FittedPixels
from regraft.mask_files import overlaid
from regraft.palette import Palette, palette_of
from regraft.recipe import Device
from regraft.report.pixel_content import PixelPictures, PixelReport, Role
from regraft.segments import MaskMap, PixelCounts, PixelScores, PixelSummary
from regraft.values import Sample

# Of the best, the middle and the worst images.
SHOWN, SIDE = 3, 320


def report_of(
    fitted: FittedPixels,
    summary: PixelSummary,
    judged: PixelCounts,
    plain_threshold: float,
    test: PixelCounts | None,
    samples: Sequence[tuple[Sample, MaskMap]],
    device: Device,
) -> PixelReport:
    """The report of a fit. `judged` are the counts that chose, `test` those of the test images; `samples` hold the images,
    each with what the values in its mask mean.

    `plain_threshold` is the one that was chosen on `judged`, before probabilities were calibrated.
    """
    shown = test or judged
    palette = palette_of(max(2, len(fitted.classes)))
    return PixelReport(
        run=summary.run,
        backbone=summary.backbone,
        decoder=summary.decoder,
        strategy=summary.strategy,
        loss=summary.loss,
        train=summary.train,
        test=summary.test,
        scores=summary.test_scores or summary.judged,
        on="test" if test else "validation",
        images=image_scores(shown),
        mask_map=summary.mask_words,
        split=summary.split,
        command=summary.command,
        seconds=summary.seconds,
        versions=summary.versions,
        weights=summary.weights,
        validation=summary.judged if test else None,
        history=summary.history,
        measure="mean IoU of the images",
        calibrated=summary.calibrated,
        reliability=reliability_of_levels(shown.levels_N2L) if shown.levels_N2L is not None else (),
        threshold=_threshold(judged, plain_threshold, summary.judged_by),
        pictures=_pictures(fitted, shown, samples, palette, device),
        colours=tuple("#{:02x}{:02x}{:02x}".format(*colour) for colour in palette[: len(fitted.classes)]),
        searched=summary.train + summary.test,
        copies=summary.copies,
        masks=summary.findings,
        without_copies=_without(test, summary.copies, fitted) if test else None,
        rejected=summary.rejected,
        notes=summary.notes,
        tree=summary.tree,
    )


def _threshold(judged: PixelCounts, threshold: float, on: str) -> ThresholdChoice | None:
    return None if judged.levels_N2L is None else judged_threshold(judged.levels_N2L, threshold, on)


def _without(test: PixelCounts, copies: Sequence[Copies], fitted: FittedPixels) -> PixelScores | None:
    """The scores of test images that show nothing known from training; None where all are such."""
    known = {name for group in copies if group.across_parts for name in group.names}
    keep = np.array([name not in known for name in test.names])
    if keep.all() or not keep.any():
        return None
    return score_pixels(test.of(np.flatnonzero(keep)), threshold=fitted.threshold if fitted.kind == "saliency" else None)


def _pictures(
    fitted: FittedPixels, counts: PixelCounts, samples: Sequence[tuple[Sample, MaskMap]], palette: Palette, device: Device
) -> tuple[PixelPictures, ...]:
    by_name = {sample.name: (sample, mask_map) for sample, mask_map in samples}
    best, median, worst = telling_images(counts, SHOWN)
    roles: list[tuple[Role, int]] = [("worst", i) for i in worst]
    roles += [("median", i) for i in median]
    roles += [("best", i) for i in best]
    scores = image_scores(counts)
    wanted = [(role, by_name[counts.names[i]], scores[i].iou) for role, i in roles if counts.names[i] in by_name]
    answers = fitted.predict([sample.path for _, (sample, _), _ in wanted], device=device)
    found = []
    for (role, (sample, mask_map), iou), answer in zip(wanted, answers, strict=True):
        if answer.labels_HW is None or sample.mask is None:
            continue
        image = decode_image(sample.path, background=(255, 255, 255), name=sample.name).pixels.convert("RGB")
        truth_HW = read_labels(sample.mask, mask_map, sample.name)
        image.thumbnail((SIDE, SIDE))
        pixels = np.asarray(image)
        parts = [image, *(overlaid(pixels, labels, fitted.classes, palette) for labels in (truth_HW, answer.labels_HW))]
        one, two, three = (_jpeg(part) for part in parts)
        found.append(PixelPictures(name=sample.name, role=role, iou=iou, image=one, truth=two, answer=three))
    return tuple(found)


def _jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=82, optimize=True)
    return out.getvalue()
