"""`regraft.predict_on_ray`: the answers of a model, computed by the workers of a Ray cluster."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from regraft.bulk.cluster import LOCAL, check_ray, ray_at
from regraft.bulk.models import Model, model_of
from regraft.bulk.run import answers_of
from regraft.errors import UsageError
from regraft.fitted import Fitted, pretrained
from regraft.inputs import checked_paths
from regraft.progress import Progress, Silent
from regraft.recipe import Device
from regraft.saved import load_classifier
from regraft.values import Prediction, Rejected


def predict_on_ray(
    model: str | Path,
    paths: Iterable[str | Path],
    *,
    address: str = LOCAL,
    workers: int | None = None,
    top_k: int = 5,
    weights: str | None = None,
    backbone: str | None = None,
    head: str | None = None,
    trust: bool = False,
    head_path: str | None = None,
    device: Device = "auto",
    progress: Progress = Silent(),
) -> list[Prediction]:
    """What `load(model).predict(paths)` gives, computed by Ray's workers: one Prediction per path, in order.

    `model` is the folder of a run, whose files are sent to the workers, or the name of a backbone, which each of them loads.
    The images have to be where the workers can read them, under the same paths. `address` is "local": Ray is started on this
    machine and ended again; or that of a cluster: "auto", "HOST:PORT", "ray://HOST:PORT". `workers` is one for each
    accelerator, or else for each processor. `backbone` and `head` name own code of a run again, as "module:package.file:name".

    An image that cannot be used gives one with status "failed" and the reason, and so does one that ends every process that
    reads it. What a lost worker had is computed again. Raises UsageError where Ray is missing or cannot be reached,
    SavedModelRefused, BackboneNotFound, and a RegraftError where the workers cannot open the model.
    """
    check_ray(address, workers)
    if Path(model).exists():
        fitted = load_classifier(model, backbone=backbone, head=head, trust=trust)
    else:
        fitted = pretrained(str(model), weights=weights, trust=trust, head_path=head_path)
    sent = model_of(str(model), fitted, weights=weights, backbone=backbone, head=head, trust=trust, head_path=head_path)
    return list(
        iter_on_ray(fitted, sent, paths, address=address, workers=workers, top_k=top_k, device=device, progress=progress)
    )


def iter_on_ray(
    fitted: Fitted,
    model: Model,
    paths: Iterable[str | Path],
    *,
    address: str = LOCAL,
    workers: int | None = None,
    top_k: int = 5,
    device: Device = "auto",
    progress: Progress = Silent(),
) -> Iterator[Prediction]:
    """`predict_on_ray` of a model that is open here, each answer as soon as those before it are there."""
    items = checked_paths(paths)
    if not isinstance(top_k, int) or top_k < 1:
        raise UsageError(expected="top_k as a whole number of 1 or more", got=repr(top_k), fix="leave it out for 5")
    if not items:
        return
    with (
        ray_at(address, workers=workers, device=device) as pool,
        closing(answers_of(items, model, pool, progress=progress)) as answers,
    ):
        for (_, name), answer in zip(items, answers, strict=True):
            if isinstance(answer, Rejected):
                yield Prediction(path=name, status="failed", reason=answer.reason)
            else:
                yield fitted.prediction(name, answer, top_k)
