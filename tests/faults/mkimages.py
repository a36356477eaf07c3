"""Sound images of every format, mode and depth, each with the pixels that a reader must see. Made when asked for.

`PYTHONPATH=tests python tests/faults/mkimages.py FOLDER` writes them there to be looked at.
"""

import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from faults.image_bytes import exif, interlaced_png, linear_profile, png, seen_of_linear, tiff
from numpy.typing import NDArray
from PIL import Image

Levels = NDArray[np.uint8]
BACKGROUND = (255, 255, 255)
ORIENTED = ("JPEG", "PNG", "WEBP", "TIFF")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A file and what must be seen in it: (height, width, 3) levels, each within `tolerance`."""

    name: str
    data: bytes
    expected: NDArray[np.float64] | Levels
    tolerance: int = 2


def blocks() -> Levels:
    """Six flat colours, 16 x 16 each, (32, 48, 3): no two ways of turning it look the same, and JPEG keeps it."""
    colours = np.array(
        [[(200, 40, 40), (40, 180, 60), (50, 60, 200)], [(230, 220, 40), (90, 90, 90), (250, 250, 250)]], np.uint8
    )
    return colours.repeat(16, axis=0).repeat(16, axis=1)


def greys() -> Levels:
    """Six flat greys, (32, 48)."""
    return np.array([[0, 60, 120], [180, 220, 255]], np.uint8).repeat(16, axis=0).repeat(16, axis=1)


def alphas() -> Levels:
    """Six steps of opacity, (32, 48)."""
    return np.array([[255, 0, 128], [64, 255, 200]], np.uint8).repeat(16, axis=0).repeat(16, axis=1)


def three(grey: NDArray[Any]) -> NDArray[Any]:
    return np.stack([grey] * 3, axis=-1)


def over(pixels: NDArray[Any], alpha: Levels, background: tuple[int, int, int] = BACKGROUND) -> NDArray[np.float64]:
    """What is seen of (height, width, 3) pixels above a background."""
    share = alpha[..., None] / 255.0
    return pixels * share + np.array(background) * (1 - share)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def valid() -> list[Case]:
    """Every sound image."""
    return [*plain(), *alpha(), *palettes(), *deep(), *inks(), *profiles(), *frames(), *sizes(), *oriented()]


def plain() -> Iterator[Case]:
    """1, L and RGB in every format and way of writing it."""
    colour, grey, mask = blocks(), greys(), greys() > 100
    ways: list[tuple[str, dict[str, Any]]] = [
        ("JPEG", {"quality": 100, "subsampling": 0}),
        ("JPEG", {"quality": 100, "subsampling": 0, "progressive": True}),
        ("JPEG", {"quality": 100, "subsampling": 0, "restart_marker_blocks": 1}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_deflate"}),
        ("TIFF", {"compression": "packbits"}),
        ("TIFF", {"big_tiff": True}),
    ]
    for number, (kind, options) in enumerate(ways):
        yield Case(name=f"rgb-{number}.{kind}", data=encode(Image.fromarray(colour), kind, **options), expected=colour)
        yield Case(name=f"grey-{number}.{kind}", data=encode(Image.fromarray(grey), kind, **options), expected=three(grey))
    for kind, options in (("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "group4"}), ("GIF", {})):
        yield Case(
            name=f"one-bit{len(options)}.{kind}",
            data=encode(Image.fromarray(mask), kind, **options),
            expected=three(mask * 255),
        )
    for height in (32, 31, 3):
        part = colour[:height]
        yield Case(name=f"interlaced-{height}.PNG", data=interlaced_png(part), expected=part)
    yield Case(name="grey.GIF", data=encode(Image.fromarray(grey), "GIF"), expected=three(grey))


def alpha() -> Iterator[Case]:
    """Transparency: its own channel, and one colour that stands for it."""
    colour, grey, opacity = blocks(), greys(), alphas()
    rgba = Image.fromarray(np.dstack([colour, opacity]))
    la = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(opacity)])
    for kind, options in (
        ("PNG", {}),
        ("WEBP", {"lossless": True, "exact": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ):
        yield Case(name=f"rgba{len(options)}.{kind}", data=encode(rgba, kind, **options), expected=over(colour, opacity))
        if kind != "WEBP":
            yield Case(name=f"la{len(options)}.{kind}", data=encode(la, kind, **options), expected=over(three(grey), opacity))
    key = encode(Image.fromarray(colour), "PNG", transparency=(200, 40, 40))
    yield Case(name="rgb-key.PNG", data=key, expected=over(colour, np.where(colour[..., 0] == 200, 0, 255).astype(np.uint8)))
    key = encode(Image.fromarray(grey), "PNG", transparency=120)
    yield Case(name="grey-key.PNG", data=key, expected=over(three(grey), np.where(grey == 120, 0, 255).astype(np.uint8)))


def palettes() -> Iterator[Case]:
    colour = blocks()
    image = Image.fromarray(colour).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        yield Case(name=f"palette.{kind}", data=encode(image, kind), expected=colour)
    index = image.getpixel((0, 0))
    hidden = over(colour, np.where(colour[..., 0] == 200, 0, 255).astype(np.uint8))
    for kind in ("PNG", "GIF"):
        yield Case(name=f"palette-key.{kind}", data=encode(image, kind, transparency=index), expected=hidden)
    opacity = bytes(255 - 30 * entry for entry in range(8))
    seen = over(colour, np.array(list(opacity), np.uint8)[np.asarray(image)])
    yield Case(name="palette-alpha.PNG", data=encode(image, "PNG", transparency=opacity), expected=seen)
    with_alpha = image.copy().convert("PA")
    with_alpha.putalpha(Image.fromarray(alphas()))
    yield Case(name="palette-alpha.TIFF", data=encode(with_alpha, "TIFF"), expected=over(colour, alphas()))
    for depth in (1, 2, 4):
        levels = np.arange(8) % (1 << depth)
        row = np.packbits(((levels[:, None] >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8)).tobytes()
        seen = three(np.round(levels * 255 / ((1 << depth) - 1))[None])
        yield Case(name=f"grey-{depth}-bit.PNG", data=png(8, 1, depth, 0, [row]), expected=seen)


def deep() -> Iterator[Case]:
    """16 and 12 bits: a whole ramp, so that clipping at 255 would show at once."""
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    seen = three(ramp / 257.0)
    grey16 = {256: 8, 257: 8, 258: (16,), 262: 1, 277: 1, 278: 8}
    yield Case(name="grey-16.PNG", data=encode(Image.fromarray(ramp), "PNG"), expected=seen)
    yield Case(name="grey-16.TIFF", data=encode(Image.fromarray(ramp), "TIFF"), expected=seen)
    yield Case(name="grey-16-lzw.TIFF", data=encode(Image.fromarray(ramp), "TIFF", compression="tiff_lzw"), expected=seen)
    yield Case(name="grey-16-big-endian.TIFF", data=tiff(grey16, ramp.astype(">u2").tobytes(), order=">"), expected=seen)
    yield Case(name="grey-16-white-is-zero.TIFF", data=tiff(grey16 | {262: 0}, ramp.tobytes()), expected=255 - seen)
    twelve = np.linspace(0, 4095, 64).astype(np.uint16)
    bits = ((twelve[:, None] >> np.arange(11, -1, -1)) & 1).astype(np.uint8)
    seen12 = three((twelve / 4095 * 255).reshape(8, 8))
    yield Case(name="grey-12.TIFF", data=tiff(grey16 | {258: (12,)}, np.packbits(bits).tobytes()), expected=seen12)
    rows = [row.astype(">u2").tobytes() for row in ramp]
    key = int(ramp[3, 3]).to_bytes(2, "big")
    hidden = over(seen, np.where(ramp == ramp[3, 3], 0, 255).astype(np.uint8))
    yield Case(name="grey-16-key.PNG", data=png(8, 8, 16, 0, rows, before=[(b"tRNS", key)]), expected=hidden)
    colour = np.stack([ramp, ramp[::-1], ramp.T], axis=-1)
    rows = [row.astype(">u2").tobytes() for row in colour]
    yield Case(name="rgb-16.PNG", data=png(8, 8, 16, 2, rows), expected=colour / 257.0)
    key = colour[2, 5].astype(">u2").tobytes()
    hidden = over(colour / 257.0, np.where((colour == colour[2, 5]).all(axis=-1), 0, 255).astype(np.uint8))
    yield Case(name="rgb-16-key.PNG", data=png(8, 8, 16, 2, rows, before=[(b"tRNS", key)]), expected=hidden)
    with_alpha = np.dstack([colour, np.full((8, 8), 32896, np.uint16)])
    rows = [row.astype(">u2").tobytes() for row in with_alpha]
    yield Case(name="rgba-16.PNG", data=png(8, 8, 16, 6, rows), expected=over(colour / 257.0, np.full((8, 8), 128, np.uint8)))
    tags: dict[int, int | tuple[int, ...]] = {256: 8, 257: 8, 258: (16,) * 3, 262: 2, 277: 3, 278: 8}
    yield Case(name="rgb-16.TIFF", data=tiff(tags, colour.tobytes()), expected=colour / 257.0)
    premultiplied = np.dstack([(blocks() * 0.5).astype(np.uint8), np.full((32, 48), 128, np.uint8)])
    tags = {256: 48, 257: 32, 258: (8,) * 4, 262: 2, 277: 4, 278: 32, 338: (1,)}
    seen = over(blocks(), np.full((32, 48), 128, np.uint8))
    yield Case(name="rgba-premultiplied.TIFF", data=tiff(tags, premultiplied.tobytes()), expected=seen)


def inks() -> Iterator[Case]:
    """CMYK as it stands and as Adobe inverts it, YCbCr, LAB."""
    cmyk = np.array(
        [[(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 0, 0)], [(0, 0, 255, 0), (0, 0, 0, 255), (0, 0, 0, 128)]], np.uint8
    )
    cmyk = cmyk.repeat(16, axis=0).repeat(16, axis=1)
    seen = (255 - cmyk[..., :3].astype(float)) * (255 - cmyk[..., 3:]) / 255
    image = Image.frombytes("CMYK", (48, 32), cmyk.tobytes())
    yield Case(name="cmyk.TIFF", data=encode(image, "TIFF"), expected=seen)
    jpeg = encode(image, "JPEG", quality=100)
    yield Case(name="cmyk-adobe.JPEG", data=jpeg, expected=seen)
    at = jpeg.index(b"Adobe") - 4
    yield Case(name="cmyk-unmarked.JPEG", data=jpeg[:at] + jpeg[at + 16 :], expected=seen)
    tags: dict[int, int | tuple[int, ...]] = {256: 48, 257: 32, 258: (8, 8, 8), 262: 6, 277: 3, 278: 32, 530: (1, 1)}
    ycc = np.asarray(Image.fromarray(blocks()).convert("YCbCr"))
    # The conversion of JFIF; the six colours come back within 3 levels only, so what is stored is what is compared.
    luma, blue, red = (ycc[..., channel].astype(float) - (128 if channel else 0) for channel in range(3))
    seen = np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=-1).clip(0, 255)
    yield Case(name="ycbcr.TIFF", data=tiff(tags, ycc.tobytes()), expected=seen)
    levels = np.array([0, 50, 100]) * 255 // 100
    lab = np.zeros((1, 3, 3), np.uint8)
    lab[0, :, 0] = levels
    tags = {256: 3, 257: 1, 258: (8, 8, 8), 262: 8, 277: 3, 278: 1}
    # L* of 49.8 is sRGB 118.6, by the formula of CIE L*.
    yield Case(name="lab.TIFF", data=tiff(tags, lab.tobytes()), expected=three(np.array([[0, 118.6, 255]])))


def profiles() -> Iterator[Case]:
    colour, grey, opacity = blocks(), greys(), alphas()
    linear = linear_profile()
    seen = seen_of_linear(colour)
    for kind, options in (
        ("PNG", {}),
        ("TIFF", {}),
        ("JPEG", {"quality": 100, "subsampling": 0}),
        ("WEBP", {"lossless": True}),
    ):
        data = encode(Image.fromarray(colour), kind, icc_profile=linear, **options)
        yield Case(name=f"linear-profile.{kind}", data=data, expected=seen, tolerance=2 if kind != "JPEG" else 3)
    data = encode(Image.fromarray(grey), "PNG", icc_profile=linear_profile(grey=True))
    yield Case(name="linear-grey.PNG", data=data, expected=three(seen_of_linear(grey)))
    rgba = encode(Image.fromarray(np.dstack([colour, opacity])), "PNG", icc_profile=linear)
    yield Case(name="linear-alpha.PNG", data=rgba, expected=over(seen, opacity))
    la = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(opacity)])
    data = encode(la, "PNG", icc_profile=linear_profile(grey=True))
    yield Case(name="linear-grey-alpha.PNG", data=data, expected=over(three(seen_of_linear(grey)), opacity))
    for name, bad in (("garbage", b"not a profile" * 20), ("misfit", linear_profile(grey=True))):
        yield Case(name=f"{name}-profile.PNG", data=encode(Image.fromarray(colour), "PNG", icc_profile=bad), expected=colour)


def frames() -> Iterator[Case]:
    """Animations: the first frame."""
    first = Image.fromarray(blocks())
    rest = [Image.new("RGB", first.size, (index, 0, 0)) for index in range(3)]
    for kind, options in (("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        data = encode(first, kind, save_all=True, append_images=rest, **options)
        yield Case(name=f"animated.{kind}", data=data, expected=blocks())
    data = encode(first, "PNG", save_all=True, append_images=rest, default_image=True)
    yield Case(name="animated-default.PNG", data=data, expected=blocks())


def sizes() -> Iterator[Case]:
    for width, height in ((1, 1), (1, 5000), (5000, 1)):
        colour = np.full((height, width, 3), (10, 20, 30), np.uint8)
        for kind in ("PNG", "JPEG", "BMP", "TIFF", "GIF"):
            yield Case(name=f"{width}x{height}.{kind}", data=encode(Image.fromarray(colour), kind), expected=colour)


def stored(upright: Levels, orientation: int) -> Levels:
    """How a camera held that way stores the picture."""
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }
    return np.ascontiguousarray(turned[orientation])


def oriented() -> Iterator[Case]:
    """All eight orientations in each of the four formats that can carry one."""
    for orientation in range(1, 9):
        image = Image.fromarray(stored(blocks(), orientation))
        for kind in ORIENTED:
            yield Case(
                name=f"orientation-{orientation}.{kind}", data=encode_oriented(image, kind, orientation), expected=blocks()
            )


def encode_oriented(image: Image.Image, kind: str, orientation: int) -> bytes:
    if kind == "TIFF":
        return encode(image, kind, tiffinfo={274: orientation})
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "PNG": {}, "WEBP": {"lossless": True}}[kind]
    return encode(image, kind, exif=exif(orientation, order="<>"[orientation % 2]), **options)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for case in valid():
        (folder / case.name).write_bytes(case.data)
