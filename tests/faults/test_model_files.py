"""Damaged and hostile model files: one clear refusal, quickly, in little memory, and never any code run."""

import ast
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import mkmodels
import numpy as np
import pytest
from mkmodels import reseal, small_model, small_specs
from quick import takes_at_most

from regraft.artifact import load_model, save_model
from regraft.errors import SavedModelRefused

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("config.json", "model.safetensors")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    save_model(small_model(), tmp_path / "run")
    return tmp_path / "run"


def refuses(path: Path, reason: str | None = None) -> SavedModelRefused:
    with pytest.raises(SavedModelRefused, match=reason) as caught:
        load_model(path, expected=small_specs)
    assert len(str(caught.value)) < 2000
    assert caught.value.fix
    return caught.value


def each_damage(path: Path, damages: Iterator[bytes]) -> list[bytes]:
    """Put each of `damages` in place of the file and load its folder; those that were accepted."""
    good, accepted = path.read_bytes(), []
    for damage in damages:
        path.write_bytes(damage)
        try:
            load_model(path.parent, expected=small_specs)
        except SavedModelRefused:
            continue
        accepted.append(damage)
    path.write_bytes(good)
    load_model(path.parent, expected=small_specs)
    return accepted


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80])
def test_every_flipped_byte_is_detected(run: Path, name: str, mask: int) -> None:
    data = (run / name).read_bytes()
    assert len(data) > 300
    flipped = (data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :] for place in range(len(data)))
    assert each_damage(run / name, flipped) == []


@pytest.mark.parametrize("name", NAMES)
def test_truncation_at_every_length_is_detected(run: Path, name: str) -> None:
    data = (run / name).read_bytes()
    assert each_damage(run / name, (data[:length] for length in range(len(data)))) == []


@pytest.mark.parametrize("name", NAMES)
def test_additions_and_concatenations_are_detected(run: Path, tmp_path: Path, name: str) -> None:
    save_model(small_model(1), tmp_path / "other")
    data, other = (run / name).read_bytes(), (tmp_path / "other" / name).read_bytes()
    assert (
        each_damage(run / name, iter([data * 2, data + other, other + data, data + b"\n", b" " + data, data + b"\x00"])) == []
    )


@pytest.mark.parametrize("name", NAMES)
def test_mutated_files_are_refused(run: Path, name: str) -> None:
    """A few hundred here; bench/fuzz_models.py does 20,000."""
    random = np.random.default_rng(7)
    data = (run / name).read_bytes()
    assert each_damage(run / name, (mkmodels.mutate(data, random) for _ in range(300))) == []


def test_mutated_weights_with_right_checksums_end_in_a_refusal_or_the_same_tensors(run: Path) -> None:
    """An attacker can make the checksums right, so what stands behind them is tried too."""
    random = np.random.default_rng(8)
    good = (run / "model.safetensors").read_bytes()
    specs = small_specs(small_model().config)
    refused = 0
    for _ in range(300):
        reseal(run, weights=mkmodels.mutate(good, random))
        try:
            loaded = load_model(run, expected=small_specs)
        except SavedModelRefused:
            refused += 1
        else:
            assert {name: tensor.shape for name, tensor in loaded.tensors.items()} == {n: s.shape for n, s in specs.items()}
    assert refused > 150


@pytest.mark.parametrize("case", mkmodels.hostile_weights())
def test_hostile_weights_are_refused_for_the_right_reason(run: Path, case: str) -> None:
    data, reason = mkmodels.hostile_weights()[case]
    if len(data) >= 10:
        reseal(run, weights=data)
    else:
        (run / "model.safetensors").write_bytes(data)
    takes_at_most(2, lambda: refuses(run, reason))


