"""The figures of fine-tuning: steps beside the tutorials' loop, and what training is worth beside the solved head."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from figures import Bench, Row, fit, number, peer, regraft, seconds
from measure import ROOT, Process, run_process, spread
from resplit import split_again

from regraft.evaluate.compare import mean_and_error
from regraft.evaluate.table import read_predictions

CACHE = "finetune"


def steps(bench: Bench, *flags: str) -> dict[str, Any]:
    """What bench/steps.py prints: images per second of both sides, in turns."""
    data = bench.set("fashion2k")
    rounds = 1 if bench.quick else max(3, bench.pairs)
    command = [sys.executable, str(ROOT / "bench/steps.py"), str(data), "--rounds", str(rounds), *flags]
    return run_process(command).line


def training_steps(bench: Bench) -> list[Row]:
    """Training throughput, images to optimiser's step, at 224 pixels and batches of 32, in one process and in turns."""
    rows = []
    for name, flags, least in (
        ("EfficientNet-Lite0", (), 3.0),
        ("ResNet-18", ("--backbone", "torchvision:resnet18", "--weights", "none"), 2.2),
    ):
        line = steps(bench, *flags)
        what = f"`full` with {name}, images per second, as a multiple of the tutorials' loop (seed-full, eager fp32)"
        rows.append(step_row(what, line, least))
    line = steps(bench, "--strategy", "partial:2")
    what = "`partial:2` with EfficientNet-Lite0 from the boundary cache, as a multiple of the same without it"
    rows.append(step_row(what, line, 2.0))
    return [*rows, second_epoch(line)]


def step_row(what: str, line: dict[str, Any], least: float) -> Row:
    """Our rate over the other's, round by round."""
    ratios = [ours / other for ours, other in zip(line["ours"], line["other"], strict=True)]
    also = {side: f"{number(spread(line[side]).centre)} images/s" for side in ("ours", "other")}
    return Row(what=what, measured=spread(ratios), at_least=least, unit=" x", also=also | {"precision": line["precision"]})


def second_epoch(line: dict[str, Any]) -> Row:
    """The time of two epochs, building the cache included, beside two without it."""
    ours, other = spread(line["ours"]).centre, spread(line["other"]).centre
    images = line["images"]
    with_cache = line["build_seconds"] + 2 * images / ours
    return Row(
        what="two epochs of `partial:2` with building the cache, as a share of two epochs without it",
        measured=spread([with_cache / (2 * images / other)]),
        at_most=1,
        also={"building": f"{number(line['build_seconds'])} s for {images} images, the engine's choice included"},
    )


def fine_tune(bench: Bench) -> list[Row]:
    """fashion2k: what `auto` makes of ten minutes, beside the solved head on the same test images."""
    data = bench.set("fashion2k")
    minutes = "0.5" if bench.quick else "10"
    _, head_right = right_answers(bench, data, "head")
    auto, auto_right = right_answers(bench, data, "auto", "--minutes", minutes)
    gain, error = mean_and_error(auto_right.astype(float) - head_right)
    kept = auto.line["strategy"]
    also = {"kept": kept, "head": f"{100 * head_right.mean():.1f} %", "seconds": number(auto.seconds)}
    return [
        Row(
            what="accuracy on fashion2k of `--strategy auto --minutes 10`",
            measured=spread([100 * float(auto_right.mean())]),
            at_least=90.0,
            unit=" %",
            also=also,
        ),
        Row(
            what="its lead over the solved head on the same test images, less 1.96 standard errors",
            measured=spread([100 * (gain - 1.96 * error)]),
            at_least=0,
            strict=True,
            unit=" points",
            also={"lead": f"{100 * gain:.1f} points", "standard error": f"{100 * error:.1f}"},
        ),
    ]


def right_answers(bench: Bench, data: Path, strategy: str, *flags: str | Path) -> tuple[Process, "np.ndarray[Any, Any]"]:
    """A fit, and which test images it answers right, in their order."""
    run = fit(bench, data, CACHE, "--strategy", strategy, *flags)
    found = read_predictions(bench.scratch / "runs" / data.name / "predictions.parquet")["test"]
    assert found.targets is not None
    return run, np.asarray(found.logits_NK.argmax(axis=1) == found.targets)


def auto_holds(bench: Bench) -> list[Row]:
    """`auto` in two minutes beside the solved head, three splits of the small sets: it is not to do harm."""
    rows = []
    for name in ("clipart", "stamps"):
        gains, errors, kept = [], [], []
        for seed in range(1 if bench.quick else 3):
            data = split_again(bench.set(name), bench.scratch / "splits" / f"{name}-{seed}", seed)
            _, head_right = right_answers(bench, data, "head")
            auto, auto_right = right_answers(bench, data, "auto", "--minutes", "2")
            gain, error = mean_and_error(auto_right.astype(float) - head_right)
            gains.append(100 * gain)
            errors.append(100 * error)
            kept.append(auto.line["strategy"])
        allowed = -float(np.sqrt(np.square(errors).sum())) / len(errors)
        lead = spread(gains, mean=True)
        also = {"kept": ", ".join(kept), "standard error": f"{-allowed:.1f}"}
        what = f"accuracy on {name} of `--strategy auto --minutes 2`, mean lead over the solved head"
        rows.append(Row(what=what, measured=lead, at_least=allowed, unit=" points", also=also))
    return rows


def curve(bench: Bench) -> list[Row]:
    """All 70,000 images of Fashion-MNIST at 64 pixels within an hour: accuracy against time, of one training."""
    data = bench.set("fashion")
    minutes = 0.5 if bench.quick else 40.0
    loop = peer(data, "seed-full", "--minutes", "0.2" if bench.quick else "5")
    out = bench.scratch / "runs" / data.name
    # Small images in large batches: a step's calls cost as much as its sums.
    flags = ("--size", "64", "--strategy", "full", "--batch-size", "128", "--epochs", "40")
    flags += ("--minutes", str(minutes - 6 if minutes > 6 else minutes))
    head = fit(bench, data, CACHE, "--size", "64")
    run = regraft("fit", data, "--out", out, "--overwrite", "--cache", bench.scratch / "caches" / CACHE, "--json", *flags)
    epochs = [json.loads(text) for text in (out / "metrics.jsonl").read_text().splitlines()]
    before = run.seconds - sum(epoch["seconds"] for epoch in epochs)
    also = {f"after {at} minutes": accuracy_at(epochs, before, 60 * at) for at in (5, 10, 20, 40)}
    also |= {"head alone": f"{100 * head.line['test']['accuracy']['value']:.1f} % in {seconds([head.seconds])}"}
    also |= {
        "the tutorials' loop (seed-full) after 5 minutes": f"{100 * loop.line['accuracy']:.1f} % of every tenth test image"
    }
    what = "accuracy on the full fashion set of `--size 64 --strategy full --batch-size 128`, test images, the whole process"
    accuracy = spread([100 * run.line["test"]["accuracy"]["value"]])
    time_row = Row(what="seconds that took, the cache of the head's fit at hand", measured=spread([run.seconds]), at_most=3600)
    return [Row(what=what, measured=accuracy, at_least=94.0, unit=" %", also=also), time_row]


def accuracy_at(epochs: Sequence[dict[str, Any]], before: float, at: float) -> str:
    """The best validation accuracy until then, with the rate still high."""
    clock, best = before, float("nan")
    for epoch in epochs:
        clock += epoch["seconds"]
        if clock <= at:
            best = max(best, epoch["validation_accuracy"]) if best == best else epoch["validation_accuracy"]
    return "not one epoch" if np.isnan(best) else f"{100 * best:.1f} % of the validation images"
