"""The figures of trust: calibration, images of other things, what an audit costs."""

from pathlib import Path

import numpy as np
from figures import Bench, Row, fit, seconds
from measure import spread
from numpy.typing import NDArray
from resplit import split_again

from regraft.evaluate.calibration import chance_calibration_error
from regraft.evaluate.table import read_predictions
from regraft.fitted import Fitted
from regraft.inputs import expand_inputs
from regraft.saved import load_classifier

CACHE = "trust"
# What no model of stamps was ever shown.
Distances = NDArray[np.float64]
FOREIGN = ("fashion2k", "odd-images")


def calibration(bench: Bench) -> list[Row]:
    """What one temperature does to the calibration error of `partial:2` on the test images, three splits of each set."""
    rows = []
    for name in ("clipart", "stamps", "fashion2k"):
        before, after, chance, shares, changed = [], [], [], [], 0
        for seed in range(1 if bench.quick else 3):
            data = split_again(bench.set(name), bench.scratch / "splits" / f"{name}-{seed}", seed)
            line = fit(bench, data, CACHE, "--strategy", "partial:2", "--epochs", "8").line
            found = line["calibration"]
            before.append(found["ece_before"])
            after.append(found["ece_after"])
            test = read_predictions(bench.scratch / "runs" / data.name / "predictions.parquet")["test"]
            chance.append(chance_calibration_error(test))
            raw = test.logits_NK * found["temperature"]
            changed += int(np.count_nonzero(raw.argmax(axis=1) != test.logits_NK.argmax(axis=1)))
            # Half of what it was, or below 0.02: either is enough, so that 1 is the limit of both as shares.
            shares.append(min(after[-1] / (before[-1] / 2), after[-1] / 0.02))
        also = {
            "before": f"{np.mean(before):.3f}",
            "after": f"{np.mean(after):.3f}",
            "perfect probabilities would give by chance": f"{np.mean(chance):.3f}",
        }
        what = f"calibration error on {name} with partial:2, as a share of its target (half of the uncalibrated one, or 0.02)"
        rows.append(Row(what=what, measured=spread(shares, mean=True), at_most=1, also=also))
        rows.append(Row(what=f"top-1 answers that it changed on {name}", measured=spread([float(changed)]), at_most=0))
    return rows


def rejection(bench: Bench) -> list[Row]:
    """A model of stamps, shown pictures of other things: three splits."""
    area: dict[str, list[float]] = {name: [] for name in FOREIGN}
    refused: dict[str, list[float]] = {name: [] for name in FOREIGN}
    own = []
    for seed in range(1 if bench.quick else 3):
        data = split_again(bench.set("stamps"), bench.scratch / "splits" / f"stamps-{seed}", seed)
        fit(bench, data, CACHE)
        fitted = load_classifier(bench.scratch / "runs" / data.name)
        near = distances(fitted, data / "test")
        own.append(100 * float((near > (fitted.thresholds.distance or np.inf)).mean()))
        for name in FOREIGN:
            far = distances(fitted, bench.set(name))
            area[name].append(area_under_curve(near, far))
            refused[name].append(100 * float((far > (fitted.thresholds.distance or np.inf)).mean()))
    rows = [
        Row(
            what=f"images of {name} told from stamps' own test images by distance, area under the ROC curve",
            measured=spread(area[name], mean=True),
            at_least=0.95,
            also={"withheld at the shipped threshold": f"{np.mean(refused[name]):.0f} %"},
        )
        for name in FOREIGN
    ]
    rows.append(Row(what="answers withheld for its own test images", measured=spread(own, mean=True), at_most=10, unit=" %"))
    return rows


def distances(fitted: Fitted, folder: Path) -> Distances:
    """Of every image below a folder that can be read."""
    rows = fitted.iter_predict(list(expand_inputs([str(folder)]).paths))
    return np.array([row.distance for row in rows if row.status == "ok" and row.distance is not None])


def area_under_curve(near: Distances, far: Distances) -> float:
    """The chance that a foreign image lies farther than one of the model's own; equal ones count half."""
    ordered = np.sort(near)
    below = np.searchsorted(ordered, far, "left") + np.searchsorted(ordered, far, "right")
    return float(below.mean() / (2 * len(near)))


def audit_cost(bench: Bench) -> list[Row]:
    """10,000 images of Fashion-MNIST: what finding copies and auditing adds to a first fit."""
    data = bench.set("fashion10k")
    shares, runs = [], []
    for number in range(bench.pairs):
        line = fit(bench, data, f"{CACHE}-{number}").line
        took = line["seconds"]
        shares.append((took["copies"] + took["audit"]) / (took["total"] - took["copies"] - took["audit"]))
        runs.append(took["total"])
    also = {"whole fit": seconds(runs)}
    return [Row(what="the audit's time, as a share of the rest of the fit", measured=spread(shares), at_most=0.1, also=also)]
