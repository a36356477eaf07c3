"""What one of several processes does for tests/test_train_on_ranks.py: all checks in one pair of them, to start it once.

    python ranks_at_work.py RANK SIZE FOLDER

Each leaves in FOLDER/RANK what it found, for the test to compare: with the other's, and with the same alone.
"""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from safetensors.torch import save_file
from torch import Tensor, nn
from training_problems import Memory, Notes, Stopped, make_learner, make_lessons, make_net, timeless

from regraft.errors import Interrupted, OutOfSpace, RegraftError
from regraft.ranks import here
from regraft.strategies import Training
from regraft.train import keeper as keeping
from regraft.train import spread as spreading
from regraft.train.checkpoints import Identity, Resume, keepers_in, machine, of_all
from regraft.train.faster import rewritten
from regraft.train.interpolate import interpolate
from regraft.train.judge import answers
from regraft.train.keeper import Keeper, Kept
from regraft.train.lessons import Learner, Lessons
from regraft.train.loop import Course, snapshot, train
from regraft.train.step import Stepper, make_optimizer

SMALL: dict[str, Any] = {"batch_size": 7, "lr": 1e-2, "augment": "none"}
HOWS: dict[str, Training] = {
    "adamw": Training(epochs=4, **SMALL),
    "mixed": Training(epochs=3, **SMALL, mixup=0.4, cutmix=1.0, label_smoothing=0.1, ema=0.9),
    "plateau": Training(epochs=15, batch_size=16, lr=0.2, schedule="plateau", patience=2, optimizer="sgd", augment="none"),
    # Batches of two and three: statistics move, and one image alone has no spread, so that rank 0 takes them all.
    "moving": Training(epochs=2, batch_size=2, lr=1e-2, augment="none"),
}
NOISE = 2.0
COUNT = 31  # 20 train, 11 are judged: no multiple of 2


def lessons_for() -> Lessons:
    return make_lessons(COUNT, noise=NOISE)


def learner_for(name: str, module: nn.Module | None = None) -> Learner:
    return make_learner(module or make_net(dropout=0.0), HOWS[name], moving=name == "moving")


def course_of(name: str, before: Kept | None = None, stop: int | None = None) -> tuple[Course, Learner, Memory]:
    learner, memory = learner_for(name), Memory(before=before, stop=stop)
    return timeless(train(learner, lessons_for(), HOWS[name], seed=4, keeper=memory)), learner, memory


class Scarce(nn.Module):
    """A network with memory for two images at a time, on one rank alone."""

    def __init__(self, net: nn.Module, rank: int) -> None:
        super().__init__()
        self.net, self.rank = net, rank

    def forward(self, images: Tensor) -> Tensor:
        if here().rank == self.rank and len(images) > 2:
            raise MemoryError
        logits: Tensor = self.net(images)
        return logits


