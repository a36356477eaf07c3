"""Training checkpoints: bit for bit what was saved, and at every instant and whatever fails a whole one on the disk."""

import errno
import hashlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
from torch import Tensor

from regraft.artifact.canonical import CHECKSUM, canonical, checksum
from regraft.artifact.checkpoint import check_room, newest_checkpoint, remove_checkpoints, save_checkpoint
from regraft.artifact.checkpoint_record import Checkpoint
from regraft.errors import Diverged, NotWritable, OutOfSpace, RegraftError, SavedModelRefused

KILLED = -signal.SIGKILL


@pytest.fixture(autouse=True)
def _no_threads_where_a_process_forks() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    # A kill leaves the kernel's memory of the files as it is: only a power cut tells synced from not, and no test makes one.
    monkeypatch.setattr(os, "fsync", os.fstat)


def checkpoint(number: int, **facts: object) -> Checkpoint:
    """A small checkpoint of all that one may hold; another number, other values."""
    chance = torch.Generator().manual_seed(number)
    wide = torch.randn(6, 40, generator=chance)
    tensors = {
        "network/conv.weight": torch.randn(8, 3, 5, 5, generator=chance).to(memory_format=torch.channels_last),
        "network/norm.count": torch.tensor(number),
        "best/half": torch.randn(7, 3, generator=chance).bfloat16(),
        "optimiser/strided": wide[:, ::2].T,
        "optimiser/step": torch.tensor(float(number)),
        "masks/one": torch.tensor(number % 2 == 0),
        "masks/some": torch.rand(5, generator=chance) > 0.5,
        "bytes": torch.randint(0, 256, (3, 3), generator=chance).to(torch.uint8),
        "empty": torch.zeros(0, 4),
        "zeros, é": torch.tensor([0.0, -0.0, 1e-45, 3.4e38]),
    }
    return Checkpoint(number=number, tensors=tensors, facts={"phase": 1, "loss": 0.1 + number, "best": None, **facts})


def same(first: Checkpoint, second: Checkpoint) -> bool:
    """Whether two checkpoints are equal, tensors bit for bit."""
    if (first.number, dict(first.facts)) != (
        second.number,
        dict(second.facts),
    ) or first.tensors.keys() != second.tensors.keys():
        return False
    pairs = [(first.tensors[name], second.tensors[name]) for name in first.tensors]
    return all(a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b) for a, b in pairs)


def bits(tensor: Tensor) -> bytes:
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    return bytes(flat.tolist())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def names(*numbers: int) -> set[str]:
    return {f"{number:09d}.{suffix}" for number in numbers for suffix in ("json", "safetensors")}