def peak(path: Path) -> int:
    """Bytes that refusing the model takes."""
    tracemalloc.start()
    try:
        refuses(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("count", [500_000, 20_500])
def test_a_bloated_header_costs_next_to_nothing(run: Path, count: int) -> None:
    data = mkmodels.bloated(count)
    assert (len(data) > 29_000_000) == (count == 500_000)
    reseal(run, weights=data)
    takes_at_most(0.05, lambda: refuses(run))
    assert peak(run) < 10_000_000


def test_the_longest_header_that_is_parsed_is_bounded(run: Path) -> None:
    """Just within both limits, so that it is parsed in full and refused only by comparison with the architecture."""
    items = (f'"t{number}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for number in range(20_000))
    reseal(run, weights=mkmodels.weights_file(b"{" + ",".join(items).encode() + b"}"))
    refuses(run, "20,004 differences")
    takes_at_most(2, lambda: refuses(run))
    assert peak(run) < 60_000_000


def test_huge_tensors_are_not_allocated_before_they_fit(run: Path) -> None:
    """A sparse file of 64 GB, with a true header: refused by the architecture's shapes."""
    count = 2**34
    header = mkmodels.weights_file({"head.bias": mkmodels.entry((count,), 0, 4 * count)})
    with (run / "model.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 4 * count)
    reseal(run, lambda value: value["model"].update(bytes=len(header) + 4 * count))
    refuses(run, "head.bias is float32")
    takes_at_most(0.05, lambda: refuses(run))
    assert peak(run) < 10_000_000


@pytest.mark.parametrize("name", NAMES)
def test_no_hostile_pickle_reaches_an_unpickler(run: Path, tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    files = mkmodels.hostile_pickles(marker)
    assert len(files) >= 60
    for data in files.values():
        (run / name).write_bytes(data)
        refuses(run)
        assert not marker.exists()


@pytest.mark.parametrize("extension", [".pt", ".pth", ".pkl", ".h5", ".keras", ".onnx", ".ckpt", ".bin", ".safetensors", ""])
def test_hostile_pickles_as_the_model_itself_are_refused(tmp_path: Path, extension: str) -> None:
    marker = tmp_path / "marker"
    for data in mkmodels.hostile_pickles(marker).values():
        path = tmp_path / f"model{extension}"
        path.write_bytes(data)
        refuses(path)
        assert not marker.exists()


def test_the_hostile_pickles_are_live(tmp_path: Path) -> None:
    """Without this, the tests above could not fail."""
    marker = tmp_path / "marker"
    files = mkmodels.hostile_pickles(marker)
    bare = [data for name, data in files.items() if "protocol" in name or name.startswith("in a ") or name == "opcodes by hand"]
    assert len(bare) > 40
    for data in bare:
        pickle.loads(data)
        assert marker.exists()
        marker.rmdir()


@pytest.mark.parametrize(
    ("case", "what", "cure"),
    [
        ("mkdir protocol 0", "a Python pickle", "weights_only=True"),
        ("mkdir protocol 1", "a Python pickle", "weights_only=True"),
        ("exec protocol 4", "a Python pickle", "weights_only=True"),
        ("in a dict 0", "a Python pickle", "weights_only=True"),
        ("in a list 1", "a Python pickle", "weights_only=True"),
        ("opcodes by hand", "a Python pickle", "weights_only=True"),
        ("legacy torch.save", "a Python pickle", "weights_only=True"),
        ("torch zip", r"a zip archive \(PyTorch", "weights_only=True"),
        ("TorchScript", "TorchScript", "weights_only=True"),
        ("Keras zip", ".keras", "weights_only=True"),
        ("HDF5 head", "HDF5", "regraft fit"),
        ("ONNX head", "ONNX", "regraft fit"),
        ("npy of objects", "NumPy", "regraft fit"),
        ("tar", "tar archive", "unpack"),
        ("gzip", "gzip", "unpack"),
        ("xz", "xz", "regraft fit"),
        ("bzip2", "bzip2", "regraft fit"),
    ],
)
@pytest.mark.parametrize("place", ["model.safetensors", "config.json", "../model.bin"])
def test_foreign_files_are_named_with_the_safe_way(run: Path, case: str, what: str, cure: str, place: str) -> None:
    path = run / place
    path.write_bytes(mkmodels.hostile_pickles(run / "marker")[case])
    assert cure in refuses(path if place.startswith("..") else run, what).fix


def test_the_named_conversion_works(tmp_path: Path, run: Path) -> None:
    """The command in the message, run as it is printed on a PyTorch file."""
    torch = pytest.importorskip("torch")
    source, target = tmp_path / "in.pt", tmp_path / "out.safetensors"
    torch.save({"weight": torch.ones(2, 3)}, source)
    fix = refuses(source, "zip archive").fix
    code = fix.split('python -c "')[1].split('"')[0].replace("IN", str(source)).replace("OUT.safetensors", str(target))
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert b'"weight"' in target.read_bytes()


AUDITED = """
import sys
events = []
watched = ("pickle.find_class", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "marshal.loads")
sys.addaudithook(lambda event, arguments: events.append(event) if event in watched else None)
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import mkmodels
from regraft.artifact import load_model, save_model
from regraft.errors import SavedModelRefused
folder = Path(sys.argv[2])
del events[:]  # importing reads compiled modules with marshal
opened = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
save_model(mkmodels.small_model(), folder / "run")
load_model(folder / "run", expected=mkmodels.small_specs)
for data in mkmodels.hostile_pickles(folder / "marker").values():
    for name in ("config.json", "model.safetensors"):
        save_model(mkmodels.small_model(), folder / "run")
        (folder / "run" / name).write_bytes(data)
        try:
            load_model(folder / "run", expected=mkmodels.small_specs)
        except SavedModelRefused:
            (folder / "run" / name).unlink()
            (folder / "run" / "config.json").unlink(missing_ok=True)
            (folder / "run" / "model.safetensors").unlink(missing_ok=True)
for name in ("hf-hub:x/y", "local-dir:/etc", "../../x"):
    save_model(mkmodels.small_model(), folder / name.replace("/", "_"))
    mkmodels.reseal(folder / name.replace("/", "_"), lambda value: value["architecture"].update(name=name))
    try:
        load_model(folder / name.replace("/", "_"), expected=mkmodels.small_specs)
    except SavedModelRefused:
        pass
    else:
        events.append("accepted " + name)
outside = [path for path in opened if not path.isdigit() and not path.startswith(str(folder))]
if len(sys.argv) > 3:
    import pickle
    pickle.loads(pickle.dumps(Path()))
print(sorted(set(events)), outside)
"""


@pytest.mark.parametrize("control", [False, True])
def test_saving_and_loading_never_unpickles_or_reaches_out(tmp_path: Path, control: bool) -> None:
    """The whole process under an audit hook; the control proves that the hook sees an unpickler."""
    arguments = [sys.executable, "-c", AUDITED, str(Path(__file__).parent), str(tmp_path)] + ["control"] * control
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ("['pickle.find_class'] []" if control else "[] []")
    assert not (tmp_path / "marker").exists()


FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "joblib", "dill", "cloudpickle", "marshal", "shelve"}


def unsafe(tree: ast.AST) -> Iterator[str]:
    """Everything in a source file that could run what a file holds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            yield from _unsafe_call(node)


def _unsafe_call(node: ast.Call) -> Iterator[str]:
    options = {option.arg: option.value for option in node.keywords}
    if isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec", "compile", "__import__"):
        yield node.func.id
    if ast.unparse(node.func) in ("torch.load", "torch.jit.load"):
        only = options.get("weights_only")
        if not (isinstance(only, ast.Constant) and only.value is True):
            yield ast.unparse(node.func)
    if "allow_pickle" in options:
        yield "allow_pickle"


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "eval('1')",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p, allow_pickle=True)",
    ],
)
def test_unsafe_code_is_recognised(code: str) -> None:
    assert list(unsafe(ast.parse(code)))


def test_the_package_has_no_way_to_run_what_a_file_holds() -> None:
    sources = sorted((ROOT / "regraft").rglob("*.py"))
    assert len(sources) > 10
    found = {str(path): list(unsafe(ast.parse(path.read_text(encoding="utf-8")))) for path in sources}
    assert {path: names for path, names in found.items() if names} == {}
