"""Data sets of torchvision: which there are, what their parts are, and their files, from the disk or the network.

What a data set takes is read from its signature; which of the usual parts it has, from what it says to them. Nothing here knows
a data set that is for classification by name, so one that comes with a later torchvision works too.
"""

import inspect
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from regraft.data.disk import is_full
from regraft.data.named import NamedSet
from regraft.data.names import guess, listing, printable
from regraft.errors import DataUnusable, UsageError, first_line
from regraft.values import Part

# What is no image with one class. Refused by name, because otherwise it would have to be downloaded to be seen.
_OTHERS = {
    "captions": "CocoCaptions Flickr30k Flickr8k SBU",
    "boxes around objects": "CocoDetection Kitti VOCDetection WIDERFace",
    "masks": "Cityscapes SBDataset VOCSegmentation",
    "videos": "HMDB51 Kinetics MovingMNIST UCF101",
    "optical flow": "FlyingChairs FlyingThings3D HD1K KittiFlow Sintel",
    "stereo pairs": "CREStereo CarlaStereo ETH3DStereo FallingThingsStereo InStereo2k Kitti2012Stereo Kitti2015Stereo "
    "Middlebury2014Stereo SceneFlowStereo SintelStereo",
    "pairs of images": "LFWPairs PhotoTour",
    "many attributes of each face": "CelebA",
    "faces of other people in train than in test": "LFWPeople",
    "a database that torchvision does not download": "LSUN LSUNClass",
    "a way to read folders, for which the path itself is given": "DatasetFolder ImageFolder VisionDataset",
}
# What is given here and not chosen by a person.
_OURS = {"self", "root", "transform", "target_transform", "transforms", "download", "loader", "is_valid_file"}
# The values of `split` that make each part; the first that a data set has.
_SPLITS: dict[Part, tuple[str, ...]] = {
    "train": ("train", "trainval", "train-standard"),
    "val": ("val", "valid"),
    "test": ("test",),
}
# How torchvision says that a value is none of those it knows: "Unknown value 'x' for argument split".
_ARGUMENT = "for argument"
# Without a limit, a server that does not answer would keep a fit waiting for ever.
_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Opened:
    """One part of a data set, whose items are (image or path of an image file, class); `part` None is all of it."""

    part: Part | None
    items: Any
    names: tuple[str, ...]  # of the classes 0, 1, 2, ...; empty where they have none


def check_known(chosen: NamedSet) -> None:
    """Raise UsageError unless torchvision has a data set of that name, for classification, with these options."""
    known = classification_sets()
    for kind, names in _OTHERS.items():
        if chosen.name in names.split():
            raise UsageError(
                expected="a data set of images with one class each",
                got=f"{chosen.spec}: {kind}",
                fix=f"choose one of {', '.join(known)}; or give a folder of class folders",
            )
    if chosen.name not in known:
        meant = guess(chosen.name, known)
        raise UsageError(
            expected="a data set of torchvision for classification",
            got=repr(chosen.spec[:100]) + (f"; did you mean torchvision:{meant}?" if meant else ""),
            fix=f"choose one of {', '.join(known)}",
        )
    takes = _parameters(_class_of(chosen))
    choices = sorted(set(takes) - _OURS)
    if unknown := [name for name, _ in chosen.options if name not in choices]:
        raise UsageError(
            expected=f"options that {chosen.name} has: {', '.join(choices) or 'none'}",
            got=listing(unknown),
            fix="leave it out, or see torchvision's documentation of it",
        )


def classification_sets() -> list[str]:
    """The names of torchvision's data sets that can be tried: all but those known to be something else."""
    from torchvision import datasets

    others = {name for names in _OTHERS.values() for name in names.split()}
    return sorted({name for name in datasets.__all__ if inspect.isclass(getattr(datasets, name, None))} - others)


def open_parts(chosen: NamedSet, root: Path, put: Path) -> list[Opened]:
    """The parts of a data set with its files below `root`, where they are downloaded to.

    Raises DataUnusable where files cannot be had; `put` is the folder into which a person can put them. UsageError for an
    option that is missing or has no such value.
    """
    with _patient():
        parts = [*_open(chosen, root, put)]
    # To its end before any item is read: what is missing is told before work.
    return parts


def _open(chosen: NamedSet, root: Path, put: Path) -> Iterator[Opened]:
    given, takes = chosen.arguments(), _parameters(_class_of(chosen))
    if missing := [n for n, p in takes.items() if p.default is p.empty and n not in _OURS and n not in given]:
        raise _missing(chosen, missing[0], root)
    if "train" in takes and "train" not in given:
        yield _opened(chosen, {**given, "train": True}, "train", root, put)
        yield _opened(chosen, {**given, "train": False}, "test", root, put)
    elif "split" in takes and "split" not in given:
        found = [_first_split(chosen, given, part, root, put) for part in _SPLITS]
        if not any(found):
            raise _missing(chosen, "split", root)
        yield from (opened for opened in found if opened)
    else:
        yield _opened(chosen, given, None, root, put)


