"""Training steps of regraft beside those of the tutorials' loop, in one process and in turns.

    python bench/steps.py DATA [--backbone SPEC] [--strategy full|partial:N] [--rounds N] [--steps N]

Each side takes batches of 32 of DATA's training images at the backbone's own size, from reading them to the optimiser's step:
the loop as bench/peers.py has it (decode, eager fp32, Adam on everything), regraft from its caches with `light` augmentation.
For partial:N the other side is regraft's own step without the cache: the frozen part runs in every step. Prints one JSON line:
images per second of both in each round, the precision that was chosen, and for partial:N the seconds of building the cache.
"""

# mypy: disable-error-code="no-untyped-call"

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import loaders
from torch import nn

from regraft.backbone.boundary import boundary_for
from regraft.backbone.freeze import plan_training
from regraft.backbone.load import load_backbone
from regraft.backbone.model import PIXELS, Backbone, Boundary
from regraft.cache.extract import extract_boundary
from regraft.cache.stream import load_images
from regraft.cache.views import views_of
from regraft.data.read import read_samples
from regraft.progress import Silent
from regraft.recipe import Data
from regraft.strategies import Full, Partial
from regraft.train.budget import try_step
from regraft.train.faster import rewritten
from regraft.train.learning import learner_of, reading_pixels, reading_views
from regraft.train.lessons import Learner, Lessons
from regraft.train.loop import split_batches
from regraft.train.network import copy_to_train
from regraft.train.step import Stepper, make_optimizer
from regraft.train.tuning import SAMPLE, tune

Side = Callable[[int], float]  # steps -> images per second
# What is rewritten stays so while this is open.
KEPT = ExitStack()


class Images:
    """Training images of a folder: decoded pixels from the cache, targets, digests."""

    def __init__(self, root: Path, backbone: Backbone, cache: Path, most: int) -> None:
        found = read_samples(Data(path=root))
        self.samples = [sample for sample in found.samples if sample.part == "train"][:: max(1, len(found.samples) // most)]
        loaded = load_images([(s.path, s.name) for s in self.samples], backbone.preprocess)
        self.digests = [getattr(item, "digest", b"") for item in loaded]
        pixels = boundary_for(backbone, PIXELS)
        self.pixels = extract_boundary(self.samples, self.digests, backbone, pixels, cache=cache, device="cpu")
        classes = {name: k for k, name in enumerate(found.classes)}
        self.classes, self.targets = len(classes), np.array([classes[s.labels[0]] for s in self.samples], np.int64)


def tutorial(root: Path, backbone: Backbone) -> Side:
    """The loop on a copy of the same network, in train mode throughout."""
    classes, train, _ = loaders(root, shuffle=True, workers=0)
    model = copy_to_train(backbone, None, classes, width_of(backbone)).backbone.module.requires_grad_(True).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    batches = endless(train)

    def run(steps: int) -> float:
        start, seen = time.perf_counter(), 0
        for _ in range(steps):
            images, targets = next(batches)
            optimizer.zero_grad()
            criterion(model(images), targets).backward()
            optimizer.step()
            seen += len(targets)
        return seen / (time.perf_counter() - start)

    return run


def width_of(backbone: Backbone) -> int:
    """The number of features that the heads read."""
    return sum(place.in_features for place in backbone.main_heads)


def endless(batches: Any) -> Iterator[Any]:
    """Epoch after epoch."""
    while True:
        yield from batches


def ours(
    images: Images, backbone: Backbone, boundary: Boundary, how: Full | Partial, trains: str, cache: Path
) -> tuple[Side, str]:
    """regraft's step from a boundary on, and the precision it chose."""
    rows = np.arange(len(images.samples), dtype=np.int64)
    network = copy_to_train(backbone, None, images.classes, width_of(backbone))
    learner = learner_of(network, boundary, plan_training(backbone, trains), how, "cpu")
    if boundary.nodes:
        views = views_of(
            images.samples, images.digests, images.pixels, backbone, boundary,
            views=1, augment="none", seed=0, cache=cache, device="cpu",
        )  # fmt: skip
        views.ensure(rows, None)
        read = reading_views(views, rows, 0)
    else:
        read = reading_pixels(images.pixels, "light", 0)
    lessons = Lessons(read=read, targets=images.targets, weights=np.ones(len(rows)), train=rows, validation=rows[:32], names=())
    return tuned(learner, lessons, how, cache)


def tuned(learner: Learner, lessons: Lessons, how: Full | Partial, cache: Path) -> tuple[Side, str]:
    """The side in the precision that regraft chooses."""
    small = lessons.read(lessons.train[:SAMPLE], None)
    convs = KEPT.enter_context(rewritten(learner.module, small))

    def step(precision: Any) -> None:
        for path, conv in convs.items():
            conv.exact = path in precision.exact
        try_step(how, replaced(learner, precision), lessons, lessons.train[:SAMPLE], 0)

    precision = tune("auto", step, convs, small, learner.module, device="cpu", memory=cache, progress=Silent())
    for path, conv in convs.items():
        conv.exact = path in precision.exact
    chosen = replaced(learner, precision)
    stepper = Stepper(chosen, lessons, how, make_optimizer(chosen, how), 0, Silent())
    counter = iter(range(10**9))

    def run(steps: int) -> float:
        chosen.set_modes(True)
        start, seen = time.perf_counter(), 0
        for rows in list(split_batches(lessons.train, 32))[:steps]:
            stepper.step(rows, 1, next(counter), 1.0)
            seen += len(rows)
        return seen / (time.perf_counter() - start)

    return run, precision.name


def replaced(learner: Learner, precision: Any) -> Learner:
    """The learner in another precision."""
    from dataclasses import replace

    return replace(learner, precision=precision)


def main() -> None:
    """Both sides in turns, and one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--weights")
    parser.add_argument("--strategy", default="full")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    torch.manual_seed(0)
    backbone = load_backbone(options.backbone, weights=options.weights, whole_image=True)
    pixels = boundary_for(backbone, PIXELS)
    with KEPT, tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        # Building a cache has a fixed part: so many images that it does not stand for all of it.
        images = Images(options.data, backbone, cache, most=32 * options.steps if options.strategy == "full" else 1000)
        line: dict[str, Any] = {"backbone": options.backbone, "strategy": options.strategy, "images": len(images.samples)}
        if options.strategy == "full":
            other: Side = tutorial(options.data, backbone)
            mine, precision = ours(images, backbone, pixels, Full(), "full", cache)
        else:
            stages = int(options.strategy.partition(":")[2])
            how, boundary = Partial(stages=stages, augment="none"), boundary_for(backbone, options.strategy)
            other, _ = ours(images, backbone, pixels, how, options.strategy, cache)
            start = time.perf_counter()
            mine, precision = ours(images, backbone, boundary, how, options.strategy, cache)
            line["build_seconds"] = round(time.perf_counter() - start, 2)
        for side in (mine, other):
            side(1)
        rates = [(mine(options.steps), other(options.steps)) for _ in range(options.rounds)]
    line |= {"precision": precision, "ours": [round(a, 2) for a, _ in rates], "other": [round(b, 2) for _, b in rates]}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
