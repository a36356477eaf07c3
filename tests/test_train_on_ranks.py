"""Two processes train as one does: the same curves, the same weights, and the same bits on both of them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import ranks_at_work
import torch
from ranks_at_work import COUNT, HOWS, Found, course_of, whole_trainings
from safetensors.torch import load_file
from torch import Tensor
from training_problems import Memory, timeless

from regraft.train.keeper import Kept
from regraft.train.loop import train

HERE = Path(__file__).parent
# A pair of processes that has not come back by then has lost each other.
LIMIT = 300
TOLERANCE = 1e-5
ALL = [*HOWS, "answers 11", "answers 1", "between", "gradients", "one image", "moved"]


class Pair(NamedTuple):
    """What rank 0, rank 1 and one process alone have found: tensors and figures by check and name."""

    first: Found
    second: Found
    alone: Found


def read(folder: Path) -> Found:
    found = Found()
    found.tensors = load_file(folder / "tensors.safetensors")
    found.facts = json.loads((folder / "facts.json").read_text())
    return found


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"}
    workers = [
        subprocess.Popen(
            [sys.executable, HERE / "ranks_at_work.py", str(rank), "2", folder],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = Found()
        whole_trainings(alone)
        for worker in workers:
            _, said = worker.communicate(timeout=LIMIT)
            assert worker.returncode == 0, said[-3000:]
        alone.facts = json.loads(json.dumps(alone.facts))
        yield Pair(read(folder / "0"), read(folder / "1"), alone)
    finally:
        torch.set_num_threads(threads)
        for worker in workers:
            worker.kill()
            worker.wait()


def of(found: Found, check: str) -> dict[str, Tensor]:
    tensors = {name: value for name, value in found.tensors.items() if name.startswith(f"{check}/")}
    assert tensors
    return tensors


def alike(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = TOLERANCE) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.allclose(value, other[name], rtol=0, atol=tolerance), name


def without_seconds(course: dict[str, Any]) -> dict[str, Any]:
    return {**course, "epochs": [{**epoch, "seconds": 0.0} for epoch in course["epochs"]]}


@pytest.mark.parametrize("check", [*ALL, "uninterrupted", "scarce", "begun apart", f"signal {int(signal.SIGTERM)}"])
def test_both_ranks_have_the_same_bits(pair: Pair, check: str) -> None:
    one, other = of(pair.first, check), of(pair.second, check)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
    facts = (pair.first.facts[check], pair.second.facts[check])
    assert facts[0] == facts[1]


@pytest.mark.parametrize("name", ["adamw", "mixed", "plateau"])
def test_two_processes_have_the_curve_and_the_weights_of_one(pair: Pair, name: str) -> None:
    course, alone = pair.first.facts[name], pair.alone.facts[name]
    assert len(course["epochs"]) == len(alone["epochs"])
    assert course["chosen"] == alone["chosen"]
    for field in ("start_loss", "start_accuracy", "start_tempered"):
        assert course[field] == pytest.approx(alone[field], abs=TOLERANCE)
    for epoch, wanted in zip(course["epochs"], alone["epochs"], strict=True):
        for field in wanted.keys() - {"strategy"}:
            assert epoch[field] == pytest.approx(wanted[field], abs=TOLERANCE), (name, epoch["number"], field)
    alike(of(pair.first, name), of(pair.alone, name))
    losses = [epoch["loss"] for epoch in alone["epochs"]]
    assert max(losses) - min(losses) > 100 * TOLERANCE  # something was learned, for else any two are alike


def test_early_stopping_was_early(pair: Pair) -> None:
    assert len(pair.first.facts["plateau"]["epochs"]) < HOWS["plateau"].epochs


@pytest.mark.parametrize("check", ["gradients", "one image"])
def test_gradients_are_those_of_the_mean_over_the_whole_batch(pair: Pair, check: str) -> None:
    """Also of a batch of one image, which leaves the other rank without any."""
    alike(of(pair.first, check), of(pair.alone, check), 1e-6)
    assert any(bool(value.any()) for name, value in of(pair.alone, check).items() if "grad." in name)
    assert pair.first.facts[check]["loss"] == pytest.approx(pair.alone.facts[check]["loss"], abs=1e-6)
    assert pair.first.facts[check]["right"] == pair.alone.facts[check]["right"]


def test_answers_are_put_together_without_one_too_many(pair: Pair) -> None:
    for count in (COUNT - COUNT * 2 // 3, 1):
        name = f"answers {count}/answers"
        assert pair.first.tensors[name].shape == pair.alone.tensors[name].shape == (count, 3)
        assert torch.allclose(pair.first.tensors[name], pair.alone.tensors[name], atol=1e-6)


def test_the_way_back_ends_where_it_does_alone(pair: Pair) -> None:
    assert pair.first.facts["between"] == pair.alone.facts["between"]
    alike(of(pair.first, "between"), of(pair.alone, "between"))


def test_running_statistics_move_by_the_mean_over_all_images(pair: Pair) -> None:
    """The first norm's mean is that of the whole batch; of a batch of two, which one rank takes alone, so is everything."""
    name = "moved/state.stem.1.running_mean"
    assert torch.allclose(pair.first.tensors[name], pair.alone.tensors[name], atol=1e-6)
    assert float(pair.first.tensors["moved/state.stem.1.num_batches_tracked"]) == 1
    assert pair.first.facts["moving"]["chosen"] == pair.alone.facts["moving"]["chosen"]
    alike(of(pair.first, "moving"), of(pair.alone, "moving"))


