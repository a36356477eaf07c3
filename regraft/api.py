"""`regraft.fit`: a recipe from plain arguments, and a place for the run."""

from dataclasses import replace
from pathlib import Path

from regraft.fitted import Fitted
from regraft.pipeline import fit as run_pipeline
from regraft.place import place_run
from regraft.progress import Progress, Silent
from regraft.recipe import DEFAULT_BACKBONE, Data, Device, Head, Recipe

# Frozen, so one default serves all calls.
_HEAD = Head()


def fit(
    data: str | Path | Data,
    *,
    out: str | Path | None = None,
    backbone: str = DEFAULT_BACKBONE,
    weights: str | None = None,
    strategy: Head = _HEAD,
    test: str | Path = "auto",
    size: int | None = None,
    seed: int = 0,
    device: Device = "auto",
    cache: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = Silent(),
) -> Fitted:
    """Fit a classifier on labelled images and write its run folder; `summary` of the result says how good it is.

    `data` is a folder of class folders or a CSV or Parquet table; a `Data` says more about how to read it. `test` is "auto"
    (what `data` says: by default its own test part, else 20 % held out), "none" or another folder or table. `out` is
    runs/NAME by default, runs/NAME-2 and so on where there are runs already; `overwrite` replaces an earlier run instead.
    `size` is the input side in pixels. See `Recipe` for the rest.

    Raises a child of RegraftError: DataUnusable, UsageError (with BackboneNotFound and OutputExists), OutOfSpace, NotConverged.
    """
    chosen = data if isinstance(data, Data) else Data(path=Path(data))
    if test != "auto":
        chosen = replace(chosen, test=test)
    recipe = Recipe(
        data=chosen,
        backbone=backbone,
        weights=weights,
        strategy=strategy,
        size=size,
        seed=seed,
        device=device,
        cache=None if cache is None else Path(cache),
    )
    place = place_run(chosen.path, None if out is None else Path(out), overwrite=overwrite)
    if place.note:
        progress.note(place.note)
    return run_pipeline(recipe, place.folder, progress=progress)
