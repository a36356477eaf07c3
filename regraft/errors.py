"""Every error a person can meet: what was expected, what was found, what to do.

The command line prints the message of a `RegraftError` and leaves with its `exit_code`; no traceback.
Any other exception is a bug (exit 1).
"""

from collections.abc import Callable
from typing import Any, ClassVar


class RegraftError(Exception):
    """Base of all errors raised on purpose.

    `expected`, `got` and `fix` are plain sentences without a full stop; `got` names the file where there is one. `of_all`:
    raised by every process of a group at the same time.
    """

    exit_code: ClassVar[int] = 1
    of_all = False

    def __init__(self, *, expected: str, got: str, fix: str) -> None:
        self.expected, self.got, self.fix = expected, got, fix
        super().__init__(f"expected {expected}\n     got {got}\n     fix {fix}")

    def __reduce__(self) -> tuple[Callable[..., "RegraftError"], tuple[Any, ...]]:
        # Exceptions are copied by calling them with their text, which these do not take: one process tells another of them.
        return _again, (type(self), self.args, dict(self.__dict__))


def _again(kind: type[RegraftError], args: tuple[Any, ...], fields: dict[str, Any]) -> RegraftError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class UsageError(RegraftError):
    """An option or argument that cannot be meant."""

    exit_code = 2


class BackboneNotFound(UsageError):
    """No backbone of that name, or its weights cannot be had."""


class HeadNotFound(UsageError):
    """The layer that makes the logits could not be told."""


class OutputExists(UsageError):
    """Something is already at the place where a result would go."""


class RunLocked(UsageError):
    """Another process is writing the same run."""


class DataUnusable(RegraftError):
    """The images, labels or folders cannot be worked with."""

    exit_code = 3


class UnknownClass(DataUnusable):
    """Data names a class that the model does not have."""


class TooFewImages(DataUnusable):
    """A class has too few images to train and to judge."""


class TooManyUnreadable(DataUnusable):
    """More of the images are unreadable than may be left out quietly."""


class ImageRejected(DataUnusable):
    """One image that cannot be used. `code` is stable, e.g. "truncated"; callers set the image aside and go on."""

    def __init__(self, *, code: str, expected: str, got: str, fix: str) -> None:
        self.code = code
        super().__init__(expected=expected, got=got, fix=fix)


class InputUnusable(DataUnusable, ValueError):
    """What `ImageClassifier` was given cannot be worked with; scikit-learn's own tools expect a ValueError."""


class SavedModelRefused(RegraftError):
    """A saved model that is damaged, hostile or of another format."""

    exit_code = 4


class ExportDiffers(RegraftError):
    """An exported file that answers otherwise than the network that it came from."""

    exit_code = 4


class SomeFailed(RegraftError):
    """Finished, but some items failed."""

    exit_code = 5


class OutOfSpace(RegraftError):
    """Disk or memory is used up."""

    exit_code = 6


class NotWritable(OutOfSpace):
    """Results cannot be written where they should go: no permission, a read-only or failing disk."""


class NotConverged(RegraftError):
    """A solver stopped short of its tolerance."""

    exit_code = 7


class Diverged(NotConverged):
    """Training ran off: a loss or a gradient that is no number any more."""


class NotExact(RegraftError):
    """A run that would go on otherwise than one that was never stopped, where that was asked for."""

    exit_code = 8


class PeerFailed(RegraftError):
    """Another process of the same fit failed, was killed or went silent."""

    exit_code = 9


class WorkersFailed(RegraftError):
    """Workers on Ray that could not begin, or that broke with something else than an image."""

    exit_code = 9


class Interrupted(KeyboardInterrupt):
    """A training was told to stop by the signal `number`, and has kept its state. No Exception, as Ctrl-C is none."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"signal {number}")


def first_line(error: object, limit: int = 160) -> str:
    """The first line of what an exception (or anything else) says, cut short; its type's name where it says nothing."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)[:limit]
