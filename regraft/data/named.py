"""Data sets that go by a name instead of a path: torchvision:CIFAR10, torchvision:EMNIST:split=letters.

Only names are looked at here, so that a command can say where its run goes before torchvision is imported.
"""

import ast
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from regraft.data.names import printable
from regraft.errors import UsageError

PREFIX = "torchvision:"
_FORM = "torchvision:NAME, or torchvision:NAME:OPTION=VALUE,OPTION=VALUE"
# Letters that every file system takes. Longer names are cut; the digest keeps them apart.
_UNSAFE, _LONGEST = re.compile(r"[^A-Za-z0-9_.=,-]"), 80


@dataclass(frozen=True, slots=True)
class NamedSet:
    """A class of torchvision.datasets and the arguments to call it with, as (name, text) in the order of their names."""

    name: str
    options: tuple[tuple[str, str], ...] = ()

    @property
    def spec(self) -> str:
        """As it is written on the command line."""
        return printable(f"{PREFIX}{self.name}" + (f":{self._text}" if self.options else ""))

    @property
    def title(self) -> str:
        """What its folder and its runs are called: CIFAR10, EMNIST-letters."""
        return _UNSAFE.sub("", "-".join([self.name, *(value for _, value in self.options)]))[:_LONGEST]

    @property
    def key(self) -> str:
        """A file name that differs for each data set and each choice of options."""
        return _safe(f"{self.name}-{self._text}" if self.options else self.name)

    @property
    def _text(self) -> str:
        return ",".join(f"{name}={value}" for name, value in self.options)

    def arguments(self) -> dict[str, object]:
        """The options as Python has them: numbers, True, tuples; text where it is nothing of these."""
        return {name: _value(text) for name, text in self.options}


def named_set(path: str | Path) -> NamedSet | None:
    """The data set that `path` names; None where it is a path, and where there is something at it.

    Raises UsageError for a name that starts as one and goes on as none.
    """
    text = str(path)
    if not text.startswith(PREFIX) or Path(path).exists():
        return None
    name, _, given = text.removeprefix(PREFIX).partition(":")
    # Not at the commas inside of a tuple.
    pairs = [pair.partition("=") for pair in re.split(r",(?![^(\[]*[)\]])", given)] if given else []
    options = {option.strip(): value.strip() for option, _, value in pairs}
    if not name.isidentifier() or not all(o.isidentifier() and v for o, v in options.items()) or len(options) < len(pairs):
        raise UsageError(
            expected=f"a data set as {_FORM}",
            got=repr(text[:100]),
            fix="for example torchvision:CIFAR10 or torchvision:EMNIST:split=letters",
        )
    return NamedSet(name, tuple(sorted(options.items())))


def _value(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _safe(text: str) -> str:
    clean = _UNSAFE.sub("_", text)[:_LONGEST]
    return clean if clean == text else f"{clean}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
