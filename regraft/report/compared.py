"""What `auto` tried, what it kept and why; and what the tutorials' rule of thumb would have said."""

import math

from regraft.report.text import DASH, MINUS, NBSP, counted, figure, percent, seconds
from regraft.report.training import verdict
from regraft.values import Compared, RuleOfThumb, RunSummary


def gain_words(one: Compared) -> str:
    """ "+0.210 ± 0.030", by how much less the loss is than the solved head's, with its standard error; a dash for none."""
    if math.isnan(one.gain) or one.strategy == "head":
        return DASH
    return f"{MINUS if one.gain < 0 else '+'}{abs(one.gain):.3f}{NBSP}±{NBSP}{figure(one.gain_se)}"


def outcome(one: Compared, compared: tuple[Compared, ...]) -> str:
    """Why it was kept or not, in a few words."""
    winner = next((other.strategy for other in compared if other.kept), "head")
    if one.note:
        return f"left out: {one.note}"
    if one.strategy == "head":
        return "kept: nothing was clearly better" if one.kept else "what the others start from"
    if one.kept:
        return "kept: clearly better than what costs less"
    if one.gain <= 0:
        return "no better than the solved head"
    if one.gain <= one.gain_se:
        return "not clearly better than the solved head: its gain is within its standard error"
    behind = any(other.kept and other.nll <= one.nll for other in compared)
    return f"better than the solved head, but not {'as good as' if behind else 'clearly better than'} {winner}"


def judgement(summary: RunSummary) -> str:
    """Whether training paid, in a sentence or two; empty where nothing was to be trained."""
    return auto_verdict(summary) or (verdict(summary.history) if summary.history else "")


def auto_verdict(summary: RunSummary) -> str:
    """What `auto` kept, and on what grounds, in two sentences; empty where it was not asked."""
    tried = [one for one in summary.compared if one.strategy != "head" and not one.note]
    left_out = [one for one in summary.compared if one.note]
    winner = next((one for one in tried if one.kept), None)
    more = f" Not tried: {', '.join(one.strategy for one in left_out)}." if left_out else ""
    if not summary.compared:
        return ""
    if winner is None:
        return (_nothing_better(tried) if tried else "Auto keeps the solved head, for nothing else was tried.") + more
    where = ""
    if summary.history is not None:
        before, after = percent(summary.history.solved.value), percent(summary.history.accuracy.value)
        images = counted(summary.history.validation, "validation image")
        where = f" It gets {after} of the {images} right, the solved head {before}."
    return (
        f"Auto keeps {winner.strategy}: on validation images its loss is {figure(winner.gain)} nats below that of the "
        f"solved head (standard error {figure(winner.gain_se)}).{where}{more}"
    )


def _nothing_better(tried: list[Compared]) -> str:
    results = ", ".join(f"{one.strategy} {gain_words(one)}" for one in tried)
    verb = "was" if len(tried) == 1 else "were"
    names = " and ".join(one.strategy for one in tried)
    return (
        f"Auto keeps the solved head: {names} {verb} tried and not clearly better on the same validation images "
        f"(gain in nats with its standard error: {results})."
    )


def rule_words(rule: RuleOfThumb) -> str:
    """The rule of thumb with what it goes by."""
    amount = "under 1,000" if rule.images < 1000 else "1,000 to 10,000" if rule.images <= 10_000 else "over 10,000"
    start = f"{counted(rule.images, 'training image')} ({amount})"
    if math.isnan(rule.confidence):
        return f"{start}; how like they are to what the network was trained on is not known, for it has no classifier to ask."
    return (
        f"{start}; on average the network's own classifier gives its first answer {percent(rule.confidence)}, where "
        f"photographs like those it was trained on get 60 to 70{NBSP}%."
    )


def spent(one: Compared) -> str:
    """The time that it took, a dash where none was spent."""
    return seconds(one.seconds) if one.seconds else DASH
