"""The estimator is one of scikit-learn's: its checks, its tools, and the same model as `regraft.fit` makes."""

import copy
import gc
import pickle
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import paint_classes
from PIL import Image
from sklearn.base import clone
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import estimator_checks_generator
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

import regraft
from regraft.cache import extract
from regraft.data.arrays import files_of
from regraft.errors import DataUnusable, InputUnusable, OutputExists, UsageError

ROOT = Path(__file__).resolve().parent.parent
EACH = 8


class Small(nn.Module):
    """Images (N, 3, 32, 32) -> logits (N, 4), in two stages."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU())
        self.logits = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.second(self.first(images)).mean(dim=(2, 3)))  # type: ignore[no-any-return]


def small() -> regraft.Own:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return regraft.Own(module=Small(), input_shape=(3, 32, 32))


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    # As the commands do: collecting garbage then passes over the libraries, which are large beside what is fitted here.
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGRAFT_CACHE", str(folder))
        yield folder
    gc.unfreeze()


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = paint_classes(tmp_path_factory.mktemp("photos"), dict.fromkeys(("amber", "blue", "cyan"), EACH))
    return [str(path) for path in sorted(root.rglob("*.png"))]


@pytest.fixture(scope="module")
def labels() -> list[str]:
    return [name for name in ("amber", "blue", "cyan") for _ in range(EACH)]


@pytest.fixture(scope="module")
def network() -> regraft.Own:
    return small()


@pytest.fixture(scope="module")
def fitted(network: regraft.Own, paths: list[str], labels: list[str]) -> regraft.ImageClassifier:
    return regraft.ImageClassifier(network).fit(paths, labels)


def pixels_of(paths: list[str]) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in paths]


def test_importing_regraft_imports_neither_torch_nor_scikit_learn() -> None:
    code = "import sys, regraft; sys.exit(bool({'torch', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_learns_and_says_how_sure_it_is(fitted: regraft.ImageClassifier, paths: list[str], labels: list[str]) -> None:
    assert fitted.classes_.tolist() == ["amber", "blue", "cyan"]
    assert fitted.score(paths, labels) == 1.0
    shares = fitted.predict_proba(paths)
    assert shares.shape == (3 * EACH, 3)
    assert np.allclose(shares.sum(axis=1), 1)
    assert (fitted.classes_[fitted.decision_function(paths).argmax(axis=1)] == fitted.predict(paths)).all()
    assert fitted.fitted_.summary.cross_validation.accuracy.value > 0.9
    assert fitted.fitted_.summary.test == 0


def test_it_is_the_model_that_a_fit_of_the_folder_makes(
    network: regraft.Own, paths: list[str], labels: list[str], tmp_path: Path
) -> None:
    # A strength of one's own: the one that is chosen hangs on the folds, and these on what images are called.
    ours = regraft.ImageClassifier(network, l2=0.01, features="last").fit(paths, labels)
    head = regraft.Head(l2=0.01, features="last")
    folder = Path(paths[0]).parent.parent
    theirs = regraft.fit(folder, out=tmp_path / "run", backbone=network, strategy=head, test="none")
    # Both are solved to a tolerance, with the images in another order.
    apart = np.linalg.norm(ours.fitted_.head.weight_KD - theirs.head.weight_KD)
    assert apart < 0.01 * np.linalg.norm(theirs.head.weight_KD)
    answers = ours.fitted_.predict(paths, top_k=3)
    shares = ours.predict_proba(paths)
    assert all(abs(dict(one.top)["blue"] - share) < 1e-5 for one, share in zip(answers, shares[:, 1], strict=True))


def test_paths_arrays_and_pictures_are_the_same_to_it(
    fitted: regraft.ImageClassifier, paths: list[str], own_cache: Path
) -> None:
    want = fitted.predict_proba(paths)
    arrays = pixels_of(paths)
    mixed: list[Any] = [*map(Path, paths[:8]), *arrays[8:16], *map(Image.open, paths[16:])]
    for images in (np.array(paths), arrays, np.stack(arrays), mixed, [Image.open(path) for path in paths]):
        assert np.allclose(fitted.predict_proba(images), want, atol=1e-5)
    kept = list((own_cache / "arrays").iterdir())
    assert len(kept) == len(paths), "each array is written once"


def test_what_is_written_of_an_array_decodes_to_the_same_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for shape in ((7, 5), (7, 5, 3), (7, 5, 4), (7, 5, 1)):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        (file,) = files_of([pixels], tmp_path)
        assert np.array_equal(np.asarray(Image.open(file)), pixels[:, :, 0] if shape[-1] == 1 else pixels)
    assert files_of([pixels], tmp_path) == [file]
    file.write_bytes(b"\0" * 40)  # as a power cut may leave it
    assert files_of([pixels], tmp_path) == [file]
    assert np.array_equal(np.asarray(Image.open(file)), pixels[:, :, 0])


def test_pictures_are_turned_upright_and_deep_ones_are_scaled(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0] = 255
    lying = Image.Exif()
    lying[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(pixels).save(tmp_path / "lying.png", exif=lying)
    (file,) = files_of([Image.open(tmp_path / "lying.png")], tmp_path)
    assert np.array_equal(np.asarray(Image.open(file)), np.rot90(pixels, -1))
    (deep,) = files_of([Image.fromarray(np.full((4, 4), 257 * 100, np.uint16))], tmp_path)
    assert np.asarray(Image.open(deep)).tolist() == [[100] * 4] * 4


@pytest.mark.parametrize("given", [[10, 2, 1], [False, True], ["b", "a", "ü c"], [2.0, -1.0]], ids=str)
def test_labels_come_back_as_they_were_given(network: regraft.Own, paths: list[str], given: list[Any]) -> None:
    y = np.array([given[i // EACH] for i in range(EACH * len(given))])
    model = regraft.ImageClassifier(network).fit(paths[: len(y)], y)
    assert model.classes_.dtype == y.dtype
    assert model.classes_.tolist() == sorted(given)
    answers = model.predict(paths[: len(y)])
    assert answers.dtype == y.dtype
    assert (answers == y).all()
    assert model.decision_function(paths).shape == ((3 * EACH,) if len(given) == 2 else (3 * EACH, 3))


def test_the_order_of_the_images_does_not_matter(network: regraft.Own, paths: list[str], labels: list[str]) -> None:
    order = np.random.default_rng(0).permutation(len(paths))
    one = regraft.ImageClassifier(network).fit(paths, labels)
    other = regraft.ImageClassifier(network).fit([paths[i] for i in order], [labels[i] for i in order])
    assert np.array_equal(one.predict_proba(paths), other.predict_proba(paths))


def test_in_a_cross_validation_each_image_goes_through_the_network_once(
    paths: list[str], labels: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = extract.run_images, list[bytes]()

    def counting(*arguments: Any) -> Iterator[Any]:
        for row in run(*arguments):
            seen.extend([row.digest] if row.features is not None else [])
            yield row

    monkeypatch.setattr(extract, "run_images", counting)
    monkeypatch.setattr("regraft.estimator.logits_of", None)  # the other way to ask a network
    model = regraft.ImageClassifier(small(), cache=tmp_path)
    assert cross_val_score(model, paths, labels, cv=4).mean() > 0.9
    assert len(seen) == len(set(seen)) == len(paths)


def test_scikit_learns_tools_take_it(network: regraft.Own, paths: list[str], labels: list[str]) -> None:
    model = regraft.ImageClassifier(network)
    search = GridSearchCV(model, {"l2": [0.01, 100.0], "features": ["last", "stages"]}, cv=2).fit(paths, labels)
    assert len(search.cv_results_["params"]) == 4
    assert search.best_estimator_.score(paths, labels) > 0.9
    names = [Path(path).relative_to(Path(paths[0]).parent.parent).as_posix() for path in paths]
    at_home = FunctionTransformer(lambda names: [f"{Path(paths[0]).parent.parent}/{name}" for name in names])
    assert make_pipeline(at_home, model).fit(names, labels).score(names, labels) == 1.0
    voting = VotingClassifier([("a", model), ("b", clone(model).set_params(features="last"))], voting="soft")
    assert voting.fit(paths, labels).predict(paths).tolist() == labels


def test_a_fitted_one_is_pickled_as_its_saved_files(
    fitted: regraft.ImageClassifier, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pickle.dumps(fitted)
    assert b"safetensors" in data
    assert b"torch.fx" not in data
    again = pickle.loads(data)
    assert np.allclose(again.predict_proba(paths), fitted.predict_proba(paths), atol=1e-5)
    assert copy.deepcopy(again).predict(paths).tolist() == fitted.predict(paths).tolist()
    assert again.get_params()["strategy"] == "head"
    assert clone(again).get_params().keys() == fitted.get_params().keys()
    with pytest.raises(NotFittedError):
        pickle.loads(pickle.dumps(clone(again))).predict(paths)


def test_it_is_saved_as_a_run_is(
    fitted: regraft.ImageClassifier, network: regraft.Own, paths: list[str], tmp_path: Path
) -> None:
    for model in (fitted, pickle.loads(pickle.dumps(fitted))):
        model.save(tmp_path / "model", overwrite=True)
        answers = regraft.load(tmp_path / "model", backbone=network).predict(paths)
        assert [answer.top[0][0] for answer in answers] == fitted.predict(paths).tolist()
    with pytest.raises(OutputExists, match="overwrite=True"):
        fitted.save(tmp_path / "model")


def test_other_strategies_train(network: regraft.Own, paths: list[str], labels: list[str]) -> None:
    how = regraft.Partial(stages=1, epochs=2, views=1, batch_size=8, precision="fp32")
    model = regraft.ImageClassifier(network, strategy=how).fit(paths, labels)
    assert model.fitted_.summary.history is not None
    assert model.fitted_.summary.strategy == "partial:1"
    assert model.score(paths, labels) > 0.9
    again = pickle.loads(pickle.dumps(model))
    assert np.allclose(again.predict_proba(paths), model.predict_proba(paths), atol=1e-5)
    assert isinstance(regraft.ImageClassifier(strategy="partial:2")._strategy(), regraft.Partial)


TABLE = np.zeros((10, 64))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (TABLE, r"an array \(10, 64\) of float64"),
        ([np.zeros((4, 4))] * 2, "an array of float64 as image 0"),
        ([np.zeros((3, 8, 8), np.uint8)], r"shape \(3, 8, 8\) as image 0"),
        ("a.png", "a str"),
        (Path("a.png"), "Path"),
        ([], "no image"),
        ([3], "a int as image 0"),
        ([Image.new("F", (4, 4))], "32-bit float samples"),
        (type("Frame", (list,), {"columns": ["path"]})(["path"]), "the column of paths"),
    ],
    ids=["table", "floats", "channels first", "one path", "one Path", "none", "numbers", "float picture", "data frame"],
)
def test_what_is_no_images_is_refused(images: Any, words: str) -> None:
    with pytest.raises(InputUnusable, match=words) as caught:
        regraft.ImageClassifier().fit(images, [0, 1])
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, DataUnusable)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strategy": "partial"}, "partial:1 trains the last stage"),
        ({"strategy": 3}, "strategy to be a name"),
        ({"strategy": "full", "l2": 0.1}, "l2 with the strategy 'head'"),
        ({"features": "most"}, "--features"),
        ({"size": "64"}, r"help\(regraft.ImageClassifier\)"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_when_it_is_fitted(
    options: dict[str, Any], words: str, paths: list[str], labels: list[str]
) -> None:
    with pytest.raises(UsageError, match=words):
        regraft.ImageClassifier(**options).fit(paths, labels)


def test_labels_that_cannot_be_meant_are_refused(network: regraft.Own, paths: list[str]) -> None:
    model = regraft.ImageClassifier(network)
    for y, words in (
        (["a"] * len(paths), "one class, 'a'"),
        (["a", "b"], "inconsistent numbers of samples"),
        (np.linspace(0, 1, len(paths)), "Unknown label type"),
        ([["a", "b"]] * len(paths), "1d array"),
        (None, "requires y"),
    ):
        with pytest.raises(ValueError, match=words):
            model.fit(paths, y)


def test_a_broken_image_is_left_out_of_a_fit_and_refused_in_what_is_asked(
    fitted: regraft.ImageClassifier, network: regraft.Own, paths: list[str], labels: list[str], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(paths[0]).read_bytes()[:200])
    with pytest.warns(UserWarning, match="1 unreadable image: .*broken.png"):
        model = regraft.ImageClassifier(network).fit([*paths, broken], [*labels, "blue"])
    assert model.fitted_.summary.train == len(paths)
    with pytest.raises(InputUnusable, match=r"broken\.png"):
        fitted.predict([*paths, broken])


def test_images_that_are_there_twice_do_not_judge_themselves(network: regraft.Own, paths: list[str], labels: list[str]) -> None:
    wrong = [*labels, *(["cyan"] * 4)]  # four amber ones once more, under another label
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = regraft.ImageClassifier(network).fit([*paths, *paths[:4]], wrong)
    assert model.fitted_.summary.train == len(paths) + 4
    assert model.fitted_.summary.cross_validation.accuracy.value < 1


class OfTables(regraft.ImageClassifier):
    """scikit-learn's checks come with tables of numbers: each row is drawn, its numbers as the brightness of colours."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = tags.input_tags.three_d_array = tags.input_tags.string = False
        return tags

    def fit(self, X: Any, y: Any) -> "OfTables":
        X = validate_data(self, X)
        self._mean, self._deviation = X.mean(axis=0), X.std(axis=0) + 1e-9
        return super().fit(self._drawn(X), y)  # type: ignore[no-any-return]

    def _logits(self, X: Any) -> Any:
        check_is_fitted(self)
        return super()._logits(self._drawn(validate_data(self, X, reset=False)))

    def _drawn(self, X: np.ndarray) -> np.ndarray:
        """(N, 16, 16, 3): three numbers to a stripe, each a channel, with noise that follows from the row."""
        shares = 1 / (1 + np.exp(-(X - self._mean) / self._deviation))
        stripes = -(-shares.shape[1] // 3)
        padded = np.zeros((len(X), 3 * stripes))
        padded[:, : shares.shape[1]] = shares
        rows = padded.reshape(-1, stripes, 3)[:, np.arange(16) * stripes // 16]
        noise = [np.random.default_rng(np.abs(row * 1e6).astype(np.uint64)).normal(0, 12, (16, 16, 3)) for row in padded]
        return np.clip(40 + 175 * rows[:, :, None, :] + noise, 0, 255).round().astype(np.uint8)


def about_tables() -> dict[str, str]:
    """The table of docs/scikit-learn.md: checks that the drawing would pass and not the estimator, and why."""
    page = (ROOT / "docs/scikit-learn.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `(check_\w+)` \| (.+?) \|$", page, re.MULTILINE))


def name_of(check: Any) -> str:
    return str(getattr(check, "func", check).__name__)


# Named as text: scikit-learn compares parameters by their pickles, which differ between two copies of one module.
CHECKED = OfTables("module:examples.own_nets:small_network", size=16, l2=0.001, features="last")


# The first of each name: others differ in how the memory of a table is laid out, which the drawing does away with.
CHECKS = {name_of(check): (one, check) for one, check in reversed([*estimator_checks_generator(CHECKED)])}
RUN = [pytest.param(*both, id=name) for name, both in sorted(CHECKS.items()) if name not in about_tables()]


@pytest.mark.parametrize(("estimator", "check"), RUN)
def test_the_checks_of_scikit_learn_pass(estimator: Any, check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    check(estimator)


def test_checks_that_are_left_out_exist_and_are_few() -> None:
    assert set(about_tables()) <= set(CHECKS)
    assert len(RUN) == len(CHECKS) - len(about_tables()) >= 34
