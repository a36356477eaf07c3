"""The curves of a training while it goes on: metrics.jsonl, a line of JSON for every epoch, and TensorBoard's files."""

import json
import math
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from regraft.errors import UsageError
from regraft.ranks import here
from regraft.replacing import cannot_write
from regraft.train.keeper import without_nan
from regraft.values import Epoch

FILE, TENSORBOARD = "metrics.jsonl", "tensorboard"
_DRAWN = ("loss", "accuracy", "validation_loss", "validation_accuracy", "rate", "seconds")


class Curves:
    """Writes each epoch as soon as it is over; each line has the fields of `values.Epoch`, null where one is no number.

    The file of an earlier run goes when this one is entered. A training that goes on tells its former epochs again. Of several
    ranks only rank 0 writes.
    """

    def __init__(self, run: Path, *, tensorboard: bool = False) -> None:
        self._run, self._tensorboard = run, tensorboard
        self._writer: Any = None
        self._writes = here().first
        if tensorboard:
            _writer_class()

    def __enter__(self) -> Self:
        if not self._writes:
            return self
        try:
            (self._run / FILE).unlink(missing_ok=True)
            shutil.rmtree(self._run / TENSORBOARD, ignore_errors=True)
        except OSError as error:
            raise cannot_write(self._run / FILE, error) from error
        return self

    def __call__(self, epoch: Epoch) -> None:
        if not self._writes:
            return
        fields = without_nan(asdict(epoch))
        try:
            self._run.mkdir(parents=True, exist_ok=True)
            with (self._run / FILE).open("a", encoding="ascii") as file:
                file.write(json.dumps(fields) + "\n")
        except OSError as error:
            raise cannot_write(self._run / FILE, error) from error
        if self._tensorboard:
            # Not before there is something to write: a run that stops earlier leaves nothing.
            self._writer = self._writer or _writer_class()(str(self._run / TENSORBOARD))
            for name in _DRAWN:
                tag = f"{epoch.strategy}/{name}" if epoch.strategy else name
                self._writer.add_scalar(tag, fields[name] if fields[name] is not None else math.nan, epoch.number)
            self._writer.flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(OSError):
            if self._writer is not None:
                self._writer.close()


def _writer_class() -> Any:
    """TensorBoard's writer. Raises UsageError where TensorBoard is not installed: said before any work."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            expected="TensorBoard for --tensorboard",
            got=f"it is not installed ({error})",
            fix="pip install 'regraft[tensorboard]', or leave it out: metrics.jsonl has the same figures",
        ) from error
    return SummaryWriter
