"""Images through a network on Ray's workers: every image answered, in order, whatever becomes of the workers."""

import logging
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any

from regraft.bulk.blocks import LOST, Answer, Came, Item, absolute, block_size, came_of, to_block, to_blocks
from regraft.bulk.cluster import Pool
from regraft.bulk.ledger import Ledger
from regraft.bulk.models import Model
from regraft.bulk.worker import Setting, Worker
from regraft.data.names import count_of
from regraft.errors import WorkersFailed
from regraft.progress import Progress, Silent

# How often a block is begun again where its worker was lost, before its images are asked one by one.
RETRIES = 3
_UNDER_WAY = 2  # blocks for each worker: one that it works on and one that waits


def answers_of(
    items: Sequence[Item],
    model: Model,
    pool: Pool,
    *,
    size: int | None = None,
    retries: int = RETRIES,
    progress: Progress = Silent(),
) -> Generator[Answer]:
    """For each (place, name) what the network makes of it, or why there is nothing, in order.

    Blocks of a lost worker are computed again. Where one is lost more than `retries` times, its images are asked alone: one
    that ends every process that reads it is Rejected with the code "lost", the others are answered. `size` is that of a block.
    Raises WorkersFailed.
    """
    import ray

    items = [(absolute(place), name) for place, name in items]
    setting = Setting(device=pool.device, threads=pool.cpus, images=len(items), retries=retries)
    sent = ray.put(model)
    blocks = to_blocks(items, size or block_size(len(items), pool.workers))
    ledger = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Ledger).remote()
    alone, rows = _Alone(items, sent, setting), _rows_of(blocks, (sent, setting, ledger), pool)
    with progress.task("images", len(items), "image") as task, closing(rows):
        for due, came in enumerate(rows):
            assert came.row == due, "blocks come in their order, and each row once"
            yield (alone.ask(due) if came.code == LOST.code else came).answer(items)
            task.advance()
    if again := ray.get(ledger.again.remote()):
        progress.note(f"workers were lost on the way: {count_of(again, 'block')} begun again")


def _rows_of(blocks: list[Any], given_to_workers: tuple[Any, ...], pool: Pool) -> Generator[Came]:
    """What came of the blocks, in their order."""
    import ray

    if not blocks:
        return
    given = ray.data.from_blocks(blocks)  # these blocks and no others, and no task for each of them as `from_arrow` has
    _hush()
    workers = min(pool.workers, len(blocks))
    # Left as they are: Ray Data starts a lost worker again, and gives it the blocks that it had, as often as it takes.
    asked = given.map_batches(
        Worker,
        fn_constructor_args=given_to_workers,
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=workers, initial_size=workers, max_tasks_in_flight_per_actor=_UNDER_WAY
        ),
        **({"num_gpus": pool.gpus} if pool.gpus else {"num_cpus": pool.cpus}),
    )
    for context in (given.context, asked.context):
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
    try:
        for block in asked.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from came_of(block)
    except ray.exceptions.RayError as error:
        raise _failed(error) from error


class _Alone:
    """Images one by one, on a process that need not wait for a processor, because the pool has them all."""

    def __init__(self, items: Sequence[Item], sent: Any, setting: Setting) -> None:
        device = "cpu" if setting.device == "cuda" else setting.device
        self._items, self._sent = items, sent
        self._actor: Any = None
        self._setting = Setting(device=device, threads=1, images=setting.images)

    def ask(self, row: int) -> Came:
        """What comes of one image; lost where it ends the process. Raises WorkersFailed."""
        import ray

        try:
            if self._actor is None:
                self._actor = ray.remote(num_cpus=0)(Worker).remote(self._sent, self._setting)
                ray.get(self._actor.ready.remote())
        except ray.exceptions.RayError as error:
            raise _failed(error) from error
        try:
            return next(came_of(ray.get(self._actor.__call__.remote(to_block(self._items, [row])))))
        except ray.exceptions.RayActorError:
            self._actor = None
            return Came(row, None, LOST.code, LOST.reason)
        except ray.exceptions.RayError as error:
            raise _failed(error) from error


def _failed(error: Exception) -> WorkersFailed:
    """What a worker said last is what was wrong; the lines above are Ray's way there."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return WorkersFailed(
        expected="Ray's workers to open the network and answer",
        got=(lines[-1] if lines else type(error).__name__)[:300],
        fix="the machines of the cluster need regraft and its packages in the versions of this one",
    )


def _hush() -> None:
    """Ray's lines stay in its own log files: what a person should know, the commands say."""
    for handler in logging.getLogger("ray.data").handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.CRITICAL + 1)
