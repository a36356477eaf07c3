"""Labels that look wrong, the most doubtful first."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from regraft.audits.noise import LabelNoise, doubts, log_odds_of
from regraft.evaluate.mistakes import labels
from regraft.evaluate.probability import Targets, decisions, known_truth
from regraft.findings import Suspect
from regraft.values import Predictions

# A label that is as likely wrong as right is worth a look: docs/measurements.md#labels
SUSPECT_FROM = 0.5
NO_LABEL = "none"


def suspect_labels(
    predictions: Predictions, parts: Sequence[str], noise: LabelNoise, *, limit: int | None = None, always: int = 0
) -> tuple[Suspect, ...]:
    """The labels that are rather wrong than right, at most `limit` images, the likeliest wrong first.

    `predictions` are out of fold, those that `noise` was fitted to; `parts` says for each image where it belongs. The order is
    that of the log-odds of the given label (self-confidence, sharpened), equal ones by name. There is none where nothing speaks
    for wrong labels at all; but the first `always` that the heads disagree with come in any case, with a `wrong` below 1/2.
    Labels that were mixed up between two classes look like classes that are alike, and are found in no other way. Raises what
    `fit_noise` raises.
    """
    truth = known_truth(predictions)
    if len(parts) != len(truth):
        raise ValueError(f"expected a part for each of {len(truth)} images, got {len(parts)}")
    disagree = decisions(predictions) != truth
    rows = np.flatnonzero(disagree if disagree.ndim == 1 else disagree.any(axis=1)).tolist()
    if not rows:
        return ()
    wrong, odds = doubts(predictions, noise), log_odds_of(predictions.logits_NK, truth, noise.sharpness)
    suspect = _several if truth.ndim == 2 else _single
    suspects = [suspect(predictions, truth, noise, wrong, odds, row, parts[row]) for row in rows]
    # By what is given too: the probability of being wrong is 1, or 0, for many.
    suspects.sort(key=lambda one: (-one.wrong, one.given, one.name))
    listed = max(sum(one.wrong >= SUSPECT_FROM for one in suspects), always)
    return tuple(suspects[:listed][:limit])


def _single(
    predictions: Predictions,
    truth: Targets,
    noise: LabelNoise,
    wrong_N: NDArray[np.float64],
    odds_N: NDArray[np.float64],
    row: int,
    part: str,
) -> Suspect:
    others_K = predictions.logits_NK[row].astype(np.float64) * noise.sharpness
    log_sum = np.logaddexp.reduce(others_K)
    others_K[truth[row]] = -np.inf
    return Suspect(
        name=predictions.names[row],
        label=predictions.classes[int(truth[row])],
        suggested=predictions.classes[int(others_K.argmax())],
        given=_chance(odds_N[row]),
        instead=float(np.exp(others_K.max() - log_sum)),
        part=part,
        wrong=float(wrong_N[row]),
    )


def _several(
    predictions: Predictions,
    truth: Targets,
    noise: LabelNoise,
    wrong_NK: NDArray[np.float64],
    odds_NK: NDArray[np.float64],
    row: int,
    part: str,
) -> Suspect:
    worst = int(np.lexsort((odds_NK[row], -wrong_NK[row]))[0])
    turned_K = wrong_NK[row] >= SUSPECT_FROM
    turned_K[worst] = True
    return Suspect(
        name=predictions.names[row],
        label=_joined(labels(predictions.classes, truth[row])),
        suggested=_joined(labels(predictions.classes, truth[row] ^ turned_K)),
        given=_chance(odds_NK[row, worst]),
        instead=_chance(-odds_NK[row, worst]),
        part=part,
        wrong=float(wrong_NK[row, worst]),
    )


def _chance(log_odds: float) -> float:
    return float(np.exp(-np.logaddexp(0.0, -log_odds)))


def _joined(names: tuple[str, ...]) -> str:
    return ", ".join(names) or NO_LABEL
