"""What every network has to pass, whoever made it; and the networks that have to pass it."""

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from regraft.artifact.save import save_model
from regraft.backbone.attach import HeadWeights, attach_head, fresh_heads
from regraft.backbone.boundary import boundaries_of, cut
from regraft.backbone.features import Features
from regraft.backbone.freeze import apply_plan, plan_training, set_modes
from regraft.backbone.load import load_backbone
from regraft.backbone.model import Backbone, Boundary
from regraft.backbone.weights import forget
from regraft.errors import RegraftError
from regraft.evaluate.metrics import score
from regraft.fitted import Fitted
from regraft.saved import load_classifier as load
from regraft.saved import to_saved
from regraft.values import HeadChoice, Predictions, RunSummary

CLASSES = ("a", "b", "c")
BATCH = 2
# The page is being written: everything is checked.
WRITES = bool(os.environ.get("REGRAFT_WRITE_BACKBONES"))
# Larger ones are not written to disk: a third of an hour would go into the largest ten. In an ordinary run, fewer.
LARGEST_SAVED = 150_000_000 if WRITES else 40_000_000
NOT_NOW = "not in this run" if not WRITES else "too large"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A network with random weights, and an input small enough to be quick (None: its own size)."""

    spec: str
    size: int | None = 64


def open_case(case: Case) -> Backbone:
    torch.manual_seed(0)
    backbone = load_backbone(case.spec, weights="none", size=case.size)
    _wake(backbone.module)
    forget(backbone.module)
    return backbone


def _wake(module: nn.Module) -> None:
    """Random values where an author starts with zeros: a branch that is silent at first would hide a wrong cut behind it."""
    for value in module.parameters():
        if value.numel() > 1 and not value.any():
            nn.init.normal_(value, std=0.02)


def images_for(backbone: Backbone) -> torch.Tensor:
    pre = backbone.preprocess
    draw = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, pre.channels, pre.height, pre.width, generator=draw)


def main_logits(output: object) -> torch.Tensor:
    """The logits of the main head: networks with auxiliary heads return several in train mode."""
    return output if isinstance(output, torch.Tensor) else output[0]  # type: ignore[index,no-any-return]


def head_is_found(backbone: Backbone) -> None:
    with torch.inference_mode():
        classes = backbone.module(images_for(backbone)).shape[1]
    for place in backbone.heads:
        assert place.found_by
        assert place.out_features == classes, f"{place.path} makes {place.out_features} of {classes} logits"


def new_head_answers_in_both_modes(backbone: Backbone) -> None:
    module = fresh_heads(backbone, len(CLASSES))
    images = images_for(backbone)
    with torch.no_grad():
        for training in (False, True):
            set_modes(module, plan_training(backbone, "full"), training=training)
            logits = main_logits(module(images))
            assert logits.shape == (BATCH, len(CLASSES))
            assert logits.isfinite().all(), f"not finite with training={training}"


def what_is_frozen_stays_frozen(backbone: Backbone) -> None:
    """Under `head`: gradient in every new head and nowhere else; a step and two passes leave all the rest, bit by bit."""
    module = fresh_heads(backbone, len(CLASSES))
    plan = plan_training(backbone, "head")
    apply_plan(module, plan)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    set_modes(module, plan, training=True)
    trained = [value for value in module.parameters() if value.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=0.1)
    outputs = module(images_for(backbone))
    several = [outputs] if isinstance(outputs, torch.Tensor) else [one for one in outputs if one is not None]
    sum(nn.functional.cross_entropy(one, torch.tensor([0, 1])) for one in several).backward()  # type: ignore[union-attr]
    parameters = dict(module.named_parameters())
    assert all(parameters[name].grad is None for name in plan.frozen)
    silent = [name for name in plan.trainable if parameters[name].grad is None or not parameters[name].grad.any()]  # type: ignore[union-attr]
    assert not silent, f"no gradient in {silent}"
    optimiser.step()
    set_modes(module, plan, training=False)
    with torch.inference_mode():
        module(images_for(backbone))
    after = module.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved <= set(plan.trainable), f"moved: {sorted(moved - set(plan.trainable))[:3]}"
    assert moved, "nothing was trained"


def every_parameter_has_one_place(backbone: Backbone) -> None:
    names = [name for name, _ in backbone.module.named_parameters()]
    staged = [name for stage in backbone.stages for name in stage.parameters]
    assert len(staged) == len(set(staged)) <= len(names)
    numbers = [stage.number for stage in backbone.stages if stage.number is not None]
    assert numbers == list(range(len(numbers), 0, -1))
    for strategy in ("head", "norm", "full", *(f"partial:{number}" for number in numbers)):
        plan = plan_training(backbone, strategy)
        assert sorted((*plan.trainable, *plan.frozen)) == sorted(names)
    if backbone.graph is not None:
        assert staged, "no stage holds a parameter"


def two_parts_make_the_whole(backbone: Backbone) -> None:
    images = images_for(backbone)
    with torch.inference_mode():
        whole = backbone.module(images)
        for boundary in _boundaries_to_check(backbone):
            parts = cut(backbone, boundary, to_train=False)
            values = parts.prefix.eval()(images)
            assert tuple(tuple(value.shape[1:]) for value in values) == boundary.shapes
            assert torch.equal(parts.suffix.eval()(*values), whole), f"cut at {boundary.name}"


def _boundaries_to_check(backbone: Backbone) -> list[Boundary]:
    """All of them for the page; in an ordinary run the pixels, the head, and three stages."""
    pixels, *stages, head = boundaries_of(backbone)
    if not WRITES and len(stages) > 3:
        stages = [stages[0], stages[len(stages) // 2], stages[-1]]
    return [pixels, *stages, head]


def solved_head_goes_in(backbone: Backbone) -> None:
    """A head in the space of the features gives what features and head give apart, in place or around the network."""
    images = images_for(backbone)
    with torch.inference_mode():
        features = Features(backbone, ())(images)
        head = _head(features.shape[1])
        expected = features @ torch.from_numpy(head.weight_KD).T + torch.from_numpy(head.bias_K)
        given = attach_head(backbone, head)(images)
    assert torch.allclose(given, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()) + 1e-5)


def saved_and_loaded_is_the_same(backbone: Backbone, folder: Path) -> None:
    width = Features(backbone, ()).columns.width
    fitted = Fitted(backbone=backbone, head=_head(width), classes=CLASSES)
    save_model(to_saved(fitted, _summary(), fingerprint="0" * 64, seed=0), folder)
    again = load(folder)
    with torch.inference_mode():
        images = images_for(backbone)
        assert torch.equal(again.to_torch()(images), fitted.to_torch()(images))


def _head(width: int) -> HeadWeights:
    rng = np.random.default_rng(2)
    weight_KD = rng.normal(0, 1 / np.sqrt(width), (len(CLASSES), width)).astype(np.float32)
    return HeadWeights(taps=(), weight_KD=weight_KD, bias_K=rng.normal(size=len(CLASSES)).astype(np.float32))


def _summary() -> RunSummary:
    """Enough of a finished fit to be saved."""
    truth = np.arange(6) % 3
    scores = score(Predictions(names=tuple("abcdef"), classes=CLASSES, logits_NK=np.eye(3)[truth], targets=truth))
    choice = HeadChoice(tried=(), features="last", l2=0.01, gradient_norm=0.0, iterations=1, folds=2, balanced=False)
    return RunSummary(
        run=Path(), backbone="", strategy="head", classes=CLASSES, train=6, test=0, rejected=(), test_scores=None,
        cross_validation=scores, seconds={}, engine="", engines=(), cache_hits=0, cache_misses=6, head=choice, tree="",
        notes=(), split="", command="", versions={"regraft": "0"},
    )  # fmt: skip


CHECKS: dict[str, Callable[[Backbone], None]] = {
    "head": head_is_found,
    "answers": new_head_answers_in_both_modes,
    "frozen": what_is_frozen_stays_frozen,
    "partition": every_parameter_has_one_place,
    "cuts": two_parts_make_the_whole,
    "solved": solved_head_goes_in,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was seen of one network: each check passed ("yes"), or why it could not."""

    spec: str
    size: int
    parameters: int
    heads: str
    found_by: str
    stages: int
    checks: dict[str, str]

    @property
    def failures(self) -> dict[str, str]:
        return {name: outcome for name, outcome in self.checks.items() if outcome not in ("yes", NOT_NOW)}


def examine(case: Case, folder: Path) -> Finding:
    """Run every check on one network."""
    backbone = open_case(case)
    parameters = sum(value.numel() for value in backbone.module.parameters())
    outcomes = {name: _outcome(lambda check=check: check(copy.copy(backbone))) for name, check in CHECKS.items()}  # type: ignore[misc]
    small = parameters <= LARGEST_SAVED
    outcomes["saved"] = _outcome(lambda: saved_and_loaded_is_the_same(backbone, folder)) if small else NOT_NOW
    return Finding(
        spec=case.spec,
        size=backbone.preprocess.height,
        parameters=parameters,
        heads=", ".join(f"`{place.path}`" + (" (auxiliary)" if place.role == "auxiliary" else "") for place in backbone.heads),
        found_by=" and ".join(dict.fromkeys(place.found_by.partition(":")[0] for place in backbone.heads)),
        stages=sum(stage.number is not None for stage in backbone.stages),
        checks=outcomes,
    )


def _outcome(check: Callable[[], None]) -> str:
    try:
        check()
    except AssertionError as error:
        return str(error).splitlines()[0] if str(error) else "failed"
    except RegraftError as error:
        return error.got
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return "yes"
