"""`regraft.fit`: a recipe from plain arguments, and a place for the run."""

from dataclasses import replace
from pathlib import Path
from types import NoneType

from torch import nn

from regraft.auditing import audit as run_audit
from regraft.errors import UsageError
from regraft.extending import extend as run_extend
from regraft.findings import Audit
from regraft.fitted import Fitted
from regraft.fitted_pixels import FittedPixels
from regraft.pipeline import fit as run_pipeline
from regraft.pixel_pipeline import fit as run_pixels
from regraft.place import next_to, place_run, reserved
from regraft.progress import Progress, Silent
from regraft.ranks import here
from regraft.recipe import DEFAULT_BACKBONE, DEFAULT_LOSS, Data, Device, Own, Recipe, located
from regraft.saved import load
from regraft.strategies import Auto, Decoding, Full, Gradual, Head, Norm, Partial, Scratch, Strategy
from regraft.train.checkpoints import Resume

# Frozen, so one default serves all calls.
_HEAD = Head()
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "data": ((str, Path, Data), "a path or a regraft.Data"),
    "test": ((str, Path), 'a path, "auto" or "none"'),
    "size": ((int, NoneType), "a whole number of pixels or None"),
    "channels": ((int, NoneType), "1, 3, 4 or None"),
    "seed": ((int,), "a whole number"),
    "strategy": (
        (Head, Partial, Full, Norm, Gradual, Scratch, Auto, Decoding),
        "a regraft.Head, Partial, Full, Norm, Gradual, Scratch, Auto or, for pixels, Decoding",
    ),
    "backbone": ((str, Own, nn.Module), "a name, a torch.nn.Module or a regraft.Own"),
    "trust": ((bool,), "True or False"),
    "tta": ((bool,), "True or False"),
    "resume": ((bool,), "True or False"),
    "tensorboard": ((bool,), "True or False"),
    "cache_limit": ((int,), "a whole number of bytes"),
    "start_from": ((str, Path, NoneType), "the folder of a run or None"),
    "head_path": ((str, NoneType), "a dotted path or None"),
    "max_error": ((float, NoneType), "a share between 0 and 1 or None"),
    "coverage": ((float, NoneType), "a share between 0 and 1 or None"),
    "exclude": ((str, Path, NoneType), "a path or None"),
    "out": ((str, Path, NoneType), "a path or None"),
    "cache": ((str, Path, NoneType), "a path or None"),
}


def fit(
    data: str | Path | Data,
    *,
    out: str | Path | None = None,
    backbone: str | Own | nn.Module = DEFAULT_BACKBONE,
    weights: str | Path | None = None,
    strategy: Strategy = _HEAD,
    test: str | Path = "auto",
    size: int | None = None,
    seed: int = 0,
    device: Device = "auto",
    cache: str | Path | None = None,
    trust: bool = False,
    head_path: str | None = None,
    channels: int | None = None,
    start_from: str | Path | None = None,
    tta: bool = False,
    cache_limit: int = 20 * 10**9,
    tensorboard: bool = False,
    max_error: float | None = None,
    coverage: float | None = None,
    exclude: str | Path | None = None,
    decoder: str = "auto",
    loss: str = DEFAULT_LOSS,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = Silent(),
) -> Fitted | FittedPixels:
    """Fit a classifier on labelled images and write its run folder; `summary` of the result says how good it is.

    Where `data` is a `Data` with the task "saliency" or "semantic", every pixel has an answer: what comes back is a
    `FittedPixels`, and `decoder` and `loss` are those of `Recipe`.

    `data` is a folder of class folders, a CSV or Parquet table or shards (tar archives, Parquet or Arrow files with the images
    inside), a pattern or a URL of these; a `Data` says more about how to read it. `test` is "auto"
    (what `data` says: by default its own test part, else 20 % held out), "none" or another folder or table. `out` is runs/NAME
    by default, runs/NAME-2 and so on where there are runs already; `overwrite` replaces an earlier run instead. `size` is the
    input side in pixels. `backbone` is a name, or a network of your own: a module, taken to expect what ImageNet's networks
    do, or an `Own` that says what it expects. `start_from` is a run whose network this fit starts with: what was trained there
    goes on being trained, deeper or longer. `exclude` is a list of images to leave out, as an audit writes it. `resume` goes
    on with a training that was interrupted in `out`. See `Recipe` for the rest.

    Raises a child of RegraftError: DataUnusable, UsageError (with BackboneNotFound and OutputExists), OutOfSpace, NotConverged
    (with Diverged).

    Instead of a path, `data` and `test` may name a data set of torchvision: "torchvision:CIFAR10".
    """
    check_types(data=data, test=test, size=size, seed=seed, strategy=strategy, backbone=backbone, out=out, cache=cache)
    check_types(trust=trust, head_path=head_path, channels=channels, start_from=start_from, tta=tta, resume=resume)
    check_types(tensorboard=tensorboard, cache_limit=cache_limit, max_error=max_error, coverage=coverage, exclude=exclude)
    if not here().alone:
        raise UsageError(
            expected="one process by itself",
            got=f"rank {here().rank} of a group of {here().size} processes",
            fix="torchrun -m regraft fit DATA has several of them work on one fit",
        )
    chosen = data if isinstance(data, Data) else Data(path=data)
    if isinstance(strategy, Decoding) and chosen.task == "classification":
        raise UsageError(
            expected="Decoding with a task whose every pixel has an answer",
            got='task="classification"',
            fix='give a Data with task="saliency" or "semantic", or another strategy',
        )
    if test != "auto":
        chosen = replace(chosen, test=test)
    if exclude is not None:
        chosen = replace(chosen, exclude=Path(exclude))
    recipe = Recipe(
        data=chosen,
        backbone=Own(module=backbone) if isinstance(backbone, nn.Module) else backbone,
        # torchvision's enumerations and paths become the text that they stand for.
        weights=None if weights is None else str(weights),
        strategy=strategy,
        size=size,
        seed=seed,
        device=device,
        cache=None if cache is None else Path(cache),
        trust=trust,
        head_path=head_path,
        channels=channels,
        go_on_from=None if start_from is None else Path(start_from),
        tta=tta,
        cache_limit=cache_limit,
        tensorboard=tensorboard,
        max_error=max_error,
        coverage=coverage,
        decoder=decoder,
        loss=loss,
    )
    place = place_run(chosen.path, None if out is None else Path(out), overwrite=overwrite, resume=resume)
    if place.finished:
        progress.note(f"{place.folder} is finished already: nothing to go on with")
        # Code of the user's own is named again by the call itself.
        head = strategy.module if isinstance(strategy, Head) else None
        return load(place.folder, backbone=None if backbone == DEFAULT_BACKBONE else backbone, head=head, trust=trust)
    if place.note:
        progress.note(place.note)
    with reserved(place.folder):
        run = run_pipeline if chosen.task == "classification" else run_pixels
        fitted = run(recipe, place.folder, resume=Resume() if resume else None, progress=progress)
        assert fitted is not None, "one process works on it"
        return fitted


