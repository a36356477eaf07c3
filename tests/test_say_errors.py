"""The first line of what a library raises stands in a message, and an exception that says nothing does no harm."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from regraft.cache import choose
from regraft.cache.engines import Candidate, Network, TorchEngine
from regraft.cli import doctor
from regraft.data.tabular import read_columns
from regraft.errors import DataUnusable, UsageError, first_line
from regraft.row_table import table_rows


def test_the_first_line_is_cut_short_and_never_empty() -> None:
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError("\n\n  one \ntwo")) == "one"
    assert first_line(ValueError("x" * 300)) == "x" * 160
    assert first_line(ValueError("x" * 300), 120) == "x" * 120
    assert first_line(ValueError()) == first_line(ValueError("\n \n")) == "ValueError"
    assert first_line("Linear(\n  2\n)") == "Linear("


def test_a_parquet_table_that_breaks_without_a_word_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "labels.parquet"
    path.write_bytes(b"")

    def broken(*_: object) -> None:
        raise pa.ArrowInvalid

    monkeypatch.setattr(pq, "ParquetFile", broken)
    with pytest.raises(DataUnusable, match=r"labels.parquet: ArrowInvalid"):
        read_columns(path, [("path", None)])
    with pytest.raises(UsageError, match="ArrowInvalid"):
        list(table_rows(path))


def test_an_engine_that_breaks_without_a_word_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mean(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.float().mean((1, 2))

    def broken() -> TorchEngine:
        raise MemoryError

    plain = Candidate("plain", lambda: TorchEngine(Mean(), device="cpu", dtype=torch.float32))
    monkeypatch.setattr(choose, "candidates", lambda *_: [plain, Candidate("broken", broken)])
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 4)).astype(np.uint8)
    timings, engine = choose.measure(Network(Mean(), "", None), pixels, images=10, device="cpu")
    assert engine.name == "torch cpu fp32"
    assert [(timing.name, timing.note) for timing in timings if timing.note] == [
        ("broken", "not used: MemoryError: MemoryError")
    ]


def test_the_doctor_names_what_broke_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> dict[str, object]:
        raise RuntimeError

    monkeypatch.setattr(doctor, "_networks", broken)
    _, problems = doctor.examine()
    assert "RuntimeError: RuntimeError" in problems