def newest(folder: Path) -> Checkpoint:
    found = newest_checkpoint(folder)
    assert found is not None
    return found.checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the checkpoints 11 and 12."""
    for number in (11, 12):
        save_checkpoint(tmp_path / "run" / ".checkpoints", checkpoint(number))
    return tmp_path / "run" / ".checkpoints"


def test_comes_back_bit_for_bit_in_memory_of_its_own(tmp_path: Path) -> None:
    saved = checkpoint(0, nested={"a": [1, {"b": [True, "é", -0.0, 1e-300]}]})
    save_checkpoint(tmp_path, saved)
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.notes == ()
    assert same(found.checkpoint, saved)
    before = contents(tmp_path)
    for value in found.checkpoint.tensors.values():
        assert value.device.type == "cpu"
        value.zero_()
    assert contents(tmp_path) == before
    assert same(newest(tmp_path), saved)
    storages = [value.untyped_storage().data_ptr() for value in found.checkpoint.tensors.values() if value.numel()]
    assert len(set(storages)) == len(storages)


def test_parameters_and_shared_tensors_are_saved_as_they_are(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.randn(2, 2))
    save_checkpoint(tmp_path, Checkpoint(number=0, tensors={"a": weight, "b": weight.T}, facts={}))
    assert torch.equal(newest(tmp_path).tensors["a"], weight)
    assert torch.equal(newest(tmp_path).tensors["b"], weight.T)
    assert not newest(tmp_path).tensors["a"].requires_grad


def test_same_checkpoint_gives_the_same_bytes(tmp_path: Path) -> None:
    one = checkpoint(3)
    other = Checkpoint(
        number=3, tensors=dict(reversed(list(one.tensors.items()))), facts=dict(reversed(list(one.facts.items())))
    )
    save_checkpoint(tmp_path / "a", one)
    save_checkpoint(tmp_path / "b", other)
    save_checkpoint(tmp_path / "c", newest(tmp_path / "a"))
    save_checkpoint(tmp_path / "c", newest(tmp_path / "a"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")
    assert contents(tmp_path / "a").keys() == names(3)


def test_the_tensors_are_plain_safetensors(folder: Path) -> None:
    read = safetensors.torch.load_file(folder / "000000012.safetensors")
    assert same(Checkpoint(number=12, tensors=read, facts=checkpoint(12).facts), checkpoint(12))
    facts = json.loads((folder / "000000012.json").read_bytes())["facts"]
    assert facts == checkpoint(12).facts


def test_nothing_there_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "no" / "such") is None
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / "12.json").write_text("{}")
    (tmp_path / ".000000000.safetensors.tmp").write_bytes(b"unfinished")
    (tmp_path / "000000000.safetensors").write_bytes(b"without its JSON")
    assert newest_checkpoint(tmp_path) is None


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(SavedModelRefused, match="run"):
        newest_checkpoint(tmp_path / "run")
    with pytest.raises(NotWritable, match="run"):
        save_checkpoint(tmp_path / "run", checkpoint(0))
    assert (tmp_path / "run").read_text() == "mine"


def test_keeps_the_one_before_and_removes_the_rest_by_number(tmp_path: Path) -> None:
    for number in range(1000):
        for name in names(number):
            (tmp_path / name).write_bytes(b"stale")
    for name in (".000000999.json.tmp", ".000001000.safetensors.tmp", ".000002000.safetensors.tmp"):
        (tmp_path / name).write_bytes(b"left by a kill")
    mine = {"notes.txt", "7.json", "000000007.pt", "0000000007.json", ".000000008.json", "000000009.json.tmp"}
    for name in mine:
        (tmp_path / name).write_bytes(b"mine")
    save_checkpoint(tmp_path, checkpoint(1000))
    assert contents(tmp_path).keys() == names(999, 1000) | mine
    save_checkpoint(tmp_path, checkpoint(1001))
    assert contents(tmp_path).keys() == names(1000, 1001) | mine
    assert same(newest(tmp_path), checkpoint(1001))


@pytest.mark.parametrize("power", [1, 2, 3, 9])
def test_nine_comes_before_ten(tmp_path: Path, power: int) -> None:
    for number in range(10**power - 2, 10**power + 2):
        save_checkpoint(tmp_path, checkpoint(number))
        assert newest(tmp_path).number == number
        assert contents(tmp_path).keys() == names(*range(max(number - 1, 10**power - 2), number + 1))


def test_stale_files_that_cannot_be_removed_do_no_harm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", failing(os.unlink, range(1, 100), errno.EACCES))
        save_checkpoint(folder, checkpoint(13))
    assert contents(folder).keys() == names(11, 12, 13)
    assert newest(folder).number == 13
    save_checkpoint(folder, checkpoint(14))
    assert contents(folder).keys() == names(13, 14)


def test_finished_runs_keep_none(folder: Path) -> None:
    (folder / ".000000013.json.tmp").write_bytes(b"left by a kill")
    remove_checkpoints(folder)
    assert not folder.exists()
    remove_checkpoints(folder)
    save_checkpoint(folder, checkpoint(0))
    (folder / "mine").write_text("mine")
    remove_checkpoints(folder)
    assert contents(folder) == {"mine": b"mine"}


# What is damaged.


def truncated(data: bytes) -> Iterator[bytes]:
    for share in range(20):
        yield data[: len(data) * share // 20]
    yield from (data[:7], data[:8], data[:-1], data[:-8])


def flipped(data: bytes) -> Iterator[bytes]:
    chance = random.Random(0)
    for place in [0, 7, 8, len(data) - 1, *chance.sample(range(len(data)), 46)]:
        yield data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]


def grown(data: bytes) -> Iterator[bytes]:
    yield from (data + b"\0", data + b"\n", data + data, b"\0" * len(data), b"PK\x03\x04" + data, b"\x80\x04" + data)
    yield from ((2**64 - 1).to_bytes(8, "little") + data[8:], b"[" * 100_000, b'{"a": NaN}', b'{"a": 1, "a": 1}', b"{}")


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
@pytest.mark.parametrize("kind", [truncated, flipped, grown])
def test_goes_on_from_the_one_before_a_damaged_one(folder: Path, kind: Callable[[bytes], Iterator[bytes]], suffix: str) -> None:
    path = folder / f"000000012.{suffix}"
    whole = path.read_bytes()
    for data in kind(whole):
        assert data != whole
        path.write_bytes(data)
        found = newest_checkpoint(folder)
        assert found is not None
        assert same(found.checkpoint, checkpoint(11))
        [note] = found.notes
        assert note.startswith(f"checkpoint 12 is damaged ({path}: ")
        assert note.endswith("): going on from 11")
    path.write_bytes(whole)
    assert same(newest(folder), checkpoint(12))


def test_missing_files_are_said(folder: Path) -> None:
    spare = shutil.copytree(folder, folder.with_name("spare"))
    for name, words in (("000000012.json", "was not finished"), ("000000012.safetensors", "no such file")):
        (folder / name).unlink()
        found = newest_checkpoint(folder)
        assert found is not None
        assert same(found.checkpoint, checkpoint(11))
        assert words in found.notes[0]
        shutil.copy(spare / name, folder)
    # An older one that is damaged is no news.
    (folder / "000000011.safetensors").unlink()
    found = newest_checkpoint(folder)
    assert found is not None
    assert (found.checkpoint.number, found.notes) == (12, ())


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to(path)])
def test_what_is_no_file_is_damaged(folder: Path, make: Callable[[Path], None]) -> None:
    for name in names(12):
        spare = (folder / name).read_bytes()
        (folder / name).unlink()
        make(folder / name)
        assert newest(folder).number == 11
        (folder / name).rmdir() if (folder / name).is_dir() else (folder / name).unlink()
        (folder / name).write_bytes(spare)
    assert newest(folder).number == 12


def test_goes_on_after_damage_and_is_rid_of_it(folder: Path) -> None:
    (folder / "000000012.safetensors").write_bytes(b"")
    (folder / "000000013.json").write_bytes(b"")
    found = newest_checkpoint(folder)
    assert found is not None
    assert [note.split(" (")[0] for note in found.notes] == ["checkpoint 13 is damaged", "checkpoint 12 is damaged"]
    save_checkpoint(folder, checkpoint(12, again=True))
    assert contents(folder).keys() == names(11, 12)
    found = newest_checkpoint(folder)
    assert found is not None
    assert found.notes == ()
    assert same(found.checkpoint, checkpoint(12, again=True))


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_never_starts_from_nothing_when_all_are_damaged(folder: Path, suffix: str) -> None:
    for path in folder.glob(f"*.{suffix}"):
        path.write_bytes(path.read_bytes()[:-3])
    before = contents(folder)
    with pytest.raises(SavedModelRefused) as caught:
        newest_checkpoint(folder)
    assert caught.value.exit_code == 4
    assert str(folder) in caught.value.expected
    assert "12 is damaged" in caught.value.got
    assert "11 is damaged" in caught.value.got
    assert "--overwrite" in caught.value.fix
    assert contents(folder) == before


def resealed(folder: Path, **changes: Any) -> None:
    """Another JSON for checkpoint 12, with the checksum that it should have."""
    path = folder / "000000012.json"
    value = json.loads(path.read_bytes())
    value |= changes
    value = {key: item for key, item in value.items() if item is not ...}
    path.write_bytes(canonical(value | {CHECKSUM: checksum(value)}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": "regraft"}, "'regraft' of version 1"),
        ({"format_version": 2}, "of version 2"),
        ({"number": 13}, "checkpoint 13 under the number 12"),
        ({"extra": 1}, "other fields"),
        ({"facts": ...}, "other fields"),
        ({"facts": []}, "other fields"),
        ({"tensors": []}, "other fields"),
        ({"bytes": 1}, "another size"),
        ({"sha256": "0" * 64}, "another checksum"),
        ({"sha256": None}, "another checksum"),
        ({"tensors": {}}, "another size"),
        ({"tensors": {"a": "F64 1"}}, "no dtype and shape"),
        ({"tensors": {"a": "F32 -1"}}, "no dtype and shape"),
        ({"tensors": {"a": "F32" + " 2" * 9}}, "no dtype and shape"),
        ({"tensors": {"a": ["F32", 1]}}, "no dtype and shape"),
        ({"tensors": {"a": "F32 0 999999999999 999999999999"}}, "over 1,099,511,627,776 numbers"),
        ({"tensors": {"a": "F32 999999999999", "b": "F32 999999999"}}, "another size"),
        ({"tensors": {"__metadata__": "F32 1"}}, "a tensor named __metadata__"),
        ({"tensors": {str(index): "F32" for index in range(80_001)}}, "80,001 tensors, over 80,000"),
    ],
)
def test_a_json_that_lies_is_refused(folder: Path, changes: dict[str, Any], reason: str) -> None:
    resealed(folder, **changes)
    found = newest_checkpoint(folder)
    assert found is not None
    assert same(found.checkpoint, checkpoint(11))
    assert reason in found.notes[0]


def test_a_json_of_other_tensors_of_the_same_size_is_refused(folder: Path) -> None:
    tensors = json.loads((folder / "000000012.json").read_bytes())["tensors"]
    resealed(folder, tensors=tensors | {"optimiser/strided": tensors["optimiser/strided"].replace("20 6", "6 20")})
    found = newest_checkpoint(folder)
    assert found is not None
    assert "a header of other tensors" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "byte", "reason"), [("best/half", b"\xff", "NaN or infinity"), ("masks/some", b"\2", "neither true nor false")]
)
def test_tensors_that_no_save_writes_are_refused(folder: Path, name: str, byte: bytes, reason: str) -> None:
    path = folder / "000000012.safetensors"
    data = path.read_bytes()
    old = bits(checkpoint(12).tensors[name])
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, byte * len(old)))
    resealed(folder, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    found = newest_checkpoint(folder)
    assert found is not None
    assert found.checkpoint.number == 11
    assert reason in found.notes[0]
    assert name in found.notes[0]


# What is refused before anything is written.


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_without_a_number_reaches_the_disk(folder: Path, bad: float, dtype: torch.dtype) -> None:
    before = contents(folder)
    tensors = dict(checkpoint(13).tensors) | {"best/head.weight": torch.tensor([[1.0, bad]], dtype=dtype)}
    with pytest.raises(Diverged, match=r"NaN or infinity in 'best/head\.weight'") as caught:
        save_checkpoint(folder, Checkpoint(number=13, tensors=tensors, facts={}))
    assert caught.value.exit_code == 7
    assert contents(folder) == before


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_no_fact_without_a_number_reaches_the_disk(folder: Path, bad: float) -> None:
    before = contents(folder)
    with pytest.raises(Diverged, match=r"facts\.epochs\[1\]\.loss"):
        save_checkpoint(folder, checkpoint(13, epochs=[{"loss": None}, {"loss": bad}]))
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"tensors": {"a": torch.zeros(1, dtype=torch.float64)}}, ValueError),
        ({"tensors": {"a": torch.zeros(1, dtype=torch.float16)}}, ValueError),
        ({"tensors": {"__metadata__": torch.zeros(1)}}, ValueError),
        ({"tensors": {"a": torch.zeros((1,) * 9)}}, ValueError),
        ({"facts": {"a": 10**19}}, ValueError),
        ({"facts": {"a": "\ud800"}}, ValueError),
        ({"facts": {"a": "x" * 16_000_000}}, ValueError),
        ({"facts": {"a": {1: 2}}}, TypeError),
        ({"facts": {"a": {1, 2}}}, TypeError),
        ({"number": -1}, ValueError),
        ({"number": 10**15}, ValueError),
    ],
)
def test_what_could_not_be_read_back_is_not_written(folder: Path, wrong: dict[str, Any], error: type[Exception]) -> None:
    before = contents(folder)
    with pytest.raises(error):
        save_checkpoint(folder, Checkpoint(**{"number": 13, "tensors": {}, "facts": {}} | wrong))
    assert contents(folder) == before


# Disks that are full or fail.


def size_of(folder: Path, number: int) -> int:
    return sum((folder / name).stat().st_size for name in names(number))


def error_of_saving(folder: Path, saved: Checkpoint) -> RegraftError | None:
    try:
        save_checkpoint(folder, saved)
    except RegraftError as error:
        return error
    return None


@pytest.mark.parametrize("facts", [{}, {"parameters": ["x" * 100] * 100}], ids=["large tensors", "large facts"])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, facts: dict[str, Any]) -> None:
    """A limit on the size of files stands for the full disk: the kernel cuts the write short at it, then refuses."""
    for number in (11, 12):
        save_checkpoint(tmp_path, checkpoint(number, **facts))
    needed = size_of(tmp_path, 12)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    failed = 0
    for step in range(41):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * needed * step // 40, hard))
        try:
            error = error_of_saving(tmp_path, checkpoint(13, **facts))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        if error is None:
            break
        failed += 1
        assert type(error) is OutOfSpace
        assert f"room for {needed:,} bytes in {tmp_path}" in error.expected
        assert same(newest(tmp_path), checkpoint(12, **facts))
        assert contents(tmp_path).keys() == names(11, 12)
    assert 5 < failed < 40
    assert same(newest(tmp_path), checkpoint(13, **facts))
    assert contents(tmp_path).keys() == names(12, 13)


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_too_little_room_is_said_before_anything_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, needed = contents(folder), size_of(folder, 12)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - needed + 1, needed - 1))
    with pytest.raises(OutOfSpace, match=f"room for {needed:,} bytes in {folder}\n.*{needed - 1:,} bytes free"):
        save_checkpoint(folder, checkpoint(13))
    assert contents(folder) == before
    with pytest.raises(OutOfSpace):
        check_room(folder / "not" / "there" / "yet", needed)
    check_room(folder / "not" / "there" / "yet", needed - 1)
    # A file system that does not know its size.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 0))
    save_checkpoint(folder, checkpoint(13))


def failing(original, fail_at, number: int):  # type: ignore[no-untyped-def]
    """`original`, whose `fail_at` calls raise an OSError."""
    calls = 0

    def call(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls in fail_at:
            raise OSError(number, os.strerror(number))
        return original(*arguments, **options)

    return call


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EACCES])
def test_a_failing_disk_leaves_the_one_before_or_the_new_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    spare = shutil.copytree(folder, folder.with_name("spare"))
    for fail_at in range(1, 20):
        shutil.rmtree(folder)
        shutil.copytree(spare, folder)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing(getattr(os, call), {fail_at}, number))
            error = error_of_saving(folder, checkpoint(13))
        if error is None:
            break
        assert type(error) is (OutOfSpace if number in (errno.ENOSPC, errno.EDQUOT) else NotWritable)
        assert error.exit_code == 6
        assert os.strerror(number) in error.got
        left = newest(folder)
        assert same(left, checkpoint(12)) or same(left, checkpoint(13))
        assert contents(folder).keys() == names(11, 12) | (names(13) if left.number == 13 else set())
    assert fail_at > 2


def test_an_interrupt_at_any_rename_leaves_nothing_half_done(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.replace
    for step, after in ((1, False), (1, True), (2, False), (2, True)):
        calls = 0

        def interrupted(*arguments: Any, step: int = step, after: bool = after) -> None:
            nonlocal calls
            calls += 1
            if calls != step or after:
                rename(*arguments)
            if calls == step:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", interrupted)
            with pytest.raises(KeyboardInterrupt):
                save_checkpoint(folder, checkpoint(13))
        committed = (step, after) == (2, True)
        assert same(newest(folder), checkpoint(13 if committed else 12))
        assert contents(folder).keys() == names(11, 12) | (names(13) if committed else set())


def test_everything_is_synced_before_it_is_renamed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, rename, unlink = os.fsync, os.replace, os.unlink

    def synced(descriptor: int) -> None:
        steps.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        steps.append(f"{Path(source).name} -> {Path(target).name}")
        rename(source, target)

    def removed(path: Path) -> None:
        if Path(path).exists():
            steps.append(f"remove {Path(path).name}")
        unlink(path)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    monkeypatch.setattr(os, "unlink", removed)
    save_checkpoint(folder, checkpoint(13))
    assert steps == [
        "sync .000000013.safetensors.tmp",
        ".000000013.safetensors.tmp -> 000000013.safetensors",
        "sync .checkpoints",
        "sync .000000013.json.tmp",
        ".000000013.json.tmp -> 000000013.json",
        "sync .checkpoints",
        "remove 000000011.json",
        "remove 000000011.safetensors",
    ]


# Kills.

CALLS = ("open", "write", "fsync", "replace", "rename", "unlink", "mkdir", "close", "rmdir", "scandir")


def in_child(work: Callable[[], None]) -> int:
    """The exit code of a child process that does `work`; 0 when it got through."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


