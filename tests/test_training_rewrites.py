"""Rewritten layers compute what the plain ones do, gradients included, and leave no trace."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from regraft.train.chance import seeded
from regraft.train.faster import FoldedConv, rewritten

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=4),
    "mobilenet_v3": lambda: torchvision.models.mobilenet_v3_small(num_classes=4),
    "efficientnet_lite0": lambda: timm.create_model("tf_efficientnet_lite0", num_classes=4),
}


def scatter(module: nn.Module) -> nn.Module:
    """Weights and statistics as training leaves them: no scale is 1, no mean is 0; in float64 and eval mode."""
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if value.dtype.is_floating_point:
            with torch.no_grad():
                if "running_var" in name:
                    value.uniform_(0.3, 2)
                elif value.dim() == 1:
                    value.normal_(0.5, 0.5)
    return module.double().eval()


def make(name: str) -> nn.Module:
    with seeded(0):
        return scatter(NETWORKS[name]())


def images(side: int = 40) -> Tensor:
    with seeded(1):
        return torch.randn(3, 3, side, side, dtype=torch.float64)


def passes(module: nn.Module, given: Tensor) -> tuple[Tensor, dict[int, Tensor], Tensor]:
    """The output, the gradient of every parameter by its identity, and that of the input."""
    shown = given.clone().requires_grad_(True)
    module.zero_grad(set_to_none=True)
    value = module(shown)
    torch.autograd.backward((value * torch.linspace(-1, 2, value.numel(), dtype=torch.float64).view_as(value)).sum())
    assert shown.grad is not None
    gradients = {id(one): one.grad.clone() for one in module.parameters() if one.grad is not None}
    return value.detach(), gradients, shown.grad


def assert_same(found: Tensor, wanted: Tensor, what: object = "") -> None:
    assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-9 * float(wanted.detach().abs().max())), what


def structure(module: nn.Module) -> list[tuple[str, int, bool]]:
    return [(path, id(layer), layer.training) for path, layer in module.named_modules(remove_duplicate=False)]


def check(module: nn.Module, given: Tensor) -> tuple[set[str], set[str]]:
    """Compare a rewritten network with itself; gives the paths of convolutions, and those that do a norm's work."""
    layers, keys = structure(module), list(module.state_dict())
    tensors = {name: (id(value), value.clone()) for name, value in module.state_dict(keep_vars=True).items()}
    hooks = sum(len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in module.modules())
    names = {id(value): name for name, value in module.named_parameters()}
    value, gradients, slope = passes(module, given)
    with rewritten(module, [given[:2]]) as convs:
        assert {id(one) for one in module.parameters()} == set(names)
        folded = {path for path, conv in convs.items() if conv.norm is not None}
        new_value, new_gradients, new_slope = passes(module, given)
    assert_same(new_value, value)
    assert_same(new_slope, slope)
    assert new_gradients.keys() == gradients.keys()
    for one, gradient in gradients.items():
        assert_same(new_gradients[one], gradient, names[one])
    assert structure(module) == layers
    assert list(module.state_dict()) == keys
    for name, one in module.state_dict(keep_vars=True).items():
        assert id(one) == tensors[name][0]
        assert torch.equal(one, tensors[name][1]), name
    assert sum(len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in module.modules()) == hooks
    assert torch.equal(module(given), value)
    return set(convs), folded


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients_are_those_of_the_plain_network(name: str) -> None:
    module = make(name)
    convs, folded = check(module, images())
    expected = {path for path, layer in module.named_modules() if isinstance(layer, nn.Conv2d)}
    assert convs == expected
    norms = sum(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())
    assert len(folded) == norms > 10
    kinds = {type(layer).__name__ for layer in module.modules()}
    assert name != "efficientnet_lite0" or {"BatchNormAct2d", "Conv2dSame"} <= kinds


