"""`regraft.features`: the features of every image of a source, as arrays and as a Parquet file."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from regraft.backbone.features import Columns, Features, later_stages
from regraft.backbone.model import Backbone
from regraft.bulk.blocks import Answer
from regraft.bulk.cluster import check_ray, ray_at
from regraft.bulk.feature_file import FeatureFile, Labels, check_out, read_features, rows_in_group
from regraft.bulk.images import Images, read_images
from regraft.bulk.models import Frozen, everywhere
from regraft.bulk.run import answers_of
from regraft.cache.engines import pick_device
from regraft.cache.extract import extract_features
from regraft.cache.store import FeatureRows, default_folder
from regraft.data.preprocess import Preprocess
from regraft.errors import UsageError
from regraft.progress import Progress, Silent
from regraft.recipe import DEFAULT_BACKBONE, Data, Device, Own, check_size
from regraft.values import Rejected, Sample


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageFeatures:
    """Features of N images in order, those included that have none: `errors` says why, None for all others.

    `columns` names what stands where in a row of `width`: "last" (what the network's head reads), then the stages, as
    (start, stop). `cached` rows came from the cache. `seconds` is the whole pass. `out` is the file, where one was written.
    `cut` names archives that end too early: what is behind that is missing here.
    """

    names: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    errors: tuple[str | None, ...]
    columns: dict[str, tuple[int, int]]
    width: int
    backbone: str
    weights_digest: str
    preprocess: Preprocess
    engine: str
    cached: int
    seconds: float
    out: Path | None = None
    cut: tuple[str, ...] = ()
    read: Callable[[], NDArray[np.float32]] = field(repr=False)

    @cached_property
    def features_ND(self) -> NDArray[np.float32]:
        """The features (N, D) float32, read when they are first asked for; NaN for images that have none."""
        return self.read()

    @property
    def failed(self) -> int:
        """How many images have no features."""
        return sum(error is not None for error in self.errors)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """What one pass over the images gave, beside what is in the file."""

    errors: tuple[str | None, ...]
    engine: str
    cached: int
    read: Callable[[], NDArray[np.float32]]


def features(
    data: str | Path | Data | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    backbone: str | Own | nn.Module = DEFAULT_BACKBONE,
    weights: str | Path | None = None,
    size: int | None = None,
    channels: int | None = None,
    all_stages: bool = False,
    head_path: str | None = None,
    trust: bool = False,
    seed: int = 0,
    device: Device = "auto",
    cache: str | Path | None = None,
    address: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress = Silent(),
) -> ImageFeatures:
    """The features of every image: of a folder (sorted by name), of a table (in its order), of a list of files (as given).

    They are what the head of `backbone` reads; with `all_stages` also the mean and the maximum of its later stages, as `fit`
    uses them. Labels are not needed. `out` is a Parquet file with a row for each image (name, path, label or labels where there
    are any, error, features) that says in its metadata how it was made. `backbone`, `weights`, `size`, `channels`,
    `head_path` and `trust` are those of `Recipe`; `seed` is that of random weights. What was computed before comes from the
    `cache`.

    With `address` ("local", or that of a cluster: see `predict_on_ray`) Ray's `workers` compute them, in fp32 and without the
    cache; `backbone` is then a name, and the images have to be where the workers can read them.

    Raises DataUnusable where there is no image, UsageError (with BackboneNotFound and OutputExists), OutOfSpace.
    """
    start, target = time.perf_counter(), None if out is None else Path(out)
    kept = default_folder() if cache is None else Path(cache)
    check_size(size)
    if target is not None:
        check_out(target, overwrite=overwrite)
    if address is None:
        pick_device(device)
    else:
        check_ray(address, workers)
        _check_named(backbone)
    named = Frozen(
        backbone=backbone,
        weights=everywhere(weights),
        size=size,
        channels=channels,
        head_path=head_path,
        trust=trust,
        seed=seed,
    )
    listed = data if isinstance(data, Data) or not isinstance(data, str | Path) else Data(path=Path(data))
    images = read_images(listed, kept, progress)
    network = named.load()
    for note in (*images.notes, *network.notes):
        progress.note(note)
    columns = Features(network, later_stages(network) if all_stages else ()).columns
    if address is None:
        done = _here(images, network, columns, target, kept, device, progress)
    else:
        frozen = replace(named, taps=columns.taps, digest=network.weights_digest)
        done = _on_ray(images, network, columns, target, frozen, address, workers, device, progress)
    return ImageFeatures(
        names=tuple(sample.name for sample in images.samples),
        paths=tuple(str(sample.path) for sample in images.samples),
        labels=tuple(sample.labels for sample in images.samples),
        errors=done.errors,
        columns=_spans(columns),
        width=columns.width,
        backbone=network.name,
        weights_digest=network.weights_digest,
        preprocess=network.preprocess,
        engine=done.engine,
        cached=done.cached,
        seconds=time.perf_counter() - start,
        out=target,
        cut=images.cut,
        read=done.read,
    )


def _check_named(backbone: object) -> None:
    """Raise UsageError for a network of the user's own, which cannot be sent."""
    if not isinstance(backbone, str):
        raise UsageError(
            expected="a backbone that Ray's workers can load by its name",
            got=f"a {type(backbone).__name__}",
            fix="name it as module:package.file:function, in a package that is installed on the workers",
        )


def _here(
    images: Images, network: Backbone, columns: Columns, out: Path | None, cache: Path, device: Device, progress: Progress
) -> _Pass:
    """The pass in this process, through the cache."""
    found = extract_features(images.samples, network, columns.taps, cache=cache, device=device, progress=progress)
    errors: list[str | None] = [None] * len(images.samples)
    bad = np.setdiff1d(np.arange(len(errors)), found.kept_M)
    for position, rejected in zip(bad, found.rejected, strict=True):
        errors[int(position)] = rejected.reason
    if out is not None:
        with FeatureFile(out, columns.width, _labels(images), _about(network, columns, found.engine)) as file:
            first, step = 0, rows_in_group(columns.width)
            for start in range(0, len(errors), step):
                part = slice(start, start + step)
                good = sum(error is None for error in errors[part])
                file.write(images.samples[part], errors[part], found.features[first : first + good])
                first += good
    return _Pass(
        errors=tuple(errors),
        engine=found.engine,
        cached=found.hits,
        read=lambda: _spread(found.features, found.kept_M, len(errors)),
    )


def _on_ray(
    images: Images,
    network: Backbone,
    columns: Columns,
    out: Path | None,
    model: Frozen,
    address: str,
    workers: int | None,
    device: Device,
    progress: Progress,
) -> _Pass:
    """The pass on Ray's workers: rows are written as they come, and held in memory only where no file is."""
    engine, held, errors = "fp32 on Ray", list[NDArray[np.float32]](), list[str | None]()
    about = _about(network, columns, engine)
    items = [(sample.path, sample.name) for sample in images.samples]
    file: AbstractContextManager[FeatureFile | None] = nullcontext()
    if out is not None:
        file = FeatureFile(out, columns.width, _labels(images), about)
    with (
        file as target,
        ray_at(address, workers=workers, device=device) as pool,
        closing(answers_of(items, model, pool, progress=progress)) as answers,
    ):
        for samples, reasons, rows_MD in _groups(images.samples, answers, columns.width):
            errors += reasons
            if target is None:
                held.append(rows_MD)
            else:
                target.write(samples, reasons, rows_MD)
    if out is not None:
        return _Pass(errors=tuple(errors), engine=engine, cached=0, read=lambda: read_features(out))
    kept_M = np.array([i for i, error in enumerate(errors) if error is None], np.int64)
    rows_MD = np.concatenate(held)
    return _Pass(errors=tuple(errors), engine=engine, cached=0, read=lambda: _spread(rows_MD, kept_M, len(errors)))


def _groups(
    samples: Sequence[Sample], answers: Iterator[Answer], width: int
) -> Iterator[tuple[Sequence[Sample], list[str | None], NDArray[np.float32]]]:
    """Answers in groups as they are written: the samples, why some have none, and the rows of the others."""
    step = rows_in_group(width)
    for start in range(0, len(samples), step):
        part = samples[start : start + step]
        came = list(islice(answers, len(part)))
        rows = [answer for answer in came if not isinstance(answer, Rejected)]
        reasons = [answer.reason if isinstance(answer, Rejected) else None for answer in came]
        yield part, reasons, np.stack(rows) if rows else np.empty((0, width), np.float32)


def _spread(rows_MD: FeatureRows | NDArray[np.float32], kept_M: NDArray[np.int64], images: int) -> NDArray[np.float32]:
    features_ND = np.full((images, rows_MD.shape[1]), np.nan, np.float32)
    features_ND[kept_M] = rows_MD[:]
    return features_ND


def _labels(images: Images) -> Labels:
    return "several" if images.multi_label else "one" if images.labelled else "none"


def _spans(columns: Columns) -> dict[str, tuple[int, int]]:
    ends = np.cumsum([0, *columns.blocks]).tolist()
    names = ("last", *columns.taps)
    return {name: (ends[i], ends[i + 1]) for i, name in enumerate(names)}


def _about(network: Backbone, columns: Columns, engine: str) -> dict[str, Any]:
    """What a file says of itself."""
    return {
        "format": 1,
        "backbone": network.name,
        "weights": network.weights,
        "weights_digest": network.weights_digest,
        "preprocess": asdict(network.preprocess),
        "pooling": network.pooling,
        "columns": {name: list(span) for name, span in _spans(columns).items()},
        "width": columns.width,
        "engine": engine,
    }