def test_a_pair_that_was_stopped_ends_with_the_same_bits(pair: Pair) -> None:
    """With dropout, moving statistics and averages; the states are those that rank 0 would have written."""
    for found in (pair.first, pair.second):
        whole, rest = of(found, "uninterrupted"), of(found, "restarted")
        for name, value in whole.items():
            assert torch.equal(value, rest[name.replace("uninterrupted", "restarted")]), name
        assert without_seconds(found.facts["uninterrupted"]) == without_seconds(found.facts["restarted"])
        whole_count, killed, others = found.facts["states"]
        assert killed + others == whole_count


@pytest.mark.parametrize("number", [int(signal.SIGTERM), int(signal.SIGINT)])
def test_a_signal_to_one_rank_stops_all_at_the_same_step(pair: Pair, number: int) -> None:
    for found in (pair.first, pair.second):
        facts = found.facts[f"signal {number}"]
        # At the start, after the first epoch, and after the second step of the second.
        assert facts == {"number": number, "index": 2, "states": 3}
    # What goes on from there ends as if nothing had been.
    for name, value in of(pair.first, "adamw").items():
        assert torch.equal(value, pair.first.tensors[name.replace("adamw", f"signal {number}")]), name


def test_one_process_goes_on_with_what_two_have_begun(pair: Pair) -> None:
    number = int(signal.SIGTERM)
    tensors = {name.partition("/")[2]: value for name, value in of(pair.first, f"state {number}").items()}
    course, learner, _ = course_of("adamw", Kept(tensors=tensors, facts=pair.first.facts[f"state {number}"]))
    wanted = {name.partition("/")[2]: value for name, value in of(pair.alone, "adamw").items()}
    alike(dict(learner.state), wanted)
    assert course.chosen == pair.alone.facts["adamw"]["chosen"]


def test_memory_that_runs_out_on_one_rank_halves_the_parts_of_all(pair: Pair) -> None:
    for found in (pair.first, pair.second):
        assert found.facts["scarce"]["most"] == 2
        assert [note for note in found.facts["scarce notes"] if "going on with 2 images at a time" in note]
        assert found.facts["too large"] == "enough memory for one image at a time"
        grads = {name.replace("scarce/", "gradients/"): value for name, value in of(found, "scarce").items()}
        alike(grads, of(pair.alone, "gradients"), 1e-6)
        assert found.facts["scarce"]["right"] == pair.alone.facts["gradients"]["right"]


