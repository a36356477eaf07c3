"""The strategy that the options of `regraft fit` name."""

from dataclasses import replace

from regraft.errors import UsageError
from regraft.recipe import Balance, Features, Full, Head, Partial, Scratch, Strategy

_NAMES = "head, partial:N, full or scratch"


def strategy_of(
    text: str,
    *,
    features: Features = "auto",
    balance: Balance = "none",
    head: str | None = None,
    epochs: int | None = None,
    freeze: tuple[str, ...] = (),
) -> Strategy:
    """ "head", "partial:N", "full" or "scratch". Raises UsageError for another, and for an option that it has no use for."""
    if text == "head":
        _check_use(text, "--freeze", given=bool(freeze), other="a strategy that trains more: partial:N, full or scratch")
        return Head(features=features, balance=balance, module=head, epochs=epochs)
    name, _, number = text.partition(":")
    if name not in ("partial", "full", "scratch") or (number != "") != (name == "partial"):
        fix = "partial:1 trains the last stage, partial:2 the last two" if name == "partial" else "choose one of them"
        raise UsageError(expected=f"--strategy to be {_NAMES}", got=repr(text), fix=fix)
    _check_use(text, "--features", given=features != "auto", other="--strategy head")
    _check_use(text, "--head", given=head is not None, other="--strategy head")
    strategy: Partial | Full | Scratch = Full() if name == "full" else Scratch()
    if name == "partial":
        strategy = Partial(stages=_stages(number))
    return replace(strategy, balance=balance, freeze=freeze, epochs=strategy.epochs if epochs is None else epochs)


def _check_use(strategy: str, option: str, *, given: bool, other: str) -> None:
    if given:
        raise UsageError(
            expected=f"{option} with {other}", got=f"{option} with {strategy}", fix=f"leave {option} out, or the strategy"
        )


def _stages(number: str) -> int:
    if not (number.isascii() and number.isdigit() and len(number) < 5):
        raise UsageError(
            expected="partial:N with a whole number N", got=repr(f"partial:{number}"), fix="partial:1 trains the last stage"
        )
    return int(number)
