"""Labels that look wrong, the most doubtful first."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from regraft.audit.noise import LabelNoise, doubts, log_odds_of
from regraft.evaluate.mistakes import labels
from regraft.evaluate.probability import Targets, known_truth
from regraft.findings import Suspect
from regraft.values import Predictions

# A label that is as likely wrong as right is worth a look: docs/measurements.md#labels
SUSPECT_FROM = 0.5
NO_LABEL = "none"


def suspect_labels(
    predictions: Predictions, parts: Sequence[str], noise: LabelNoise, *, limit: int | None = None
) -> tuple[Suspect, ...]:
    """The labels that are rather wrong than right, at most `limit` images, the likeliest wrong first.

    `predictions` are out of fold, those that `noise` was fitted to; `parts` says for each image where it belongs. The order is
    that of the log-odds of the given label (self-confidence, sharpened), equal ones by name. There is none where nothing
    speaks for wrong labels at all. Raises what `fit_noise` raises.
    """
    truth = known_truth(predictions)
    if len(parts) != len(truth):
        raise ValueError(f"expected a part for each of {len(truth)} images, got {len(parts)}")
    wrong = doubts(predictions, noise)
    wrong_N = wrong if wrong.ndim == 1 else wrong.max(axis=1)
    rows = np.flatnonzero(wrong_N >= SUSPECT_FROM)
    if not len(rows):
        return ()
    # By log-odds and not by the probability, which is 1 for many.
    least = log_odds_of(predictions.logits_NK, truth, noise.sharpness)
    least_N = least if least.ndim == 1 else _at_worst(least, wrong)
    order = sorted(rows, key=lambda row: (-wrong_N[row], least_N[row], predictions.names[row]))
    return tuple(_suspect(predictions, truth, noise, wrong, int(row), parts[row]) for row in order[:limit])


def _at_worst(values_NK: NDArray[np.float64], wrong_NK: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values_NK[np.arange(len(values_NK)), wrong_NK.argmax(axis=1)])


def _suspect(
    predictions: Predictions, truth: Targets, noise: LabelNoise, wrong: NDArray[np.float64], row: int, part: str
) -> Suspect:
    classes, logits_K = predictions.classes, predictions.logits_NK[row].astype(np.float64) * noise.sharpness
    if truth.ndim == 2:
        given_K, wrong_K = np.asarray(truth[row]), wrong[row]
        worst = int(wrong_K.argmax())
        instead = _chance(-logits_K[worst] if given_K[worst] else logits_K[worst])
        return Suspect(
            name=predictions.names[row],
            label=_joined(labels(classes, given_K)),
            suggested=_joined(labels(classes, given_K ^ (wrong_K >= SUSPECT_FROM))),
            given=1 - instead,
            instead=instead,
            part=part,
            wrong=float(wrong_K[worst]),
        )
    own = int(truth[row])
    chances_K = np.exp(logits_K - logits_K.max())
    chances_K /= chances_K.sum()
    rest_K = np.where(np.arange(len(classes)) == own, -1.0, chances_K)
    other = int(rest_K.argmax())
    return Suspect(
        name=predictions.names[row],
        label=classes[own],
        suggested=classes[other],
        given=float(chances_K[own]),
        instead=float(chances_K[other]),
        part=part,
        wrong=float(wrong[row]),
    )


def _chance(logit: float) -> float:
    return float(np.exp(-np.logaddexp(0.0, -logit)))


def _joined(names: tuple[str, ...]) -> str:
    return ", ".join(names) or NO_LABEL
