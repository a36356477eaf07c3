"""The rules of the house: directions of imports, what starts at once, what is written down, what the build files promise."""

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("regraft", "tests", "bench", "docs", "examples", ".ci")
# Written so that they do not match themselves.
LOCAL_PATH = re.compile(r"(?<![\w.*<])/(?:home|root|work|Users)/\w")
REGISTRY = re.compile(r"pypi\.org|pythonhosted\.org|npmjs\.(?:org|com)|anaconda\.org|--(?:extra-)?index-url")
# Chosen by pip for the platform at hand: pinning them would break every other one.
PLATFORM = re.compile(r"^(?:nvidia|cuda|triton|intel-)")


def written() -> Iterator[tuple[Path, str]]:
    """Every text file of the project that people wrote."""
    top = [path for path in ROOT.iterdir() if path.is_file()]
    deep = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in sorted(top + deep):
        relative = path.relative_to(ROOT)
        if "__pycache__" in relative.parts or relative.parts[:2] == ("bench", "out"):
            continue
        try:
            yield relative, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def modules(*folders: str) -> list[Path]:
    found = [path.relative_to(ROOT) for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if path.parts[:2] != ("bench", "out")]


def test_imports_point_down_only() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    result = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("package", ["regraft", "errors", "values", "recipe", "evaluate", "report", "data"])
def test_starts_without_torch(package: str) -> None:
    name = package if package == "regraft" else f"regraft.{package}"
    code = f"import sys, {name}; sys.exit(bool({{'torch', 'torchvision', 'timm'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr or f"{name} imports torch"


def test_no_local_paths_or_registries_are_written_down() -> None:
    found = [
        f"{path}:{number}: {line.strip()[:100]}"
        for path, text in written()
        for number, line in enumerate(text.splitlines(), 1)
        if LOCAL_PATH.search(line) or REGISTRY.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("bad", ["see /" + "home/me/x", "cd /" + "work/main", "--index" + "-url x", "https://pypi" + ".org/x"])
def test_local_paths_and_registries_are_recognised(bad: str) -> None:
    assert LOCAL_PATH.search(bad) or REGISTRY.search(bad)


def test_every_package_folder_has_an_init() -> None:
    folders = {path.parent for path in modules("regraft")}
    assert not [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").exists()]


@pytest.mark.parametrize("path", modules("regraft", "bench", "examples"), ids=str)
def test_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse((ROOT / path).read_text())), f"{path} has no docstring"


def test_no_pickle_is_read_or_written() -> None:
    calls = re.compile(r"^\s*(?:import|from) (?:pickle|joblib|cloudpickle|shelve)\b|weights_only=False", re.MULTILINE)
    assert not [str(path) for path in modules("regraft") if calls.search((ROOT / path).read_text())]


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_makefile_has_the_targets_that_the_documents_name() -> None:
    named = {match for _, text in written() for match in re.findall(r"`make ([a-z]+)`", text)}
    assert {"demo", "test", "bench", "data", "docs"} <= makefile_targets()
    assert named <= makefile_targets()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("target", ["help", "demo", "test", "data", "bench", "docs", "clean"])
def test_make_knows_how_to(target: str, tmp_path: Path) -> None:
    command = ["make", "-n", target, f"VENV={tmp_path / 'venv'}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "MAKEFLAGS": ""})
    assert result.returncode == 0, result.stderr
    if target in ("demo", "test"):
        assert "-c constraints.txt" in result.stdout


def test_scripts_that_make_calls_exist() -> None:
    scripts = set(re.findall(r"\$\(BIN\)/python ([\w/]+\.py)", (ROOT / "Makefile").read_text()))
    assert scripts
    assert not [script for script in scripts if not (ROOT / script).exists()]


def test_ci_runs_the_tests() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
    assert "make test" in script.read_text()


def constraints() -> dict[str, str]:
    pairs = (line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    return {canonicalize_name(name): version for name, version in pairs}


def test_constraints_are_names_and_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert not [line for line in lines if not re.fullmatch(r"[A-Za-z0-9][\w.-]*==\d[\w.!]*", line)]
    assert not [line for line in lines if PLATFORM.match(line)]
    assert len(constraints()) == len(lines)


def dependencies(*, every_platform: bool) -> set[str]:
    """Names of all that the project and its extras need, and what those need, as far as it is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    own = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    waiting = [Requirement(line) for line in own]
    found: set[tuple[str, str]] = set()
    while waiting:
        asked = waiting.pop()
        name = canonicalize_name(asked.name)
        for extra in {"", *asked.extras} - {extra for known, extra in found if known == name}:
            found.add((name, extra))
            try:
                needs = [Requirement(line) for line in distribution(name).requires or []]
            except PackageNotFoundError:
                continue
            waiting += [need for need in needs if applies(need, extra, every_platform=every_platform)]
    return {name for name, _ in found}


def applies(need: Requirement, extra: str, *, every_platform: bool) -> bool:
    if need.marker is None:
        return True
    if every_platform:
        return "extra" not in str(need.marker) or (bool(extra) and need.marker.evaluate({"extra": extra}))
    return need.marker.evaluate({"extra": extra})


def test_constraints_cover_every_dependency() -> None:
    missing = {name for name in dependencies(every_platform=False) if not PLATFORM.match(name)} - set(constraints())
    assert not missing


def test_constraints_hold_nothing_else() -> None:
    assert not set(constraints()) - dependencies(every_platform=True)


def test_constraints_allow_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for need in map(Requirement, project["dependencies"]):
        assert need.specifier.contains(constraints()[canonicalize_name(need.name)]), need


def test_demo_set_is_small_and_readable() -> None:
    root = ROOT / "examples/clipart"
    files = sorted(path for path in root.rglob("*") if path.is_file())
    counts = [sum(file.parent == folder for file in files) for folder in sorted(root.iterdir())]
    assert 6 <= len(counts) <= 8
    assert min(counts) >= 40
    assert 350 <= len(files) <= 450
    assert sum(file.stat().st_size for file in files) <= 4_000_000
    assert len({hashlib.sha256(file.read_bytes()).digest() for file in files}) == len(files)
    for file in files[::20]:
        with Image.open(file) as image:
            image.load()
            assert max(image.size) <= 192