def test_padding_that_hangs_on_the_size_is_that_of_the_size() -> None:
    module = make("efficientnet_lite0")
    with rewritten(module, [images(40)]):
        rewritten_values = [module(images(side)) for side in (33, 47, 64)]
    for value, side in zip(rewritten_values, (33, 47, 64), strict=True):
        assert_same(value, module(images(side)))


class Wired(nn.Module):
    """A convolution and its norm in a branch of which only `share` is heard, so that the answers hardly tell."""

    def __init__(self, join: Callable[["Wired", Tensor], Tensor], share: float) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.conv, self.norm, self.other = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.share = nn.Parameter(torch.tensor(share))
        self.head, self.join = nn.Linear(4, 3), join

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.share * self.join(self, x)).mean((2, 3)))


def twice_read(net: Wired, x: Tensor) -> Tensor:
    value = net.conv(x)
    return net.norm(value) * value.sigmoid()


def two_norms(net: Wired, x: Tensor) -> Tensor:
    value = net.conv(x)
    return net.norm(value) + net.other(value)


def changed_in_place(net: Wired, x: Tensor) -> Tensor:
    value = net.conv(x)
    value += 1.0
    return net.norm(value)


def norm_of_another_too(net: Wired, x: Tensor) -> Tensor:
    return net.norm(net.conv(x)) + net.norm(x)


def called_twice(net: Wired, x: Tensor) -> Tensor:
    return net.norm(net.conv(net.conv(x)))


def viewed(net: Wired, x: Tensor) -> Tensor:
    value = net.conv(x)
    rows = value.flatten(2)
    return net.norm(value) + rows.mean(2)[:, :, None, None]


def plain(net: Wired, x: Tensor) -> Tensor:
    return net.norm(net.conv(x))


def read_by_compiled_code(net: Wired, x: Tensor) -> Tensor:
    value = net.conv(x)
    return net.norm(value) * compiled_sigmoid(value)


def attributes_read(net: Wired, x: Tensor) -> Tensor:
    """As timm's EdgeNeXt, XCiT and DaViT do."""
    value = net.conv(x.to(net.conv.weight.dtype))
    return net.norm(value) * net.conv.kernel_size[0] + net.norm.eps * net.conv.weight.sum()  # type: ignore[operator]


def named_input(net: Wired, x: Tensor) -> Tensor:
    return net.norm(net.conv(input=x))


with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated, and networks in use have it all the same

    @torch.jit.script
    def compiled_sigmoid(value: Tensor) -> Tensor:
        return value.sigmoid()


JOINS = (twice_read, two_norms, changed_in_place, norm_of_another_too, called_twice, viewed, read_by_compiled_code)


@pytest.mark.parametrize("share", [1.0, 1e-6, 0.0])
@pytest.mark.parametrize("join", JOINS, ids=lambda join: join.__name__)
def test_what_is_read_elsewhere_too_is_not_folded(join: Any, share: float) -> None:
    with seeded(0):
        module = scatter(Wired(join, share))
    with torch.no_grad():
        module.share.fill_(share)  # type: ignore[operator, union-attr]
    _, folded = check(module, images(9))
    assert folded == set()


@pytest.mark.parametrize("join", [plain, attributes_read, named_input], ids=lambda join: join.__name__)
@pytest.mark.parametrize("share", [1.0, 0.0])
def test_what_the_norm_alone_reads_is_folded(join: Any, share: float) -> None:
    with seeded(0):
        module = scatter(Wired(join, share))
    assert check(module, images(9))[1] == {"conv"}


@pytest.mark.parametrize("left", ["weight", "bias", "neither"])
def test_norms_without_a_scale_or_a_shift_are_folded(left: str) -> None:
    with seeded(0):
        module = Wired(plain, 1.0)
        module.norm = nn.BatchNorm2d(4, affine=left != "neither")
        if left == "weight":
            module.norm.bias = None  # as BatchNorm2d(bias=False) has it
        elif left == "bias":
            module.norm.weight = None
        scatter(module)
    assert check(module, images(9))[1] == {"conv"}


