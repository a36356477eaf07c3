"""Every classification model of torchvision, and the families of timm, through the same checks; docs/backbones.md shows them.

REGRAFT_WRITE_BACKBONES=1 pytest -n 0 -m "" tests/contracts/test_every_backbone.py      writes the page
"""

import gc
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torchvision
from contracts.backbone_checks import CHECKS, NOT_NOW, WRITES, Case, Finding, examine

PAGE = Path(__file__).resolve().parents[2] / "docs/backbones.md"

# Inputs other than 64 pixels: the network's own size (None), or the smallest that it can use.
SIZES: dict[str, int | None] = {"inception_v3": None, "maxvit_t": None, "vit_h_14": 56}
SIZES |= dict.fromkeys(("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32"), 64)
# Built by the code of a smaller sibling in the list, and a third of the whole time: only `make torture` runs them.
_LARGE = """
    convnext_base convnext_large convnext_small densenet161 densenet169 densenet201 efficientnet_b4 efficientnet_b5
    efficientnet_b6 efficientnet_b7 efficientnet_v2_l efficientnet_v2_m regnet_x_16gf regnet_x_32gf regnet_x_3_2gf
    regnet_x_8gf regnet_y_128gf regnet_y_16gf regnet_y_32gf regnet_y_3_2gf regnet_y_8gf resnet101 resnet152
    resnext101_32x8d resnext101_64x4d swin_b swin_s swin_v2_b swin_v2_s vgg13 vgg13_bn vgg16_bn vgg19 vgg19_bn vit_b_32
    vit_h_14 vit_l_16 vit_l_32 wide_resnet101_2 wide_resnet50_2
"""
# Of timm, those that take longest.
_SLOW = """
    cait_xxs24_224 caformer_s18 coat_lite_tiny convmixer_768_32 davit_tiny gcvit_xxtiny hiera_tiny_224 mobileone_s0
    nest_tiny resmlp_12_224 sequencer2d_s swinv2_cr_tiny_224 tnt_s_patch16_224 tresnet_m twins_svt_small
    vit_relpos_small_patch16_224 vitamin_small_224 volo_d1_224
"""
LARGE = frozenset(f"torchvision:{name}" for name in _LARGE.split()) | {f"timm:{name}" for name in _SLOW.split()}
TORCHVISION = tuple(torchvision.models.list_models(module=torchvision.models))
# One of each family of timm, the smallest or nearly so: those that take 64 pixels, and those that want their own size.
SMALL = """
    caformer_s18 convmixer_768_32 convnext_atto convnextv2_atto cs3darknet_s cspresnet50 densenet121 dla34 dpn48b
    edgenext_xx_small efficientnet_b0 efficientvit_b0 ese_vovnet19b_dw fasternet_t0 fastvit_t8 focalnet_tiny_srf gernet_s
    ghostnet_050 hardcorenas_a hgnetv2_b0 hrnet_w18_small inception_next_atto lcnet_035 lcnetv2_base legacy_seresnet18
    legacy_xception mambaout_femto mobilenetv2_050 mobilenetv3_small_050 mobilenetv4_conv_small_035 mobileone_s0
    mobilevit_xxs mobilevitv2_050 nextvit_small poolformer_s12 pvt_v2_b0 rdnet_tiny regnetx_002 regnety_002
    repghostnet_050 repvgg_a0 repvit_m0_9 res2net50_14w_8s resnest14d resnet10t resnetv2_50 rexnet_100 selecsls42
    seresnet18 shvit_s1 skresnet18 starnet_s050 tinynet_e tresnet_m xception41
"""
OWN_SIZE = """
    botnet26t_256 cait_xxs24_224 coat_lite_tiny convit_tiny crossvit_9_240 davit_tiny deit_tiny_distilled_patch16_224
    efficientformer_l1 efficientformerv2_s0 efficientvit_m0 eva02_tiny_patch14_224 gcvit_xxtiny gmlp_ti16_224
    hiera_tiny_224 levit_128s mixer_s32_224 mvitv2_tiny nest_tiny pit_ti_distilled_224 resmlp_12_224 sequencer2d_s
    swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_patch16_224 twins_svt_small visformer_tiny
    vit_relpos_small_patch16_224 vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vitamin_small_224 volo_d1_224
    xcit_nano_12_p16_224
"""
TIMM: dict[str, int | None] = dict.fromkeys(SMALL.split(), 64) | dict.fromkeys(OWN_SIZE.split())
# Why a network of timm cannot pass a check, by network and check.
KNOWN: dict[str, dict[str, str]] = {
    # Two branches of patches of two sizes run side by side to the end: a single tensor is alive nowhere, so no stage is found.
    "timm:crossvit_9_240": {"partition": "no stage holds a parameter"},
}

