"""Write docs/python.md from the docstrings of the public names: python docs/make_python.py [--check]."""

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import regraft

PAGE = Path(__file__).with_name("python.md")
HEAD = """# Python

Written by `python docs/make_python.py` from the docstrings; change these, not this page. All names are in `regraft` itself;
`import regraft` imports each when it is first used. Letters at the end of names give shapes: N images, K classes, H W pixels,
C channels.
"""
GROUPS = {
    "Functions": (
        *("fit", "load", "pretrained", "inspect", "rank", "audit", "extend", "compare", "explain", "features"),
        *("predict_on_ray", "rebuild_report", "shard"),
    ),
    "Models": ("Fitted", "FittedPixels", "ImageClassifier"),
    "Strategies": ("Head", "Partial", "Full", "Norm", "Gradual", "Scratch", "Auto", "Decoding", "Training"),
    "What a person chooses": ("Data", "Own", "Recipe"),
}
# Methods that are there for the libraries above: their own documentation has them.
INHERITED = ("set_fit_request", "set_predict_request", "set_score_request")


def groups() -> dict[str, list[str]]:
    """The public names by group: every name is in one."""
    public = [name for name in regraft.__all__ if not name.startswith("_")]
    errors = [name for name in public if _is_error(getattr(regraft, name))]
    named = {name for names in GROUPS.values() for name in names} | set(errors)
    rest = [name for name in public if name not in named]
    return {**{title: list(names) for title, names in GROUPS.items()}, "Results": rest, "Errors": errors}


def render() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, names in groups().items():
        parts.append(f"## {title}\n")
        for name in names:
            parts += _entry(name, getattr(regraft, name))
    return "\n".join(parts).rstrip() + "\n"


def _is_error(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _entry(name: str, value: Any) -> Iterator[str]:
    yield f"### `{name}`\n"
    if _is_error(value):
        yield f"{_text(value)} A `{value.__mro__[1].__name__}`.\n"
        return
    yield f"```text\n{_signature(name, value)}\n```\n"
    yield f"{_text(value)}\n"
    if isinstance(value, type):
        for method, function in _methods(value):
            yield f"**`{name}.{method}`**\n"
            yield f"```text\n{_signature(method, function)}\n```\n"
            yield f"{_text(function)}\n"


def _methods(value: type) -> Iterator[tuple[str, Any]]:
    """Public methods with words of their own, in the order of the source."""
    for name, function in vars(value).items():
        if not name.startswith("_") and name not in INHERITED and inspect.isfunction(function) and inspect.getdoc(function):
            yield name, function


def _text(value: Any) -> str:
    """The docstring as Markdown: code blocks by indentation stay, placeholders do not become tags."""
    return re.sub(r"(?<!`)<(?=\w)", "&lt;", inspect.cleandoc(value.__doc__ or ""))


def _signature(name: str, value: Any) -> str:
    """How it is called: one argument per line where one line would be too long."""
    found = inspect.signature(value)
    arguments = [argument for argument in found.parameters.values() if argument.name != "self"]
    words, seen_star = list[str](), False
    for argument in arguments:
        if argument.kind is argument.KEYWORD_ONLY and not seen_star:
            words.append("*")
            seen_star = True
        words.append(_argument(argument))
    if dataclasses.is_dataclass(value) and not any("=" in word for word in words):
        # Results are made by regraft: what counts is the fields.
        return "\n".join([name, *(f"    {word}" for word in words if word != "*")])
    end = ")" if found.return_annotation in (found.empty, None) else f") -> {_kind(found.return_annotation)}"
    line = f"{name}({', '.join(words)}{end}"
    return line if len(line) <= 110 else "\n".join([f"{name}(", *(f"    {word}," for word in words), end])


def _argument(argument: inspect.Parameter) -> str:
    text = argument.name if argument.annotation is argument.empty else f"{argument.name}: {_kind(argument.annotation)}"
    text = f"**{text}" if argument.kind is argument.VAR_KEYWORD else text
    return text if argument.default is argument.empty else f"{text} = {_default(argument.default)}"


def _kind(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"(?:regraft|collections|numpy|pathlib|typing|torch)(?:\.\w+)*\.(?=\w)", "", text)
    # Of arrays only the type of their values says something.
    return re.sub(r"ndarray\[[^\[\]]*(?:\[[^\[\]]*\])?[^\[\]]*, dtype\[(\w+)\]\]", r"NDArray[\1]", text.replace("'", ""))


def _default(value: Any) -> str:
    """The default as it is written; of objects, and of those that a field makes, their class."""
    if "factory" in repr(value):
        return "..."
    return f"{type(value).__name__}()" if " at 0x" in repr(value) or dataclasses.is_dataclass(value) else repr(value)


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(PAGE.read_text(encoding="utf-8") != render())
    PAGE.write_text(render(), encoding="utf-8")
