"""Images through a network on Ray's workers: every image answered, in order, whatever becomes of the workers."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from regraft.bulk.blocks import Answer, Came, Item, absolute, block_size, came_of, to_block, to_blocks
from regraft.bulk.cluster import Pool
from regraft.bulk.models import Model
from regraft.bulk.worker import Setting, Worker
from regraft.errors import RegraftError
from regraft.progress import Progress, Silent

# How often a block is tried again where its worker was lost, before its images are looked at one by one.
RETRIES = 3
_UNDER_WAY = 2  # blocks for each worker: one that it works on and one that waits


class WorkersFailed(RegraftError):
    """Workers that could not begin, or that broke with something else than an image."""

    exit_code = 9


def answers_of(
    items: Sequence[Item], model: Model, pool: Pool, *, size: int | None = None, progress: Progress = Silent()
) -> Iterator[Answer]:
    """For each (place, name) what the network makes of it, or why there is nothing, in order.

    Blocks of a lost worker are computed again. Images whose block was lost `RETRIES` times are asked alone: one that ends
    every process that reads it is Rejected with the code "lost", the others are answered. Raises WorkersFailed.
    """
    import ray

    items = [(absolute(place), name) for place, name in items]
    setting = Setting(device=pool.device, threads=pool.cpus, images=len(items))
    sent, due = ray.put(model), 0
    blocks = to_blocks(items, size or block_size(len(items), pool.workers))
    with progress.task("images", len(items), "image") as task, closing(_rows_of(blocks, sent, pool, setting)) as rows:
        for came in rows:
            for missed in _alone(items, range(due, came.row), sent, setting):
                yield missed.answer(items)
                task.advance()
            yield came.answer(items)
            task.advance()
            due = came.row + 1
        for missed in _alone(items, range(due, len(items)), sent, setting):
            yield missed.answer(items)
            task.advance()


def _rows_of(blocks: list[Any], sent: Any, pool: Pool, setting: Setting) -> Iterator[Came]:
    """What came of the blocks, in their order; those that were lost for good are left out."""
    import ray

    if not blocks:
        return
    given = ray.data.from_arrow(blocks)
    _hush()
    workers = min(pool.workers, len(blocks))
    asked = given.map_batches(
        Worker,
        fn_constructor_args=(sent, setting),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=workers, initial_size=workers, max_tasks_in_flight_per_actor=_UNDER_WAY
        ),
        ray_remote_args_fn=_bounded,
        **({"num_gpus": pool.gpus} if pool.gpus else {"num_cpus": pool.cpus}),
    )
    for context in (given.context, asked.context):
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        context.max_errored_blocks = -1
    try:
        for block in asked.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from came_of(block)
    except ray.exceptions.RayError as error:
        raise _failed(error) from error


def _bounded() -> dict[str, Any]:
    """Ray's own way is to try again for ever, which an image that ends its reader would make it do."""
    return {"max_restarts": -1, "max_task_retries": RETRIES}


def _alone(items: Sequence[Item], rows: range, sent: Any, setting: Setting) -> Iterator[Came]:
    """Each image by itself, on a process that need not wait for a processor: the pool has them all."""
    if not rows:
        return
    import ray

    setting = Setting(device="cpu" if setting.device == "cuda" else setting.device, threads=1, images=setting.images)
    actor: Any = None
    for row in rows:
        try:
            if actor is None:
                actor = ray.remote(num_cpus=0)(Worker).remote(sent, setting)
                ray.get(actor.ready.remote())
        except ray.exceptions.RayError as error:
            raise _failed(error) from error
        try:
            yield from came_of(ray.get(actor.__call__.remote(to_block(items, [row]))))
        except ray.exceptions.RayActorError:
            actor = None
            yield Came(row, None, "lost", "every process that read it came to an end")
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
