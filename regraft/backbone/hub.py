"""Networks of torch.hub: a repository on GitHub, whose author's code runs here, or a folder of the user's own."""

import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

import torch

from regraft.backbone.model import Architecture
from regraft.backbone.own import AS_MADE, MEND, call, importing_from, no_such_function, plain_name, source_of
from regraft.backbone.source import Source
from regraft.backbone.weights import NONE, choose_name
from regraft.errors import BackboneNotFound, UsageError, first_line
from regraft.users_code import is_users

_REMOTE = re.compile(r"([\w-][\w.-]{0,99})/([\w-][\w.-]{0,99})(?::([\w-][\w./-]{0,99}))?", re.ASCII)
_ENTRY = re.compile(r"[A-Za-z_]\w{0,99}", re.ASCII)
_CONF = "hubconf.py"
_OTHER_WEIGHTS = "mend it there, or ask for other weights: --weights NAME, --weights none or a local --weights FILE"


def open_hub(spec: str, asked: Path | str | None, *, trust: bool, size: int | None) -> Source:
    """ "owner/repo[:ref]:entry" of GitHub, or "FOLDER:entry"; `asked` as `weights.file_or_name` gives it.

    A remote repository is its author's code and needs `trust`. A folder that is there needs none: whoever names a place on
    the own disk means it. An entry is called without arguments but for the `weights` or `pretrained` that it takes.
    Raises BackboneNotFound, UsageError.
    """
    where, _, entry = spec.rpartition(":")
    remote = _REMOTE.fullmatch(where)
    folder = Path(where).expanduser()
    local = bool(where) and folder.is_dir()
    if not _ENTRY.fullmatch(entry) or not (local or remote) or ".." in (where if remote and not local else ""):
        raise BackboneNotFound(
            expected="hub:owner/repo:entry, hub:owner/repo:ref:entry or hub:FOLDER:entry",
            got=repr(f"hub:{spec}"[:200]) + (f": no folder {where[:100]}" if where and not remote else ""),
            fix="for example hub:pytorch/vision:v0.20.0:resnet18, or hub:./nets:make for make() in nets/hubconf.py",
        )
    notes: tuple[str, ...] = ()
    if local:
        name = f"{plain_name(folder.resolve().name)}:{entry}"
    else:
        assert remote is not None
        folder, name = _fetched(where, *remote.groups(), trust=trust), spec
        if remote[3] is None:
            notes = (f"hub:{spec} names no ref: the code is that of the default branch when it was first downloaded",)
    _check_no_namesakes(folder)
    with importing_from(folder):
        function = _entry(folder, entry, f"hub:{name}")
        arguments, weights = _arguments(function, asked, f"hub:{name}")
        made = call(function, f"hub:{name}" + _shown(arguments), arguments=arguments, fix=_OTHER_WEIGHTS if arguments else MEND)
    return source_of(made, Architecture(source="hub", name=name), asked, size, weights=weights, notes=notes)


def _fetched(where: str, owner: str, repo: str, ref: str | None, *, trust: bool) -> Path:
    """The folder of a repository, downloaded if it is not there yet."""
    if not trust:
        raise UsageError(
            expected=f"your word that the code of {owner}/{repo} may run: whatever its author wrote, with all your rights",
            got="no --trust",
            fix=f"read it at https://github.com/{owner}/{repo}, then add --trust (in Python trust=True)",
        )
    try:
        with redirect_stdout(sys.stderr):
            torch.hub.list(where, trust_repo=True, verbose=False)  # type: ignore[no-untyped-call]
    except Exception as error:
        # Where its code is there and fails, it will do so again with the line named.
        if (folder := _folder(owner, repo, ref)) is None:
            raise BackboneNotFound(
                expected=f"the code of {owner}/{repo}, on disk or from GitHub",
                got=f"{type(error).__name__}: {first_line(error)}",
                fix="check the name and the network; without one, copy the repository and name its folder: hub:FOLDER:entry",
            ) from error
        return folder
    folder = _folder(owner, repo, ref)
    assert folder is not None, "torch.hub names its folders so"
    return folder


def _folder(owner: str, repo: str, ref: str | None) -> Path | None:
    """Where torch.hub keeps a repository, if it is there."""
    refs = ("main", "master") if ref is None else (ref.replace("/", "_"),)
    folders = (Path(torch.hub.get_dir()) / "_".join([owner, repo, one]) for one in refs)
    return next((folder for folder in folders if (folder / _CONF).is_file()), None)


def _check_no_namesakes(folder: Path) -> None:
    """Raise BackboneNotFound where Python would take a module of another folder for one of this, and so another network."""
    own = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    for name in sorted(own & sys.modules.keys()):
        file = getattr(sys.modules[name], "__file__", None)
        if file and is_users(file) and not Path(file).resolve().is_relative_to(folder.resolve()):
            raise BackboneNotFound(
                expected=f"{name} of {folder} to be imported", got=f"{file} under that name before", fix="start a new process"
            )


def _entry(folder: Path, name: str, spec: str) -> Callable[..., object]:
    """The function `name` of a folder's hubconf.py, which is run."""
    conf = folder / _CONF
    if not conf.is_file():
        raise BackboneNotFound(
            expected=f"a {_CONF} in {folder}",
            got="none",
            fix="name the folder that holds it; for a function in a file of your own: module:package.file:function",
        )
    description = importlib.util.spec_from_file_location("hubconf", conf)
    assert description is not None
    assert description.loader is not None
    code = importlib.util.module_from_spec(description)
    call(lambda: description.loader.exec_module(code), f"{spec} ({_CONF})")  # type: ignore[union-attr]
    _check_dependencies(code, spec)
    function = getattr(code, name, None)
    if not callable(function):
        there = [key for key, value in vars(code).items() if callable(value) and not key.startswith("_")]
        raise no_such_function(str(conf), name, there)
    return function  # type: ignore[no-any-return]  # own code has the types that it has


def _check_dependencies(code: ModuleType, spec: str) -> None:
    """A hubconf.py lists the packages that its networks need."""
    missing = [name for name in getattr(code, "dependencies", ()) if not _is_there(str(name))]
    if missing:
        raise BackboneNotFound(
            expected=f"the packages that {spec} needs", got=f"no {', '.join(missing)}", fix=f"pip install {' '.join(missing)}"
        )


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _arguments(function: Callable[..., object], asked: Path | str | None, spec: str) -> tuple[dict[str, object], str]:
    """What an entry is called with, and which weights it then has.

    By the customs of hub repositories: `weights` takes a name, its default None being random ones; `pretrained` yes or no.
    """
    try:
        takes = inspect.signature(function).parameters
    except (TypeError, ValueError):
        takes = inspect.signature(lambda: None).parameters
    random = asked == NONE or isinstance(asked, Path)
    if "weights" in takes:
        if asked is None:
            usual = takes["weights"].default is None
            return ({"weights": "DEFAULT"} if usual else {}), "the repository's default"
        return {"weights": None if random else asked}, NONE if random else str(asked)
    if isinstance(asked, str) and not random:
        choose_name(asked, (), spec)
    if "pretrained" in takes:
        return {"pretrained": not random}, NONE if random else "the repository's default"
    return {}, AS_MADE


def _shown(arguments: dict[str, object]) -> str:
    return f" with {', '.join(f'{name}={value!r}' for name, value in arguments.items())}" if arguments else ""
