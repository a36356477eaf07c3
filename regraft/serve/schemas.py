"""What the server's answers look like, for /openapi.json."""

from typing import Any, Literal

from pydantic import BaseModel, Field


class Share(BaseModel):
    """An estimate with its 95 % interval, from `n` images."""

    value: float
    low: float
    high: float
    n: int


class Limits(BaseModel):
    """Of one request and of one image."""

    bytes: int
    pixels: int


class ModelAnswer(BaseModel):
    """What model this is. `accuracy` and `iou` as measured when it was fitted, null where they were not."""

    task: Literal["classification", "saliency", "semantic"]
    classes: list[str]
    multi_label: bool
    backbone: str
    strategy: str | None
    abstains: bool
    accuracy: Share | None
    iou: Share | None
    limits: Limits


class ClassProbability(BaseModel):
    """One class."""

    class_: str = Field(alias="class")
    probability: float


class ClassShare(BaseModel):
    """The part of an image that one class takes."""

    class_: str = Field(alias="class")
    share: float


class ImageAnswer(BaseModel):
    """One image's classes, best first. `abstained`: the answer should not be relied on, and `why` says what for."""

    status: Literal["ok"]
    reason: None
    predictions: list[ClassProbability]
    abstained: bool
    why: str | None
    distance: float | None


class PixelsAnswer(BaseModel):
    """The class of every pixel. `mask` is a PNG with the classes' numbers and `colours`, in base64."""

    status: Literal["ok"]
    width: int
    height: int
    shares: list[ClassShare]
    colours: list[tuple[int, int, int]]
    mask: str


class Problem(BaseModel):
    """Why there is no answer: a stable `code`, and a sentence."""

    code: str
    message: str


class ErrorAnswer(BaseModel):
    """What every refused request gets."""

    error: Problem


class FailedPart(BaseModel):
    """One image of several that could not be answered."""

    name: str
    status: Literal["failed"]
    error: Problem


class NamedImageAnswer(ImageAnswer):
    """One image of several."""

    name: str


class NamedPixelsAnswer(PixelsAnswer):
    """One image of several."""

    name: str


class SeveralAnswers(BaseModel):
    """One for each image of a multipart body, in order."""

    results: list[NamedImageAnswer | NamedPixelsAnswer | FailedPart]


class Health(BaseModel):
    """In one word."""

    status: str


# FastAPI has no words for a body that is the file itself.
IMAGE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
        },
    }
}
