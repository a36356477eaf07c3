"""The user's own networks: any module in Python, or a function in a file.

Only the user's word makes any of this run: nothing that was saved does.
"""

import copy
import difflib
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import cast

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from regraft.artifact.schema import is_own_name
from regraft.backbone.model import Architecture
from regraft.backbone.source import Source
from regraft.backbone.weights import NONE, choose_name
from regraft.data.preprocess import Preprocess, with_channels
from regraft.errors import BackboneNotFound, first_line
from regraft.recipe import Own
from regraft.users_code import users_line

SIDE = 224
AS_MADE = "as its code made them"
MEND = "mend it there; it is called without arguments: give those in a function of your own around it"


def open_python(own: Own, asked: Path | str | None, size: int | None) -> Source:
    """A module of the user's; `asked` as `weights.file_or_name` gives it. Raises BackboneNotFound."""
    name = own.name or type(own.module).__name__
    # Python's names may hold any letter, saved ones only plain ones.
    architecture = Architecture(source="python", name=name if is_own_name("python", name) else "network")
    return source_of(own, architecture, asked, size)


def open_module(spec: str, asked: Path | str | None, size: int | None) -> Source:
    """ "package.file:function", found from the current folder on; the function is called without arguments.

    It may also be a class of modules, or a module that is there already. Raises BackboneNotFound.
    """
    made = found_at(spec)
    if not isinstance(made, nn.Module | Own):
        with importing_from(Path.cwd()):
            made = call(cast(Callable[..., object], made), f"module:{spec}")
    return source_of(made, Architecture(source="module", name=spec), asked, size)


def found_at(spec: str) -> object:
    """What "package.file:name" names: a function, a class, a module or an `Own`. Raises BackboneNotFound."""
    where, _, name = spec.partition(":")
    if not is_own_name("module", spec):
        raise BackboneNotFound(
            expected="module:package.file:function, such as module:nets:make for the function make in nets.py",
            got=repr(f"module:{spec}"[:100]),
            fix="name a file by its dotted path from the current folder, without .py, and a function in it",
        )
    with importing_from(Path.cwd()):
        code = _imported(where)
    found: object = getattr(code, name, None)
    if not callable(found) and not isinstance(found, Own):
        raise _no_such_function(f"module:{where}", name, vars(code))
    return found


@contextmanager
def importing_from(folder: Path) -> Iterator[None]:
    """Modules are looked for in `folder` first; what their code prints goes to standard error, for results have the other."""
    place = str(folder.resolve())
    importlib.invalidate_caches()
    sys.path.insert(0, place)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        with suppress(ValueError):
            sys.path.remove(place)


def _imported(name: str) -> object:
    try:
        code = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _failed(f"module:{name}", error) from error
        files = [path.stem for path in Path.cwd().glob("*.py")]
        near = difflib.get_close_matches(name, files, 3, 0.4)
        raise BackboneNotFound(
            expected=f"a file {name.replace('.', '/')}.py in {Path.cwd()}, or an installed package of that name",
            got="neither",
            fix=f"did you mean {' or '.join(near)}?" if near else "start regraft in the folder that holds the file",
        ) from error
    except (Exception, SystemExit) as error:
        raise _failed(f"module:{name}", error) from error
    _check_is_ours(name, Path(getattr(code, "__file__", None) or name))
    return code


def _check_is_ours(name: str, file: Path) -> None:
    """An earlier import of the same name would give another folder's network without a word."""
    here = Path.cwd() / name.replace(".", "/")
    ours = [path for path in (here.with_suffix(".py"), here / "__init__.py") if path.is_file()]
    if ours and file.resolve() not in [path.resolve() for path in ours]:
        raise BackboneNotFound(
            expected=f"module:{name} to be {ours[0]}",
            got=f"{file}, which was imported under this name before",
            fix="rename your file, or start a new process",
        )


def call(
    function: Callable[..., object], spec: str, *, arguments: Mapping[str, object] | None = None, fix: str = MEND
) -> object:
    """What the user's function gives. Raises BackboneNotFound for whatever it raises, with the line where."""
    try:
        return function(**(arguments or {}))
    except (Exception, SystemExit) as error:
        raise _failed(spec, error, fix) from error


def _failed(spec: str, error: BaseException, fix: str = MEND) -> BackboneNotFound:
    """An error of code that is not ours as one of ours: the user's line in it, not the way there."""
    line = users_line(error)
    place = f"{Path(line[0]).name}, line {line[1]}: " if line else ""
    return BackboneNotFound(
        expected=f"the code of {spec} to run", got=f"{place}{type(error).__name__}: {first_line(error)}", fix=fix
    )


