"""Loading: what was saved comes back bit for bit; whatever else is there gets one clear refusal."""

import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from faults.mkmodels import CLASSES, pixel_fields, reseal, small_config, small_model, small_specs

from regraft.artifact import Config, PreprocessRecord, ScoreRecord, TensorSpec, load_model, read_config, save_model
from regraft.artifact import load as load_module
from regraft.artifact.canonical import canonical, parse_object
from regraft.artifact.schema import FORMAT_VERSION
from regraft.data import preprocess
from regraft.errors import SavedModelRefused
from regraft.values import Interval, ScoreIntervals, Scores


@pytest.fixture
def run(tmp_path: Path) -> Path:
    save_model(small_model(), tmp_path / "run")
    return tmp_path / "run"


def refuses(folder: Path, reason: str) -> SavedModelRefused:
    with pytest.raises(SavedModelRefused, match=reason) as caught:
        load_model(folder, expected=small_specs)
    assert caught.value.exit_code == 4
    assert len(str(caught.value)) < 2000
    assert str(caught.value).replace("\n", "").isprintable()
    return caught.value


def test_gives_back_what_was_saved_bit_for_bit(run: Path) -> None:
    loaded, model = load_model(run, expected=small_specs), small_model()
    assert loaded.config.model_dump(exclude={"model", "checksum"}) == model.config.model_dump()
    assert loaded.tensors.keys() == model.tensors.keys()
    for name, tensor in model.tensors.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert loaded.tensors[name].shape == tensor.shape
        assert loaded.tensors[name].tobytes() == tensor.tobytes()
    assert loaded.notes == ()


def test_config_can_be_read_without_the_weights(run: Path) -> None:
    (run / "model.safetensors").unlink()
    config = read_config(run)
    assert config.classes == CLASSES
    assert config.model.bytes > 100


def test_the_preprocessing_survives(run: Path) -> None:
    """The record and the value have the same fields and choices, or a model would be served with other pixels."""
    record = read_config(run).preprocess
    value = preprocess.Preprocess(**record.model_dump())
    assert PreprocessRecord(**asdict(value)) == record
    assert [field.name for field in fields(value)] == list(PreprocessRecord.model_fields)
    assert get_args(PreprocessRecord.model_fields["fit"].annotation) == get_args(preprocess.Fit)
    assert get_args(PreprocessRecord.model_fields["interpolation"].annotation) == get_args(preprocess.Interpolation)


def test_scores_become_a_record_without_nan() -> None:
    unknown = Interval(value=float("nan"), low=float("nan"), high=float("nan"), n=3)
    scores = Scores(
        n=3,
        accuracy=Interval(value=np.float64(2 / 3), low=-1e-17, high=1.0000000000000002, n=3),
        macro_f1=float("nan"),
        nll=np.float64(0.5),
        ece=0.1,
        intervals=ScoreIntervals(macro_f1=unknown, nll=unknown, ece=unknown),
        baseline=0.4,
        per_class=(),
        confusion_KK=None,
        classes=("a", "b"),
    )
    record = ScoreRecord.of(scores)
    assert record.macro_f1 is None
    assert (record.nll, record.accuracy.value, record.accuracy.n) == (0.5, 2 / 3, 3)
    assert (record.accuracy.low, record.accuracy.high) == (0.0, 1.0)
    assert type(record.nll) is float


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"head.extra": TensorSpec((2, 2))}, r"1 differences: missing head.extra float32 \(2, 2\)"),
        ({"head.bias": None}, r"1 differences: extra head.bias float32 \(4,\)"),
        ({"head.bias": TensorSpec((5,))}, r"head.bias is float32 \(4,\), not float32 \(5,\)"),
        ({"head.bias": TensorSpec((4,), "int64")}, r"head.bias is float32 \(4,\), not int64 \(4,\)"),
        ({"head.weight": TensorSpec((6, 4))}, r"head.weight is float32 \(4, 6\), not float32 \(6, 4\)"),
    ],
)
def test_tensors_must_be_those_of_the_architecture(run: Path, change: dict[str, TensorSpec | None], reason: str) -> None:
    def expected(config: Config) -> dict[str, TensorSpec]:
        return {name: spec for name, spec in (small_specs(config) | change).items() if spec}

    with pytest.raises(SavedModelRefused, match=reason):
        load_model(run, expected=expected)


