"""Wrong labels planted in a real image set, and how many of them the audit finds.

    python bench/labels.py DATA [--share 0.05] [--seed N] [--kind random] [--cache DIR] [--out DIR]

DATA is a folder with train/ and test/. That share of all its images gets the label of another class, drawn at random
(`--kind pair`: always of the class that a model trusts next, its usual confusion, which is harder). The copy is fitted with
`regraft.fit`; nothing is known to it of what was planted. Prints one JSON line: precision and recall of the list of suspects,
where every label that was wrong before counts against it; the share of what was planted among the first tenth of all images by
each ranking; how many wrong labels the audit and confident learning expect. `--cache` makes a second seed cheap.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from resplit import link

import regraft
from regraft.audits.labels import suspect_labels
from regraft.audits.noise import doubts, fit_noise, log_odds_of
from regraft.evaluate.probability import log_probabilities
from regraft.evaluate.table import read_predictions
from regraft.values import Predictions


def plant(root: Path, target: Path, share: float, rng: np.random.Generator, confused: dict[str, str] | None) -> dict[str, str]:
    """A copy of `root` in `target` with wrong labels; of the images that have one, name and right label."""
    files = sorted(root.glob("*/*/*"))
    classes = sorted({path.parent.name for path in files})
    wrong = set(rng.choice(len(files), round(share * len(files)), replace=False).tolist())
    planted = {}
    for index, path in enumerate(files):
        part, label = path.parts[-3], path.parts[-2]
        others = [name for name in classes if name != label]
        given = label if index not in wrong else confused[label] if confused else others[int(rng.integers(len(others)))]
        # The name keeps two files apart that had the same one in different classes.
        name = Path(part, given, f"{index:06}{path.suffix}")
        link(path, target / name)
        planted |= {name.as_posix(): label} if index in wrong else {}
    return planted


def confusions(root: Path, work: Path, **options: Any) -> dict[str, str]:
    """For each class the one that its images are most often taken for, by heads that had not seen them."""
    seen = out_of_fold(root, work, **options)
    truth, answers = seen.targets, np.argsort(seen.logits_NK, axis=1)[:, ::-1]
    assert truth is not None
    first = np.where(answers[:, 0] == truth, answers[:, 1], answers[:, 0])
    counts = [np.bincount(first[truth == k], minlength=len(seen.classes)) for k in range(len(seen.classes))]
    return {name: seen.classes[int(row.argmax())] for name, row in zip(seen.classes, counts, strict=True)}


def out_of_fold(root: Path, run: Path, **options: Any) -> Predictions:
    """Logits of every image of `root`, of heads that had not seen it: cross-validated, and for test/ those of the model."""
    regraft.fit(root, out=run, **options)
    parts = read_predictions(run / "predictions.parquet")
    found = [parts["cross-validation"], *([parts["test"]] if "test" in parts else [])]
    return Predictions(
        names=tuple(name for one in found for name in one.names),
        classes=found[0].classes,
        logits_NK=np.concatenate([one.logits_NK for one in found]),
        targets=np.concatenate([one.targets for one in found]),
    )


def rankings(seen: Predictions) -> dict[str, NDArray[np.float64]]:
    """Scores of every image, the lowest for the label that looks worst."""
    targets, rows = seen.targets, np.arange(len(seen.names))
    assert targets is not None
    logs = log_probabilities(seen.logits_NK)
    chances = np.exp(logs)
    thresholds = np.array([chances[targets == k, k].mean() for k in range(len(seen.classes))])
    others = np.where(np.arange(len(seen.classes)) == targets[:, None], -np.inf, logs)
    adjusted = chances - thresholds + thresholds.max()
    adjusted /= adjusted.sum(axis=1, keepdims=True)
    return {
        "self-confidence": logs[rows, targets],
        "normalised margin": chances[rows, targets] - np.exp(others.max(axis=1)),
        "self-confidence, adjusted": adjusted[rows, targets],
        "log-odds, sharpened": log_odds_of(seen.logits_NK, targets, fit_noise(seen).sharpness),
    }


def confident_learning(seen: Predictions) -> tuple[NDArray[np.bool_], float]:
    """Off the diagonal of the confident joint (Northcutt et al., 2021): which images, and how many labels are wrong by it."""
    targets, classes = seen.targets, len(seen.classes)
    assert targets is not None
    chances = np.exp(log_probabilities(seen.logits_NK))
    thresholds = np.array([chances[targets == k, k].mean() for k in range(classes)])
    sure = chances >= thresholds
    held, any_N = np.where(sure, chances, -1).argmax(axis=1), sure.any(axis=1)
    joint = np.zeros((classes, classes))
    np.add.at(joint, (targets[any_N], held[any_N]), 1)
    counts = np.bincount(targets, minlength=classes)
    joint = joint / np.maximum(joint.sum(axis=1, keepdims=True), 1) * counts[:, None]
    return any_N & (held != targets), float(joint.sum() - np.trace(joint))


def measured(seen: Predictions, planted: dict[str, str]) -> dict[str, Any]:
    """The figures of one planting."""
    wrong = np.array([name in planted for name in seen.names])
    start = time.perf_counter()
    noise = fit_noise(seen)
    suspects = suspect_labels(seen, [name.split("/")[0] for name in seen.names], noise)
    seconds = time.perf_counter() - start
    listed = np.isin(seen.names, [one.name for one in suspects])
    by_joint, expected = confident_learning(seen)
    tenth = len(wrong) // 10
    orders = {name: np.argsort(scores, kind="stable") for name, scores in rankings(seen).items()}
    mended = [planted[one.name] == one.suggested for one in suspects if one.name in planted]
    return {
        "images": len(wrong),
        "planted": int(wrong.sum()),
        "listed": int(listed.sum()),
        **precision_recall("", listed, wrong),
        "suggested_right": round(float(np.mean(mended)), 3) if mended else None,
        "wrong_expected": round(noise.wrong.value * len(wrong), 1),
        "wrong_interval": [round(end * len(wrong), 1) for end in (noise.wrong.low, noise.wrong.high)],
        "sharpness": round(noise.sharpness, 3),
        "expected_in_list": round(float(doubts(seen, noise)[listed].sum()), 1),
        "joint_listed": int(by_joint.sum()),
        **precision_recall("joint_", by_joint, wrong),
        "joint_expected": round(expected, 1),
        "in_first_tenth": {
            name: round(float(wrong[order[:tenth]].sum() / max(wrong.sum(), 1)), 3) for name, order in orders.items()
        },
        "precision_at_planted": {
            name: round(float(wrong[order[: wrong.sum()]].mean()), 3) if wrong.any() else None for name, order in orders.items()
        },
        "seconds": round(seconds, 3),
    }


def precision_recall(prefix: str, listed: NDArray[np.bool_], wrong: NDArray[np.bool_]) -> dict[str, float]:
    """Of a list."""
    hits = int((listed & wrong).sum())
    return {
        f"{prefix}precision": round(hits / max(int(listed.sum()), 1), 3),
        f"{prefix}recall": round(hits / max(int(wrong.sum()), 1), 3),
    }


def main() -> None:
    """Plant, fit, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=("random", "pair"), default="random")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--keep", type=Path, help="a folder for predictions.npz and the line")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="labels-", dir=chosen.keep) as scratch:
        work, options = Path(scratch), {"cache": chosen.cache}
        confused = confusions(chosen.data, work / "before", **options) if chosen.kind == "pair" else None
        planted = plant(chosen.data, work / "copy", chosen.share, np.random.default_rng(chosen.seed), confused)
        seen = out_of_fold(work / "copy", work / "run", **options)
    told = {"data": chosen.data.name, "share": chosen.share, "seed": chosen.seed, "kind": chosen.kind}
    print(json.dumps(told | measured(seen, planted)), flush=True)
    if chosen.keep:
        stem = "-".join(str(value) for value in told.values())
        np.savez(
            chosen.keep / f"{stem}.npz",
            names=seen.names,
            classes=seen.classes,
            logits=seen.logits_NK,
            targets=seen.targets,
            wrong=[name in planted for name in seen.names],
        )


if __name__ == "__main__":
    main()
