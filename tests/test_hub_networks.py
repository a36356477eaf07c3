"""Networks of torch.hub: folders of one's own, and repositories whose code runs only where the user says that it may."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import regraft
from regraft.backbone.load import load_backbone
from regraft.cli.main import main
from regraft.errors import BackboneNotFound, SavedModelRefused, UsageError

CONF = '''
dependencies = ["torch"]

from pathlib import Path

import torch
from torch import nn

from {helper} import SIDE, calls

Path(__file__).with_name("ran").touch()

def _net(kind):
    calls.append(kind)
    torch.manual_seed({{"random": 0, "published": 1}}.get(kind, 2))
    net = nn.Sequential(nn.Conv2d(3, SIDE, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(SIDE, 5))
    return net

def plain():
    """A network."""
    return _net("plain")

def old(pretrained=False, **options):
    return _net("published" if pretrained else "random")

def new(*, weights=None, progress=True):
    if weights not in (None, "DEFAULT", "V2"):
        raise KeyError(weights)
    return _net("random" if weights is None else "published" if weights == "DEFAULT" else weights)

def always(weights="best"):
    return _net(weights)

def wants(classes):
    return _net("plain")

def pair():
    return _net("plain"), None
'''


class Repository:
    """A folder with a hubconf.py; `calls` is what its networks were made with."""

    def __init__(self, folder: Path, helper: str) -> None:
        self.folder, self.helper = folder, helper
        folder.mkdir(parents=True)
        (folder / "hubconf.py").write_text(CONF.format(helper=helper))
        (folder / f"{helper}.py").write_text("SIDE = 8\ncalls = []\n")

    @property
    def calls(self) -> list[str]:
        return list(sys.modules[self.helper].calls)

    @property
    def ran(self) -> bool:
        return (self.folder / "ran").exists()


@pytest.fixture
def repository(tmp_path: Path, request: pytest.FixtureRequest) -> Repository:
    return Repository(tmp_path / "my nets", f"regraft_hub_{abs(hash(request.node.name))}")


def test_an_entry_of_a_folder_is_a_backbone(repository: Repository) -> None:
    path = list(sys.path)
    backbone = load_backbone(f"hub:{repository.folder}:plain", size=64)
    assert (backbone.name, backbone.head.path) == ("hub:my_nets:plain", "4")
    assert backbone.weights == "as its code made them"
    assert repository.calls == ["plain"]
    assert sys.path == path
    assert any("does not say its normalisation" in note for note in backbone.notes)


def test_a_folder_by_a_relative_path(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository.folder.parent)
    assert load_backbone("hub:./my nets:plain", size=64).head.path == "4"


@pytest.mark.parametrize(
    ("entry", "weights", "made_with", "called"),
    [
        ("plain", None, "plain", "as its code made them"),
        ("plain", "none", "plain", "as its code made them"),
        ("old", None, "published", "the repository's default"),
        ("old", "none", "random", "none"),
        ("new", None, "published", "the repository's default"),
        ("new", "none", "random", "none"),
        ("new", "V2", "V2", "V2"),
        ("always", None, "best", "the repository's default"),
        ("always", "V3", "V3", "V3"),
    ],
)
def test_weights_are_asked_for_as_the_entry_takes_them(
    repository: Repository, entry: str, weights: str | None, made_with: str, called: str
) -> None:
    backbone = load_backbone(f"hub:{repository.folder}:{entry}", weights=weights, size=64)
    assert repository.calls == [made_with]
    assert backbone.weights == called


def test_weights_of_a_local_file_go_into_an_entry(repository: Repository, tmp_path: Path) -> None:
    state = load_backbone(f"hub:{repository.folder}:plain", size=64).module.state_dict()
    save_file({f"module.{name}": value for name, value in state.items()}, tmp_path / "w.safetensors")
    backbone = load_backbone(f"hub:{repository.folder}:old", weights=tmp_path / "w.safetensors", size=64)
    assert repository.calls == ["plain", "random"]
    assert all(torch.equal(value, state[name]) for name, value in backbone.module.state_dict().items())
    assert any("prefix 'module.'" in note for note in backbone.notes)


WRONG = {
    ":plan": ("a function plan in .*hubconf.py", "did you mean plain"),
    ":wants": (r"TypeError: wants\(\) missing", "function of your own around it"),
    ":pair": (r"torch\.nn\.Module.*\n.*a tuple", "return the network alone"),
    ":": ("hub:FOLDER:entry", "hub:./nets:make"),
    "/hubconf.py:plain": ("no folder", "hub:./nets:make"),
    "/none:plain": ("no folder", "hub:./nets:make"),
}


@pytest.mark.parametrize(("end", "expected"), WRONG.items(), ids=range(len(WRONG)))
def test_an_entry_that_is_none_is_an_error_with_the_cure(repository: Repository, end: str, expected: tuple[str, str]) -> None:
    with pytest.raises(BackboneNotFound, match=expected[0]) as error:
        load_backbone(f"hub:{repository.folder}{end}")
    assert expected[1] in error.value.fix


def test_weights_that_an_entry_does_not_have(repository: Repository) -> None:
    with pytest.raises(BackboneNotFound, match=r"with weights='V9' to run\n.*hubconf\.py, line \d+: KeyError"):
        load_backbone(f"hub:{repository.folder}:new", weights="V9")
    for entry in ("plain", "old"):
        with pytest.raises(BackboneNotFound, match=f"published weights of hub:my_nets:{entry}"):
            load_backbone(f"hub:{repository.folder}:{entry}", weights="V2")


def test_a_folder_without_hubconf(repository: Repository) -> None:
    (repository.folder / "hubconf.py").unlink()
    with pytest.raises(BackboneNotFound, match=r"a hubconf\.py in"):
        load_backbone(f"hub:{repository.folder}:plain")


def test_a_hubconf_that_fails_names_the_line(repository: Repository) -> None:
    (repository.folder / "hubconf.py").write_text("import torch\nraise ValueError('no luck')\n")
    with pytest.raises(BackboneNotFound, match=r"hubconf\.py, line 2: ValueError: no luck"):
        load_backbone(f"hub:{repository.folder}:plain")


def test_packages_that_a_hubconf_needs_are_named(repository: Repository) -> None:
    conf = repository.folder / "hubconf.py"
    conf.write_text(conf.read_text().replace('["torch"]', '["torch", "not_there_1", "not_there_2.part"]'))
    with pytest.raises(BackboneNotFound) as error:
        load_backbone(f"hub:{repository.folder}:plain")
    assert error.value.fix == "pip install not_there_1 not_there_2.part"


def test_two_folders_with_modules_of_one_name_are_not_mixed_up(repository: Repository, tmp_path: Path) -> None:
    load_backbone(f"hub:{repository.folder}:plain", size=64)
    other = Repository(tmp_path / "other", repository.helper)
    with pytest.raises(BackboneNotFound, match=rf"{repository.helper} of .*other to be imported"):
        load_backbone(f"hub:{other.folder}:plain", size=64)
    assert not other.ran


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Repository:
    """Stands for owner/nets on GitHub, downloaded before; without a network."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return Repository(tmp_path / "hub/owner_nets_v1.0_x", f"regraft_hub_{abs(hash(request.node.name))}")


