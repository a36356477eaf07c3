"""What the rule for "none of these" costs and buys: in a sentence, and over all the rules there could be."""

import math

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from regraft.evaluate.probability import confidences, decisions, known_truth, right
from regraft.report.figures import WIDTH
from regraft.report.regularisation import linear_ticks
from regraft.report.svg import Drawing, linear
from regraft.report.text import counted, percent, span
from regraft.values import AbstainRule, Predictions

LEFT, RIGHT, TOP, BOTTOM = 58.0, WIDTH - 14, 14.0, 232.0
POINTS = 200  # of the curve: more cannot be told apart at its width


def abstain_words(rule: AbstainRule) -> str:
    """What it costs and what it buys, in a sentence."""
    abstains, images = percent(1 - rule.covered.value), counted(rule.covered.n, "image")
    where = f"the {images} of the test" if rule.on == "test" else f"the {images} of the {rule.on}"
    if not rule.error_answered.n:
        return f"It abstains on all of {where}."
    before, after = percent(rule.error_all.value), percent(rule.error_answered.value)
    change = "falls" if rule.error_answered.value < rule.error_all.value else "goes"
    return (
        f'It says "none of these" on {abstains} of {where}, and its error {change} from {before} to {after} '
        f"({span(rule.error_answered)})."
    )


def asked_words(rule: AbstainRule) -> str:
    """What the threshold was set for."""
    if rule.max_error is not None:
        return f"an error of at most {percent(rule.max_error)} among its answers"
    if rule.coverage is not None:
        return f"an answer for {percent(rule.coverage)} of images"
    return "images unlike those it learned from"


def answers_where(rule: AbstainRule) -> str:
    """Where it gives an answer, by its thresholds."""
    parts = []
    if rule.confidence is not None and rule.confidence > 1:
        return "No probability is high enough for that: nothing is answered."
    if rule.confidence is not None:
        parts.append(f"its calibrated confidence is at least {percent(rule.confidence)}")
    if rule.distance is not None and math.isfinite(rule.distance):
        parts.append(
            f"the image lies no farther from those it learned from than {rule.distance:.3g} times what is usual for new images"
        )
    return f"It answers where {' and '.join(parts)}." if parts else "It answers always."


def risk_coverage(predictions: Predictions) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share answered and error among the answers, (N,) each, if the n most confident images are answered, for n = 1 to N.

    The risk-coverage curve of selective classification (El-Yaniv and Wiener 2010), by the probability of the answer. Images of
    the same probability are answered together, so that their order does not matter. Raises DataUnusable without targets.
    """
    wrong_N = ~right(known_truth(predictions), decisions(predictions))
    sure_N = confidences(predictions)
    order = np.argsort(-sure_N, kind="stable")
    n = np.arange(1, len(order) + 1)
    last = np.append(np.diff(sure_N[order]) != 0, True)
    return (n / len(order))[last], (np.cumsum(wrong_N[order]) / n)[last]


def coverage_figure(rule: AbstainRule, predictions: Predictions) -> Markup:
    """Error among the answers against the share that is answered; the rule is ringed."""
    covered, errors = risk_coverage(predictions)
    kept = np.unique(np.linspace(0, len(covered) - 1, POINTS).round().astype(int))
    words = f"Error among the answers against the share answered; the rule answers {percent(rule.covered.value)}"
    drawing = Drawing(WIDTH, BOTTOM + 48, words)
    # The first few images alone give any error; what one looks for is the rest.
    steady = [float(e) for c, e in zip(covered, errors, strict=True) if c >= 0.05] or [0.0]
    top = max(*steady, rule.error_all.value, 0.01) * 1.08
    x, y = linear((0, 1), (LEFT, RIGHT)), linear((0, top), (BOTTOM, TOP))
    for tick in linear_ticks(0, top * 100, 4):
        drawing.line((LEFT, y(tick / 100)), (RIGHT, y(tick / 100)), "grid")
        drawing.text((LEFT - 8, y(tick / 100) + 4), f"{tick:.3g}", "tick", anchor="end")
    for tick in (0, 20, 40, 60, 80, 100):
        drawing.text((x(tick / 100), BOTTOM + 17), str(tick), "tick", anchor="middle")
    drawing.line((LEFT, BOTTOM), (RIGHT, BOTTOM), "axis")
    drawing.path([(x(float(covered[i])), max(y(float(errors[i])), TOP)) for i in kept], "curve one")
    if not math.isnan(rule.error_answered.value):
        at = (x(rule.covered.value), max(y(rule.error_answered.value), TOP))
        drawing.dot(at, 4.5, "dot two")
        drawing.dot(
            at, 8.5, "ring two", f"the rule: {percent(rule.covered.value)} answered, {percent(rule.error_answered.value)} wrong"
        )
    drawing.text(((LEFT + RIGHT) / 2, BOTTOM + 38), "answered, %", "title", anchor="middle")
    drawing.text((14, (TOP + BOTTOM) / 2), "wrong, %", "title", anchor="middle", turn=-90)
    return drawing.render()
