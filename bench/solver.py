"""How long the whole regularisation path takes, against one scikit-learn fit at the strength it chose.

    python bench/solver.py [--cases 300x3000x5,60000x1280x10] [--no-peer]

Features are synthetic, made to resemble pooled activations of a network: correlated, with a decaying spectrum, of unequal
scale and cut at 0, with classes that overlap: a head trained on 60,000 images gets about nine in ten right (`cv_accuracy` says
how many). They are read in blocks, as a fit reads its cache.
Prints one JSON line per case. Each runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

CASES = "300x3000x5,2000x3000x10,60000x1280x10,60000x3000x10"
LATENT, BLOCK = 256, 4000
APART = {5: 0.35, 10: 0.21}  # distance of the class means, by the number of classes


def make_features(path: Path, count: int, width: int, classes: int) -> NDArray[np.int64]:
    """Write (count, width) float32 features to `path` and return the class indices."""
    rng = np.random.default_rng(0)
    latent = min(width, LATENT)
    spread_R = np.arange(1, latent + 1, dtype=np.float32) ** -0.6
    mixing_RD = np.linalg.qr(rng.normal(size=(width, latent)))[0].T.astype(np.float32) * np.sqrt(width)
    means_KR = rng.normal(size=(classes, latent)).astype(np.float32) * spread_R * APART.get(classes, 0.21)
    scale_D = rng.lognormal(sigma=1.0, size=width).astype(np.float32)
    targets_N = rng.integers(0, classes, count)
    features = np.memmap(path, mode="w+", dtype=np.float32, shape=(count, width))
    for start in range(0, count, BLOCK):
        block = targets_N[start : start + BLOCK]
        hidden = means_KR[block] + rng.normal(size=(len(block), latent)).astype(np.float32) * spread_R
        noise = 0.2 * rng.normal(size=(len(block), width)).astype(np.float32)
        features[start : start + BLOCK] = np.maximum(hidden @ mixing_RD + noise + 0.3, 0) * scale_D
    features.flush()
    return targets_N


def memory_mb() -> tuple[float, float]:
    """This process's resident memory now and at its peak.

    Not `ru_maxrss`, which a new process inherits from the one that started it.
    """
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return float(fields["VmRSS"].split()[0]) / 1024, float(fields["VmHWM"].split()[0]) / 1024


def run_case(features_path: Path, targets_path: Path, peer: bool) -> dict[str, Any]:
    """Time the path, and the peer on the same features; memory is measured before the peer starts."""
    from regraft.cache.store import FeatureRows
    from regraft.train.path import choose_l2

    targets = np.load(targets_path)
    width = features_path.stat().st_size // (4 * len(targets))
    features = cast(NDArray[np.float32], FeatureRows(features_path, np.arange(len(targets)), width))
    classes, folds = int(targets.max()) + 1, 3 if len(targets) > 20_000 else 5
    folds_N = np.random.default_rng(1).permutation(np.arange(len(targets)) % folds)
    before, start = memory_mb()[0], time.perf_counter()
    result = choose_l2(features, targets, folds_N, classes=classes)
    seconds, peak = time.perf_counter() - start, memory_mb()[1]
    best = min(result.tried, key=lambda strength: strength.nll)
    figures = {
        "case": "x".join(map(str, (*features.shape, classes))),
        "seconds": round(seconds, 3),
        "strengths": len(result.tried),
        "folds": folds,
        "refit_iterations": result.iterations,
        "gradient_norm": result.gradient_norm,
        "l2": best.l2,
        "cv_accuracy": round(best.accuracy, 4),
        "cv_nll": round(best.nll, 5),
        "peak_mb": round(peak),
        "peak_mb_beyond_start": round(peak - before),
    }
    return figures | (time_peer(result, features[:], targets) if peer else {})


def time_peer(result: Any, features: NDArray[np.float32], targets: NDArray[np.int64]) -> dict[str, Any]:
    """Scikit-learn's default solver, once, on standardised features at the chosen strength; 100 iterations, its default."""
    from sklearn.linear_model import LogisticRegression

    standardiser = result.head.standardiser
    standard = ((features - standardiser.mean_D) / standardiser.scale_D).astype(np.float32)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegression(C=1 / (result.l2 * len(targets))).fit(standard, targets)
    seconds = time.perf_counter() - start
    logits = standard @ model.coef_.T + model.intercept_
    residual = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    residual[np.arange(len(targets)), targets] -= 1
    gradient = residual.T @ standard / len(targets) + result.l2 * model.coef_
    return {
        "sklearn_one_strength_seconds": round(seconds, 3),
        "sklearn_iterations": int(model.n_iter_.max()),
        "sklearn_gradient_norm": float(np.abs(gradient).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", default=CASES, help="images x features x classes, separated by commas")
    parser.add_argument("--no-peer", action="store_true", help="leave scikit-learn out")
    parser.add_argument("--inside", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(run_case(arguments.inside[0], arguments.inside[1], not arguments.no_peer)), flush=True)
        return
    for case in arguments.cases.split(","):
        count, width, classes = map(int, case.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            features, targets = Path(folder) / "features.bin", Path(folder) / "targets.npy"
            np.save(targets, make_features(features, count, width, classes))
            command = [sys.executable, __file__, "--inside", str(features), str(targets)]
            subprocess.run(command + ["--no-peer"] * arguments.no_peer, check=True)


if __name__ == "__main__":
    main()
