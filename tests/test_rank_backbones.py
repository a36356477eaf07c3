"""Which backbone suits some images: the part of the images, the figures, what counts as equally good, and what may fail."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import regraft.ranking
from regraft.cli.main import main
from regraft.data.read import read_samples
from regraft.data.split import split_samples
from regraft.data.subset import FEWEST_OF_A_CLASS, nested_subset
from regraft.errors import BackboneNotFound, HeadNotFound, UsageError
from regraft.evaluate.compare import mean_and_error
from regraft.pipeline import fit
from regraft.ranking import Judged, compare, rank
from regraft.recipe import Data, Recipe
from regraft.values import RankedBackbone, Sample, Split

# timm's own networks for tests: 0.3 to 0.5 million parameters.
SMALL, SMALLEST = "timm:test_vit2", "timm:test_resnet"


def samples_of(counts: dict[str, int], group_of: int = 0) -> list[Sample]:
    """`counts` images of each class; `group_of` images in a row share a group."""
    return [
        Sample(
            path=Path(f"{label}/{index}.png"),
            name=f"{label}/{index:04}.png",
            labels=(label,),
            group=f"{label}{index // group_of}" if group_of else None,
        )
        for label, count in counts.items()
        for index in range(count)
    ]


def classes_of(samples: tuple[Sample, ...]) -> Counter[str]:
    return Counter(label for sample in samples for label in sample.labels)


def test_a_part_has_each_class_in_its_proportion() -> None:
    part = nested_subset(samples_of({"a": 600, "b": 300, "c": 100}), 100, seed=0)
    assert len(part) == 100
    assert classes_of(part) == pytest.approx({"a": 60, "b": 30, "c": 10}, abs=1)
    assert [sample.name for sample in part] == sorted(sample.name for sample in part)


@pytest.mark.parametrize("group_of", [0, 7])
def test_a_smaller_part_is_inside_of_a_larger_one(group_of: int) -> None:
    samples = samples_of({"a": 200, "b": 90, "c": 11}, group_of)
    parts = [{s.name for s in nested_subset(samples, images, seed=3)} for images in (10, 20, 60, 120, 1000)]
    assert all(small <= large for small, large in pairwise(parts))
    assert len(parts[2]) < len(parts[3])
    assert len(parts[-1]) == len(samples)
    assert parts[1] != {s.name for s in nested_subset(samples, 20, seed=4)}


def test_the_order_of_the_files_does_not_matter() -> None:
    samples = samples_of({"a": 50, "b": 50}, group_of=3)
    assert nested_subset(samples, 30, seed=0) == nested_subset(samples[::-1], 30, seed=0)


def test_groups_are_not_divided() -> None:
    samples = samples_of({"a": 200, "b": 200}, group_of=8)
    part = nested_subset(samples, 100, seed=0)
    assert 100 <= len(part) < 108
    assert {Counter(s.group for s in part)[group] for group in {s.group for s in part}} == {8}


def test_rare_classes_keep_enough_to_be_judged() -> None:
    part = nested_subset(samples_of({f"c{k}": 20 for k in range(30)} | {"rare": 3, "single": 1}), 10, seed=0)
    assert classes_of(part) == {f"c{k}": FEWEST_OF_A_CLASS for k in range(30)} | {"rare": FEWEST_OF_A_CLASS, "single": 1}


def test_images_with_several_labels_or_none_take_part() -> None:
    several = [
        Sample(path=Path(f"{i}.png"), name=f"{i:03}.png", labels=("common", "rare") if i % 10 == 0 else ("common",) * (i % 2))
        for i in range(200)
    ]
    part = nested_subset(several, 50, seed=0)
    assert len(part) == 50
    assert Counter(sample.labels for sample in part) == pytest.approx({("common", "rare"): 5, ("common",): 25, (): 20}, abs=2)


def test_standard_error_of_a_mean() -> None:
    values_N = np.random.default_rng(0).normal(size=200)
    mean, error = mean_and_error(values_N)
    assert mean == pytest.approx(values_N.mean())
    assert error == pytest.approx(values_N.std(ddof=1) / np.sqrt(200))


def test_images_that_stand_twice_in_a_group_do_not_make_it_surer() -> None:
    values_N = np.random.default_rng(0).normal(size=50)
    once = mean_and_error(values_N)
    twice = mean_and_error(np.repeat(values_N, 2), [f"g{i // 2}" for i in range(100)])
    assert twice == pytest.approx(once)
    assert mean_and_error(np.repeat(values_N, 2))[1] < 0.8 * once[1]


def test_standard_error_of_too_few_is_not_known() -> None:
    assert np.isnan(mean_and_error(np.array([]))).all()
    mean, error = mean_and_error(np.array([1.0, 2.0]), ["g", "g"])
    assert mean == 1.5
    assert np.isnan(error)


def judged(name: str, nll_N: np.ndarray, parameters: int) -> Judged:
    row = RankedBackbone(backbone=name, status="ok", nll=float(nll_N.mean()), parameters=parameters)
    names = tuple(f"{i}" for i in range(len(nll_N)))
    return Judged(row=row, names=names, groups=names, nll_N=nll_N, baseline=0.5)


def a_split(count: int) -> Split:
    return Split(classes=("a", "b"), multi_label=False, train=(), test=(), folds_N=np.arange(count) % 5, how="all")


def test_what_is_told_apart_on_the_same_images_is_not_tied() -> None:
    # Images differ by far more than the two networks do: their errors apart would hide a difference that every image shows.
    base_N = np.random.default_rng(0).exponential(size=400)
    difference_N = np.random.default_rng(1).normal(0.02, 0.05, size=400)
    ranking = compare([judged("small", base_N + difference_N, 1), judged("large", base_N, 9)], [], a_split(400))
    best, second = ranking.backbones
    assert (best.backbone, second.backbone) == ("large", "small")
    assert second.behind == pytest.approx(difference_N.mean())
    assert second.behind_error == pytest.approx(difference_N.std(ddof=1) / 20)
    assert not second.tied
    assert ranking.best == ranking.recommended == "large"


def test_of_the_tied_the_smallest_is_recommended() -> None:
    base_N = np.random.default_rng(0).exponential(size=400)
    noise_N = np.random.default_rng(1).normal(0, 0.05, size=400)
    noise_N -= noise_N.mean()
    rows = [
        judged("best", base_N, 50),
        judged("near", base_N + noise_N + 0.003, 20),
        judged("also near", base_N - noise_N + 0.003, 30),
        judged("far", base_N + noise_N + 0.1, 1),
    ]
    ranking = compare(rows, [], a_split(400))
    assert {row.backbone for row in ranking.backbones if row.tied} == {"best", "near", "also near"}
    assert ranking.best == "best"
    assert ranking.recommended == "near"
    assert [row.nll for row in ranking.backbones] == sorted(row.nll for row in ranking.backbones)


def test_a_difference_too_small_to_matter_is_no_difference() -> None:
    # Every image says the same, so that the error is next to nothing; so is the difference.
    base_N = np.full(400, 0.002)
    ranking = compare([judged("small", base_N + 0.0005, 1), judged("large", base_N, 9)], [], a_split(400))
    assert ranking.recommended == "small"
    assert compare([judged("small", base_N + 0.005, 1), judged("large", base_N, 9)], [], a_split(400)).recommended == "large"


def test_a_ranking_agrees_with_a_fit_on_the_same_images(photos: Path, cache: Path, tmp_path: Path) -> None:
    ranking = rank(Data(path=photos, test="none"), backbones=["efficientnet_lite0"], size=48)
    run = fit(Recipe(data=Data(path=photos, test="none"), size=48), tmp_path / "run")
    (row,) = ranking.backbones
    assert run.summary is not None
    assert ranking.images == run.summary.train == 36
    # A ranking compares raw answers; those of a fit are calibrated.
    assert run.summary.calibrated is not None
    assert row.nll == pytest.approx(run.summary.calibrated.nll_before, rel=1e-6)
    assert row.accuracy == run.summary.cross_validation.accuracy.value
    assert ranking.baseline == run.summary.cross_validation.baseline
    # The features were in the cache, and so was the head.
    assert run.summary.cache_misses == 0


def test_ranks_backbones_best_first_and_again_from_the_cache(photos: Path, cache: Path) -> None:
    first = rank(photos, backbones=[SMALL, SMALLEST, SMALL], weights="none", size=64)
    assert [row.status for row in first.backbones] == ["ok", "ok"]
    assert first.backbones[0].behind == 0
    assert first.backbones[0].tied
    assert first.recommended in {row.backbone for row in first.backbones if row.tied}
    assert all(row.imagenet_top1 is None and row.images_per_s > 0 and not row.cached for row in first.backbones)
    again = rank(photos, backbones=[SMALL, SMALLEST], weights="none", size=64)
    assert all(row.cached for row in again.backbones)
    assert [row.nll for row in again.backbones] == [row.nll for row in first.backbones]
    assert {row.backbone: row.parameters for row in again.backbones}[SMALLEST] > 100_000


def test_only_training_images_of_the_split_that_fit_makes_are_looked_at(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Sample] = []
    real = regraft.ranking.extract_features

    def watched(samples: tuple[Sample, ...], *arguments: object, **options: object) -> object:
        seen.extend(samples)
        return real(samples, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(regraft.ranking, "extract_features", watched)
    ranking = rank(photos, backbones=[SMALLEST], weights="none", size=64, images=15, seed=5)
    data = Data(path=photos)
    split = split_samples(read_samples(data), data, seed=5)
    assert ranking.images == len(seen) == 15
    assert {sample.name for sample in seen} <= {sample.name for sample in split.train}


def test_states_what_is_known_of_embedded_backbones(photos: Path, cache: Path) -> None:
    (row,) = rank(photos, backbones="efficientnet_lite1", size=48, images=20).backbones
    assert row.imagenet_top1 == 76.7
    assert row.parameters == 5_416_680


def test_a_backbone_that_fails_does_not_end_the_ranking(photos: Path, cache: Path) -> None:
    ranking = rank(photos, backbones=["timm:resent50", SMALLEST, "nonsense"], weights="none", size=64)
    assert [(row.backbone, row.status) for row in ranking.backbones] == [
        (SMALLEST, "ok"),
        ("timm:resent50", "failed"),
        ("nonsense", "failed"),
    ]
    assert "resent50" in ranking.backbones[1].reason
    assert "resnet50" in ranking.backbones[1].reason
    assert ranking.recommended == SMALLEST


def test_running_out_of_memory_is_a_failure_of_that_backbone_alone(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = regraft.ranking.extract_features

    def small_ones_only(samples: object, backbone: object, *arguments: object, **options: object) -> object:
        if backbone.name == SMALL:  # type: ignore[attr-defined]
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"
            )
        return real(samples, backbone, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(regraft.ranking, "extract_features", small_ones_only)
    ranking = rank(photos, backbones=[SMALL, SMALLEST], weights="none", size=64)
    assert [(row.backbone, row.status) for row in ranking.backbones] == [(SMALLEST, "ok"), (SMALL, "failed")]
    assert "allocate memory" in ranking.backbones[1].reason


def test_where_all_fail_the_first_error_is_raised(photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def headless(name: str, **options: object) -> None:
        kind = HeadNotFound if name == "first" else BackboneNotFound
        raise kind(expected="a head", got=name, fix="another")

    monkeypatch.setattr(regraft.ranking, "load_backbone", headless)
    with pytest.raises(HeadNotFound, match="first"):
        rank(photos, backbones=["first", "second"])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"backbones": []}, "names of backbones"),
        ({"backbones": ["efficientnet_lite0", ""]}, "names of backbones"),
        ({"images": 9}, "--images"),
        ({"weights": "resnet.pth"}, "--weights none"),
        ({"size": 3}, "--size"),
    ],
)
def test_refuses_what_cannot_be_meant(photos: Path, cache: Path, options: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        rank(photos, **options)  # type: ignore[arg-type]
    assert not cache.exists()


def test_command_prints_a_table_and_what_follows_from_it(photos: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["rank", str(photos), "--backbones", f"{SMALL}, {SMALLEST}", "--weights", "none", "--size", "64"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert SMALL in printed.out
    assert "±" in printed.out
    assert printed.out.splitlines()[-1].startswith("recommended")
    assert "2 of 2" in printed.err


def test_command_prints_json_and_leaves_with_5_where_some_failed(
    photos: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["rank", str(photos), "--backbones", f"nonsense,{SMALLEST}", "--weights", "none", "--size", "64", "--json"]
    assert main(arguments) == 5
    fields = json.loads(capsys.readouterr().out)
    assert fields["recommended"] == fields["best"] == SMALLEST
    assert fields["classes"] == ["amber", "blue", "cyan"]
    good, bad = fields["backbones"]
    assert good["accuracy"]["error"] >= 0
    assert good["nll"]["value"] > 0
    assert good["behind"] == {"value": 0, "error": 0}
    assert (bad["status"], bad["parameters"], bad["accuracy"]["value"]) == ("failed", None, None)
    assert "nonsense" in bad["reason"]


def test_command_leaves_with_the_errors_own_code_where_all_failed(
    photos: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rank", str(photos), "--backbones", "nonsense", "--json"]) == 2
    assert capsys.readouterr().out == ""
    assert main(["rank", str(photos / "nowhere"), "--json"]) == 3
