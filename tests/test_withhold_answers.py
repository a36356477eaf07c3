"""Temperatures, distances from known images, and when there is no answer."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COLOURS, paint, paint_classes
from scipy.optimize import minimize_scalar
from sklearn.neighbors import NearestNeighbors

import regraft
from regraft.backbone.attach import Distances
from regraft.errors import UsageError
from regraft.evaluate.abstain import NEVER, UNLIKE, UNSURE, Thresholds, choose_thresholds, judge_rule
from regraft.evaluate.novelty import fit_novelty, levelled
from regraft.evaluate.probability import log_probabilities
from regraft.evaluate.temperature import PRIOR, fit_temperature


def draws(n: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are too sharp by `temperature`, and classes drawn from what they would be without that."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (n, 5))
    shares = np.exp(log_probabilities(logits))
    return logits * temperature, np.array([random.choice(5, p=row) for row in shares])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_is_found(temperature: float) -> None:
    logits, truth = draws(4000, temperature)
    assert fit_temperature(logits, truth) == pytest.approx(temperature, rel=0.06)


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_temperature_is_the_most_probable_one(multi_label: bool) -> None:
    random = np.random.default_rng(1)
    logits = random.normal(0, 3, (60, 4))
    truth = (
        logits + random.logistic(0, 2, logits.shape) > 0
        if multi_label
        else (logits + random.normal(0, 3, logits.shape)).argmax(1)
    )

    def surprise(log_t: float) -> float:
        scaled = logits / np.exp(log_t)
        if multi_label:
            losses = (np.logaddexp(0, scaled) - truth * scaled).mean(axis=1)
        else:
            losses = -log_probabilities(scaled)[np.arange(60), truth]
        return float(losses.sum() + log_t**2 / (2 * PRIOR**2))

    reference = minimize_scalar(surprise, bounds=(-3, 3), method="bounded", options={"xatol": 1e-8})
    assert np.log(fit_temperature(logits, truth)) == pytest.approx(reference.x, abs=0.02)


def test_a_few_right_answers_do_not_make_the_rest_certain() -> None:
    logits = np.eye(3)[np.arange(9) % 3] * 3.0
    assert 0.2 < fit_temperature(logits, np.arange(9) % 3) < 1


def test_logits_that_are_not_finite_leave_the_temperature_alone() -> None:
    assert fit_temperature(np.array([[np.nan, 1.0]]), np.array([0])) == 1.0


def test_distances_are_those_of_the_nearest_neighbour() -> None:
    random = np.random.default_rng(0)
    known, new = random.normal(size=(40, 30)), random.normal(size=(25, 30))
    blocks = (10, 20)
    novelty = fit_novelty(known, ("a",), blocks)
    # With as many directions as there are images nothing is left out.
    nearest = NearestNeighbors(n_neighbors=1, metric="cosine").fit(levelled(known, blocks))
    reference = nearest.kneighbors(levelled(new, blocks))[0][:, 0]
    np.testing.assert_allclose(novelty.distances(new), reference, atol=1e-5)
    np.testing.assert_allclose(novelty.distances(known), 0, atol=1e-5)


def test_blocks_count_alike_whatever_their_scale() -> None:
    random = np.random.default_rng(0)
    known, new = random.normal(size=(40, 30)), random.normal(size=(25, 30))
    scale = np.r_[np.full(10, 1000.0), np.full(20, 0.01)]
    one, other = (fit_novelty(known * s, ("a",), (10, 20)).distances(new * s) for s in (1.0, scale))
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_the_layer_gives_what_the_formula_gives() -> None:
    random = np.random.default_rng(0)
    known, new = (np.abs(random.normal(size=(n, 90))).astype(np.float32) for n in (200, 31))
    novelty = fit_novelty(known, ("a", "b"), (30, 40, 20))
    layer = Distances(novelty)(torch.from_numpy(new))[:, 0]
    np.testing.assert_allclose(layer.numpy(), novelty.distances(new), rtol=1e-4, atol=1e-5)


def test_coverage_answers_that_share() -> None:
    random = np.random.default_rng(0)
    sure, far, good = random.random(1000), random.exponential(size=1000), random.random(1000) < 0.8
    for coverage in (0.5, 0.9, 0.995):
        chosen = choose_thresholds(sure, far, good, coverage=coverage)
        assert chosen.answered(sure, far).mean() == pytest.approx(coverage, abs=0.002)


def test_the_largest_error_is_kept_with_as_many_answers_as_can_be() -> None:
    random = np.random.default_rng(0)
    sure = random.random(500).round(2)
    good = random.random(500) < sure
    chosen = choose_thresholds(sure, None, good, max_error=0.1)
    assert chosen.confidence is not None
    assert (~good[sure >= chosen.confidence]).mean() <= 0.1
    for lower in np.unique(sure[sure < chosen.confidence]):
        assert (~good[sure >= lower]).mean() > 0.1


def test_nothing_is_answered_where_nothing_is_good_enough() -> None:
    chosen = choose_thresholds(np.array([0.9, 0.8]), None, np.array([False, False]), max_error=0.1)
    assert chosen.confidence == NEVER
    rule = judge_rule(chosen, np.array([0.9]), None, np.array([True]), on="test", max_error=0.1)
    assert rule.covered.value == 0
    assert np.isnan(rule.error_answered.value)


def test_without_a_wish_only_the_farthest_are_withheld() -> None:
    far = np.arange(100.0)
    chosen = choose_thresholds(np.full(100, 0.3), far, np.ones(100, bool))
    assert chosen.confidence is None
    assert np.flatnonzero(~chosen.answered(np.full(100, 0.3), far)).tolist() == [99]


def test_the_reason_is_said() -> None:
    rule = Thresholds(confidence=0.5, distance=2.0)
    assert (rule.why(0.9, 1.0), rule.why(0.4, 1.0), rule.why(0.9, 3.0), rule.why(0.4, None)) == ("", UNSURE, UNLIKE, UNSURE)
    assert Thresholds().why(0.0, 99.0) == ""


@pytest.mark.parametrize(
    ("options", "word"), [({"max_error": 0.1, "coverage": 0.5}, "both"), ({"coverage": 1.0}, "--coverage")]
)
def test_wishes_are_checked_before_any_work(options: dict[str, float], word: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=word):
        regraft.fit(tmp_path / "nothing", **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> regraft.Fitted:
    root = tmp_path_factory.mktemp("withheld")
    photos = paint_classes(root / "photos", dict.fromkeys(COLOURS, 20))
    return regraft.fit(photos, out=root / "run", size=64, device="cpu", cache=root / "cache", coverage=0.8)


def test_a_fit_is_calibrated_and_knows_what_is_new(run: regraft.Fitted, tmp_path: Path) -> None:
    assert run.summary is not None
    assert run.summary.calibrated is not None
    assert run.summary.abstain is not None
    assert run.summary.calibrated.temperature == run.temperature
    assert run.novelty is not None
    pictures = np.random.default_rng(0)
    lines = tmp_path / "lines.png"
    from PIL import Image

    Image.fromarray(np.kron(pictures.integers(0, 2, (10, 10)) * 255, np.ones((8, 8))).astype(np.uint8)).save(lines)
    known = paint(tmp_path / "new" / "known.png", COLOURS["blue"])
    near, far = run.predict([known, lines])
    assert near.distance is not None
    assert far.distance is not None
    assert far.distance > near.distance
    assert far.abstained
    assert far.why == UNLIKE
    assert far.top  # the classes are given all the same


def test_what_is_saved_answers_and_withholds_as_before(run: regraft.Fitted, tmp_path: Path) -> None:
    assert run.folder is not None
    paths = [paint(tmp_path / "new" / f"{i}.png", colour) for i, colour in enumerate([*COLOURS.values(), (250, 250, 250)])]
    loaded = regraft.load(run.folder)
    assert (loaded.temperature, loaded.thresholds) == (run.temperature, run.thresholds)
    for one, other in zip(run.predict(paths), loaded.predict(paths), strict=True):
        assert one == other


def test_the_module_gives_the_calibrated_logits(run: regraft.Fitted, tmp_path: Path) -> None:
    from regraft.data.decode import load_pixels

    path = paint(tmp_path / "one.png", COLOURS["cyan"])
    pre = run.backbone.preprocess
    mean, std = torch.tensor(pre.mean)[:, None, None], torch.tensor(pre.std)[:, None, None]
    image = (torch.from_numpy(load_pixels(path, pre)).permute(2, 0, 1)[None] / 255 - mean) / std
    with torch.inference_mode():
        shares = run.to_torch()(image).softmax(1)[0]
    (answer,) = run.predict([path])
    assert dict(answer.top) == pytest.approx(dict(zip(run.classes, shares.tolist(), strict=True)), abs=1e-5)


def two_layers(width: int, classes: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(width, 8), torch.nn.ReLU(), torch.nn.Linear(8, classes))


@pytest.mark.parametrize(
    "strategy",
    [lambda: regraft.Partial(stages=1, epochs=1), lambda: regraft.Head(module=two_layers)],
    ids=["partial", "own head"],
)
def test_trained_networks_are_calibrated_too(strategy: Callable[[], object], tmp_path: Path) -> None:
    photos = paint_classes(tmp_path / "photos", dict.fromkeys(COLOURS, 8))
    chosen = strategy()
    run = regraft.fit(
        photos,
        out=tmp_path / "run",
        size=32,
        device="cpu",
        cache=tmp_path / "cache",
        strategy=chosen,  # type: ignore[arg-type]
    )
    assert run.summary is not None
    assert run.summary.calibrated is not None
    assert run.novelty is not None
    assert run.summary.test_scores is not None
    # The scores are those of the answers that the saved model gives.
    judged = regraft.load(tmp_path / "run", head=getattr(chosen, "module", None)).evaluate(photos)
    assert np.isfinite(judged.scores.nll)
    assert judged.abstain is not None