@pytest.mark.parametrize("spec", ["hub:owner/nets:v1.0/x:plain", "hub:owner/nets:plain"])
def test_a_remote_repository_does_not_run_untrusted(remote: Repository, spec: str) -> None:
    with pytest.raises(UsageError) as error:
        load_backbone(spec)
    assert "owner/nets may run" in error.value.expected
    assert "--trust (in Python trust=True)" in error.value.fix
    assert not remote.ran


def test_a_trusted_remote_repository_is_a_backbone(remote: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    backbone = load_backbone("hub:owner/nets:v1.0/x:old", trust=True, size=64)
    assert backbone.name == "hub:owner/nets:v1.0/x:old"
    assert remote.calls == ["published"]
    assert capsys.readouterr().out == ""


def test_a_repository_without_a_ref_says_which_code_it_is(remote: Repository) -> None:
    remote.folder.rename(remote.folder.with_name("owner_nets_main"))
    backbone = load_backbone("hub:owner/nets:plain", trust=True, size=64)
    assert any("names no ref" in note for note in backbone.notes)


@pytest.mark.usefixtures("remote")
@pytest.mark.parametrize("spec", ["hub:owner/other:plain", "hub:owner/nets:v2:plain"])
def test_without_a_network_the_error_names_a_folder_of_ones_own(spec: str) -> None:
    with pytest.raises(BackboneNotFound, match="on disk or from GitHub") as error:
        load_backbone(spec, trust=True)
    assert "hub:FOLDER:entry" in error.value.fix


@pytest.mark.parametrize(
    "spec", ["hub:owner/nets", "hub:a/b/c:d", "hub:https://x.y/z:d", "hub:a/b:../../c:d", "hub::d", "hub:a/b:c d"]
)
def test_what_names_no_repository_is_told_the_form(spec: str) -> None:
    with pytest.raises(BackboneNotFound, match="hub:owner/repo:entry"):
        load_backbone(spec, trust=True)


@pytest.mark.usefixtures("cache")
def test_a_remote_run_is_saved_and_loaded_only_with_trust(
    remote: Repository, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = "hub:owner/nets:v1.0/x:old"
    run = regraft.fit(photos, out=tmp_path / "run", backbone=spec, trust=True, size=48, device="cpu")
    (remote.folder / "ran").unlink()
    with pytest.raises(SavedModelRefused) as error:
        regraft.load(tmp_path / "run")
    assert f'backbone="{spec}", trust=True' in error.value.fix
    with pytest.raises(UsageError, match="may run"):
        regraft.load(tmp_path / "run", backbone=spec)
    assert not remote.ran
    again = regraft.load(tmp_path / "run", backbone=spec, trust=True)
    images = torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        assert torch.equal(run.to_torch()(images), again.to_torch()(images))
    assert main(["predict", str(tmp_path / "run"), str(photos / "blue"), "--backbone", spec]) == 2
    assert main(["predict", str(tmp_path / "run"), str(photos / "blue"), "--backbone", spec, "--trust"]) == 0
    assert main(["predict", spec, str(photos / "blue")]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.usefixtures("cache")
def test_a_run_on_a_folder_does_not_say_where_the_folder_was(repository: Repository, photos: Path, tmp_path: Path) -> None:
    spec = f"hub:{repository.folder}:plain"
    regraft.fit(photos, out=tmp_path / "run", backbone=spec, size=48, device="cpu")
    assert str(tmp_path) not in (tmp_path / "run/config.json").read_text()
    with pytest.raises(SavedModelRefused, match=r'backbone="hub:FOLDER:plain"'):
        regraft.load(tmp_path / "run")
    assert regraft.load(tmp_path / "run", backbone=spec).classes == ("amber", "blue", "cyan")
