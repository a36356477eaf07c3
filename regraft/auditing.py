"""What is wrong with a folder of images and its labels: `regraft.audit`, and what every fit says of its data."""

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from regraft.audits.audit import Seen, audit_samples, names_of
from regraft.audits.cells import search_for
from regraft.audits.similar import VERSION as SIMILAR_VERSION
from regraft.audits.similar import near_duplicates, similar_images
from regraft.cache.store import default_folder
from regraft.clock import Clock
from regraft.data.excluded import ACTION, EXCLUDE, PATH
from regraft.evaluate.temperature import fit_temperature
from regraft.findings import Audit, Copies, Similar
from regraft.memo import key_of, remembered
from regraft.prepare import Prepared, looks_of, prepare
from regraft.progress import Progress, Silent
from regraft.recipe import Recipe
from regraft.replacing import replacing
from regraft.rows import safe_cell
from regraft.task.classify import predictions_of, targets_of
from regraft.train.caution import Caution, novelty_of
from regraft.values import Predictions, Rejected


def audit(recipe: Recipe, *, progress: Progress = Silent()) -> tuple[Audit, tuple[Rejected, ...]]:
    """Audit the data of a recipe; images that could not be read are given beside the findings.

    One pass over the images and a solved head, both from the cache where they are there; nothing is written, nothing on disk is
    touched. Raises the errors of the stages of a fit.
    """
    clock = Clock()
    ready = prepare(recipe, clock, progress)
    with clock("audit"):
        found = audit_of(ready, _tested(ready), None, progress)
    rejected = (*ready.samples.rejected, *ready.split.rejected, *ready.observed.rejected)
    return replace(found, seconds=clock.seconds()["total"]), rejected


def audit_of(ready: Prepared, tested: Predictions | None, caution: Caution | None, progress: Progress = Silent()) -> Audit:
    """The findings in data that is prepared; `tested` are the answers to the test images by which a model is judged.

    `caution` may hold distances of training images that need not be measured again.
    """
    clock = Clock()
    with clock("audit"):
        observed = ready.observed
        if caution is not None and caution.distances is not None:
            distant, distances = caution.measured, caution.distances
        else:
            distant = np.arange(len(observed.train))
            distances = novelty_of(observed.train_features, observed.folds_N, ready.extracted.columns)[1]
        seen = Seen(
            train=observed.train,
            test=observed.test,
            looks=looks_of(ready.extracted),
            answers=_answers(ready),
            folds_N=observed.folds_N,
            distant=distant,
            distances=distances,
        )
        found = remembered(
            ready.recipe.cache or default_folder(),
            _key(ready, seen, tested),
            Audit,
            partial(_find, ready, seen, tested, progress),
        )
    return replace(found, seconds=clock.seconds()["total"])


def _find(ready: Prepared, seen: Seen, tested: Predictions | None, progress: Progress) -> Audit:
    kept = sum(len(group.names) for group in ready.copies)
    return audit_samples(
        seen, ready.copies, tested, kept_together=kept if ready.split.drawn else 0, similar=_similar(ready, seen, progress)
    )


def _similar(ready: Prepared, seen: Seen, progress: Progress) -> tuple[Similar, ...]:
    """Images whose features, those that the network's own head reads, are almost the same."""
    samples, parts = (*seen.train, *seen.test), ["train"] * len(seen.train) + ["test"] * len(seen.test)
    if search_for(len(samples)) == "equal":
        return ()
    near = near_duplicates(ready.extracted.features.leading(ready.extracted.columns.last_width), progress=progress)
    named = [replace(one, name=name) for one, name in zip(samples, names_of(seen.train, seen.test), strict=True)]
    return similar_images(near, named, parts, ready.copies)


def _key(ready: Prepared, seen: Seen, tested: Predictions | None) -> str:
    samples = (*seen.train, *seen.test)
    known = [(sample.name, sample.labels, sample.group or "") for sample in samples]
    logits = () if tested is None else (tested.logits_NK,)
    return key_of(
        "audit",
        known,
        len(seen.train),
        ready.observed.digests,
        ready.split.drawn,
        ready.copies,
        seen.answers.logits_NK,
        seen.folds_N,
        seen.distant,
        seen.distances,
        logits,
        (ready.extracted.table, SIMILAR_VERSION, search_for(len(samples))),
    )


def _answers(ready: Prepared) -> Predictions:
    """Of every image the calibrated answer of a solved head that had not seen it."""
    observed, split = ready.observed, ready.split
    logits_NK = ready.solved.out_of_fold_NK
    temperature = fit_temperature(logits_NK, targets_of(observed.train, split.classes, split.multi_label))
    both = np.concatenate([logits_NK, ready.solved.logits(observed.test_features)]) / temperature
    return predictions_of((*observed.train, *observed.test), split.classes, split.multi_label, both)


def _tested(ready: Prepared) -> Predictions | None:
    if not ready.observed.test:
        return None
    logits_MK = ready.solved.logits(ready.observed.test_features)
    return predictions_of(ready.observed.test, ready.split.classes, ready.split.multi_label, logits_MK)


def write_fix_list(found: Audit, path: Path) -> int:
    """Write what an audit found as a CSV table to edit, for `fit --exclude`; returns its number of rows.

    Columns: path, action, finding, detail. Only equal copies under one label, all but the first, are down for exclusion;
    everything else is for a person to decide. Raises UsageError or OutOfSpace where the file cannot be written.
    """
    rows = list(_fixes(found))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((PATH, ACTION, "finding", "detail"))
    # A name is a key here, as it is: what would be a formula to a spreadsheet is only made safe in the words beside it.
    writer.writerows((name, action, finding, safe_cell(detail)) for name, action, finding, detail in rows)
    with replacing(path) as temporary:
        temporary.write_bytes(text.getvalue().encode("utf-8", "backslashreplace"))
    return len(rows)


def _fixes(found: Audit) -> Iterator[tuple[str, str, str, str]]:
    for group in found.copies:
        same = group.sameness != "altered" and not group.across_classes and not group.across_parts
        for number, name in enumerate(group.names):
            others = "; ".join(other for other in group.names if other != name)
            yield name, EXCLUDE if same and number else "", _kind(group), f"{group.change}: {others}"
    for suspect in found.suspects:
        yield suspect.name, "", "suspect label", f"{suspect.label}, rather {suspect.suggested} ({100 * suspect.instead:.0f} %)"
    for outlier in found.outliers:
        yield outlier.name, "", "outlier", f"{outlier.distance:.1f} times the usual distance from other images"
    for odd in found.odd:
        yield odd.name, "", odd.code, odd.reason


def _kind(group: Copies) -> str:
    where = ["across classes"] * group.across_classes + ["in training and test"] * group.across_parts
    return ", ".join(["copy", *where])
