"""Whether an export answers as its network does; of an int8 one, what it costs instead."""

import numpy as np
from numpy.typing import NDArray

from regraft.errors import ExportDiffers
from regraft.evaluate.interval import paired_shares, share_interval
from regraft.exports.outcome import Exported, Int8Cost
from regraft.exports.verify import NEAR, NEAR_DISTANCE, Answered, Pace, labels_of, write_sheet
from regraft.fitted import Fitted
from regraft.task.classify import groups_of, targets_of

_NAMED = 10  # images that a message names


def check_same(fitted: Fitted, found: Exported, answered: Answered, pace: Pace) -> None:
    """Raise ExportDiffers, with a contact sheet of the images, where the file answers otherwise than the network."""
    gap_N = abs(answered.theirs - answered.ours).max(axis=1)
    # Not `<=`: an answer that is no number is as wrong as can be.
    bad = sorted({*answered.differing(fitted.multi_label), *(i for i, gap in enumerate(gap_N) if not gap <= NEAR)})
    if not bad:
        if pace.largest_difference <= NEAR and answered.distance_gap <= NEAR_DISTANCE:
            return
        what, gap = ("of several images at a time", pace.largest_difference)
        if answered.distance_gap > NEAR_DISTANCE:
            what, gap = ("of distances", answered.distance_gap)
        raise _differs(found, f"answers {what} that are {gap:.2g} away", "")
    sheet = found.path.with_suffix(".differences.png")
    write_sheet(sheet, [answered.samples[i] for i in bad], fitted.backbone.preprocess)
    named = [_line(fitted, answered, i) for i in bad[:_NAMED]]
    more = f"\n       and {len(bad) - _NAMED:,} more" if len(bad) > _NAMED else ""
    raise _differs(found, f"{len(bad):,} of {len(gap_N):,} otherwise:{''.join(named)}{more}", f"; they are shown in {sheet}")


def _differs(found: Exported, got: str, where: str) -> ExportDiffers:
    return ExportDiffers(
        expected=f"an export to {found.to} that answers as the network does, each probability within {NEAR:g}",
        got=got,
        fix=f"use another format, or other versions of its packages; nothing was written to {found.path}{where}",
    )


def _line(fitted: Fitted, answered: Answered, row: int) -> str:
    sides = [(rows[row], rows[row].argmax()) for rows in (answered.ours, answered.theirs)]
    ours, theirs = (f"{fitted.classes[k]} {shares[k]:.4f}" for shares, k in sides)
    return f"\n       {answered.samples[row].name}: {ours} by the network, {theirs} by the file"


def int8_cost(fitted: Fitted, answered: Answered, pace: Pace, plain: Pace, fp32_bytes: int) -> Int8Cost:
    """What int8 costs on labelled images; `plain` is the pace of the same file in fp32, which has `fp32_bytes`."""
    truth = targets_of(answered.samples, fitted.classes, fitted.multi_label)
    sides = [labels_of(rows, fitted.multi_label) == truth for rows in (answered.ours, answered.theirs)]
    before, after = (side.all(axis=1) if side.ndim == 2 else side for side in sides)
    groups = groups_of(answered.samples)
    changed = [
        (answered.samples[i].name, _named(fitted, answered.ours[i]), _named(fitted, answered.theirs[i]))
        for i in answered.differing(fitted.multi_label)
    ]
    return Int8Cost(
        before=share_interval(before, groups),
        after=share_interval(after, groups),
        difference=paired_shares(before, after, groups),
        changed=tuple(changed),
        fp32_bytes=fp32_bytes,
        speed=pace.theirs / plain.theirs,
    )


def _named(fitted: Fitted, shares_K: NDArray[np.float64]) -> str:
    if not fitted.multi_label:
        return fitted.classes[int(shares_K.argmax())]
    return ", ".join(name for name, share in zip(fitted.classes, shares_K, strict=True) if share > 0.5) or "none"
