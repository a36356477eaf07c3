"""Strategies by the names that people give them: head, partial:2, gradual:3."""

from regraft.errors import UsageError
from regraft.strategies import Auto, Full, Gradual, Head, Norm, Partial, Scratch, Strategy, Trained

_NAMES = "head, partial:N, norm, full, gradual, gradual:EPOCHS, scratch or auto"
_PLAIN: dict[str, type[Trained]] = {"norm": Norm, "full": Full, "scratch": Scratch}


def strategy_named(text: str) -> Strategy:
    """The strategy of that name, with its defaults. Raises UsageError for another name."""
    return Head() if text == "head" else trained_named(text)


def trained_named(text: str) -> Trained | Auto:
    """The strategy of that name, one that trains. Raises UsageError for another name."""
    name, colon, _ = text.partition(":")
    if text == "auto":
        return Auto()
    if text in _PLAIN:
        return _PLAIN[text]()
    if name == "partial" and colon:
        return Partial(stages=_whole(text, "partial:1 trains the last stage"))
    if name == "gradual":
        return Gradual(epochs=_whole(text, "gradual:2 gives each phase 2 epochs")) if colon else Gradual()
    fix = "partial:1 trains the last stage, partial:2 the last two" if name == "partial" else "choose one of them"
    raise UsageError(expected=f"--strategy to be {_NAMES}", got=repr(text), fix=fix)


def _whole(text: str, fix: str) -> int:
    name, _, number = text.partition(":")
    if not (number.isascii() and number.isdigit() and 0 < len(number) < 5 and int(number)):
        raise UsageError(expected=f"{name}:N with a whole number N of 1 or more", got=repr(text), fix=fix)
    return int(number)
