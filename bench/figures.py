"""The figures: what each measures, beside whom, and the target it has to meet.

A figure takes a `Bench` and returns rows; `run.py` runs and prints them, `document.py` writes them down.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import data as image_sets
from measure import ROOT, Process, Spread, alternate, run_process, spread, warm
from resplit import fewer, split_again


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where image sets lie or go, an empty folder to work in, runs of each side; `quick` is a trial on a few images."""

    data: Path
    scratch: Path
    pairs: int
    quick: bool = False

    def set(self, name: str) -> Path:
        """The folder of an image set, fetched when it is not there; the quick version has a few of its images."""
        whole = image_sets.make(name, self.data)
        folder = fewer(whole, self.scratch / "sets" / name) if self.quick else whole
        warm(folder)
        return folder

    def data_of_masks(self) -> Path:
        """The images with masks, all of them: they are few."""
        folder = image_sets.make("stamps-masks", self.data)
        warm(folder)
        return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure with its target; `unit` is printed after the numbers. Equality passes unless `strict`."""

    what: str
    measured: Spread
    at_least: float = -math.inf
    at_most: float = math.inf
    unit: str = ""
    strict: bool = False
    also: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the centre meets the target."""
        centre = self.measured.centre
        inside = self.at_least <= centre <= self.at_most
        return inside and not (self.strict and centre in (self.at_least, self.at_most))

    @property
    def target(self) -> str:
        """The target in words."""
        if self.at_most < math.inf:
            return f"at most {number(self.at_most)}{self.unit}"
        return f"{'above' if self.strict else 'at least'} {number(self.at_least)}{self.unit}"


Figure = Callable[[Bench], list[Row]]


def number(value: float) -> str:
    """Three significant digits, no exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:.0f}"


def regraft(*words: str | Path, memory: bool = False) -> Process:
    """One run of the command line in a fresh process."""
    return run_process([sys.executable, "-m", "regraft", *map(str, words)], sample_memory=memory)


def fit(bench: Bench, data: Path, cache: Path | str, *flags: str | Path, memory: bool = False) -> Process:
    """`regraft fit` with its cache in `cache`, from start to end of the process."""
    out = bench.scratch / "runs" / data.name
    return regraft(
        "fit", data, "--out", out, "--overwrite", "--cache", bench.scratch / "caches" / cache, "--json", *flags, memory=memory
    )


def peer(data: Path, method: str, *flags: str) -> Process:
    """One run of a peer in a fresh process."""
    return run_process([sys.executable, str(ROOT / "bench/peers.py"), str(data), method, *flags])


def seconds(runs: Sequence[float]) -> str:
    """Median seconds of some runs, for the notes beside a figure."""
    return f"{number(spread(runs).centre)} s"


def sides(runs: Sequence[tuple[float, float]]) -> dict[str, list[float]]:
    """Pairs taken apart: what we gave, what the peer gave."""
    return {"ours": [ours for ours, _ in runs], "peer": [theirs for _, theirs in runs]}


def help_time(bench: Bench) -> list[Row]:
    """`regraft --help`, a fresh process each time."""
    script = Path(sys.executable).parent / "regraft"
    command = [str(script)] if script.exists() else [sys.executable, "-m", "regraft"]
    runs = [run_process([*command, "--help"]).seconds for _ in range(max(10, bench.pairs) + 1)]
    # The first run compiles and fills the file cache.
    return [Row(what="`regraft --help`, the whole process", measured=spread(runs[1:]), at_most=0.3, unit=" s")]


def fit_time(bench: Bench) -> list[Row]:
    """Fits with an empty cache beside timm-sklearn, on several splits of fashion2k: time, extraction alone, accuracy."""
    whole = bench.set("fashion2k")
    splits = [split_again(whole, bench.scratch / "splits" / f"fashion2k-{seed}", seed) for seed in range(bench.pairs)]
    runs = alternate(
        lambda i: (fit(bench, splits[i], f"fit{i}"), ours_alone(splits[i]).line),
        lambda i: peer(splits[i], "timm-sklearn").line,
        bench.pairs,
    )
    times = [(ours.seconds, float(theirs["seconds"])) for (ours, _), theirs in runs]
    rates = [(float(alone["images_per_s"]), float(theirs["images_per_s"])) for (_, alone), theirs in runs]
    scores = [(100 * ours.line["test"]["accuracy"]["value"], 100 * theirs["accuracy"]) for (ours, _), theirs in runs]
    what = "`regraft fit` on fashion2k, empty cache, the whole process, as a share of timm-sklearn's own seconds"
    return [ratio_row(what, times, at_most=1 / 5), rate_row("fashion2k", rates), lead_row("fashion2k", scores, 3)]


def tutorial_time(bench: Bench) -> list[Row]:
    """A whole fit against the tutorials' loop, which is run in full; once, because it takes its time, unless pairs say more."""
    data = bench.set("fashion2k")
    flags = ("--epochs", "1") if bench.quick else ()
    pairs = 1 if bench.pairs <= 3 else bench.pairs
    # The libraries come from the disk once, as they would for anybody who has run anything with them since the start.
    fit(bench, fewer(data, bench.scratch / "first"), "first")
    runs = alternate(
        lambda i: fit(bench, data, f"tutorial{i}").seconds, lambda _: own_seconds(data, "seed-head", *flags), pairs
    )
    what = "`regraft fit` on fashion2k, empty cache, the whole process, as a share of seed-head's own seconds"
    return [ratio_row(what, runs, at_most=1 / 30)]