def _first_split(chosen: NamedSet, given: Mapping[str, object], part: Part, root: Path, put: Path) -> Opened | None:
    for value in _SPLITS[part]:
        try:
            return _opened(chosen, {**given, "split": value}, part, root, put)
        except _NoSuchValue as error:
            if f"{_ARGUMENT} split" not in error.got:
                raise
    return None


class _NoSuchValue(UsageError):
    """An option of a data set that does not take the value it was given."""


def _opened(chosen: NamedSet, arguments: Mapping[str, object], part: Part | None, root: Path, put: Path) -> Opened:
    """One part, from the files that are there, else downloaded: some refuse to download what they have."""
    make, takes = _class_of(chosen), _parameters(_class_of(chosen))
    ours: dict[str, Any] = {"root": str(root)} if "root" in takes else {}
    if "loader" in takes:
        # The file itself, as it was published, instead of the decoded image.
        ours["loader"] = Path
    for download in (False, True) if "download" in takes else (None,):
        try:
            items = make(**ours, **arguments, **({} if download is None else {"download": download}))
            return Opened(part, items, _names(items))
        except Exception as error:
            if is_full(error):
                raise
            if isinstance(error, (ValueError, TypeError)) and (_ARGUMENT in str(error) or (chosen.options and not download)):
                raise _NoSuchValue(
                    expected=f"options that {chosen.name} takes", got=first_line(error), fix="give one of its values"
                ) from None
            if download is not False:
                raise _not_had(chosen, error, root, put) from error
    raise AssertionError("the last try returns or raises")


def _missing(chosen: NamedSet, option: str, root: Path) -> UsageError:
    """The error for an option that has to be given, with its values where the data set tells them."""
    try:
        _class_of(chosen)(root=str(root), **{**chosen.arguments(), option: "?"})
        said = ""
    except Exception as error:
        said = first_line(error, 300).partition("Valid values are ")[2]
    return UsageError(
        expected=f"the option {option} of {chosen.name}" + (f", one of {said.strip('{}.')}" if said else ""),
        got=f"{chosen.spec} without it",
        fix=f"give it as {NamedSet(chosen.name, (*chosen.options, (option, 'VALUE'))).spec}",
    )


def _not_had(chosen: NamedSet, error: BaseException, root: Path, put: Path) -> DataUnusable:
    wanted = _wanted(error, root)
    cure = (
        f"check the network; or fetch {wanted[0]} elsewhere and put it at {put / wanted[1]}, with all other files"
        if wanted
        else f"do what it says; files are looked for in {put}, those"
    )
    return DataUnusable(
        expected=f"the files of {chosen.spec}, on disk or from the network",
        got=f"{type(error).__name__}: {printable(first_line(error)).replace(str(root), str(put)).removesuffix(':')}",
        fix=f"{cure} that torchvision's documentation of {chosen.name} names; or give a folder of class folders",
    )


def _wanted(error: BaseException, root: Path) -> tuple[str, Path] | None:
    """The address that could not be fetched, and where below `root` its file would have gone.

    No exception of torchvision or urllib says it; the functions that were at work know.
    """
    for frame, _ in [*traceback.walk_tb(error.__traceback__)][::-1]:
        url, place = frame.f_locals.get("url"), frame.f_locals.get("fpath")
        if isinstance(url, str) and urlsplit(url).scheme in ("http", "https"):
            folder = frame.f_locals.get("root") or getattr(frame.f_locals.get("self"), "raw_folder", root)
            file = Path(place or Path(str(folder)) / Path(urlsplit(url).path).name)
            # The second try, after https failed, is without it.
            return url.replace("http:", "https:"), file.relative_to(root) if file.is_relative_to(root) else Path(file.name)
    return None


def _class_of(chosen: NamedSet) -> Any:
    from torchvision import datasets

    return getattr(datasets, chosen.name)


def _parameters(make: type) -> dict[str, inspect.Parameter]:
    """What a class can be called with; `**kwargs` go to the class above."""
    found: dict[str, inspect.Parameter] = {}
    for kind in make.__mro__:
        if "__init__" not in vars(kind):
            continue
        parameters = inspect.signature(kind.__init__).parameters.values()  # type: ignore[misc]
        found = {p.name: p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)} | found
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break
    found.pop("self", None)
    return found


def _names(items: Any) -> tuple[str, ...]:
    """The names of classes 0, 1, 2, ..., where the data set has some; ImageNet has several words for each."""
    # The last is Omniglot's, whose numbers follow from the order in which a folder happens to be listed.
    for attribute in ("classes", "categories", "all_categories", "_characters"):
        names = getattr(items, attribute, None)
        if isinstance(names, Sequence) and not isinstance(names, str) and names:
            return tuple(name if isinstance(name, str) else ", ".join(map(str, name)) for name in names)
    return ()


@contextmanager
def _patient() -> Iterator[None]:
    """Downloads wait for an answer, not for ever; what they print is no result."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        socket.setdefaulttimeout(before)
