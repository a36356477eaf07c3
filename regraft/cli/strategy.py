"""The strategy that the options of `regraft fit` name."""

from dataclasses import dataclass, fields, replace
from typing import Any

from regraft.errors import UsageError
from regraft.strategies import Auto, Balance, Decoding, Features, Gradual, Head, Strategy
from regraft.strategy_names import trained_named

# Sets of images with masks are small, and each image has many answers: more steps of fewer images.
OF_PIXELS: dict[str, Any] = {"epochs": 20, "batch_size": 8, "mixup": 0.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingOptions:
    """What the command line says of a training; None where it says nothing. The fields are those of `Training`."""

    epochs: int | None = None
    minutes: float | None = None
    lr: float | None = None
    optimizer: str | None = None
    schedule: str | None = None
    batch_size: int | None = None
    augment: str | None = None
    depth_decay: float | None = None
    start: str | None = None

    def given(self) -> dict[str, Any]:
        """Those that were said."""
        return {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) is not None}


def strategy_of(
    text: str,
    *,
    features: Features = "auto",
    balance: Balance = "none",
    head: str | None = None,
    training: TrainingOptions = TrainingOptions(),
    freeze: tuple[str, ...] = (),
    pixels: bool = False,
) -> Strategy:
    """The strategy of that name; `pixels`: for a task whose every pixel has an answer.

    Raises UsageError for another, and for an option that it has no use for.
    """
    given = training.given()
    if text == "head" and pixels:
        _check_use(text, "--freeze", given=bool(freeze), other="a strategy that trains more: partial:N, full or scratch")
        _check_use(text, "--head", given=head is not None, other="--task classification")
        return replace(Decoding(), **given, balance=balance)
    if text == "head":
        _check_use(text, "--freeze", given=bool(freeze), other="a strategy that trains more: partial:N, full or scratch")
        how = replace(Head(module=head).how, **given, balance=balance) if given else None
        return Head(features=features, balance=balance, module=head, training=how)
    strategy = trained_named(text)
    if pixels and not isinstance(strategy, Auto):
        own = {"epochs"} if isinstance(strategy, Gradual) else set()
        strategy = replace(strategy, **{name: value for name, value in OF_PIXELS.items() if name not in own})
    _check_use(text, "--head", given=head is not None, other="--strategy head")
    if isinstance(strategy, Auto):
        for option in ("epochs", "start"):
            _check_use(text, f"--{option}".replace("start", "from random"), given=option in given, other="another strategy")
        minutes = given.pop("minutes", strategy.minutes)
        how = replace(strategy.training, **given, features=features, balance=balance, freeze=freeze)
        return replace(strategy, minutes=minutes, balance=balance, training=how)
    return replace(strategy, **given, features=features, balance=balance, freeze=freeze)


def _check_use(strategy: str, option: str, *, given: bool, other: str) -> None:
    if given:
        raise UsageError(
            expected=f"{option} with {other}", got=f"{option} with {strategy}", fix=f"leave {option} out, or the strategy"
        )


def bytes_of(text: str, option: str = "--cache-size") -> int:
    """Bytes of a size such as 20GB, 500MB or 1.5e9. Raises UsageError."""
    units = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "b": 1}
    number = text.strip().lower()
    unit = next((unit for unit in units if number.endswith(unit)), "")
    try:
        size = int(float(number.removesuffix(unit)) * units.get(unit, 1))
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise UsageError(expected=f"{option} as a number of bytes", got=repr(text), fix="give for example 20GB or 500MB")
    return size