def test_a_network_of_timm_that_reads_a_weight_is_rewritten() -> None:
    with seeded(0):
        module = scatter(timm.create_model("edgenext_xx_small", num_classes=3))
    given = images(64)
    value = module(given)
    with rewritten(module, [given[:2]]) as convs:
        assert convs
        assert_same(module(given), value)


def test_stand_ins_have_the_attributes_of_their_layers_and_can_be_copied() -> None:
    with seeded(0):
        module: Any = scatter(Wired(plain, 1.0))
    weight, value = module.conv.weight, module(images(9))
    with rewritten(module, [images(9)]):
        assert module.conv.weight is weight
        assert module.norm.num_features == 4
        assert not hasattr(module.conv, "nothing")
        assert_same(copy.deepcopy(module)(images(9)), value)


def test_one_that_is_read_elsewhere_leaves_the_others_folded() -> None:
    with seeded(0):
        first, second = Wired(plain, 1.0), Wired(twice_read, 1.0)
        first.head, second.stem = nn.Identity(), nn.Identity()

        class Both(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = first, second

            def forward(self, x: Tensor) -> Tensor:
                x = self.first.stem(x)
                return self.second(x + self.first.join(self.first, x))

        module = scatter(Both())
    assert check(module, images(9))[1] == {"first.conv"}


def test_statistics_that_move_are_not_folded() -> None:
    module = make("resnet18")
    module.layer4.train()  # type: ignore[union-attr]
    given = images(64)
    with rewritten(module, [given[:2]]) as convs:
        folded = {path for path, conv in convs.items() if conv.norm is not None}
    assert folded
    assert not [path for path in folded if path.startswith("layer4")]
    with rewritten(module, [given[:2]], fold=False) as convs:
        assert convs
        assert all(conv.norm is None for conv in convs.values())


def test_a_layer_of_two_names_is_rewritten_at_both() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ModuleList()
            self.again = self.conv
            self.layers.append(self.norm)

        def forward(self, x: Tensor) -> Tensor:
            return self.layers[0](self.again(x)).mean((2, 3))

    with seeded(0):
        module = scatter(Named())
    convs, folded = check(module, images(9))
    assert len(convs) == len(folded) == 1


@pytest.mark.parametrize("kind", ["conv", "norm"])
def test_layers_with_hooks_of_others_stay(kind: str) -> None:
    with seeded(0):
        module = scatter(Wired(plain, 1.0))
    layer: Any = getattr(module, kind)
    layer.register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    assert "conv" not in check(module, images(9))[1]


def own_forward(layer: Any) -> None:
    layer.forward = lambda x: 2 * type(layer).forward(layer, x)


def own_sum(layer: Any) -> None:
    layer._conv_forward = lambda x, weight, bias: 2 * type(layer)._conv_forward(layer, x, weight, bias)


def backward_hook(layer: Any) -> None:
    layer.register_full_backward_hook(lambda _, into, __: tuple(None if one is None else 3 * one for one in into))


def backward_pre_hook(layer: Any) -> None:
    layer.register_full_backward_pre_hook(lambda _, into: tuple(3 * one for one in into))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("conv", own_sum),
        *((kind, change) for kind in ("conv", "norm") for change in (own_forward, backward_hook, backward_pre_hook)),
    ],
)
def test_layers_that_were_made_to_do_something_else_stay(kind: str, change: Callable[[Any], None]) -> None:
    with seeded(0):
        module = scatter(Wired(plain, 0.0))  # not heard in the answers
    change(getattr(module, kind))
    convs, folded = check(module, images(9))
    assert ("conv" in convs) == (kind == "norm")
    assert not folded


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("how", ["raises", "answers otherwise"])
def test_a_network_that_bears_no_other_layers_stays_as_it_is(how: str, fold: bool) -> None:
    def choosy(net: Wired, x: Tensor) -> Tensor:
        if how == "raises":
            assert type(net.conv) is nn.Conv2d
        return net.norm(net.conv(x)) * (type(net.conv) is nn.Conv2d)

    with seeded(0):
        module = scatter(Wired(choosy, 1.0))
    before, value = structure(module), module(images(9))
    with rewritten(module, [images(9)], fold=fold) as convs:
        assert not convs
        assert structure(module) == before
        assert torch.equal(module(images(9)), value)
    assert structure(module) == before