def dying(work: Callable[[], object], moment: int) -> Callable[[], None]:
    """`work`, in a process that kills itself at the `moment`-th moment; one is before and one is after each system call."""

    def counted(original: Callable[..., object], moments: Iterator[int]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            for after in (False, True):
                result = original(*arguments, **options) if after else None
                if next(moments) == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    def run() -> None:
        moments = iter(range(1, 10_000))
        for name in CALLS:
            setattr(os, name, counted(getattr(os, name), moments))
        work()

    return run


def test_a_kill_at_any_step_leaves_the_one_before_or_the_new_one(folder: Path) -> None:
    spare = shutil.copytree(folder, folder.with_name("spare"))
    found = []
    for moment in range(1, 200):
        shutil.rmtree(folder)
        shutil.copytree(spare, folder)
        code = in_child(dying(lambda: save_checkpoint(folder, checkpoint(13)), moment))
        assert code in (0, KILLED)
        left = newest(folder)
        assert same(left, checkpoint(left.number)), f"killed at moment {moment}"
        found.append(left.number)
        if code == 0:
            break
        save_checkpoint(folder, checkpoint(left.number + 1))
        assert same(newest(folder), checkpoint(left.number + 1))
        assert contents(folder).keys() == names(left.number, left.number + 1), f"left behind after moment {moment}"
    else:
        pytest.fail("the save never got through")
    assert found == sorted(found)
    assert set(found) == {12, 13}
    assert min(found.count(12), found.count(13)) > 8


def test_a_kill_during_the_first_save_leaves_none_or_all_of_it(tmp_path: Path) -> None:
    found = []
    for moment in range(1, 200):
        folder = tmp_path / str(moment) / ".checkpoints"
        code = in_child(dying(lambda folder=folder: save_checkpoint(folder, checkpoint(0)), moment))  # type: ignore[misc]
        assert code in (0, KILLED)
        left = newest_checkpoint(folder)
        assert left is None or same(left.checkpoint, checkpoint(0))
        found.append(left is not None)
        save_checkpoint(folder, checkpoint(0))
        assert contents(folder).keys() == names(0)
        if code == 0:
            break
    assert found == sorted(found)
    assert found.count(False) > 8


def test_a_kill_within_a_write_leaves_the_one_before(folder: Path) -> None:
    """The kernel's own signal at the limit on the size of files: it comes after a part of the bytes is written."""
    largest = max(map(len, contents(folder).values()))
    found = []
    for limit in [*range(0, largest, largest // 20), 2 * largest]:

        def limited(limit: int = limit) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            save_checkpoint(folder, checkpoint(13))

        found.append(in_child(limited))
        assert same(newest(folder), checkpoint(12 if found[-1] else 13))
    assert found == [-signal.SIGXFSZ] * (len(found) - 1) + [0]
    assert contents(folder).keys() == names(12, 13)


def test_a_second_kill_after_a_first_one_still_leaves_a_whole_checkpoint(folder: Path) -> None:
    spare = shutil.copytree(folder, folder.with_name("spare"))
    for first in range(3, 40, 8):
        for second in range(2, 40, 8):
            shutil.rmtree(folder)
            shutil.copytree(spare, folder)
            in_child(dying(lambda: save_checkpoint(folder, checkpoint(13)), first))
            between = newest(folder).number
            in_child(dying(lambda: save_checkpoint(folder, checkpoint(newest(folder).number + 1)), second))
            left = newest(folder)
            assert left.number in (between, between + 1)
            assert same(left, checkpoint(left.number)), f"killed at {first}, then at {second}"


def save_for_ever(folder: Path, said: int) -> None:
    found = newest_checkpoint(folder)
    for number in itertools.count(found.checkpoint.number + 1 if found else 0):
        save_checkpoint(folder, checkpoint(number))
        os.write(said, number.to_bytes(8, "little"))


def killed_at_random(folder: Path, chance: random.Random, *, started: bool) -> bytes:
    """What a saving child said before it was killed: at any time, or if `started` at any time after its first save."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            save_for_ever(folder, writer)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as said:
        first = said.read(8) if started else b""
        time.sleep(chance.uniform(0.0, 0.015))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED
        return first + said.read()


def test_a_kill_at_any_time_loses_one_checkpoint_at_most(tmp_path: Path) -> None:
    """A child saves and saves, and says when each is done; 50 times it is killed, and the next one goes on."""
    chance = random.Random(0)
    saved = -1
    for attempt in range(50):
        said = killed_at_random(tmp_path, chance, started=attempt % 2 == 0)
        saved = int.from_bytes(said[-8:], "little") if said else saved
        left = newest(tmp_path)
        assert left.number in (saved, saved + 1)
        assert same(left, checkpoint(left.number))
        saved = left.number
    assert saved >= 24


def test_a_kill_while_a_finished_run_is_cleared_leaves_no_damage(folder: Path) -> None:
    spare = shutil.copytree(folder, folder.with_name("spare"))
    for moment in range(1, 60):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(spare, folder)
        code = in_child(dying(lambda: remove_checkpoints(folder), moment))
        left = newest_checkpoint(folder)
        assert left is None or same(left.checkpoint, checkpoint(12))
        if code == 0:
            break
        remove_checkpoints(folder)
        assert not folder.exists()
    assert moment > 12
