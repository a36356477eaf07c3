"""The process that answers: opens the network once, then reads and answers block after block."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regraft.bulk.blocks import LOST, Answer, Item, answered, items_of
from regraft.bulk.models import Model
from regraft.errors import RegraftError
from regraft.values import Rejected

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a worker works: on which device, on how many threads, how many images there are for all workers.

    A block whose worker was lost is begun again `retries` times.
    """

    device: str
    threads: int
    images: int
    retries: int = 0


def begun_too_often(begun: int, setting: Setting) -> bool:
    """Whether a block that is begun for the `begun`-th time has ended too many workers before."""
    return begun > setting.retries + 1


class Worker:
    """An actor of Ray. `model` is a Model, or what `ray.put` gave for it: Ray itself resolves it in some places only.

    `ledger` is the handle of a Ledger; None where nothing is begun again.
    """

    def __init__(self, model: Any, setting: Setting, ledger: Any = None) -> None:
        import ray
        import torch

        from regraft.backbone.features import FromPixels
        from regraft.cache.answer import full_precision

        # Ray has a worker for each processor: more threads would only wait for one another.
        torch.set_num_threads(setting.threads)
        opened: Model = ray.get(model) if isinstance(model, ray.ObjectRef) else model
        try:
            module, self._preprocess = opened.open()
        except RegraftError as error:
            # Errors with arguments by name do not come back whole from another process.
            raise RuntimeError(f"{type(error).__name__}: {error.got} ({error.fix})") from None
        network = FromPixels(module, self._preprocess).eval()
        self._setting, self._ledger = setting, ledger
        self._engine = full_precision(network, self._preprocess, setting.device, setting.images, threads=setting.threads)

    def __call__(self, block: "pa.Table") -> "pa.Table":
        """The same rows with what came of each; all of them lost where this block has ended so many workers."""
        import ray

        if self._ledger is not None:
            begun = ray.get(self._ledger.begin.remote(block.column("row")[0].as_py()))
            if begun_too_often(begun, self._setting):
                return answered(block, [LOST] * len(block))
        return answered(block, self._answers(items_of(block)))

    def ready(self) -> bool:
        """Whether the network is open: asked before anything that may end the process."""
        return True

    def _answers(self, items: list[Item]) -> list[Answer]:
        from regraft.cache.stream import batch_on, load_images, run_images

        images = load_images(items, self._preprocess, threads=self._setting.threads)
        found = run_images(images, lambda: self._engine, batch_on(self._setting.device))
        return [row if isinstance(row, Rejected) else row.features for row in found]  # type: ignore[misc]
