"""The table of predictions: what is read equals what was written, and scores recomputed from it are equal to the last bit."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from regraft.errors import SavedModelRefused, UsageError
from regraft.evaluate import read_predictions, score, write_predictions
from regraft.values import Predictions

CLASSES = ("a,b", "<script>", "été", "z\n0")


def make(n: int, *, dtype: str = "float32", multi_label: bool = False, seed: int = 0, labelled: bool = True) -> Predictions:
    rng = np.random.default_rng(seed)
    targets = rng.random((n, 4)) < 0.4 if multi_label else rng.integers(0, 4, n)
    return Predictions(
        names=tuple(f"train/{seed}/{i:04d}.jpg" for i in range(n)),
        classes=CLASSES,
        logits_NK=rng.normal(0, 3, (n, 4)).astype(dtype),
        targets=targets if labelled else None,
        multi_label=multi_label,
    )


def assert_equal(got: Predictions, wanted: Predictions) -> None:
    assert (got.names, got.classes, got.multi_label) == (wanted.names, wanted.classes, wanted.multi_label)
    assert got.logits_NK.dtype == wanted.logits_NK.dtype
    np.testing.assert_array_equal(got.logits_NK, wanted.logits_NK)
    assert (got.targets is None) == (wanted.targets is None)
    if wanted.targets is not None:
        np.testing.assert_array_equal(got.targets, wanted.targets)


@pytest.mark.parametrize("multi_label", [False, True])
def test_what_is_read_equals_what_was_written(tmp_path: Path, multi_label: bool) -> None:
    parts = {
        "test": make(37, multi_label=multi_label),
        "cross-validation": make(90, dtype="float64", seed=1, multi_label=multi_label),
    }
    write_predictions(tmp_path / "predictions.parquet", parts)
    read = read_predictions(tmp_path / "predictions.parquet")
    assert list(read) == list(parts)
    for name, part in parts.items():
        assert_equal(read[name], part)
        assert repr(score(read[name])) == repr(score(part))


def test_groups_survive_beside_a_part_without_any(tmp_path: Path) -> None:
    grouped = replace(make(12), groups=tuple(f"patient\n{i // 3}" for i in range(12)))
    write_predictions(tmp_path / "p.parquet", {"test": grouped, "validation": make(5, seed=1)})
    read = read_predictions(tmp_path / "p.parquet")
    assert (read["test"].groups, read["validation"].groups) == (grouped.groups, None)


def test_an_empty_part_and_missing_truth_survive(tmp_path: Path) -> None:
    parts = {"test": make(0), "new": make(5, labelled=False)}
    write_predictions(tmp_path / "p.parquet", parts)
    read = read_predictions(tmp_path / "p.parquet")
    for name, part in parts.items():
        assert_equal(read[name], part)


def test_columns_are_what_a_reader_of_parquet_expects(tmp_path: Path) -> None:
    part = make(20)
    write_predictions(tmp_path / "p.parquet", {"test": part})
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.column_names == ["path", "part", "label", "predicted", "confidence", "correct", "logits"]
    assert table.schema.field("logits").type == pa.list_(pa.float32(), 4)
    assert isinstance(part.targets, np.ndarray)
    assert table["label"].to_pylist() == [CLASSES[t] for t in part.targets]
    assert np.mean(table["correct"].to_pylist()) == score(part).accuracy.value
    powers = np.exp(part.logits_NK.astype(float))
    np.testing.assert_allclose(table["confidence"].to_numpy(), (powers / powers.sum(1, keepdims=True)).max(1))


def test_the_same_predictions_give_the_same_bytes_and_leave_no_other_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_predictions(tmp_path / name, {"test": make(20)})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]


def test_a_failed_write_leaves_the_old_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.parquet"
    write_predictions(path, {"test": make(20)})
    before = path.read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        Path(str(args[1])).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(Exception, match="full disk"):
        write_predictions(path, {"test": make(30)})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["p.parquet"]


def test_a_name_that_is_not_unicode_is_written_escaped(tmp_path: Path) -> None:
    part = Predictions(names=("a\udcff.png",), classes=("x", "y"), logits_NK=np.zeros((1, 2)), targets=np.array([0]))
    write_predictions(tmp_path / "p.parquet", {"test": part})
    assert read_predictions(tmp_path / "p.parquet")["test"].names == ("a\\udcff.png",)


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.parquet", tmp_path / "bad.parquet"
    write_predictions(good, {"test": make(300)})
    content = good.read_bytes()
    for cut in (0, 3, 100, len(content) // 2, len(content) - 1):
        bad.write_bytes(content[:cut])
        with pytest.raises(SavedModelRefused, match=r"bad\.parquet"):
            read_predictions(bad)
    pq.write_table(pa.table({"part": ["test"]}), bad)
    with pytest.raises(SavedModelRefused):
        read_predictions(bad)
    with pytest.raises(UsageError, match="no file"):
        read_predictions(tmp_path / "absent.parquet")
    with pytest.raises(UsageError, match="to write"):
        write_predictions(tmp_path / "absent" / "p.parquet", {"test": make(3)})


def test_parts_of_different_classes_do_not_mix(tmp_path: Path) -> None:
    other = Predictions(names=("a",), classes=("x", "y"), logits_NK=np.zeros((1, 2)), targets=None)
    with pytest.raises(ValueError, match="2 kinds"):
        write_predictions(tmp_path / "p.parquet", {"test": make(3), "new": other})


def test_scores_and_tables_do_not_import_torch() -> None:
    code = "import sys, regraft.evaluate, regraft.report; sys.exit('torch' in sys.modules or 'pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_folder_with_a_colon_is_no_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = Path("run-partial:2/predictions.parquet")
    table.parent.mkdir()
    write_predictions(table, {"test": make(5, seed=1)})
    assert set(read_predictions(table)) == {"test"}
