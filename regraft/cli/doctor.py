"""regraft doctor: is the machine all right?"""

import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from regraft.cli.options import CacheOption, JsonOption
from regraft.cli.start import importing
from regraft.errors import first_line

_NEEDED = ("torch", "torchvision", "timm", "numpy", "pillow", "pyarrow", "safetensors")
_USEFUL = ("openvino",)


def doctor(cache: CacheOption = None, as_json: JsonOption = False) -> None:
    """Say whether this machine is all right.

    Lists versions, processor, device, networks and the cache. The exit code is 5 where something is wrong.
    """
    from regraft.cli import show
    from regraft.errors import SomeFailed

    findings, problems = examine(cache)
    if as_json:
        show.print_json({**findings, "problems": problems})
    else:
        show.print_pairs([(name, _text(value)) for name, value in findings.items()])
        show.print_line("all right" if not problems else f"{len(problems)} problems:")
        for problem in problems:
            show.print_line(f"- {problem}")
    if problems:
        raise SomeFailed(expected="a machine that regraft can work on", got="; ".join(problems), fix="see what is listed")


def examine(cache: CacheOption = None) -> tuple[dict[str, Any], list[str]]:
    """Everything that can be told without a network connection, and what is wrong."""
    problems: list[str] = []
    findings: dict[str, Any] = {
        "regraft": version("regraft"),
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    findings |= {name: _version(name) or "not installed" for name in (*_NEEDED, *_USEFUL)}
    problems += [f"{name} is not installed: pip install {name}" for name in _NEEDED if not _version(name)]
    for question in (_device, _networks, lambda: _cache(cache)):
        findings |= _asked(question, problems)
    if find_spec("openvino") is None:
        findings["advice"] = 'on a processor without an accelerator, pip install "regraft[openvino]" makes the one pass faster'
    return findings, problems


def _asked(question: Callable[[], dict[str, Any]], problems: list[str]) -> dict[str, Any]:
    # A broken library may raise anything; what it raised is the finding.
    try:
        return question()
    except Exception as error:
        problems.append(f"{type(error).__name__}: {first_line(error)}")
        return {}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device() -> dict[str, Any]:
    with importing():
        import torch

    from regraft.cache.engines import has_fast_bf16, pick_device
    from regraft.cache.stream import decoding_threads

    device = pick_device("auto")
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "processors": decoding_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "fast bf16": has_fast_bf16(),
    }


def _networks() -> dict[str, Any]:
    from regraft.backbone.embedded import EMBEDDED, embedded_state

    for name in EMBEDDED:
        if not embedded_state(name):
            raise RuntimeError(f"the weights of {name} are empty")
    return {"embedded networks": list(EMBEDDED)}


def _cache(cache: CacheOption) -> dict[str, Any]:
    import os

    from regraft.cache.store import default_folder, list_tables
    from regraft.cli.show import size_text

    folder = cache or default_folder()
    there = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    if not os.access(there, os.W_OK):
        raise PermissionError(f"the cache folder {folder} cannot be written to: choose another with --cache or $REGRAFT_CACHE")
    return {"cache": str(folder), "cache size": size_text(sum(table.bytes for table in list_tables(folder)))}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