def own_seconds(data: Path, method: str, *flags: str) -> float:
    """What a peer says it took: without its imports and its loading of weights."""
    return float(peer(data, method, *flags).line["seconds"])


def ratio_row(what: str, runs: Sequence[tuple[float, float]], *, at_most: float) -> Row:
    """Our seconds divided by the peer's, pair by pair."""
    also = {side: seconds(values) for side, values in sides(runs).items()}
    return Row(what=what, measured=spread([ours / theirs for ours, theirs in runs]), at_most=at_most, also=also)


def second_fit(bench: Bench) -> list[Row]:
    """A fit of an unchanged folder, against the first one."""
    data = bench.set("fashion2k")
    runs = alternate(lambda i: fit(bench, data, f"second{i}"), lambda i: fit(bench, data, f"second{i}"), bench.pairs)
    times = [(again.seconds, first.seconds) for first, again in runs]
    misses = [float(again.line["cache"]["misses"]) for _, again in runs]
    first_misses = min(first.line["cache"]["misses"] for first, _ in runs)
    return [
        ratio_row(
            "second `regraft fit` on unchanged fashion2k, as a share of the first ('peer' is the first)", times, at_most=1 / 5
        ),
        Row(
            what="images decoded by the second fit (cache misses)",
            measured=spread(misses),
            at_most=0,
            also={"first fit": f"{first_misses}"},
        ),
    ]


def extract_photos(bench: Bench) -> list[Row]:
    """Extraction alone on JPEG photos of 12 megapixels, against timm-sklearn's loader and network."""
    data = bench.set("photos")
    runs = alternate(lambda _: ours_alone(data).line, lambda _: peer(data, "timm-sklearn", "--extract-only").line, bench.pairs)
    return [rate_row("photos", [(float(ours["images_per_s"]), float(theirs["images_per_s"])) for ours, theirs in runs])]


def rate_row(name: str, rates: Sequence[tuple[float, float]]) -> Row:
    """Our images per second divided by the peer's, pair by pair; both leave out loading the network."""
    also = {side: f"{number(spread(values).centre)} images/s" for side, values in sides(rates).items()}
    what = f"extraction on {name}, images per second, as a multiple of timm-sklearn's loader and network"
    return Row(what=what, measured=spread([ours / theirs for ours, theirs in rates]), at_least=8, unit=" x", also=also)


def ours_alone(data: Path) -> Process:
    """Our extraction, decoding and network, each timed alone in one fresh process."""
    return run_process([sys.executable, str(ROOT / "bench/ours.py"), str(data)])


def pipelining(bench: Bench) -> list[Row]:
    """How much of the ideal rate remains when decoding and network share the cores."""
    rows = []
    for name in ("fashion2k", "photos"):
        data = bench.set(name)
        lines = [ours_alone(data).line for _ in range(bench.pairs)]
        shares = [(line["decode_s"] + line["network_s"]) / line["extract_s"] for line in lines]
        also = {key: seconds([line[f"{key}_s"] for line in lines]) for key in ("extract", "decode", "network")}
        what = f"end-to-end extraction on {name}, as a share of 1 / (decoding on all cores + network)"
        rows.append(Row(what=what, measured=spread(shares), at_least=0.85, also=also))
    return rows