def test_the_first_five_differences_are_listed(run: Path) -> None:
    specs = {f"layer_{number}": TensorSpec((1,)) for number in range(20)}
    with pytest.raises(SavedModelRefused, match="24 differences") as caught:
        load_model(run, expected=lambda config: specs)
    assert caught.value.got.count("missing") + caught.value.got.count("extra") == 5
    assert "and 19 more" in caught.value.got


def test_a_head_for_other_classes_is_refused(run: Path) -> None:
    reseal(run, lambda value: value["classes"].append("zebra"))
    refuses(run, r"head.bias is float32 \(4,\), not float32 \(5,\)")


def test_no_weights_are_read_before_they_fit_the_architecture(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = load_module.OpenFile.fill
    monkeypatch.setattr(
        load_module.OpenFile, "fill", lambda self, buffer: (read.append(len(buffer)), original(self, buffer))[1]
    )
    with pytest.raises(SavedModelRefused, match="differences"):
        load_model(run, expected=lambda config: {})
    weights = (run / "model.safetensors").read_bytes()
    header = int.from_bytes(weights[:8], "little")
    config = (run / "config.json").stat().st_size
    assert read == [config, 8, header, config]  # the config again, to see whether a save came between


@pytest.mark.parametrize(
    "name",
    [
        "hf-hub:x/y",
        "hf_hub:x/y",
        "local-dir:/etc",
        "../../x",
        "..",
        ".x",
        "a..b",
        "",
        "x" * 101,
        "x" * 1_000_000,
        "resnet50 ",
        "resnet50\n",
        "Resnet50",
        "résnet",
        "a\x00b",
        "timm/resnet50",
        "resnet50?x=1",
        None,
        7,
        ["resnet50"],
    ],
)
def test_only_plain_architecture_names_get_to_a_library(run: Path, name: object) -> None:
    reseal(run, lambda value: value["architecture"].update(name=name))
    asked: list[str] = []
    with pytest.raises(SavedModelRefused, match=r"architecture\.name"):
        load_model(run, expected=lambda config: asked.append(config.architecture.name) or {})
    assert not asked


OWN = {
    "hub": ["pytorch/vision:resnet18", "pytorch/vision:v0.20.0:resnet18", "a/b:release/2:make", "nets:make"],
    "module": ["nets:make", "package.nets:Net"],
    "python": ["Net", "my-net_2"],
}
NOT_OWN = {
    "hub": [
        "pytorch/vision",
        "/etc:make",
        "../nets:make",
        "a/..:make",
        "a/b:../../x:make",
        "a/b/c:make",
        "https://a/b:make",
        ":make",
    ],
    "module": ["nets", "nets:", "../nets:make", "nets:make()", "nets:a.b", ".nets:make", "nets\n:make", "ñets:make"],
    "python": ["", "a/b", "../Net", "Net\n", "N" * 301, "module:Net"],
}


@pytest.mark.parametrize(("source", "name"), [(source, name) for source, names in OWN.items() for name in names])
def test_names_of_own_code_are_accepted(run: Path, source: str, name: str) -> None:
    reseal(run, lambda value: value["architecture"].update(source=source, name=name))
    assert read_config(run).architecture.own_code


@pytest.mark.parametrize(("source", "name"), [(source, name) for source, names in NOT_OWN.items() for name in names])
def test_names_of_own_code_are_plain(run: Path, source: str, name: str) -> None:
    reseal(run, lambda value: value["architecture"].update(source=source, name=name))
    refuses(run, r"architecture\.name")


@pytest.mark.parametrize("name", ["resnet50", "vit_base_patch16_clip_224.laion2b_ft_in12k_in1k", "efficientnet_lite0"])
def test_registry_names_are_accepted(run: Path, name: str) -> None:
    reseal(run, lambda value: value["architecture"].update(name=name))
    assert read_config(run).architecture.name == name


def put(path: str, item: object) -> Any:
    """A change that sets the field at `path`."""

    def change(value: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        for parent in parents:
            value = value[parent]
        value[last] = item

    return change


@pytest.mark.parametrize(
    ("path", "item"),
    [
        ("architecture/act_layer", "os.system"),
        ("architecture/kwargs", {}),
        ("architecture/source", "hub"),
        ("architecture/source", "module"),
        ("architecture/source", "pickle"),
        ("architecture/head_path", "../fc"),
        ("architecture/head_path", ""),
        ("architecture/answer", []),
        ("architecture/answer", [0.5] * 9),
        ("architecture/answer", ["0.5"]),
        ("weights_digest", "ab" * 31),
        ("weights_digest", "AB" * 32),
        ("task", "detection"),
        ("multi_label", 1),
        ("multi_label", "false"),
        ("classes", []),
        ("classes", "cat"),
        ("classes", ["a", "a"]),
        ("classes", ["a", ""]),
        ("classes", ["a", "b\x1b[2J"]),
        ("classes", ["a", "b\u202ec"]),
        ("classes", ["a", 3]),
        ("classes", [str(number) for number in range(100_001)]),
        ("features/kind", "all"),
        ("features/taps", ["a/b"]),
        ("features/taps", ["__import__('os')"]),
        ("features/taps", ["a", "a"]),
        ("features/taps", ["a"] * 2000),
        ("features/width", 0),
        ("features/width", 10**18),
        ("preprocess/height", 15),
        ("preprocess/width", 2049),
        ("preprocess/width", 224.0),
        ("preprocess/width", "224"),
        ("preprocess/mean", [0.5, 0.5]),
        ("preprocess/mean", [0.5, 0.5, 1e300]),
        ("preprocess/std", [0.5, 0.5, 0.0]),
        ("preprocess/std", [0.5, 0.5, -1.0]),
        ("preprocess/std", [1, 1, 1]),
        ("preprocess/background", [0, 0, 256]),
        ("preprocess/interpolation", "eval"),
        ("preprocess/fit", None),
        ("preprocess/crop_share", 0.0),
        ("preprocess/crop_share", 1.1),
        ("preprocess/extra", 1),
        ("training/seed", -1),
        ("training/strategy", "head; rm -rf"),
        ("training/l2", 0.0),
        ("training/split", "a\x1b[2J"),
        ("scores/test/accuracy/value", 1.5),
        ("scores/test/nll", "NaN"),
        ("scores/extra", {}),
        ("versions", {"../x": "1"}),
        ("versions", {"torch": "1\n2"}),
        ("versions", {f"p{number}": "1" for number in range(101)}),
        ("model/file", "../other.safetensors"),
        ("model/file", "model.pkl"),
        ("model/sha256", ""),
        ("model/bytes", -1),
        ("extra", {"pickle": "gASV"}),
        ("format", "other"),
        ("format", None),
        ("format_version", "1"),
        ("format_version", 1.0),
        ("format_version", True),
        ("format_version", -1),
        ("format_version", None),
    ],
)
def test_every_field_of_the_config_is_checked(run: Path, path: str, item: object) -> None:
    reseal(run, put(path, item))
    refuses(run, "config.json")


@pytest.fixture
def pixel_run(tmp_path: Path) -> Path:
    save_model(small_model(**pixel_fields()), tmp_path / "pixels")
    return tmp_path / "pixels"


def test_a_model_for_pixels_comes_back_too(pixel_run: Path) -> None:
    config = load_model(pixel_run, expected=small_specs).config
    assert config.model_dump(exclude={"model", "checksum"}) == small_config(**pixel_fields()).model_dump()


@pytest.mark.parametrize(
    ("path", "item"),
    [
        ("task", "classification"),
        ("pixels", None),
        ("features/kind", "stages"),
        ("pixels/decoder", "../unet"),
        ("pixels/decoder", "segformer"),
        ("pixels/decoder", None),
        ("pixels/kwargs", {}),
        ("pixels/threshold", 1.5),
        ("pixels/threshold", -0.1),
        ("pixels/threshold", "0.5"),
        ("pixels/threshold", None),
        ("pixels/usual_side", 0),
        ("pixels/usual_side", 10**9),
        ("pixels/usual_side", 300.0),
        ("pixels/values", [[0, 0], [255, 2]]),
        ("pixels/values", [[0, 0], [0, 1]]),
        ("pixels/values", [[-1, 0]]),
        ("pixels/values", [[65536, 0]]),
        ("pixels/values", [[0, 256]]),
        ("pixels/values", [[0]]),
        ("pixels/values", [[0, 0]] * 70_000),
        ("pixels/values", "01"),
        ("pixels/colours", [[[0, 0, 256], 0]]),
        ("pixels/colours", [[[0, 0], 0]]),
        ("pixels/colours", [[[0, 0, 0], 7]]),
        ("pixels/colours", [[[9, 9, 9], 0], [[9, 9, 9], 1]]),
        ("pixels/test", 0.8),
        ("pixels/test/iou/value", 1.5),
        ("pixels/test/iou/n", -1),
        ("pixels/test/dice", None),
        ("pixels/test/mae", 0.1),
    ],
)
def test_every_field_for_pixels_is_checked(pixel_run: Path, path: str, item: object) -> None:
    reseal(pixel_run, put(path, item))
    refuses(pixel_run, "config.json")


@pytest.mark.parametrize("name", pixel_fields()["pixels"].model_dump())
def test_no_field_for_pixels_may_be_missing(pixel_run: Path, name: str) -> None:
    reseal(pixel_run, lambda value: value["pixels"].pop(name))
    refuses(pixel_run, "config.json")


def test_classes_of_images_have_no_fields_for_pixels(run: Path) -> None:
    fields = json.loads(pixel_fields()["pixels"].model_dump_json())
    reseal(run, put("pixels", fields))
    refuses(run, "config.json")


@pytest.mark.parametrize("name", [*small_config().model_dump(), "model", "checksum"])
def test_no_field_of_the_config_may_be_missing(run: Path, name: str) -> None:
    value = json.loads((run / "config.json").read_bytes())
    if name == "checksum":
        del value[name]
        (run / "config.json").write_bytes(canonical(value))
    else:
        reseal(run, lambda value: value.pop(name))
    refuses(run, "config.json")


def test_a_newer_format_says_which_version_it_needs(run: Path) -> None:
    def newer(value: dict[str, Any]) -> None:
        value |= {"format_version": FORMAT_VERSION + 1, "abstain": {"threshold": 0.3}}
        value["versions"]["regraft"] = "0.9.0"

    reseal(run, newer)
    error = refuses(run, f"{FORMAT_VERSION + 1}, which needs regraft >= 0.9.0")
    assert error.fix == "pip install --upgrade 'regraft>=0.9.0'"


@pytest.mark.parametrize("writer", ["1; rm -rf /", "x" * 100, 3, None, "1\n2"])
def test_a_newer_format_of_a_doubtful_writer_says_so_plainly(run: Path, writer: object) -> None:
    reseal(run, lambda value: value.update(format_version=FORMAT_VERSION + 1, versions={"regraft": writer}))
    assert refuses(run, "which needs regraft >=").fix == "pip install --upgrade 'regraft'"


def test_an_older_format_is_migrated_with_a_note(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def older(value: dict[str, Any]) -> None:
        value["labels"] = value.pop("classes")
        value["format_version"] = 0
        del value["temperature"], value["abstain"], value["novelty"], value["pixels"]

    def migrate(value: dict[str, Any]) -> dict[str, Any]:
        rest = {name: item for name, item in value.items() if name != "labels"}
        return rest | {"classes": value["labels"], "format_version": 1}

    reseal(run, older)
    refuses(run, f"up to {FORMAT_VERSION}")
    monkeypatch.setitem(load_module.MIGRATIONS, 0, migrate)
    loaded = load_model(run, expected=small_specs)
    assert loaded.config.classes == CLASSES
    assert "older format 0" in loaded.notes[0]
    reseal(run, lambda value: value.pop("labels"))
    refuses(run, "fields of format 0")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "0 bytes"),
        (b"{", "config.json"),
        (b"[]", "not a JSON object"),
        (b"{}", "not spelled"),
        (b"{}\n", "format None"),
        (b"\xef\xbb\xbf{}\n", "BOM"),
        (b'{"a": 1, "a": 1}', "twice"),
        (b'{"a": NaN}', "literal NaN"),
        (b'{"a": -Infinity}', "literal -Infinity"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": %s}' % (b"1" * 20), "20 digits"),
        (b'{"a": %s}' % (b"1" * 5000), "5,000 digits"),
        (b'{"a": "\xff"}', "utf-8"),
        (b'{"a": "\\ud800"}', "config.json"),
        (b'{"a": ' + b"[" * 33 + b"]" * 33 + b"}", "nested 34 deep"),
        (b"[" * 90_000, "nested 90,000 deep"),
        (b"[" * 200_000, "200,000 brackets"),
        (b'{"a": "' + b" " * 8_000_000 + b'"}', "8,000,009 bytes, not 2 to 8,000,000"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
def test_a_config_that_is_not_ours_is_refused(run: Path, text: bytes, reason: str) -> None:
    (run / "config.json").write_bytes(text)
    refuses(run, reason)


def test_brackets_in_texts_are_not_nesting() -> None:
    text = canonical({"a": "[" * 500 + '\\"{' * 500, "b\\": [[1]]})
    assert parse_object(text, max_depth=3, max_brackets=6)["b\\"] == [[1]]
    with pytest.raises(ValueError, match="nested 3 deep"):
        parse_object(text, max_depth=2, max_brackets=6)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(run: Path, name: str) -> None:
    (run / name).unlink()
    refuses(run, f"{name}: no such file")


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    refuses(tmp_path / "nowhere", "nowhere/config.json: no such file")
    refuses(tmp_path, "config.json: no such file")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_instead_of_the_folder_says_so(run: Path, name: str) -> None:
    assert refuses(run / name, "one of its files").fix == f"give {run}"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "zeros", "loop", "socket"])
def test_only_regular_files_are_read_and_nothing_blocks(run: Path, name: str, kind: str) -> None:
    path = run / name
    path.unlink()
    make = {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/null"),
        "zeros": lambda: path.symlink_to("/dev/zero"),
        "loop": lambda: path.symlink_to(path),
        "socket": lambda: bind(path),
    }
    make[kind]()
    words = {"folder": "a folder", "pipe": "a named pipe", "device": "a device", "zeros": "a device", "socket": name}
    refuses(run, words.get(kind, "symbolic links"))


def bind(path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as server, pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)  # a socket's address is at most 107 bytes
        server.bind(path.name)


def test_a_pipe_instead_of_the_folder_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refuses(tmp_path / "pipe", "Not a directory")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_an_unreadable_file_is_named(run: Path, name: str) -> None:
    (run / name).chmod(0)
    before = os.geteuid()
    if before == 0:  # root reads everything
        run.parent.chmod(0o755)
        run.chmod(0o755)
        (run / ("config.json" if name != "config.json" else "model.safetensors")).chmod(0o644)
        opened = as_nobody(run)
    else:
        opened = as_me(run)
    assert "no permission to read it" in opened
    assert name in opened


def as_nobody(run: Path) -> str:
    """The message of loading as a user with no rights, in a child process."""
    read, write = os.pipe()
    if not os.fork():
        try:
            os.chdir(run)
            os.setgid(65534)
            os.setuid(65534)
            os.write(write, as_me(Path()).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.wait()
    with os.fdopen(read) as answer:
        return answer.read()


def as_me(run: Path) -> str:
    try:
        load_model(run, expected=small_specs)
    except SavedModelRefused as error:
        return str(error)
    return "loaded"


def test_links_to_good_files_work(run: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in run.iterdir():
        (linked / path.name).symlink_to(path)
    assert load_model(linked, expected=small_specs).config.classes == CLASSES


def test_a_file_swapped_while_it_is_read_is_not_mixed(run: Path, tmp_path: Path) -> None:
    """The file is opened once: what stands under its name later does not matter."""
    save_model(small_model(1), tmp_path / "other")

    def swap(config: Config) -> dict[str, TensorSpec]:
        (tmp_path / "other" / "model.safetensors").replace(run / "model.safetensors")
        return small_specs(config)

    with pytest.raises(SavedModelRefused, match="damaged or of another run"):
        load_model(
            run,
            expected=lambda config: (
                swap(config) if (tmp_path / "other" / "model.safetensors").exists() else small_specs(config)
            ),
        )


def test_a_save_while_it_is_read_gives_the_new_model(run: Path) -> None:
    saves: list[int] = []

    def expected(config: Config) -> dict[str, TensorSpec]:
        if not saves:
            saves.append(1)
            save_model(small_model(1), run)
        return small_specs(config)

    loaded = load_model(run, expected=expected)
    assert np.array_equal(loaded.tensors["head.bias"], small_model(1).tensors["head.bias"])


def test_weights_of_another_run_are_refused(run: Path, tmp_path: Path) -> None:
    save_model(small_model(1), tmp_path / "other")
    (run / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    refuses(run, "damaged or of another run")


def test_loading_leaves_no_file_open(run: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    load_model(run, expected=small_specs)
    (run / "model.safetensors").write_bytes(b"x")
    refuses(run, "too short")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