def test_several_answers_are_all_compared() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other, self.norm = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.heard = 1.0

        def forward(self, x: Tensor) -> list[Tensor]:
            return [self.norm(self.one(x)), self.other(x) * (1.0 if type(self.other) is nn.Conv2d else self.heard)]

    with seeded(0):
        module: Any = scatter(Two())
    with rewritten(module, [images(9)]) as convs:
        assert {path: conv.norm for path, conv in convs.items()} == {"one": module.norm.norm, "other": None}
    module.heard = 2.0
    with rewritten(module, [images(9)]) as convs:
        assert not convs


def test_looking_at_a_network_in_train_mode_leaves_its_statistics() -> None:
    with seeded(0):
        module = scatter(Wired(plain, 1.0)).train()
    before = {name: value.clone() for name, value in module.named_buffers()}
    with seeded(0):
        drawn = torch.rand(3)
    with seeded(0), rewritten(module, [images(9)]) as convs:
        assert convs.keys() == {"stem", "conv"}
        assert torch.equal(torch.rand(3), drawn)
    assert all(torch.equal(value, before[name]) for name, value in module.named_buffers())


def test_a_weight_that_is_computed_for_each_pass_is_computed() -> None:
    with seeded(0):
        module = scatter(Wired(plain, 1.0))
    torch.nn.utils.weight_norm(module.conv)  # type: ignore[arg-type]
    assert "conv" not in check(module, images(9))[0]


def test_one_norm_for_two_convolutions_is_folded_into_both() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other, self.norm = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.other(self.norm(self.one(x)))).mean((2, 3))

    with seeded(0):
        module = scatter(Shared())
    assert check(module, images(9))[1] == {"one", "other"}


def test_an_error_inside_puts_everything_back() -> None:
    module = make("resnet18")
    before = structure(module)
    with pytest.raises(ZeroDivisionError), rewritten(module, [images()[:2]]):
        raise ZeroDivisionError
    assert structure(module) == before


@pytest.mark.parametrize("exact", [True, False])
def test_layers_told_to_be_exact_compute_in_full_inside_half_precision(exact: bool) -> None:
    seen = []
    with seeded(0):
        conv = nn.Conv2d(3, 6, 3, groups=3)
    layer = FoldedConv(conv, None)
    layer.exact = exact
    conv_forward = conv._conv_forward
    conv._conv_forward = lambda x, weight, bias: seen.append((x.dtype, weight.dtype)) or conv_forward(x, weight, bias)  # type: ignore[func-returns-value]
    given = images().float()
    with torch.autocast("cpu", torch.bfloat16):
        value = layer(given.bfloat16())
        again = layer(given)
    assert value.dtype == again.dtype == torch.bfloat16
    wanted = conv_forward(given.bfloat16().float(), conv.weight, conv.bias)
    error = float((value.float() - wanted).abs().max() / wanted.abs().max())
    assert error < (0.005 if exact else 0.02)
    assert (seen[0][0] == torch.float32) == exact


@pytest.mark.parametrize(
    ("half", "given", "wanted"),
    [
        (torch.float16, torch.float32, torch.float16),
        (torch.bfloat16, torch.float16, torch.bfloat16),
        (torch.bfloat16, torch.float64, torch.float64),
    ],
)
def test_exact_layers_answer_in_the_precision_of_the_others(half: torch.dtype, given: torch.dtype, wanted: torch.dtype) -> None:
    conv = nn.Conv2d(3, 6, 3).to(given if given == torch.float64 else torch.float32)
    layer, shown = FoldedConv(conv, None), images(9).to(given)
    layer.exact = True
    with torch.autocast("cpu", half):
        assert layer(shown).dtype == conv(shown).dtype == wanted