def accuracy(bench: Bench) -> list[Row]:
    """Test accuracy beside timm-sklearn on three splits of each set; the same backbone, the same images."""
    return [accuracy_row(bench, name) for name in ("clipart", "stamps")]


def accuracy_row(bench: Bench, name: str) -> Row:
    """Both on the same splits."""
    runs = []
    for seed in range(1 if bench.quick else 3):
        data = split_again(bench.set(name), bench.scratch / "splits" / f"{name}-{seed}", seed)
        ours = fit(bench, data, "accuracy").line["test"]["accuracy"]["value"]
        runs.append((100 * ours, 100 * peer(data, "timm-sklearn").line["accuracy"]))
    return lead_row(name, runs, 0)


def lead_row(name: str, runs: Sequence[tuple[float, float]], points: float) -> Row:
    """The mean lead in percentage points over splits."""
    also = {side: f"{spread(values, mean=True).centre:.1f} %" for side, values in sides(runs).items()}
    lead = spread([ours - theirs for ours, theirs in runs], mean=True)
    what = f"accuracy on {name}, mean lead over timm-sklearn"
    return Row(what=what, measured=lead, at_least=points, strict=points == 0, unit=" points", also=also)


def pretrained(bench: Bench) -> list[Row]:
    """What ImageNet weights are worth: a solved head on them beside one on random weights, three splits of stamps."""
    file = image_sets.mobilenet_weights(bench.data)
    networks = {
        **dict.fromkeys(("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"), ()),
        "torchvision:mobilenet_v2": ("--weights", file),
    }
    return [pretrained_row(bench, name, flags) for name, flags in networks.items()]


def pretrained_row(bench: Bench, name: str, flags: tuple[str | Path, ...]) -> Row:
    """The lead of one network's own weights over random ones."""
    runs = []
    for seed in range(1 if bench.quick else 3):
        data = split_again(bench.set("stamps"), bench.scratch / "splits" / f"stamps-{seed}", seed)
        both = [fit(bench, data, "pretrained", "--backbone", name, *weights) for weights in (flags, ("--weights", "none"))]
        runs.append((100 * both[0].line["test"]["accuracy"]["value"], 100 * both[1].line["test"]["accuracy"]["value"]))
    also = {side: f"{spread(values, mean=True).centre:.1f} %" for side, values in sides(runs).items()}
    lead = spread([own - random for own, random in runs], mean=True)
    what = f"accuracy on stamps with the weights of {name}, mean lead over random ones ('peer')"
    return Row(what=what, measured=lead, at_least=15, unit=" points", also=also)


def full_set(bench: Bench) -> list[Row]:
    """All 70,000 images of Fashion-MNIST: accuracy, and memory of the whole process."""
    run = fit(bench, bench.set("fashion"), "full", memory=True)
    also = {
        "seconds": number(run.seconds),
        "images/s": number(70_000 / run.line["seconds"]["features"]),
        "engine": run.line["engine"],
    }
    accuracy = spread([100 * run.line["test"]["accuracy"]["value"]])
    return [
        Row(what="accuracy on the full fashion set", measured=accuracy, at_least=91.0, unit=" %", also=also),
        Row(what="peak memory of that fit, 70,000 images", measured=spread([run.peak_bytes / 1e9]), at_most=2, unit=" GB"),
    ]


def solver(bench: Bench) -> list[Row]:
    """The head's solver alone: the whole regularisation path, cross-validation and refit, 60,000 images in 10 classes."""
    rows = []
    for width, features in ((1280, "the last features"), (2768, "features of all stages")):
        case = f"{600 if bench.quick else 60_000}x{width}x10"
        command = [sys.executable, str(ROOT / "bench/solver.py"), "--cases", case, "--no-peer"]
        lines = [run_process(command).line for _ in range(bench.pairs)]
        also = {
            "memory": f"{max(line['peak_mb_beyond_start'] for line in lines):.0f} MB",
            "gradient": f"{lines[0]['gradient_norm']:.0e}",
        }
        measured = spread([line["seconds"] for line in lines])
        rows.append(Row(what=f"the whole path on {case}, {features}", measured=measured, at_most=60, unit=" s", also=also))
    return rows


FIGURES: dict[str, Figure] = {
    "help": help_time,
    "second": second_fit,
    "fit": fit_time,
    "photos": extract_photos,
    "pipeline": pipelining,
    "accuracy": accuracy,
    "pretrained": pretrained,
    "solver": solver,
    "full": full_set,
    "tutorial": tutorial_time,
}
