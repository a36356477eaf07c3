"""One command in several processes, as torchrun starts them: one group, one place for the run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from regraft.cli.start import importing
from regraft.errors import UsageError
from regraft.launch import asked_for, launched
from regraft.place import Place, place_run
from regraft.ranks import ALONE, Ranks
from regraft.recipe import Recipe

_PLACE = "place"


def check_together(recipe: Recipe) -> None:
    """Raise UsageError for what several processes cannot work on."""
    if asked_for() > 1 and recipe.data.task != "classification":
        raise UsageError(
            expected="images with classes, for several processes",
            got=f"--task {recipe.data.task}",
            fix="start it without torchrun",
        )


@contextmanager
def together(device: str) -> Iterator[Ranks]:
    """The group of processes that torchrun has started for this command, or this one alone."""
    if asked_for() == 1:
        yield ALONE
        return
    from regraft.cli.watch import watcher

    with importing():
        from regraft.parallel import joined
    with joined(device, note=watcher(bars=False).note, ending=True) as ranks:
        yield ranks


def placed(data: str | Path, out: Path | None, *, overwrite: bool, resume: bool) -> tuple[Place, bool]:
    """Where the run goes, and whether it goes on with a training there: so it does where torchrun has started it again."""
    launch = launched()
    earlier = launch.kept(_PLACE) if launch is not None and launch.attempt else None
    if earlier is not None:
        return place_run(data, Path(earlier), overwrite=False, resume=True), True
    place = place_run(data, out, overwrite=overwrite, resume=resume)
    if launch is not None and launch.most_attempts:
        launch.keep(_PLACE, str(place.folder))
    return place, resume
