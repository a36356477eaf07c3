"""Saving: the same bytes each time, nothing of others overwritten, and a whole model on disk at every instant."""

import errno
import os
import resource
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from faults.mkmodels import small_config, small_model, small_specs

from regraft.artifact import SavedModel, check_class_names, load_model, read_config, save_model
from regraft.artifact.durable import locked
from regraft.errors import DataUnusable, NotWritable, OutOfSpace, OutputExists, RegraftError, RunLocked, SavedModelRefused

FILES = {"config.json", "model.safetensors"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same(first: SavedModel, second: SavedModel) -> bool:
    """Whether two models are equal, tensors bit for bit."""
    if first.tensors.keys() != second.tensors.keys():
        return False
    pairs = [(first.tensors[name], second.tensors[name]) for name in first.tensors]
    equal = all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)
    config = second.config.model_dump(exclude={"model", "checksum"})
    return equal and first.config.model_dump(exclude={"model", "checksum"}) == config


def loads(folder: Path) -> SavedModel:
    return load_model(folder, expected=small_specs)


def test_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    model = small_model()
    reordered = replace(model, tensors=dict(reversed(model.tensors.items())))
    save_model(model, tmp_path / "a")
    save_model(reordered, tmp_path / "b")
    save_model(loads(tmp_path / "a"), tmp_path / "c")
    save_model(model, tmp_path / "a")
    assert contents(tmp_path / "a").keys() == FILES
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")


def test_the_weights_file_is_plain_safetensors(tmp_path: Path) -> None:
    model = small_model()
    save_model(model, tmp_path)
    read = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert read.keys() == model.tensors.keys()
    assert all(np.array_equal(read[name], model.tensors[name]) for name in read)


def test_files_get_the_users_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_model(small_model(), tmp_path)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}


def test_strided_and_scalar_tensors_keep_their_values(tmp_path: Path) -> None:
    model = small_model()
    wide = np.arange(48, dtype=np.float32).reshape(6, 8)
    strided = wide[:, ::2].T
    assert not strided.flags.c_contiguous
    tensors = dict(model.tensors) | {"head.weight": strided}
    save_model(replace(model, tensors=tensors), tmp_path)
    assert np.array_equal(loads(tmp_path).tensors["head.weight"], strided)
    assert loads(tmp_path).tensors["backbone.bn.num_batches_tracked"].shape == ()


def test_replaces_a_saved_model_and_leaves_other_files_alone(tmp_path: Path) -> None:
    save_model(small_model(0), tmp_path)
    (tmp_path / "report.html").write_text("<html>")
    save_model(small_model(1), tmp_path)
    assert same(loads(tmp_path), small_model(1))
    assert contents(tmp_path).keys() == FILES | {"report.html"}


@pytest.mark.parametrize(
    ("name", "data"),
    [("config.json", b'{"model_type": "bert"}'), ("config.json", b"not json"), ("model.safetensors", b"\x00" * 100)],
)
def test_refuses_to_overwrite_files_of_others(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(OutputExists, match=name):
        save_model(small_model(), tmp_path)
    assert contents(tmp_path) == {name: data}


def test_a_file_in_the_way_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    for folder in (tmp_path / "run", tmp_path / "run" / "deeper"):
        with pytest.raises(OutputExists, match="in the way"):
            save_model(small_model(), folder)
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (np.zeros(4, np.float64), "float64, not float32 or int64"),
        (np.zeros(4, np.float16), "float16"),
        (np.zeros(4, ">f4"), ">f4"),
        (np.array([None]), "object"),
        (np.array([1, np.nan], np.float32), "NaN or infinity in x"),
        (np.array([-np.inf], np.float32), "NaN or infinity in x"),
        ([1.0], "list"),
    ],
)
def test_refuses_tensors_that_could_not_be_loaded(tmp_path: Path, tensor: object, reason: str) -> None:
    model = small_model()
    with pytest.raises(SavedModelRefused, match=reason):
        save_model(SavedModel(config=model.config, tensors=dict(model.tensors) | {"x": tensor}), tmp_path / "run")  # type: ignore[dict-item]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["../x", "", "a b", "é", "a\n", "x" * 300])
def test_refuses_tensor_names_that_could_not_be_loaded(tmp_path: Path, name: str) -> None:
    with pytest.raises(SavedModelRefused, match="tensor name"):
        save_model(SavedModel(config=small_config(), tensors={name: np.zeros(1, np.float32)}), tmp_path)


