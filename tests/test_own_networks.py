"""Networks of the user's own: modules in Python, functions in files, saved without their code and named again."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import regraft
from regraft.backbone.load import load_backbone
from regraft.cli.main import main
from regraft.errors import BackboneNotFound, SavedModelRefused, UsageError
from regraft.fitted import Fitted

CODE = '''
"""Networks of a test."""
import torch
from torch import nn
from regraft import Own

not_callable = 3

class Net(nn.Module):
    def __init__(self, activation=nn.ReLU, width=8):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, 2), nn.BatchNorm2d(width), activation(), nn.Conv2d(width, 16, 3, 2), activation()
        )
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3)))

def make():
    print("being made")
    return Own(module=Net(), input_shape=(3, 32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

def plain():
    return Net()

def other():
    return Own(module=Net(nn.Tanh), input_shape=(3, 32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

def wider():
    return Own(module=Net(width=9), input_shape=(3, 32, 32))

def fails():
    return make_something()

def wants(classes):
    return Net()

def text():
    return "resnet18"

def function():
    return lambda x: x

def empty():
    return nn.Flatten()

def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(5))

def many():
    return Net(), "transforms"

def leaves():
    raise SystemExit(3)

ready = Net()
'''


class Small(nn.Module):
    """Two stages and a head, with a buffer of whole numbers and one of truths."""

    mask: Tensor

    def __init__(self, activation: Callable[[Tensor], Tensor] = torch.relu, seed: int = 0, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(nn.Conv2d(channels, 8, 3, 2), nn.BatchNorm2d(8))
        self.deep = nn.Conv2d(8, 16, 3, 2)
        self.fc = nn.Linear(16, 4)
        self.activation = activation
        self.register_buffer("mask", torch.tensor([True, False] * 8))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.activation(self.deep(self.activation(self.stem(images))))
        return self.fc(maps.mean((2, 3)) * self.mask)  # type: ignore[no-any-return]


class Untraceable(Small):
    """Asks for values on the way."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) if images.sum() > -1e9 else super().forward(-images)