def audit(
    data: str | Path | Data,
    *,
    backbone: str | Own | nn.Module = DEFAULT_BACKBONE,
    weights: str | Path | None = None,
    test: str | Path = "auto",
    seed: int = 0,
    device: Device = "auto",
    cache: str | Path | None = None,
    exclude: str | Path | None = None,
    progress: Progress = Silent(),
) -> Audit:
    """What is wrong with labelled images: copies, leaks, wrong labels, images of little use, shortcuts. No file is touched.

    Arguments as `fit` takes them. Images that cannot be read are left out, however many. Raises what `fit` raises.
    """
    check_types(data=data, test=test, seed=seed, backbone=backbone, cache=cache, exclude=exclude)
    chosen = data if isinstance(data, Data) else Data(path=data, test=test, skip_bad=True)
    recipe = Recipe(
        data=replace(chosen, exclude=Path(exclude) if exclude is not None else chosen.exclude),
        backbone=Own(module=backbone) if isinstance(backbone, nn.Module) else backbone,
        weights=None if weights is None else str(weights),
        seed=seed,
        device=device,
        cache=None if cache is None else Path(cache),
    )
    return run_audit(recipe, progress=progress)[0]


def extend(
    run: str | Path,
    more: str | Path,
    *,
    out: str | Path | None = None,
    device: Device = "auto",
    cache: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = Silent(),
) -> Fitted:
    """Add the labelled images in `more`, of known classes or new ones, to a run with a solved head, as a new run.

    `out` is that of `run` with -2 after it by default. The old images are not read: their features have to be in the `cache`.
    Raises UsageError where they are not, or where the run's network was trained; SavedModelRefused; what `fit` raises.
    """
    check_types(out=out, cache=cache)
    place = place_run(located(more), Path(out) if out else next_to(Path(run)), overwrite=overwrite)
    folder = None if cache is None else Path(cache)
    with reserved(place.folder):
        return run_extend(Path(run), located(more), place.folder, cache=folder, device=device, progress=progress)


def check_types(of: str = "fit", /, **given: object) -> None:
    """Raise UsageError for an argument of another kind: said now, and not somewhere in the middle of the work."""
    for name, value in given.items():
        kinds, words = _KINDS[name]
        # True is an int in Python, and a seed or a size to nobody.
        if (isinstance(value, bool) and bool not in kinds) or not isinstance(value, kinds):
            raise UsageError(expected=f"{name} to be {words}", got=repr(value), fix=f"see help(regraft.{of})")