CASES = [
    *(Case(spec=f"torchvision:{name}", size=SIZES.get(name, 64)) for name in TORCHVISION),
    *(Case(spec=f"timm:{name}", size=size) for name, size in TIMM.items()),
]


def marked(case: Case) -> object:
    large = case.spec in LARGE
    return pytest.param(case, id=case.spec, marks=[pytest.mark.large] if large else [])


@pytest.fixture(scope="module")
def findings() -> Iterator[dict[str, Finding]]:
    """Filled by the tests; written down after the last one where asked for."""
    found: dict[str, Finding] = {}
    yield found
    if WRITES:
        PAGE.write_text(page(found))


@pytest.mark.parametrize("case", map(marked, CASES))
def test_passes_every_check(case: Case, findings: dict[str, Finding], tmp_path: Path) -> None:
    finding = examine(case, tmp_path)
    findings[case.spec] = finding
    gc.collect()  # graphs are cycles, and some of the networks take gigabytes
    for path in tmp_path.iterdir():
        path.unlink()
    assert finding.failures == KNOWN.get(case.spec, {})
    if not WRITES:
        shown = row(finding)
        if finding.checks["saved"] == NOT_NOW:
            shown = shown.rpartition(" | ")[0]
        assert shown in PAGE.read_text(), "docs/backbones.md says otherwise: see the top of this file"


def test_the_page_names_every_network_of_torchvision_and_sixty_of_timm() -> None:
    rows = re.findall(r"^\| `(torchvision|timm):(\w+)`", PAGE.read_text(), re.MULTILINE)
    assert sorted(name for source, name in rows if source == "torchvision") == sorted(TORCHVISION)
    assert len([name for source, name in rows if source == "timm"]) >= 60


def test_no_network_of_torchvision_is_excused() -> None:
    assert not [spec for spec in KNOWN if spec.startswith("torchvision:")]


def page(found: dict[str, Finding]) -> str:
    """The whole of docs/backbones.md."""
    lines = [HEAD]
    for source, title in (("torchvision", "torchvision"), ("timm", "timm")):
        rows = [finding for spec, finding in found.items() if spec.startswith(f"{source}:")]
        lines += [f"\n## {title}: {len(rows)} networks\n", HEADER, *(row(finding) for finding in rows)]
    excused = [f"- `{spec}`, {check}: {why}" for spec, checks in KNOWN.items() for check, why in checks.items()]
    if excused:
        lines += ["\n## What cannot be done, and why\n", *excused]
    return "\n".join(lines) + "\n"


def row(finding: Finding) -> str:
    """One network as a line of the table."""
    marks = " | ".join({"yes": "✓", "too large": "–"}.get(finding.checks[name], "✗") for name in (*CHECKS, "saved"))
    millions = f"{finding.parameters / 1e6:.1f}"
    cells = (f"`{finding.spec}`", str(finding.size), millions, finding.heads, finding.found_by, str(finding.stages))
    return f"| {' | '.join(cells)} | {marks} |"


HEADER = (
    "| network | pixels | million parameters | head | found by | stages | "
    + " | ".join((*CHECKS, "saved"))
    + " |\n|---|---|---|---|---|---|"
    + "---|" * (len(CHECKS) + 1)
)
HEAD = """# Networks that were checked

Written by `REGRAFT_WRITE_BACKBONES=1 pytest -n 0 tests/contracts/test_every_backbone.py`, and compared with what is seen by
every `make test`. Each network has random weights here and is given images as small as it can use: the checks are about
structure, not accuracy. Networks that are not listed work in the same way: nothing is looked up by name.

What the columns mean:

- **head**: the layers that make the logits were found, and have as many outputs as the network has logits.
- **answers**: with new heads for three classes it gives finite logits, in eval mode and in train mode.
- **frozen**: with `head` alone trained, every new head gets a gradient and no frozen parameter does; after a step of training
  and a pass of evaluation every other parameter and buffer has the same bits as before.
- **partition**: every parameter belongs to exactly one stage, or none; stages are numbered without gaps; each strategy sorts
  every parameter into trained or frozen.
- **cuts**: cut at the pixels, at the end of every stage and before the head, the two parts one after the other give the same
  bits as the whole (in `make test` at three of the stages).
- **solved**: a head solved on the features gives the same logits inside the network as on the features.
- **saved**: saved, loaded, and the same logits bit for bit (– : over 150 million parameters, not written to
  disk here; in `make test` over 40 million)."""