@pytest.mark.parametrize("name", ["adamw", "mixed"])
def test_parameters_in_parts_are_trained_as_whole_ones_are(pair: Pair, name: str) -> None:
    for found in (pair.first, pair.second):
        spread = {key.removeprefix("spread "): value for key, value in of(found, f"spread {name}").items()}
        alike(spread, of(pair.alone, name))
        course, alone = found.facts[f"spread {name}"], pair.alone.facts[name]
        assert course["chosen"] == alone["chosen"]
        for epoch, wanted in zip(course["epochs"], alone["epochs"], strict=True):
            assert epoch["loss"] == pytest.approx(wanted["loss"], abs=TOLERANCE)
            assert epoch["tempered_loss"] == pytest.approx(wanted["tempered_loss"], abs=TOLERANCE)


def test_what_trains_in_parts_is_kept_whole_and_gone_on_with(pair: Pair) -> None:
    for found in (pair.first, pair.second):
        again = {key.replace("again", "mixed"): value for key, value in of(found, "spread again").items()}
        for name, value in of(found, "spread mixed").items():
            assert torch.equal(value, again[name]), name
        live = {key: value for key, value in of(found, "spread state").items() if "/live." in key}
        shapes = {key.replace("spread state/live.", "adamw/"): value.shape for key, value in live.items()}
        assert shapes == {key: value.shape for key, value in of(pair.alone, "adamw").items()}


def test_each_rank_has_a_part_of_each_parameter(pair: Pair) -> None:
    facts = [found.facts["spread parts"] for found in (pair.first, pair.second)]
    assert sum(fact["own"] for fact in facts) == facts[0]["whole"]
    assert max(fact["own"] for fact in facts) < 0.6 * facts[0]["whole"]
    assert facts[0]["units"] == 4  # three stages and the rest
    assert facts[0]["loss"] == facts[1]["loss"] > 0  # of a single image, which one rank has
    for found in (pair.first, pair.second):
        assert found.facts["spread rewritten"] == 3
        rewritten = {key.replace("spread rewritten", "adamw"): value for key, value in of(found, "spread rewritten").items()}
        alike(rewritten, of(pair.alone, "adamw"), 1e-4)


def test_only_rank_0_writes_and_all_recall_what_it_has_read(pair: Pair) -> None:
    assert pair.first.facts["written"] == ["000000000.json"]
    assert pair.second.facts["written"] == []
    for found in (pair.first, pair.second):
        assert found.tensors["recalled/weight"].tolist() == [0, 1, 2, 3]
        assert found.facts["recalled"] == {"step": 0}
        assert found.facts["other images"] == "DataUnusable"
        assert found.facts["other processes"] == "processes was 2, now 1"


def test_each_rank_makes_its_part_of_a_table_and_reads_all_of_it(pair: Pair) -> None:
    facts = [found.facts["tables"] for found in (pair.first, pair.second)]
    assert sum(fact["made"] for fact in facts) == facts[0]["images"]
    assert min(fact["made"] for fact in facts) == facts[0]["images"] // 2
    assert [fact["again"] for fact in facts] == [0, 0]
    for name, value in of(pair.first, "tables").items():
        assert torch.equal(value, pair.second.tensors[name]), name
        assert len(value) == facts[0]["images"]
        assert len({bytes(row.numpy().tobytes()) for row in value}) == len(value), "each image has a row of its own"
    assert "the same network" in pair.first.facts["another network"]
    assert pair.first.facts["another network"] == pair.second.facts["another network"]


def test_alone_nothing_is_asked_of_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: Any, **__: Any) -> None:
        raise AssertionError("a collective, alone")

    for name in ("all_reduce", "all_gather_object", "broadcast_object_list", "barrier"):
        monkeypatch.setattr(torch.distributed, name, asked)
    monkeypatch.setattr("regraft.train.together.Together.add_up", asked)
    how, memory = HOWS["mixed"], Memory()
    course = train(ranks_at_work.learner_for("mixed"), ranks_at_work.lessons_for(), how, seed=4, keeper=memory)
    assert asdict(timeless(course))["epochs"]