def gradients_of(
    module: nn.Module, notes: Any, *, moving: bool = False, count: int = 13
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    how = Training(batch_size=13, mixup=0.4, label_smoothing=0.1, augment="none")
    learner, lessons = make_learner(module, how, moving=moving), lessons_for()
    stepper = Stepper(learner, lessons, how, make_optimizer(learner, how), 0, notes)
    learner.set_modes(True)
    taken = stepper.gradients(np.arange(count), 1, 0)
    named = {name: value for group in learner.groups for name, value in group.parameters.items()}
    found = {f"grad.{name.removeprefix('net.')}": value.grad for name, value in named.items() if value.grad is not None}
    statistics = {f"state.{name.removeprefix('net.')}": value for name, value in learner.state.items() if name not in named}
    return found | statistics, {"loss": taken.loss, "right": taken.right, "most": stepper.most}


class Found:
    """Tensors and figures by name, and where they are put."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.facts: dict[str, Any] = {}

    def add(self, name: str, tensors: Any, facts: Any) -> None:
        self.tensors |= {f"{name}/{key}": value.detach().contiguous().clone() for key, value in tensors.items()}
        self.facts[name] = facts

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.tensors, folder / "tensors.safetensors")
        (folder / "facts.json").write_text(json.dumps(self.facts))


def whole_trainings(found: Found) -> None:
    """What training alone does in the same words."""
    for name in HOWS:
        course, learner, _ = course_of(name)
        found.add(name, learner.state, asdict(course))
    learner, lessons = learner_for("adamw"), lessons_for()
    for count in (11, 1):
        rows = lessons.validation[:count]
        found.add(f"answers {count}", {"answers": torch.from_numpy(answers(learner, lessons, rows, 4))}, len(rows))
    first = snapshot(learner.state)
    trained = train(learner, lessons, HOWS["adamw"], seed=4)
    share = interpolate(learner, lessons, first, 4, best=trained.epochs[-1].tempered_loss)
    found.add("between", learner.state, share)
    found.add("gradients", *gradients_of(make_net(dropout=0.0), Notes()))
    found.add("one image", *gradients_of(make_net(dropout=0.0), Notes(), count=1))  # there is none for the other rank
    found.add("moved", *gradients_of(make_net(dropout=0.0), Notes(), moving=True))


def stopped_and_gone_on(found: Found) -> None:
    """Every state is kept; from the eighth on another time. Dropout and moving statistics take part."""
    how, keeping.EVERY = replace(HOWS["mixed"], batch_size=6), -1.0

    def run(before: Kept | None, stop: int | None) -> tuple[Learner, Memory, Course | None]:
        learner = make_learner(make_net(dropout=0.3), how, moving=True)
        memory = Memory(before=before, stop=stop)
        try:
            return learner, memory, timeless(train(learner, lessons_for(), how, seed=4, keeper=memory))
        except Stopped:
            return learner, memory, None

    learner, memory, course = run(None, None)
    assert course is not None
    found.add("uninterrupted", learner.state, asdict(course))
    _, killed, none = run(None, 8)
    assert none is None
    learner, rest, course = run(killed.states[-1], None)
    assert course is not None
    found.add("restarted", learner.state, asdict(course))
    found.add("states", {}, [len(memory.states), len(killed.states), len(rest.states)])
    keeping.EVERY = 60.0


def told_to_stop(found: Found, number: int) -> None:
    """The last rank alone gets the signal, while it reads its share of the second batch of the second epoch."""
    ranks, how, lessons, reads = here(), HOWS["adamw"], lessons_for(), [0]

    def read(rows: Any, epoch: int | None) -> tuple[Tensor, ...]:
        if epoch == 2:
            reads[0] += 1
            if reads[0] == 2 and ranks.rank == ranks.size - 1:
                os.kill(os.getpid(), number)
        return lessons.read(rows, epoch)

    memory, learner = Memory(), learner_for("adamw")
    try:
        train(learner, replace(lessons, read=read), how, seed=4, keeper=memory)
        said = 0
    except Interrupted as error:
        said = int(error.number)
    _, again, _ = course_of("adamw", memory.states[-1])
    state = memory.states[-1]
    found.add(f"signal {number}", again.state, {"number": said, "index": state.facts["index"], "states": len(memory.states)})
    found.add(f"state {number}", state.tensors, dict(state.facts))


def short_of_memory(found: Found) -> None:
    notes = Notes()
    found.add("scarce", *gradients_of(Scarce(make_net(dropout=0.0), rank=here().size - 1), notes))
    found.facts["scarce notes"] = notes.said

    class Never(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_net()

        def forward(self, images: Tensor) -> Tensor:
            if here().rank == 1:
                raise MemoryError
            logits: Tensor = self.net(images)
            return logits

    try:
        gradients_of(Never(), Notes())
    except OutOfSpace as error:
        found.facts["too large"] = error.expected


def on_disk(found: Found, folder: Path) -> None:
    """Only rank 0 has a folder to write to; what it has read is what all go on from."""
    own = folder / ("run" if here().first else "nowhere")
    asked = Identity(asked={"lr": "1"}, images="some", machine=machine("cpu"))
    kept = Kept(tensors={"weight": torch.arange(4.0) + here().rank}, facts={"step": here().rank})

    def made(identity: Identity, resume: Resume | None) -> Keeper:
        return of_all(lambda: keepers_in(own, identity, resume=resume))("some")

    keeper = made(asked, None)
    recalled = keeper.recall()
    keeper.keep(kept)
    here().wait()
    again = made(asked, Resume(exact=True)).recall()
    assert recalled is None
    assert again is not None
    found.add("recalled", again.tensors, dict(again.facts))
    try:
        made(replace(asked, images="others"), Resume())
        found.facts["other images"] = ""
    except RegraftError as error:
        found.facts["other images"] = type(error).__name__
    try:
        made(replace(asked, machine={**asked.machine, "processes": "1"}), Resume(exact=True))
    except RegraftError as error:
        found.facts["other processes"] = error.got
    found.facts["written"] = sorted(path.name for path in own.rglob("*.json"))


def begun_apart(found: Found) -> None:
    """A network that each process has drawn for itself."""
    torch.manual_seed(here().rank)
    how = HOWS["adamw"]
    learner = make_learner(type(make_net())(dropout=0.0), how)
    course = train(learner, lessons_for(), replace(how, epochs=1), seed=4)
    found.add("begun apart", learner.state, asdict(timeless(course)))


def spread_out(found: Found) -> None:
    """The same trainings with every parameter in parts, those of a rewritten network, and one that was stopped."""
    spreading._LEAST, spreading._MOST = 64, 0.6
    os.environ[spreading.ASKED] = "1"
    for name in ("adamw", "mixed"):
        course, learner, memory = course_of(name)
        found.add(f"spread {name}", learner.state, asdict(course))
        if name == "mixed":
            again, learner, _ = course_of(name, memory.states[2])
            found.add("spread again", learner.state, asdict(again))
            found.add("spread state", memory.states[2].tensors, {})
    learner, lessons = learner_for("adamw"), lessons_for()
    small = lessons.read(lessons.train[:2], None)
    learner.set_modes(False)
    with rewritten(learner.module, small) as convs:
        train(learner, lessons, HOWS["adamw"], seed=4)
        found.add("spread rewritten", learner.state, len(convs))
    with rewritten(learner.module, small), spreading.spread(learner, small, here()) as parted:
        own = [value.to_local().numel() for group in parted.groups for value in group.parameters.values()]  # type: ignore[attr-defined]
        units = sum(type(layer).__name__.startswith("FSDP") for layer in parted.module.modules())
        how = HOWS["adamw"]
        stepper = Stepper(parted, lessons, how, make_optimizer(parted, how), 0, Notes())
        parted.set_modes(True)
        loss = stepper.gradients(np.arange(1), 1, 0).loss
    whole = sum(value.numel() for value in learner.module.parameters())
    found.facts["spread parts"] = {"own": sum(own), "whole": whole, "units": units, "loss": loss}
    del os.environ[spreading.ASKED]


def shared_tables(found: Found, folder: Path) -> None:
    """Pixels, what crosses a boundary and its views: each rank makes its part, and all read all."""
    from conftest import COLOURS, paint_classes

    from regraft.backbone.boundary import boundary_for
    from regraft.backbone.load import load_backbone
    from regraft.cache import engines
    from regraft.cache.extract import extract_boundary
    from regraft.cache.views import views_of
    from regraft.errors import UsageError
    from regraft.values import Sample

    ranks, passed = here(), [0]
    root = folder / "photos"
    if ranks.first:
        paint_classes(root, dict.fromkeys(COLOURS, 3))
    ranks.wait()
    stream = engines.TorchEngine.stream

    def counting(self: Any, batches: Any) -> Any:
        for one in stream(self, batches):
            passed[0] += len(one)
            yield one

    torch.manual_seed(0)  # weights "none" are drawn by each process
    backbone, cache = load_backbone("torchvision:resnet18", weights="none", size=32), folder / "cache"
    samples = [Sample(path=path, name=path.name) for path in sorted(root.rglob("*.png"))]
    digests = [hashlib.sha256(sample.path.read_bytes()).digest() for sample in samples]
    place, options = boundary_for(backbone, "layer3"), {"cache": cache, "device": "cpu"}
    pixels = extract_boundary(samples, digests, backbone, boundary_for(backbone, "pixels"), **options)  # type: ignore[arg-type]
    crossed = extract_boundary(samples, digests, backbone, place, **options)  # type: ignore[arg-type]
    views = views_of(samples, digests, pixels, backbone, place, views=2, augment="light", seed=0, cache=cache, device="cpu")
    engines.TorchEngine.stream = counting  # type: ignore[method-assign]
    every = np.arange(len(samples))
    views.ensure(every, np.ones(len(every), np.int64))
    made = passed[0]
    views.ensure(every, np.ones(len(every), np.int64))
    values = {
        "pixels": pixels[every][0],
        "crossed": crossed[every][0],
        "views": views.read(every, np.ones(len(every), np.int64))[0],
    }
    found.add("tables", values, {"made": made, "images": len(samples), "again": passed[0] - made})
    torch.manual_seed(ranks.rank)
    other = load_backbone("torchvision:resnet18", weights="none", size=32)
    try:
        extract_boundary(samples, digests, other, boundary_for(other, "layer3"), **options)  # type: ignore[arg-type]
    except UsageError as error:
        found.facts["another network"] = error.expected


def main(rank: int, size: int, folder: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(folder / "store"), size)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
    found = Found()
    checks: list[Callable[[Found], None]] = [whole_trainings, stopped_and_gone_on, short_of_memory, begun_apart, spread_out]
    for check in checks:
        check(found)
    told_to_stop(found, signal.SIGTERM)
    told_to_stop(found, signal.SIGINT)
    on_disk(found, folder)
    shared_tables(found, folder)
    found.write(folder / str(rank))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
