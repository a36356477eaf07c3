"""A fitted model as one module: raw images of any size in, probabilities out. What every exported file holds."""

import warnings
from typing import cast

import torch
from torch import Tensor, nn

from regraft.backbone.features import Normalise
from regraft.data.preprocess import Preprocess
from regraft.errors import UsageError, first_line
from regraft.exports.resample import Resample
from regraft.fitted import Fitted

INPUT, OUTPUTS = "images", ("probabilities", "distance")


class Answers(nn.Module):
    """Pixels (N, C, h, w) float32 in 0..255, as the network expects them -> probabilities (N, K), and distances (N,)."""

    def __init__(self, network: nn.Module, preprocess: Preprocess, classes: int, *, multi_label: bool) -> None:
        super().__init__()
        self.normalise, self.network = Normalise(preprocess), network
        self.classes, self.multi_label = classes, multi_label

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        answers = cast(Tensor, self.network(pixels * self.normalise.scale + self.normalise.shift))
        logits = answers[:, : self.classes]
        probabilities = torch.sigmoid(logits) if self.multi_label else torch.softmax(logits, dim=1)
        return (probabilities, answers[:, self.classes]) if answers.shape[1] > self.classes else (probabilities,)


class RawImages(nn.Module):
    """Raw pixels (N, H, W, C) uint8 of any size -> probabilities (N, K), and distances (N,) where these are measured.

    Resized and cropped as Pillow does it, normalised, answered, divided by the temperature: what `Fitted.predict` does after
    decoding. K are the model's classes; C is 4 for a network that looks at alpha, else 3.
    """

    def __init__(self, resample: Resample, answers: Answers) -> None:
        super().__init__()
        self.resample, self.answers = resample, answers

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return cast(tuple[Tensor, ...], self.answers(self.resample(images)))


def graph_of(fitted: Fitted) -> RawImages:
    """The whole way of an image through `fitted`, in eval mode, sharing nothing with it."""
    preprocess = fitted.backbone.preprocess
    answers = Answers(fitted.answering(), preprocess, len(fitted.classes), multi_label=fitted.multi_label)
    return RawImages(Resample(preprocess), answers).eval().requires_grad_(False)


def outputs_of(fitted: Fitted) -> tuple[str, ...]:
    """Names of what the graph gives, in order."""
    return OUTPUTS if fitted.novelty is not None and fitted.head is not None else OUTPUTS[:1]


def example_of(preprocess: Preprocess) -> Tensor:
    """Images to record the graph with: two, of sizes that no network expects, so that no size becomes a constant."""
    channels = max(3, preprocess.channels)
    size = (2, preprocess.height + 13, preprocess.width + 29, channels)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def program_of(fitted: Fitted) -> torch.export.ExportedProgram:
    """The graph recorded by `torch.export`, for any number of images of any size. Raises UsageError where it cannot be."""
    dynamic = torch.export.Dim.DYNAMIC
    example = example_of(fitted.backbone.preprocess)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.export.export(
                graph_of(fitted), (example,), dynamic_shapes={"images": {0: dynamic, 1: dynamic, 2: dynamic}}, strict=False
            )
    except Exception as error:  # whatever a network's own code raises while it is recorded
        raise UsageError(
            expected=f"a network that torch.export can record, {fitted.backbone.name}",
            got=f"{type(error).__name__}: {first_line(error)}",
            fix="use it from Python with regraft.load, or fit another backbone: `regraft backbones` lists them",
        ) from error