def test_refuses_a_config_too_large_to_load(tmp_path: Path) -> None:
    names = tuple(f"{number:0250d}" for number in range(32_000))
    with pytest.raises(SavedModelRefused, match="over 8,000,000"):
        save_model(small_model(classes=names), tmp_path)


def test_non_finite_weights_are_kept_bit_for_bit_where_allowed(tmp_path: Path) -> None:
    model = small_model()
    odd = np.array([0x7FC00001, 0xFF800000, 0x80000000, 1], np.uint32).view(np.float32)
    model = replace(model, tensors=dict(model.tensors) | {"head.bias": odd})
    save_model(model, tmp_path, allow_nonfinite=True)
    with pytest.raises(SavedModelRefused, match=r"NaN or infinity in head\.bias"):
        loads(tmp_path)
    assert same(load_model(tmp_path, expected=small_specs, allow_nonfinite=True), model)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ((), "got 0"),
        (("a", "a"), "there twice"),
        (("é", "e\u0301"), "there twice"),
        (("a", ""), "blank"),
        ((" ",), "blank"),
        (("a\tb",), r"U\+0009"),
        (("a\x1b[2J",), r"U\+001B"),
        (("evil\u202egpj",), r"U\+202E"),
        (("a\u2066b",), r"U\+2066"),
        (("a\u2028b",), r"U\+2028"),
        (("a\ud800",), r"U\+D800"),
        (("x" * 257,), "over 256"),
        (tuple(map(str, range(100_001))), "100,001"),
    ],
)
def test_class_names_that_deceive_are_refused(names: tuple[str, ...], reason: str) -> None:
    with pytest.raises(DataUnusable, match=reason):
        check_class_names(names)
    with pytest.raises((DataUnusable, ValueError)):
        small_config(classes=names)


def test_odd_but_honest_class_names_are_kept(tmp_path: Path) -> None:
    names = ("<script>alert(1)</script>", "../../etc", "=cmd|' /C calc'!A0", "-x", "CON", "日本語", "👩‍🚒", "a,b\"c'")
    save_model(small_model(classes=names), tmp_path)
    assert read_config(tmp_path).classes == names


