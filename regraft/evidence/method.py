"""Which method measures the evidence for the answers of a model: the first that its network allows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from regraft.backbone.graph import MAP_LAST, TOKENS
from regraft.backbone.model import Backbone
from regraft.evidence.measure import grad_cam, integrated_gradients, occlusion
from regraft.evidence.watched import Watched, depends, watched
from regraft.fitted import Fitted

Choose = Callable[[Tensor], Tensor]  # logits (N, K) -> the class (N,) whose evidence is wanted
Measured = tuple[Tensor, Tensor, Tensor]  # logits (N, K), classes (N,), evidence (N, H, W)
# As fine as the patches of most transformers, where a network does not say.
_CELLS = 14
_FEWEST_CELLS = 7


@dataclass(frozen=True, slots=True)
class Method:
    """`name` is "Grad-CAM", "integrated gradients" or "occlusion"; `measure` takes normalised images (N, C, H, W)."""

    name: str
    measure: Callable[[Tensor, Choose], Measured]


def method_for(fitted: Fitted, device: str) -> Method:
    """Grad-CAM for convolutional networks; for all others integrated gradients, or occlusion where there are no gradients."""
    network = watched(fitted)
    if network is not None:
        return Method("Grad-CAM", _by_grad_cam(network.to(device), fitted.mirrored))
    # With its test-time views: those are part of what is asked.
    whole = fitted.to_torch().requires_grad_(False).to(device)
    if _has_gradients(whole, fitted.backbone, device):
        cells = _cells(fitted.backbone)
        return Method("integrated gradients", _on_pixels(whole, partial(integrated_gradients, cells=cells)))
    return Method("occlusion", _on_pixels(whole, occlusion))


def _by_grad_cam(network: Watched, mirrored: bool) -> Callable[[Tensor, Choose], Measured]:
    def measure(images: Tensor, choose: Choose) -> Measured:
        size = (images.shape[2], images.shape[3])
        sides = [network.before(side) for side in ([images, images.flip(3)] if mirrored else [images])]
        with torch.no_grad():
            logits = torch.stack([network.after(*maps) for maps in sides]).mean(dim=0)
        classes = choose(logits)
        found = [grad_cam(network, maps, classes, size) for maps in sides]
        turned = [found[0], *(one.flip(2) for one in found[1:])]
        return logits, classes, torch.stack(turned).mean(dim=0)

    return measure


def _on_pixels(
    network: nn.Module, evidence: Callable[[nn.Module, Tensor, Tensor], Tensor]
) -> Callable[[Tensor, Choose], Measured]:
    def measure(images: Tensor, choose: Choose) -> Measured:
        with torch.no_grad():
            logits = network(images)
        classes = choose(logits)
        return logits, classes, evidence(network, images, classes)

    return measure


def _has_gradients(network: nn.Module, backbone: Backbone, device: str) -> bool:
    pre = backbone.preprocess
    image = torch.randn(1, pre.channels, pre.height, pre.width, generator=torch.Generator().manual_seed(0))
    try:
        with torch.enable_grad():
            image = image.to(device).requires_grad_()
            return depends(network(image), image)
    except RuntimeError:  # an operation without a gradient, or a forward pass that keeps none
        return False


def _cells(backbone: Backbone) -> int:
    """The places on a side of what a transformer hears last, within reason."""
    shapes: Sequence[int] = next((s.shape for s in reversed(backbone.stages) if s.layout in (TOKENS, MAP_LAST)), ())
    if not shapes:
        return _CELLS
    # Tokens that stand for no place (for the class, registers) are too few to matter for the root.
    side = shapes[0] if len(shapes) == 3 else int(shapes[0] ** 0.5)
    return min(_CELLS, max(_FEWEST_CELLS, side))
