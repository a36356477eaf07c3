"""A classifier of images for scikit-learn: `cross_val_score`, `GridSearchCV`, `Pipeline` and all that takes an estimator.

The same fit as `regraft.fit`, of images that are at hand: no folder is read, no test set held out, no report written. Images
are found in the same cache, so that in a cross-validation each goes through the frozen network once.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_X_y
from torch import nn

from regraft.api import check_types
from regraft.artifact.load import CONFIG_FILE, WEIGHTS_FILE, SavedModel, read_config
from regraft.artifact.save import save_model
from regraft.backbone.attach import HeadWeights
from regraft.backbone.features import later_stages
from regraft.cache.answer import logits_of
from regraft.cache.extract import extract_features
from regraft.cache.store import default_folder
from regraft.data.arrays import files_of
from regraft.data.names import composed, count_of, listing
from regraft.errors import InputUnusable, OutputExists, UsageError
from regraft.evaluate.probability import probabilities
from regraft.fitted import Fitted
from regraft.pipeline import fit_given
from regraft.recipe import DEFAULT_BACKBONE, Data, Device, Own, Recipe
from regraft.saved import load_with_data
from regraft.strategies import Auto, Balance, Decoding, Features, Head, Strategy
from regraft.strategy_names import strategy_named
from regraft.train.head_fit import logits_of_rows
from regraft.values import Rejected, Sample, Samples

_SAVED: Final = "_saved"


class ImageClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of images with the interface of scikit-learn.

    X is a sequence of paths, of uint8 arrays (H, W), (H, W, 3) or (H, W, 4), or of Pillow's images, or one such array with N
    before the rest; y has a label for each image, texts or numbers, which come back as they were given. Arrays are kept as
    PNG files below the cache, each once.

    `backbone` and `weights` name a network as `regraft.fit` takes it. `strategy` is a name as on the command line ("head",
    "partial:1", "norm", "full", "gradual", "scratch", "auto") or a value with options, such as `regraft.Partial(epochs=3)`.
    `features` and `balance` are those of the strategy, `l2` that of `Head`; left as they are they change nothing in a value.
    `size`, `channels`, `seed`, `device`, `cache` and `trust` are those of `regraft.fit`.

    After `fit`: `classes_` (K,), sorted; `fitted_`, the `regraft.Fitted`, whose `summary.cross_validation` has scores on the
    images of the fit by heads that had not seen them. Up to a tenth of the images may be unreadable: they are left out, with
    a warning. In what is asked of the model later none may.

    `predict` never abstains: ask `fitted_.predict` of paths where it should. Pickling holds the two files of `save`, and needs
    the networks and heads of your own to be picklable themselves; nothing in regraft reads a pickle.
    """

    def __init__(
        self,
        backbone: str | Own | nn.Module = DEFAULT_BACKBONE,
        *,
        weights: str | Path | None = None,
        strategy: str | Strategy = "head",
        features: Features = "auto",
        balance: Balance = "none",
        l2: float | None = None,
        size: int | None = None,
        channels: int | None = None,
        seed: int = 0,
        device: Device = "auto",
        cache: str | Path | None = None,
        trust: bool = False,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.strategy = strategy
        self.features = features
        self.balance = balance
        self.l2 = l2
        self.size = size
        self.channels = channels
        self.seed = seed
        self.device = device
        self.cache = cache
        self.trust = trust

    def fit(self, X: Any, y: Any) -> Self:
        """Fit N images with their N labels.

        Raises InputUnusable, a DataUnusable and a ValueError, for what are no images, or labels of one class; ValueError as
        scikit-learn has it for other labels; and what `regraft.fit` raises.
        """
        recipe, files = self._recipe(), self._files(X)
        # Of X it looks at the number of rows alone.
        _, labels_N = check_X_y(np.zeros((len(files), 1)), y, dtype=None, estimator=self)
        check_classification_targets(labels_N)
        classes_K, codes_N = np.unique(labels_N, return_inverse=True)
        if len(classes_K) < 2:
            raise InputUnusable(
                expected="labels of two classes or more",
                got=f"one class, {classes_K.tolist()[0]!r}",
                fix="add images of another class, for example such that show none of it",
            )
        fitted, saved = fit_given(recipe, _samples(files, [str(label) for label in classes_K.tolist()], codes_N))
        assert fitted.summary is not None, "which a fit always has"
        if left_out := fitted.summary.rejected:
            named = listing([f"{image.name}: {image.reason}" for image in left_out], 5)
            warnings.warn(f"left out, {count_of(len(left_out), 'unreadable image')}: {named}", UserWarning, stacklevel=2)
        self.classes_, self.fitted_, self._saved = classes_K, fitted, saved
        self._engine: str | None = fitted.summary.engine
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """(N,) the likeliest label of each image."""
        labels_N: NDArray[Any] = self._logits(X).argmax(axis=1)
        return np.asarray(self.classes_[labels_N])

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """(N, K) calibrated probabilities, in the order of `classes_`."""
        return probabilities(self._logits(X), multi_label=False)

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """(N, K) logits, in the order of `classes_`; for two classes (N,), above 0 where the second is the likelier."""
        logits_NK = self._logits(X)
        return logits_NK[:, 1] - logits_NK[:, 0] if len(self.classes_) == 2 else logits_NK

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write model.safetensors and config.json, which `regraft.load` and the command line take; labels become text.

        Raises OutputExists where the folder holds a model already, unless `overwrite`; OutOfSpace.
        """
        check_is_fitted(self)
        if not overwrite and (Path(folder) / CONFIG_FILE).exists():
            raise OutputExists(
                expected="a folder without a model", got=str(folder), fix="give another folder, or overwrite=True"
            )
        save_model(self._saved, Path(folder))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = tags.input_tags.three_d_array = tags.input_tags.string = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if _SAVED in state:
            # Modules and their graphs are not for pickling: the files of the model are, and the engine is this machine's.
            state = {name: value for name, value in state.items() if name not in ("fitted_", "_engine")}
            with TemporaryDirectory() as folder:
                save_model(self._saved, Path(folder))
                state[_SAVED] = {name: (Path(folder) / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({name: value for name, value in state.items() if name != _SAVED})
        if _SAVED not in state:
            return
        with TemporaryDirectory() as folder:
            for name in (CONFIG_FILE, WEIGHTS_FILE):
                (Path(folder) / name).write_bytes(state[_SAVED][name])
            fitted, self._saved = self._loaded(Path(folder))
        self.fitted_, self._engine = replace(fitted, folder=None), None

    def _loaded(self, folder: Path) -> tuple[Fitted, SavedModel]:
        config = read_config(folder)
        fitted, saved = load_with_data(
            folder,
            backbone=self.backbone if config.architecture.own_code else None,
            head=self.strategy.module if isinstance(self.strategy, Head) and config.features.kind == "own" else None,
            trust=self.trust,
        )
        assert isinstance(fitted, Fitted), "of a classifier"
        return fitted, saved

    def _recipe(self) -> Recipe:
        check_types("ImageClassifier", backbone=self.backbone, size=self.size, seed=self.seed, cache=self.cache)
        check_types("ImageClassifier", channels=self.channels, trust=self.trust)
        return Recipe(
            data=Data(path=Path("X"), test="none"),
            backbone=Own(module=self.backbone) if isinstance(self.backbone, nn.Module) else self.backbone,
            weights=None if self.weights is None else str(self.weights),
            strategy=self._strategy(),
            size=self.size,
            seed=self.seed,
            device=self.device,
            cache=None if self.cache is None else Path(self.cache),
            trust=self.trust,
            channels=self.channels,
        )

    def _strategy(self) -> Strategy:
        """The strategy with the options that are not left as they are. Raises UsageError for one that it has no use for."""
        chosen = strategy_named(self.strategy) if isinstance(self.strategy, str) else self.strategy
        if not isinstance(chosen, Strategy) or isinstance(chosen, Decoding):
            raise UsageError(
                expected="strategy to be a name such as partial:1, or a regraft.Head, Partial, Full, Norm, Gradual, Scratch",
                got=repr(self.strategy),
                fix="see help(regraft.ImageClassifier)",
            )
        options = (("features", "auto"), ("balance", "none"), ("l2", None))
        given = {name: getattr(self, name) for name, default in options if getattr(self, name) != default}
        if isinstance(chosen, Auto) and "features" in given:
            chosen = replace(chosen, training=replace(chosen.training, features=given.pop("features")))
        if unused := set(given) - {field.name for field in fields(chosen)}:
            raise UsageError(
                expected=f"{' and '.join(sorted(unused))} with the strategy 'head'",
                got=f"the strategy {chosen.name!r}",
                fix="leave it as it is",
            )
        return replace(chosen, **given)

    def _cache(self) -> Path:
        return default_folder() if self.cache is None else Path(self.cache)

    def _files(self, X: Any) -> list[Path]:
        return files_of(X, self._cache())

    def _logits(self, X: Any) -> NDArray[np.float64]:
        """(N, K) calibrated logits. Raises InputUnusable where an image cannot be read."""
        check_is_fitted(self)
        files, config = self._files(X), self._saved.config
        if config.training.strategy == "head" and isinstance(self.fitted_.head, HeadWeights):
            return self._from_features(files, self.fitted_.head)
        items = [(path, str(path)) for path in files]
        network, preprocess = self.fitted_.answering(), self.fitted_.backbone.preprocess
        answers = list(logits_of(items, network, preprocess, device=self.device))
        _check_readable([answer for answer in answers if isinstance(answer, Rejected)])
        # With them may come how far the image is from those fitted on.
        return np.array(answers, np.float64)[:, : len(self.classes_)]

    def _from_features(self, files: Sequence[Path], head: HeadWeights) -> NDArray[np.float64]:
        """By the features in the cache, where a fit on other images of a cross-validation finds them again."""
        backbone = self.fitted_.backbone
        extracted = extract_features(
            [Sample(path=path, name=str(path)) for path in files],
            backbone,
            later_stages(backbone),
            cache=self._cache(),
            device=self.device,
            with_looks=True,
            engine=self._engine,
        )
        _check_readable(extracted.rejected)
        # In float64: an image gets the same answer whatever others are asked with it.
        weight_KD, bias_K = (value.astype(np.float64) for value in (head.weight_KD, head.bias_K))
        return logits_of_rows(extracted.features, weight_KD, bias_K) / self.fitted_.temperature


def _samples(files: Sequence[Path], names: Sequence[str], codes_N: NDArray[np.int64]) -> Samples:
    """The images as a folder would give them, so that their order does not matter. One that is there twice has two names."""
    seen = Counter[str]()
    samples = list[Sample]()
    for path, code in sorted(zip(files, codes_N, strict=True), key=lambda item: (item[0].as_posix(), item[1])):
        name = composed(path.as_posix())
        seen[name] += 1
        name = name if seen[name] == 1 else f"{name} ({seen[name]})"
        samples.append(Sample(path=path, name=name, labels=(names[code],)))
    return Samples(root=Path(), samples=tuple(samples), classes=tuple(names))


def _check_readable(rejected: Sequence[Rejected]) -> None:
    if rejected:
        raise InputUnusable(
            expected="images that can be read: each needs an answer",
            got=listing([f"{image.name}: {image.reason}" for image in rejected], 5),
            fix="take them out of X; fitted_.predict answers for the others and says what is wrong with these",
        )
