"""Mutates saved models at random and loads them: none may be accepted, crash, or take long.

    python bench/fuzz_models.py --count 20000

Five of six mutations leave the checksums alone, as damage does. The rest have every checksum made right again, as an
attacker can; of these, one may be accepted only where it is a valid model of the same architecture.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "faults")]

import mkmodels  # noqa: E402

from regraft.artifact import SavedModel, load_model, save_model  # noqa: E402
from regraft.errors import SavedModelRefused  # noqa: E402

LONGEST_S = 2.0


@dataclass
class Tally:
    """What became of the mutated models; `failures` holds how to see each failure again."""

    refused: int = 0
    accepted_resealed: int = 0
    slowest_s: float = 0.0
    failures: list[str] = field(default_factory=list)


def main() -> int:
    """Run the mutations and print one line of JSON; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tally, before = Tally(), _memory()
    with tempfile.TemporaryDirectory() as folder:
        save_model(mkmodels.small_model(), Path(folder))
        for number in range(options.count):
            _one(Path(folder), options.seed, number, tally)
    print(
        json.dumps(
            {
                "mutated": options.count,
                "refused": tally.refused,
                "accepted_resealed": tally.accepted_resealed,
                "failures": tally.failures[:20],
                "slowest_s": round(tally.slowest_s, 4),
                "memory_growth_mb": round(_memory() - before, 1),
            }
        )
    )
    return 1 if tally.failures else 0


def _one(folder: Path, seed: int, number: int, tally: Tally) -> None:
    random = np.random.default_rng((seed, number))
    path = folder / ("config.json", "model.safetensors")[number % 2]
    config, weights = (folder / "config.json").read_bytes(), (folder / "model.safetensors").read_bytes()
    mutated, resealed = mkmodels.mutate(path.read_bytes(), random), number % 6 == 5
    if resealed:
        mkmodels.reseal(folder, weights=mutated)
    else:
        path.write_bytes(mutated)
    started = time.perf_counter()
    try:
        _judge(load_model(folder, expected=mkmodels.small_specs), resealed, number, tally)
    except SavedModelRefused:
        tally.refused += 1
    except Exception as error:
        tally.failures.append(f"mutation {number}: {type(error).__name__}: {error}")
    elapsed = time.perf_counter() - started
    tally.slowest_s = max(tally.slowest_s, elapsed)
    if elapsed > LONGEST_S:
        tally.failures.append(f"mutation {number}: {elapsed:.1f} s")
    (folder / "config.json").write_bytes(config)
    (folder / "model.safetensors").write_bytes(weights)


def _judge(model: SavedModel, resealed: bool, number: int, tally: Tally) -> None:
    specs = mkmodels.small_specs(model.config)
    shapes = {name: tensor.shape for name, tensor in model.tensors.items()}
    if not resealed or shapes != {name: spec.shape for name, spec in specs.items()}:
        tally.failures.append(f"mutation {number}: accepted")
    tally.accepted_resealed += 1


def _memory() -> float:
    """Peak resident memory of this process in MB."""
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


if __name__ == "__main__":
    sys.exit(main())
