"""The strategy that the options of `regraft fit` name."""

from regraft.errors import UsageError
from regraft.recipe import Balance, Features, Full, Head, Partial, Scratch, Strategy

_NAMES = "head, partial:N, full or scratch"


def strategy_of(
    text: str, *, features: Features = "auto", balance: Balance = "none", head: str | None = None, epochs: int | None = None
) -> Strategy:
    """ "head", "partial:N", "full" or "scratch". Raises UsageError for another, and for an option that it has no use for."""
    if text == "head":
        return Head(features=features, balance=balance, module=head, epochs=epochs)
    name, _, number = text.partition(":")
    if name not in ("partial", "full", "scratch") or (number != "") != (name == "partial"):
        fix = "partial:1 trains the last stage, partial:2 the last two" if name == "partial" else "choose one of them"
        raise UsageError(expected=f"--strategy to be {_NAMES}", got=repr(text), fix=fix)
    for option, given in (("--features", features != "auto"), ("--head", head is not None)):
        if given:
            raise UsageError(
                expected=f"{option} with --strategy head",
                got=f"{option} with {text}",
                fix=f"leave {option} out, or the strategy",
            )
    if name == "partial":
        return _partial(number, balance, epochs)
    kind = Full if name == "full" else Scratch
    return kind(balance=balance) if epochs is None else kind(balance=balance, epochs=epochs)


def _partial(number: str, balance: Balance, epochs: int | None) -> Partial:
    if not (number.isascii() and number.isdigit()):
        raise UsageError(
            expected="partial:N with a whole number N", got=repr(f"partial:{number}"), fix="partial:1 trains the last stage"
        )
    stages = int(number)
    return Partial(stages=stages, balance=balance) if epochs is None else Partial(stages=stages, balance=balance, epochs=epochs)
