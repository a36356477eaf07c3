"""Small problems for the tests of training: a network of two stages, images that it tells apart, and a keeper in memory."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regraft.strategies import Training
from regraft.train.chance import seeded
from regraft.train.groups import parameter_groups
from regraft.train.keeper import Kept
from regraft.train.lessons import Learner, Lessons
from regraft.train.loop import Course

CLASSES = 3


class Net(nn.Module):
    """Convolutions with norms, in two stages."""

    def __init__(self, *, dropout: float = 0.2, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.stage1 = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        value = self.stage2(self.stage1(self.stem(images)))
        logits: Tensor = self.head(self.dropout(value.mean((2, 3))))
        return logits


def make_net(**options: Any) -> Net:
    with seeded(0):
        return Net(**options)


def make_lessons(count: int = 30, *, multi_label: bool = False, noise: float = 1.0) -> Lessons:
    """Maps whose channels tell the class; the last third is for validation."""
    draw = np.random.default_rng(0)
    labels = np.arange(count) % CLASSES
    values = np.eye(CLASSES)[labels][:, :, None, None] + draw.normal(0, noise, (count, 3, 6, 6))
    images = torch.from_numpy(values.astype(np.float32))
    targets: Any = np.eye(CLASSES, dtype=bool)[labels] if multi_label else labels
    return Lessons(
        read=lambda rows, _: (images[rows],),
        targets=targets,
        weights=draw.uniform(0.5, 1.5, (count, 1) if multi_label else count),
        train=np.arange(count * 2 // 3),
        validation=np.arange(count * 2 // 3, count),
        names=tuple(f"class{label}/{i:03}.png" for i, label in enumerate(labels)),
    )


def make_learner(module: nn.Module | None = None, how: Training | None = None, *, moving: bool = False) -> Learner:
    """All of a network learns, two depths at their own rates; its statistics follow the images where they are `moving`."""
    network, how = module or make_net(), how or Training()
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]

    def modes(training: bool) -> None:
        network.train(training)
        for layer in norms:
            layer.training = training and moving

    depths = {name: 1 for name, _ in network.named_parameters() if name.startswith(("stem", "stage1"))}
    return Learner(
        module=network,
        set_modes=modes,
        groups=parameter_groups(
            network.named_parameters(),
            depths,
            lr=how.base_lr,
            depth_decay=how.depth_decay,
            weight_decay=how.weight_decay,
        ),
        state=dict(network.state_dict(keep_vars=True)),
        moves_statistics=moving,
    )


class Stopped(BaseException):
    """As a kill is: nothing on the way may take it for a failure."""


@dataclass
class Memory:
    """Keeps every state as a file would: copies, and facts that went through JSON. Stops after the state number `stop`."""

    before: Kept | None = None
    stop: int | None = None
    states: list[Kept] = field(default_factory=list)

    def keep(self, state: Kept) -> None:
        tensors = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in state.tensors.items()}
        self.states.append(Kept(tensors=tensors, facts=json.loads(json.dumps(state.facts))))
        if self.stop is not None and len(self.states) >= self.stop:
            raise Stopped

    def recall(self) -> Kept | None:
        return self.before


def weights(learner: Learner) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in learner.state.items()}


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that are not the same bit for bit."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def timeless(course: Course) -> Course:
    """Without the seconds that it took."""
    return replace(course, epochs=tuple(replace(epoch, seconds=0.0) for epoch in course.epochs))


class Notes:
    """Watches, and remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def task(self, name: str, total: int, unit: str) -> Any:
        from regraft.progress import Silent

        return Silent().task(name, total, unit)

    def note(self, text: str) -> None:
        self.said.append(text)

    def about(self, words: str) -> list[str]:
        return [text for text in self.said if words in text]


Make = Callable[[], Learner]


# A file with a network of one's own, for the command line; what it is called there has to differ from test to test.
NET_CODE = '''
"""A network of a test."""
import os
import time

import torch
from torch import nn
from regraft import Own

@torch.fx.wrap
def nap(value):
    time.sleep(float(os.environ.get("REGRAFT_TEST_NAP", "0")))
    return value

def block(inside, outside):
    return nn.Sequential(nn.Conv2d(inside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU())

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.stage1, self.stage2 = block(3, 4), block(4, 6), block(6, 8)
        self.dropout, self.head = nn.Dropout(0.2), nn.Linear(8, 5)

    def forward(self, images):
        value = self.stage2(nap(self.stage1(self.stem(images[:, :, ::2, ::2]))))
        return self.head(self.dropout(value.mean((2, 3))))

def make():
    return Own(module=Net(), input_shape=(3, 32, 32))

def half(image):
    return (image.float() * 0.5).to(torch.uint8)
'''


def write_net(folder: Path, name: str) -> str:
    """Writes a file `name`.py with a network and a transform; gives what --backbone calls the network."""
    (folder / f"{name}.py").write_text(NET_CODE)
    return f"module:{name}:make"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def states_in(run: Path) -> list[str]:
    """The finished checkpoints of a run, by folder and number."""
    return sorted(str(path.relative_to(run / ".checkpoints")) for path in (run / ".checkpoints").glob("*/*.json"))