def count_calls(folder: Path, model: SavedModel, die_at: int) -> int:
    """Save in a child process that dies inside its `die_at`-th system call that matters; 0 when it got through."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    calls = 0

    def counted(name: str) -> None:
        original = getattr(os, name)

        def call(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == die_at:
                os._exit(9)
            return original(*arguments, **options)

        setattr(os, name, call)

    for name in ("open", "fsync", "replace", "unlink", "mkdir", "close"):
        counted(name)
    try:
        save_model(model, folder)
    except BaseException:
        os._exit(1)
    os._exit(0)


def test_a_kill_at_any_step_leaves_the_old_or_the_new_model(tmp_path: Path) -> None:
    old, new = small_model(0), small_model(1)
    found = []
    for step in range(1, 100):
        folder = tmp_path / str(step)
        save_model(old, folder)
        code = count_calls(folder, new, step)
        assert code in (0, 9)
        left = loads(folder)
        assert same(left, old) or same(left, new), f"killed at step {step}"
        found.append("old" if same(left, old) else "new")
        if code == 0:
            break
        save_model(small_model(2), folder)
        assert same(loads(folder), small_model(2))
        assert contents(folder).keys() == FILES, f"left behind after a kill at step {step}"
    else:
        pytest.fail("the save never got through")
    assert found == sorted(found, reverse=True)
    assert found.count("old") > 8
    assert found.count("new") > 3


def test_a_second_kill_after_a_first_one_still_leaves_a_whole_model(tmp_path: Path) -> None:
    models = [small_model(seed) for seed in range(3)]
    for first in (13, 16, 19, 22):
        for second in range(1, 40):
            folder = tmp_path / f"{first}-{second}"
            save_model(models[0], folder)
            count_calls(folder, models[1], first)
            between = loads(folder)
            code = count_calls(folder, models[2], second)
            left = loads(folder)
            assert same(left, between) or same(left, models[2]), f"killed at {first}, then at {second}"
            if code == 0:
                break


def test_everything_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(small_model(0), tmp_path)
    steps: list[str] = []
    fsync, rename = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        steps.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        steps.append(f"{Path(source).name} -> {Path(target).name}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    save_model(small_model(1), tmp_path)
    pending = f"model-{read_config(tmp_path).model.sha256[:16]}.safetensors"
    sync_folder = f"sync {tmp_path.name}"
    assert steps == [
        "sync .model.safetensors.tmp",
        "sync .config.json.tmp",
        f".model.safetensors.tmp -> {pending}",
        sync_folder,
        ".config.json.tmp -> config.json",
        sync_folder,
        f"{pending} -> model.safetensors",
        sync_folder,
    ]


def test_a_full_disk_leaves_the_old_model(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the kernel cuts the write short at it, then refuses."""
    old = small_model(0)
    save_model(old, tmp_path)
    weights = (tmp_path / "model.safetensors").stat().st_size
    both = weights + (tmp_path / "config.json").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    failed = 0
    for limit in np.linspace(0, 2 * both, 40).astype(int).tolist():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            error = error_of_saving(small_model(1), tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert contents(tmp_path).keys() == FILES
        if error is None:
            continue
        failed += 1
        assert type(error) is OutOfSpace
        assert f"room for {both:,} bytes" in error.expected
        assert same(loads(tmp_path), old)
    assert 5 < failed < 40
    assert same(loads(tmp_path), small_model(1))


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EACCES])
def test_a_failing_disk_leaves_the_old_or_the_new_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    for fail_at in range(1, 30):
        folder = tmp_path / str(fail_at)
        save_model(small_model(0), folder)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing(getattr(os, call), fail_at, number))
            error = error_of_saving(small_model(1), folder)
        if error is None:
            break
        # Where reading what is there fails, nothing is written and the files count as foreign.
        allowed = {OutOfSpace if number in (errno.ENOSPC, errno.EDQUOT) else NotWritable} | (
            {OutputExists} if call == "open" else set()
        )
        assert type(error) in allowed
        assert isinstance(error, OutputExists) or (error.exit_code == 6 and os.strerror(number) in error.got)
        left = loads(folder)
        assert same(left, small_model(0)) or same(left, small_model(1))
        assert not list(folder.glob(".*"))
        assert contents(folder).keys() == FILES or same(left, small_model(1))
    assert fail_at > 2


def test_a_failed_save_keeps_weights_that_the_old_config_still_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill after the config's rename left the weights under their digest; the next save has the same weights and fails."""
    old, new = small_model(0), small_model(0, versions={"regraft": "0.2.0"})
    save_model(old, tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.rename(tmp_path / f"model-{read_config(tmp_path).model.sha256[:16]}.safetensors")
    weights.write_bytes(b"of the model before")
    for step in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", failing(os.replace, step, errno.EIO))
            assert type(error_of_saving(new, tmp_path)) is NotWritable
        assert same(loads(tmp_path), old)
    save_model(new, tmp_path)
    assert same(loads(tmp_path), new)
    assert contents(tmp_path).keys() == FILES


def error_of_saving(model: SavedModel, folder: Path) -> RegraftError | None:
    try:
        save_model(model, folder)
    except RegraftError as error:
        return error
    return None


def failing(original, fail_at: int, number: int):  # type: ignore[no-untyped-def]
    """`original`, whose `fail_at`-th call raises an OSError."""
    calls = 0

    def call(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise OSError(number, os.strerror(number))
        return original(*arguments, **options)

    return call


def test_an_interrupt_at_any_rename_leaves_a_whole_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2, 3):
        for after in (False, True):
            folder = tmp_path / f"{step}{after}"
            save_model(small_model(0), folder)
            with monkeypatch.context() as patch:
                patch.setattr(os, "replace", interrupted(os.replace, step, after))
                with pytest.raises(KeyboardInterrupt):
                    save_model(small_model(1), folder)
            assert same(loads(folder), small_model(0 if (step, after) < (2, True) else 1))
            assert not list(folder.glob(".*"))


def interrupted(original, step: int, after: bool):  # type: ignore[no-untyped-def]
    """`original`, with Ctrl-C pressed just before or just after its `step`-th call."""
    calls = 0

    def call(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls != step or after:
            original(*arguments)
        if calls == step:
            raise KeyboardInterrupt

    return call


def test_one_save_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(RunLocked, match="wait until it ends"):
        save_model(small_model(), tmp_path)
    save_model(small_model(), tmp_path)