def own(**options: object) -> regraft.Own:
    return regraft.Own(module=Small(**options), input_shape=(3, 40, 40), mean=(0.5,) * 3, std=(0.5,) * 3)  # type: ignore[arg-type]


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A file of networks in the current folder, imported under a name that no other test uses."""
    name = re.sub(r"\W", "_", request.node.name)
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return name


def test_a_function_in_a_file_makes_a_backbone(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = list(sys.path)
    backbone = load_backbone(f"module:{nets}:make", whole_image=True)
    assert (backbone.name, backbone.head.path) == (f"module:{nets}:make", "fc")
    assert (backbone.preprocess.height, backbone.preprocess.mean) == (32, (0.5, 0.5, 0.5))
    assert backbone.notes == ()
    assert sys.path == path
    out, err = capsys.readouterr()
    assert (out, err.strip()) == ("", "being made")


def test_a_class_or_a_ready_module_will_do_too(nets: str) -> None:
    for name in ("Net", "ready"):
        assert load_backbone(f"module:{nets}:{name}").head.path == "fc"
    ready = sys.modules[nets].ready
    assert ready.training
    assert ready.fc.weight.requires_grad


def test_a_function_in_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "regraft_test_package").mkdir()
    (tmp_path / "regraft_test_package/nets.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    assert load_backbone("module:regraft_test_package.nets:make").head.path == "fc"


def test_what_a_network_does_not_say_is_told(nets: str) -> None:
    backbone = load_backbone(f"module:{nets}:plain")
    assert (backbone.preprocess.height, backbone.preprocess.mean) == (224, (0.485, 0.456, 0.406))
    size, normalisation = backbone.notes
    assert "224x224" in size
    assert "ImageNet" in normalisation
    backbone = load_backbone(f"module:{nets}:plain", size=48)
    assert (backbone.preprocess.height, len(backbone.notes)) == (48, 1)


WRONG = {
    "module:nets": ("module:package.file:function", "without .py"),
    "module:nets.py:make": ("a file nets/py.py", "did you mean|start regraft"),
    "module:../nets:make": ("module:package.file:function", "dotted path"),
    "module:NAME:fails": (r"to run\n.*NAME\.py, line \d+: NameError: name 'make_something'", "mend it"),
    "module:NAME:wants": (r"to run\n.*TypeError: wants\(\) missing", "without arguments"),
    "module:NAME:leaves": (r"to run\n.*NAME\.py, line \d+: SystemExit: 3", "mend it"),
    "module:NAME:mak": ("a function mak in module:NAME", "did you mean make"),
    "module:NAME:not_callable": ("a function not_callable", "it has|did you mean"),
    "module:NAME:text": (r"torch\.nn\.Module.*\n.*a str", "return the network alone"),
    "module:NAME:function": (r"torch\.nn\.Module.*\n.*a function", "return the network alone"),
    "module:NAME:many": (r"torch\.nn\.Module.*\n.*a tuple", "return the network alone"),
    "module:NAME:empty": ("without parameters", "give it layers"),
    "module:NAME:lazy": ("1.weight of a lazy layer", "run it once"),
    "module:NAME2:make": (r"a file NAME2\.py", "did you mean NAME"),
    "module:json:dumps": (r"TypeError: dumps\(\) missing", "without arguments"),
}


@pytest.mark.parametrize(("spec", "expected"), WRONG.items(), ids=range(len(WRONG)))
def test_code_that_makes_no_network_is_an_error_with_the_cure(nets: str, spec: str, expected: tuple[str, str]) -> None:
    with pytest.raises(BackboneNotFound, match=expected[0].replace("NAME", nets)) as error:
        load_backbone(spec.replace("NAME", nets))
    assert re.search(expected[1].replace("NAME", nets), error.value.fix)


def test_a_file_that_cannot_be_imported_names_the_line(nets: str, tmp_path: Path) -> None:
    (tmp_path / f"{nets}_a.py").write_text("import torch\n\nx = 1 +\n")
    with pytest.raises(BackboneNotFound, match=rf"{nets}_a\.py, line 3: SyntaxError"):
        load_backbone(f"module:{nets}_a:make")
    (tmp_path / f"{nets}_b.py").write_text("import torch\nimport not_there_at_all\n")
    with pytest.raises(BackboneNotFound, match=rf"{nets}_b\.py, line 2: ModuleNotFoundError: No module named 'not_there"):
        load_backbone(f"module:{nets}_b:make")


def test_the_same_name_in_another_folder_is_not_taken_for_it(
    nets: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_backbone(f"module:{nets}:make")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"elsewhere/{nets}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(BackboneNotFound, match="imported under this name before"):
        load_backbone(f"module:{nets}:make")


def test_a_mistake_on_the_command_line_gives_no_traceback(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos/a").mkdir(parents=True)
    assert main(["fit", "photos", "--backbone", f"module:{nets}:fails"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert f"{nets}.py, line" in err


def test_the_users_module_is_copied_not_changed() -> None:
    network = Small().double()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    backbone = load_backbone(regraft.Own(module=network, input_shape=(3, 40, 40)))
    assert backbone.name == "python:Small"
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert backbone.module is not network
    assert next(backbone.module.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    "options",
    [
        {"input_shape": (224, 224)},
        {"input_shape": (2, 64, 64)},
        {"input_shape": (3, 8, 64)},
        {"mean": (0.5,) * 3},
        {"mean": (0.5,), "std": (0.5,)},
        {"mean": (0.5,) * 3, "std": (0.5, 0.5, 0.0)},
        {"name": "a/b"},
        {"name": ""},
    ],
)
def test_an_own_that_cannot_be_meant_is_refused_when_it_is_made(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="expected"):
        regraft.Own(module=Small(), **options)  # type: ignore[arg-type]


def test_grey_images_for_a_network_of_one_channel() -> None:
    backbone = load_backbone(regraft.Own(module=Small(channels=1), input_shape=(1, 40, 40)))
    assert backbone.preprocess.channels == 1


@pytest.mark.parametrize("wrong", [Small, "module", 3, None])
def test_something_else_than_a_network_is_refused(photos: Path, wrong: object) -> None:
    with pytest.raises(UsageError, match="expected"):
        regraft.fit(photos, backbone=wrong if wrong != "module" else regraft.Own(module="x"))  # type: ignore[arg-type]


def test_weights_from_a_file_for_a_network_of_ones_own(tmp_path: Path) -> None:
    torch.save({f"module.{name}": value for name, value in Small(seed=7).state_dict().items()}, tmp_path / "w.pth")
    backbone = load_backbone(own(), weights=tmp_path / "w.pth")
    assert torch.equal(backbone.module.state_dict()["deep.weight"], Small(seed=7).deep.weight)
    assert backbone.weights == "w.pth"
    with pytest.raises(BackboneNotFound, match="published weights of python:Small"):
        load_backbone(own(), weights="IMAGENET1K_V1")


def fit(photos: Path, out: Path, **options: object) -> Fitted:
    return regraft.fit(photos, out=out, device="cpu", **options)  # type: ignore[arg-type]


def same(a: Fitted, b: Fitted) -> bool:
    images = torch.randn(3, 3, a.backbone.preprocess.height, a.backbone.preprocess.width)
    with torch.inference_mode():
        return torch.equal(a.to_torch()(images), b.to_torch()(images))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("features", ["last", "stages"])
def test_fit_save_and_load_with_the_network_named_again(photos: Path, tmp_path: Path, features: str) -> None:
    run = fit(photos, tmp_path / "run", backbone=own(), strategy=regraft.Head(features=features))  # type: ignore[arg-type]
    assert run.summary is not None
    assert run.summary.test_scores is not None
    assert run.summary.test_scores.accuracy.value > 0.8
    with pytest.raises(SavedModelRefused, match="python:Small") as error:
        regraft.load(tmp_path / "run")
    assert "regraft.load(folder, backbone=regraft.Own(module=...))" in error.value.fix
    assert "--backbone module:package.file:function" in error.value.fix
    # Other random weights: those of the run are put in their place.
    again = regraft.load(tmp_path / "run", backbone=Small(seed=5))
    assert same(run, again)
    assert again.backbone.weights_digest == run.backbone.weights_digest
    assert again.backbone.preprocess == run.backbone.preprocess


@pytest.mark.usefixtures("cache")
def test_a_bare_module_is_taken_as_imagenets_are_and_said_so(photos: Path, tmp_path: Path) -> None:
    run = fit(photos, tmp_path / "run", backbone=Small())
    # Four times the side of these pictures; 224 for larger ones.
    assert (run.backbone.preprocess.height, run.backbone.preprocess.mean) == (160, (0.485, 0.456, 0.406))
    assert run.summary is not None
    assert any("does not say its normalisation" in note for note in run.summary.notes)
    assert same(run, regraft.load(tmp_path / "run", backbone=Small(seed=5)))


@pytest.mark.usefixtures("cache")
def test_a_network_that_cannot_be_traced_is_saved_and_loaded(photos: Path, tmp_path: Path) -> None:
    untraceable = regraft.Own(module=Untraceable(), input_shape=(3, 40, 40))
    run = fit(photos, tmp_path / "run", backbone=untraceable)
    assert same(run, regraft.load(tmp_path / "run", backbone=Untraceable(seed=5)))


@pytest.mark.usefixtures("cache")
def test_another_network_is_refused(photos: Path, tmp_path: Path) -> None:
    fit(photos, tmp_path / "run", backbone=own())
    wide = Small()
    wide.deep = nn.Conv2d(8, 20, 3, 2)
    wide.fc = nn.Linear(20, 4)
    wide.mask = torch.tensor([True, False] * 10)
    with pytest.raises(SavedModelRefused) as error:
        regraft.load(tmp_path / "run", backbone=wide)
    assert "name the network that it was fitted with" in error.value.fix or "fit again" in error.value.fix
    more = Small()
    more.extra = nn.Parameter(torch.zeros(2))
    with pytest.raises(SavedModelRefused, match=r"missing backbone\.extra"):
        regraft.load(tmp_path / "run", backbone=more)


@pytest.mark.usefixtures("cache")
def test_the_same_weights_in_other_code_are_another_network(photos: Path, tmp_path: Path) -> None:
    last = regraft.Head(features="last")
    relu = fit(photos, tmp_path / "relu", backbone=own(activation=nn.ReLU()), strategy=last)
    with pytest.raises(SavedModelRefused, match="answers a test image differently"):
        regraft.load(tmp_path / "relu", backbone=own(activation=nn.GELU()))
    tanh = fit(photos, tmp_path / "tanh", backbone=own(activation=nn.Tanh()), strategy=last)
    assert tanh.summary is not None
    assert tanh.summary.cache_hits == 0, "features of the other network were taken for its own"
    again = fit(photos, tmp_path / "again", backbone=own(activation=nn.ReLU()), strategy=last)
    assert again.summary is not None
    assert again.summary.cache_misses == 0
    assert relu.backbone.weights_digest == again.backbone.weights_digest != tanh.backbone.weights_digest


def test_dropout_that_ignores_eval_is_told() -> None:
    backbone = load_backbone(own(activation=functional.dropout))
    assert any("differently each time" in note for note in backbone.notes)
    assert not any("differently" in note for note in load_backbone(own()).notes)


@pytest.mark.usefixtures("cache")
def test_the_command_line_names_it_again(nets: str, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = f"module:{nets}:make"
    assert main(["fit", str(photos), "--backbone", spec, "--out", "run", "--device", "cpu", "--json"]) == 0
    assert capsys.readouterr().out.startswith("{")
    image = str(photos / "blue/000.png")
    assert main(["predict", "run", image]) == 4
    assert f"--backbone {spec}" in capsys.readouterr().err
    assert main(["predict", "run", image, "--backbone", spec]) == 0
    assert "blue" in capsys.readouterr().out
    assert main(["evaluate", "run", str(photos), "--backbone", spec]) == 0
    assert main(["predict", "run", image, "--backbone", f"module:{nets}:other"]) == 4
    assert main(["predict", "run", image, "--backbone", f"module:{nets}:wider"]) == 4
    assert main(["predict", "run", image, "--backbone", f"module:{nets}:gone"]) == 2
    assert main(["predict", "efficientnet_lite0", image, "--backbone", spec]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.usefixtures("cache")
def test_a_library_network_needs_no_name_and_takes_no_other(photos: Path, tmp_path: Path) -> None:
    options: dict[str, object] = {"backbone": "torchvision:squeezenet1_1", "weights": "none", "size": 64}
    run = fit(photos, tmp_path / "run", **options)
    assert same(run, regraft.load(tmp_path / "run", backbone="torchvision:squeezenet1_1"))
    for other in ("torchvision:resnet18", Small()):
        with pytest.raises(UsageError, match=r"torchvision:squeezenet1_1.*\n.*\n.*leave the backbone out"):
            regraft.load(tmp_path / "run", backbone=other)


class TwoHeads(Small):
    """Makes logits of one head, and has another layer behind it."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.scale = nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.scale(super().forward(images))  # type: ignore[no-any-return]


@pytest.mark.usefixtures("cache")
def test_a_head_that_was_named_is_named_in_the_run_too(photos: Path, tmp_path: Path) -> None:
    two = regraft.Own(module=TwoHeads(), input_shape=(3, 40, 40))
    run = fit(photos, tmp_path / "run", backbone=two, head_path="fc", strategy=regraft.Head(features="last"))
    assert run.backbone.head.path == "fc"
    again = regraft.load(tmp_path / "run", backbone=TwoHeads(seed=5))
    assert again.backbone.head.path == "fc"
    assert same(run, again)
