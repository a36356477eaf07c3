"""The head solved by two processes that share the rows: the same as by one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from regraft.train.path import choose_l2

CLASSES = 5
CASES = {
    "1000": (1000, False, False),
    "1001": (1001, False, False),
    "1001 balanced": (1001, False, True),
    "1000 several labels": (1000, True, False),
    "1001 several labels, balanced": (1001, True, True),
    "fewer images than features": (45, False, False),
}


def problem(count: int, several: bool) -> tuple[NDArray[np.float32], NDArray[np.int64] | NDArray[np.bool_], NDArray[np.int64]]:
    """Features (N, 50), targets and folds."""
    rng = np.random.default_rng(5)
    targets = rng.integers(0, CLASSES, count)
    features = rng.normal(size=(count, 50)) + 0.4 * rng.normal(size=(CLASSES, 50))[targets]
    features = features @ (np.eye(50) + 0.3 * rng.normal(size=(50, 50)) / 7) * np.linspace(0.2, 3, 50) + 1
    truth = np.stack([targets == 0, targets < 2, targets == 3, targets > 1, targets == 4], axis=1) if several else targets
    return features.astype(np.float32), truth, rng.integers(0, 3, count)


RANK = """
import json, sys
from pathlib import Path
import numpy as np, torch, torch.distributed
from regraft.errors import DataUnusable, NotConverged
from regraft.ranks import here
from regraft.train import convex, design, streamed
from regraft.train.path import choose_l2
from test_solve_on_ranks import CASES, CLASSES, problem

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
store = torch.distributed.FileStore(str(folder / "store"), 2)
torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
calls, reduce = [], torch.distributed.all_reduce
torch.distributed.all_reduce = lambda value: (calls.append(value.numel()), reduce(value))[1]
passes, pull = [], streamed.Streamed.blocks
streamed.Streamed.blocks = lambda self, logits: (passes.append(self.rows), pull(self, logits))[1]


def solve(name, count, several, balanced, **more):
    features, targets, folds = problem(count, several)
    result = choose_l2(features, targets, folds, classes=CLASSES, multi_label=several, balanced=balanced, ranks=here(), **more)
    np.savez(folder / f"{name}-{rank}.npz", weight=result.head.weight_KD, bias=result.head.bias_K,
             logits=result.out_of_fold_logits_NK, tried=[one.nll for one in result.tried], l2=result.l2)
    return result


for name, case in CASES.items():
    solve(name, *case)
    if name == "1001":
        counts = {"collectives": len(calls), "passes": len(passes), "rows": [passes[0].start, passes[0].stop]}
design.HELD_VALUES = 0
solve("read in passes", 1001, False, False)
design.HELD_VALUES = 1 << 28

errors = []
def attempt(kind, make):
    try:
        make()
    except kind as error:
        errors.append(error.got)

features, targets, folds = problem(1001, False)
features[900, 7] = np.nan
attempt(DataUnusable, lambda: choose_l2(features, targets, folds, classes=CLASSES, ranks=here()))
attempt(DataUnusable, lambda: choose_l2(features[890:905], targets[890:905], folds[890:905], classes=CLASSES, ranks=here()))
convex.LIMIT = 1
for count in (1000, 45):
    attempt(NotConverged, lambda: solve("never", count, False, False, grid=(1e-4,)))
(folder / f"{rank}.json").write_text(json.dumps({**counts, "errors": errors}))
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes wrote, each for itself."""
    folder = tmp_path_factory.mktemp("ranks")
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(folder)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=120)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_find_the_head_of_one(ranks: Path, name: str) -> None:
    count, several, balanced = CASES[name]
    features, targets, folds = problem(count, several)
    alone = choose_l2(features, targets, folds, classes=CLASSES, multi_label=several, balanced=balanced)
    found = [np.load(ranks / f"{name}-{rank}.npz") for rank in range(2)]
    for key in ("weight", "bias", "logits", "tried", "l2"):
        np.testing.assert_array_equal(found[0][key], found[1][key])
    assert found[0]["l2"] == alone.l2
    np.testing.assert_allclose(found[0]["weight"], alone.head.weight_KD, atol=1e-6)
    np.testing.assert_allclose(found[0]["bias"], alone.head.bias_K, atol=1e-6)
    np.testing.assert_allclose(found[0]["logits"], alone.out_of_fold_logits_NK, atol=1e-4)
    np.testing.assert_allclose(found[0]["tried"], [one.nll for one in alone.tried], atol=1e-6)


def test_ranks_that_read_in_passes_find_the_same_head(ranks: Path) -> None:
    features, targets, folds = problem(1001, False)
    alone = choose_l2(features, targets, folds, classes=CLASSES)
    found = [np.load(ranks / f"read in passes-{rank}.npz") for rank in range(2)]
    np.testing.assert_array_equal(found[0]["weight"], found[1]["weight"])
    assert found[0]["l2"] == alone.l2
    np.testing.assert_allclose(found[0]["weight"], alone.head.weight_KD, atol=2e-4)
    np.testing.assert_allclose(found[0]["logits"], alone.out_of_fold_logits_NK, atol=0.06)


def test_each_rank_works_on_half_the_rows_and_speaks_little(ranks: Path) -> None:
    said = [json.loads((ranks / f"{rank}.json").read_text()) for rank in range(2)]
    assert [one["rows"] for one in said] == [[0, 500], [500, 1000]]
    assert said[0]["collectives"] == said[1]["collectives"]
    # One for each pass, at most one more for each iteration, and a few for each strength.
    assert said[0]["passes"] < said[0]["collectives"] < 2.2 * said[0]["passes"] + 100


def test_what_one_rank_refuses_all_refuse(ranks: Path) -> None:
    errors = [json.loads((ranks / f"{rank}.json").read_text())["errors"] for rank in range(2)]
    assert [len(one) for one in errors] == [4, 4]
    assert "row 900, column 7" in errors[0][0]
    assert "row 900, column 7" in errors[1][0]
    assert errors[0][1] == errors[1][1] == "nan in row 10, column 7"
    assert errors[0][2:] == errors[1][2:]
