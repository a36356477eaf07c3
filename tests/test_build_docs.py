"""The documentation builds without a warning and without a network, every link works, and the code of the tutorials runs."""

import gc
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import COLOURS, paint
from test_examples import CALLS, NOT_SCRIPTS
from test_readme import commands as of_readme

from regraft.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("[0-9]*.md"))
# Whose commands and lines of Python are run here, in this order: later ones use the runs of the earlier.
RUN = [*TUTORIALS, DOCS / "data.md", DOCS / "scikit-learn.md"]
# In a block of its own: what stands on one line would be formatted as Python.
INCLUDED = re.compile(r"\A--8<--\n(.+)\n--8<--\n\Z")
TRAINED = ("partial", "norm", "full", "gradual", "scratch")
SMALL = ["--backbone", "module:own_nets:small_network"]


class Page(HTMLParser):
    """What a page has for links to go to, where its own links go, and what it fetches."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors, self.links, self.fetched = set[str](), set[str](), set[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        self.fetched |= {given[name] for name in ("src", "href") if name in given and tag != "a"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    # In this process: starting another one takes longer than building.
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


def test_the_site_builds_without_a_warning(site: Path) -> None:
    pages = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    assert not [page for page in pages if not (site / page).is_file()]
    assert not list(site.rglob("*.py"))


def test_every_link_goes_somewhere_and_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    broken, foreign = [], []
    for path, page in pages.items():
        for link in page.links | page.fetched:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                foreign += [link] if link in page.fetched and not link.startswith("data:") else []
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists() or (parts.fragment and target in pages and parts.fragment not in pages[target].anchors):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken
    assert not foreign
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert not [url for text in styles for url in re.findall(r"url\(['\"]?(https?://[^)]+)", text)]


def test_figures_on_other_pages_are_those_that_were_measured(site: Path) -> None:
    shown = (site / "strategies.html").read_text(encoding="utf-8")
    measured = (DOCS / "measurements.md").read_text(encoding="utf-8")
    assert "show:" not in shown
    rows = re.search(r"<!-- figure: finetune -->(.*?)<!-- end", measured, re.DOTALL)
    assert rows
    figures = re.findall(r"\*\*([\d.]+ ?\S+)\*\*", rows[1])
    assert len(figures) >= 2
    assert not [figure for figure in figures if f"<strong>{figure}</strong>" not in shown]
    figures_of = runpy.run_path(str(DOCS / "figures.py"))["table"]
    with pytest.raises(ValueError, match="no figure of"):
        figures_of(["nothing"], "")


def test_the_python_reference_is_that_of_the_docstrings() -> None:
    written = runpy.run_path(str(DOCS / "make_python.py"))
    assert written["PAGE"].read_text(encoding="utf-8") == written["render"](), "run python docs/make_python.py"


def fences(page: Path) -> Iterator[tuple[str, str]]:
    """The language and the text of each block of code."""
    yield from re.findall(r"^```(\w+)[^\n]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_every_row_of_the_tutorials_has_a_page() -> None:
    assert [int(page.name[:2]) for page in TUTORIALS] == list(range(1, 19))
    listed = (DOCS / "tutorials/index.md").read_text(encoding="utf-8")
    for page in TUTORIALS:
        text = page.read_text(encoding="utf-8")
        parts = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert parts == ["The same here", "The mistake that cannot be made"], page.name
        assert "**What the tutorials do.**" in text
        assert f"]({page.name})" in listed
        languages = {language for language, _ in fences(page)}
        assert {"console", "python"} <= languages <= {"console", "python", "text"}, page.name


def test_scripts_on_the_pages_are_those_that_the_tests_run() -> None:
    included = {name for page in TUTORIALS for _, text in fences(page) for name in INCLUDED.findall(text)}
    assert len(included) >= 14
    assert included <= {f"examples/{name}.py" for name in {*CALLS, *NOT_SCRIPTS} - {"make_clipart"}}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with photos/ and test/, and the files of examples/ that the pages name."""
    home = tmp_path_factory.mktemp("reader")
    for folder, each in (("photos", 5), ("test", 2)):
        for name, colour in zip(("animals", "food", "plants"), COLOURS.values(), strict=True):
            for number in range(each):
                paint(home / folder / name / f"{number}.png", colour, side=12)
    shutil.copy(ROOT / "examples/clipart/food/banana.png", home / "photos/food/banana.png")
    shutil.copy(ROOT / "examples/own_nets.py", home)
    shutil.copytree(ROOT / "examples/hub", home / "examples/hub", ignore=shutil.ignore_patterns("__pycache__"))
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("REGRAFT_CACHE", str(home / "cache"))
        # Whatever other tests imported under that name.
        patch.delitem(sys.modules, "own_nets", raising=False)
        yield home
        sys.modules.pop("own_nets", None)
    gc.unfreeze()


def quick(line: str) -> list[str]:
    """The command of a page with a small network, small images and one epoch, so that it takes no time."""
    words = [word.replace("torchvision:CIFAR10", "photos/").replace("gradual:2", "gradual:1") for word in shlex.split(line)[1:]]
    if words[0] != "fit":
        return words
    strategy = words[words.index("--strategy") + 1] if "--strategy" in words else "head"
    trains = strategy.startswith(TRAINED)
    # The last of two counts.
    if trains or ("--backbone" not in words and "runs/photos" not in words):
        words += [] if "--backbone" in words and "torchvision:resnet18" not in words else SMALL
    elif "torchvision:resnet18" in words:
        words += ["--weights", "none"]
    if "--minutes" in words:
        words[words.index("--minutes") + 1] = "0.02"
    elif "--head" in words or (trains and not strategy.startswith("gradual")):
        words += ["--epochs", "1"]
    return [*words, *([] if "--from" in words else ["--size", "32"]), "--overwrite"]


@pytest.mark.timeout(1800)
def test_code_on_the_pages_runs(reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands, elsewhere = 0, {line.partition("  #")[0].strip() for line in of_readme()} - {"regraft evaluate runs/photos test/"}
    for page in RUN:
        names: dict[str, object] = {}
        for language, text in fences(page):
            if language == "console":
                for line in text.splitlines():
                    assert line.startswith("$ regraft "), f"{page.name}: {line}"
                    commands += 1
                    if line.removeprefix("$ ") in elsewhere:
                        continue
                    assert main(quick(line.removeprefix("$ "))) == 0, f"{page.name}: {line}\n{capsys.readouterr().err}"
            elif language == "python" and not INCLUDED.match(text):
                small = text.replace("ImageClassifier()", f"ImageClassifier({SMALL[1]!r}, size=32)")
                exec(compile(small, page.name, "exec"), names)
    assert commands >= 24