def no_such_function(spec: str, name: str, there: list[str]) -> BackboneNotFound:
    """The error for a name that code does not have, with those that it has."""
    near = difflib.get_close_matches(name, there, 3, 0.4)
    others = f"it has {', '.join(sorted(there)[:10])}" if there else "it has none that could be meant"
    return BackboneNotFound(
        expected=f"a function {name} in {spec}",
        got="none of that name",
        fix=f"did you mean {' or '.join(near)}?" if near else others,
    )


def _no_such_function(spec: str, name: str, names: dict[str, object]) -> BackboneNotFound:
    own = [key for key, value in names.items() if callable(value) and not key.startswith("_")]
    return no_such_function(spec, name, own)


def source_of(
    made: object,
    architecture: Architecture,
    asked: Path | str | None,
    size: int | None,
    *,
    weights: str = AS_MADE,
    notes: tuple[str, ...] = (),
) -> Source:
    """A network that own code made: checked, copied, and with what it does not say of itself filled in.

    `weights` says which ones it has where they are not those of a file. Raises BackboneNotFound.
    """
    spec = f"{architecture.source}:{architecture.name}"
    own = made if isinstance(made, Own) else Own(module=made) if isinstance(made, nn.Module) else None
    if own is None or not isinstance(own.module, nn.Module):
        raise BackboneNotFound(
            expected=f"{spec} to give a torch.nn.Module, or a regraft.Own with one",
            got=f"a {type(own.module if own else made).__name__}",
            fix="return the network alone: one module that maps images (N, C, H, W) to logits (N, K)",
        )
    if isinstance(asked, str) and asked != NONE and weights == AS_MADE:
        choose_name(asked, (), spec)
    preprocess, unknown = _preprocess(own, size)
    return Source(
        module=_copied(own.module, spec),
        architecture=architecture,
        preprocess=preprocess,
        categories=None,
        weights=weights,
        file=asked if isinstance(asked, Path) else None,
        notes=(*notes, *(f"{spec} {line}" for line in unknown)),
    )


def _preprocess(own: Own, size: int | None) -> tuple[Preprocess, list[str]]:
    """What the network expects of an image, and what of it is a guess."""
    channels, height, width = own.input_shape or (3, size or SIDE, size or SIDE)
    unknown = []
    if own.input_shape is None and size is None:
        unknown.append(
            f"does not say its input size: {SIDE}x{SIDE} pixels; --size, or input_shape of regraft.Own, says another"
        )
    if own.mean is None or own.std is None:
        unknown.append("does not say its normalisation: that of ImageNet; mean and std of regraft.Own say another")
    usual = Preprocess(height=height, width=width, mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)
    if own.mean is None or own.std is None:
        return with_channels(usual, channels), unknown
    mean, std = tuple(map(float, own.mean)), tuple(map(float, own.std))
    return Preprocess(height=height, width=width, mean=mean, std=std), unknown


def _copied(module: nn.Module, spec: str) -> nn.Module:
    """A copy on the CPU in 32-bit floats: what is done to a backbone must not be done to the user's own module."""

    def refused(got: str, fix: str) -> BackboneNotFound:
        return BackboneNotFound(expected=f"{spec} to have weights that can be copied, saved and loaded", got=got, fix=fix)

    if not any(True for _ in module.parameters()):
        raise refused("a network without parameters", "give it layers; a ready ScriptModule or a function is not one")
    for name, value in module.state_dict().items():
        if isinstance(value, UninitializedBuffer | UninitializedParameter):
            raise refused(f"{name} of a lazy layer, whose size is not known yet", "run it once on an example: module(images)")
        if not isinstance(value, Tensor) or value.is_complex() or value.is_meta or value.is_quantized:
            kind = f"{value.dtype} on {value.device}" if isinstance(value, Tensor) else type(value).__name__
            raise refused(f"{name}: {kind}", "keep real numbers in parameters and buffers, in memory")
    try:
        return copy.deepcopy(module).cpu().float()
    except Exception as error:
        raise refused(f"{type(error).__name__}: {first_line(error)}", "copy.deepcopy(module) has to work") from error


def plain_name(text: str) -> str:
    """A folder's name as it may be shown and saved."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:60] or "folder"
