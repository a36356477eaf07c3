"""What the benchmarks do with numbers and files, without running any."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"
MACHINE = {
    "cores": 2,
    "architecture": "x86_64",
    "flags": [],
    "memory_gb": 8,
    "system": "Linux",
    "python": "3.11",
    "versions": {},
}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """The modules of bench/, which are scripts beside each other and not a package."""
    names = ("data", "measure", "resplit", "figures", "document")
    monkeypatch.syspath_prepend(str(BENCH))
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    modules = {name: __import__(name) for name in names}
    for name in names:
        monkeypatch.setitem(sys.modules, name, modules[name])
    return modules


def test_spread_is_median_and_range(bench: dict[str, ModuleType]) -> None:
    found = bench["measure"].spread([3.0, 1.0, 8.0])
    assert (found.centre, found.low, found.high, found.runs) == (3.0, 1.0, 8.0, 3)
    assert bench["measure"].spread([3.0, 1.0, 8.0], mean=True).centre == 4.0


def test_runs_alternate(bench: dict[str, ModuleType]) -> None:
    order: list[str] = []
    bench["measure"].alternate(lambda i: order.append(f"us{i}"), lambda i: order.append(f"peer{i}"), 2)
    assert order == ["us0", "peer0", "us1", "peer1"]


@pytest.mark.parametrize(
    ("centre", "limits", "passed"),
    [
        (0.2, {"at_most": 0.2}, True),
        (0.21, {"at_most": 0.2}, False),
        (8.0, {"at_least": 8}, True),
        (7.9, {"at_least": 8}, False),
        (0.0, {"at_least": 0, "strict": True}, False),
        (0.1, {"at_least": 0, "strict": True}, True),
        (float("nan"), {"at_most": 1}, False),
    ],
)
def test_targets_decide(bench: dict[str, ModuleType], centre: float, limits: dict[str, float], passed: bool) -> None:
    row = bench["figures"].Row(what="x", measured=bench["measure"].spread([centre]), **limits)
    assert row.passed is passed


@pytest.mark.parametrize(
    ("value", "shown"), [(1 / 30, "0.0333"), (0.2, "0.2"), (8, "8"), (91, "91"), (302.4, "302"), (0, "0"), (1234.5, "1234")]
)
def test_numbers_have_three_digits(bench: dict[str, ModuleType], value: float, shown: str) -> None:
    assert bench["figures"].number(value) == shown


def test_a_process_is_timed_and_its_line_read(bench: dict[str, ModuleType]) -> None:
    code = "import time; block = bytearray(60_000_000); time.sleep(0.1); print('noise'); print('{\"n\": 3}')"
    process = bench["measure"].run_process([sys.executable, "-c", code])
    assert process.line == {"n": 3}
    assert 0.1 <= process.seconds < 10
    assert process.peak_bytes > 60_000_000


def test_a_failing_process_is_told_with_its_last_words(bench: dict[str, ModuleType]) -> None:
    with pytest.raises(bench["measure"].BenchmarkFailed, match=r"exit code 3(.|\n)*sorry"):
        bench["measure"].run_process([sys.executable, "-c", "import sys; print('sorry', file=sys.stderr); sys.exit(3)"])


def test_commands_are_shown_without_paths_of_this_machine(bench: dict[str, ModuleType]) -> None:
    assert bench["measure"].shown([sys.executable, str(BENCH / "peers.py"), "x"]) == "python bench/peers.py x"


def page_of(bench: dict[str, ModuleType], name: str, centre: float) -> str:
    row = bench["figures"].Row(what="a share", measured=bench["measure"].spread([centre]), at_most=0.2, also={"ours": "1 s"})
    return str(bench["document"].section(bench["document"].record(name, "What it is.", [row], MACHINE)))


def test_only_the_measured_figure_changes_on_the_page(bench: dict[str, ModuleType]) -> None:
    merge = bench["document"].merge
    page = merge(
        "# Title\n\n## precision\n\nWritten by hand.\n",
        {"fit": page_of(bench, "fit", 0.1), "help": page_of(bench, "help", 0.1)},
    )
    again = merge(page, {"fit": page_of(bench, "fit", 0.5)})
    assert "Written by hand." in again
    assert again.count("<!-- figure: fit -->") == 1
    assert "**0.5**" in again
    assert "**no**" in again
    assert page_of(bench, "help", 0.1) in again


def test_page_is_written_from_what_was_measured(
    bench: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench["document"], "PAGE", tmp_path / "measurements.md")
    row = bench["figures"].Row(what="a share", measured=bench["measure"].spread([0.1]), at_most=0.2)
    (tmp_path / "fit.json").write_text(json.dumps(bench["document"].record("fit", "What it is.", [row], MACHINE)))
    assert bench["document"].render(tmp_path) == ["fit"]
    text = (tmp_path / "measurements.md").read_text()
    assert "| a share | at most 0.2 | **0.1** | 0.1..0.1 | 1 | yes |" in text
    assert "python bench/run.py --only fit" in text


def images(root: Path) -> Path:
    for part, n in (("train", 6), ("test", 3)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for index in range(n):
                (root / part / name / f"{index}.png").write_text(f"{part}{name}{index}")
    return root


def contents(root: Path) -> list[str]:
    return sorted(path.read_text() for path in root.rglob("*.png"))


def test_splitting_again_keeps_every_image_and_the_size_of_each_part(bench: dict[str, ModuleType], tmp_path: Path) -> None:
    whole = images(tmp_path / "whole")
    splits = [bench["resplit"].split_again(whole, tmp_path / f"split{seed}", seed) for seed in range(2)]
    for split in splits:
        assert contents(split) == contents(whole)
        assert [len(list((split / part / "cat").iterdir())) for part in ("train", "test")] == [6, 3]
        assert not any(path.is_symlink() for path in split.rglob("*"))
    assert contents(splits[0] / "test") != contents(splits[1] / "test")


def test_the_trial_set_has_every_class_in_both_parts(bench: dict[str, ModuleType], tmp_path: Path) -> None:
    few = bench["resplit"].fewer(images(tmp_path / "whole"), tmp_path / "few")
    assert {path.parent.relative_to(few).as_posix() for path in few.rglob("*.png")} == {
        "train/cat",
        "train/dog",
        "test/cat",
        "test/dog",
    }


def test_a_photo_has_twelve_megapixels_and_is_the_same_every_time(bench: dict[str, ModuleType]) -> None:
    import random

    from PIL import Image

    picture = Image.linear_gradient("L").convert("RGB")
    one, other = (bench["data"].photo(picture, random.Random(3)) for _ in range(2))
    assert one.size == (4000, 3000)
    assert one.tobytes() == other.tobytes()
