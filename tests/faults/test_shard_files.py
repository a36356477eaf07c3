"""Hostile and damaged archives: refused or set aside with a reason, nothing unpacked, nothing opened that they point to."""

import bz2
import gzip
import io
import lzma
import random
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from image_files import tree_hash
from shard_files import END, entry, good, header, labelled, picture, tar_of

from regraft.data.decode import read_image
from regraft.data.read import read_samples
from regraft.data.shards import tar
from regraft.data.shards.read import list_members
from regraft.errors import DataUnusable, ImageRejected, RegraftError
from regraft.recipe import Data
from regraft.values import Samples


def put(folder: Path, data: bytes, name: str = "shards-000.tar") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return folder / name


def read(path: Path) -> Samples:
    return read_samples(Data(path=path))


def pax(**records: str) -> bytes:
    lines = b""
    for key, value in records.items():
        body = f" {key.replace('_', '.')}={value}\n".encode()
        length = len(body) + len(str(len(body) + 2))
        lines += str(length).encode() + body
    return entry("PaxHeader", lines, b"x")


class Opened:
    """The files that are opened within, by Python's own account; a hook cannot be taken away, so there is one for all."""

    now: list[str] | None = None

    def __enter__(self) -> list[str]:
        if Opened.now is None:
            sys.addaudithook(lambda event, told: (Opened.now or []).append(str(told[0])) if event == "open" else None)
        Opened.now = ["the first"]
        return Opened.now

    def __exit__(self, *error: object) -> None:
        Opened.now = []


BAD_NAMES = [
    "../../evil.png",
    "/etc/evil.png",
    "C:\\evil.png",
    "C:evil.png",
    "a/../../evil.png",
    "b\\..\\..\\evil.png",
    "\\\\host\\evil.png",
]
IMAGE = picture(99)


@pytest.mark.parametrize(
    ("hostile", "code"),
    [
        *[(labelled(name.removesuffix(".png"), "cat", IMAGE), "unsafe_name") for name in BAD_NAMES],
        (entry("e.json", b'{"label": "cat"}') + pax(path="e.png\0.png") + entry("x.png", IMAGE), "unsafe_name"),
        (entry("e.json", b'{"label": "cat"}') + header("e.png", kind=b"2", link="/etc/passwd"), "link"),
        (entry("e.json", b'{"label": "cat"}') + header("e.png", kind=b"1", link="ok/000.png"), "link"),
        *[(entry("e.json", b'{"label": "cat"}') + header("e.png", kind=kind), "special") for kind in (b"3", b"4", b"6", b"Q")],
        (entry("e.json", b'{"label": "cat"}') + entry("e.png", IMAGE, mode=0o4755), "set_id"),
        (entry("e.json", b'{"label": "cat"}') + pax(GNU_sparse_realsize="99999999") + entry("e.png", IMAGE), "sparse"),
        (entry("e.json", b'{"label": "cat"}') + entry("e.png", IMAGE, b"S"), "sparse"),
        (labelled("ok/000", "dog", IMAGE), "duplicate_name"),
    ],
)
def test_entries_that_are_set_aside(tmp_path: Path, hostile: bytes, code: str) -> None:
    path = put(tmp_path / "shards", good() + hostile + labelled("last", "dog", picture(100)) + END)
    before = tree_hash(tmp_path)
    with Opened() as opened:
        samples = read(path)
    assert [one.code for one in samples.rejected] == [code]
    assert [s.name for s in samples.samples if s.name == "last.png"] == ["last.png"]
    # The first of a name is what it was.
    first = next(sample for sample in samples.samples if sample.name == "ok/000.png")
    assert read_image(first.path) == picture(0)
    with pytest.raises(ImageRejected):
        read_image(samples.rejected[0].path)
    assert opened
    assert not [name for name in opened if "passwd" in name or "evil" in name]
    assert tree_hash(tmp_path) == before


def test_what_tells_of_nothing_is_noted(tmp_path: Path) -> None:
    hostile = header("evil", kind=b"2", link="/etc") + entry("evil/../../x.txt", b"x") + entry("inner.tar", tar_of({"a": b""}))
    samples = read(put(tmp_path, good() + hostile + END))
    notes = "; ".join(samples.notes)
    assert "2 entries that no set of images needs, never opened: evil (a symbolic link in an archive)" in notes
    assert "1 other file left out: .tar 1" in notes
    assert not samples.rejected


@pytest.mark.parametrize(
    ("archive", "said"),
    [
        (good() + header("e.png", raw="-0000000005") + END, "a size that is none"),
        (good() + header("e.png", raw="0000000000x") + END, "a size that is none"),
        (good() + pax(size="-5") + entry("e.png", IMAGE) + END, "a size that is none"),
        (good() + header("e.png", 100) + IMAGE + END, "no header of a tar archive where one has to be, at byte"),
        (good() + header("e.png", 4096) + END + END + labelled("z", "cat", IMAGE), "no header"),
        (b"<html>" * 200, "no header of a tar archive where one has to be, at byte 0"),
        (b"", "a file of 0 bytes"),
        (good() + entry("Pax", b"99 path=short\n", b"x") + entry("e.png", IMAGE) + END, "an extended header that is none"),
        (good() + header("PaxHeader", 2**31, b"x") + END, "a name or attributes of 2,147,483,648 bytes"),
        (good() + entry("././@LongLink", b"n" * 5000, b"L") + entry("e.png", IMAGE) + END, "a name of 5,000 bytes"),
    ],
)  # fmt: skip
def test_archives_that_are_refused(tmp_path: Path, archive: bytes, said: str) -> None:
    with pytest.raises(DataUnusable) as caught:
        read(put(tmp_path, archive))
    assert said in caught.value.got
    assert "shards-000.tar" in caught.value.got


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.tar", data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("pack", "kind", "tool"),
    [
        (gzip.compress, "gzip", "gunzip"),
        (bz2.compress, "bzip2", "bunzip2"),
        (lzma.compress, "xz", "unxz"),
        (zipped, "zip", "unpack it"),
    ],
)
def test_compressed_archives(tmp_path: Path, pack: Callable[[bytes], bytes], kind: str, tool: str) -> None:
    with pytest.raises(DataUnusable) as caught:
        read(put(tmp_path / "a", pack(good() + END)))
    assert kind in caught.value.got
    assert tool in caught.value.fix
    with pytest.raises(DataUnusable, match="gunzip") as caught:
        read(put(tmp_path / "b", pack(good() + END), "a.tar.gz"))
    with pytest.raises(DataUnusable, match="gunzip") as caught:
        read(put(tmp_path / "b", pack(good() + END), "a.tar.gz").parent)


def test_too_many_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "MOST_ENTRIES", 20)
    with pytest.raises(DataUnusable, match="more than 20 entries"):
        read(put(tmp_path, good() + END))


def test_a_size_beyond_the_file_costs_that_image_only(tmp_path: Path) -> None:
    last = labelled("z", "cat", IMAGE)
    samples = read(put(tmp_path, (good() + last)[:-700]))
    assert [(one.name, one.code) for one in samples.rejected] == [("z.png", "truncated")]
    assert "its archive ends" in samples.rejected[0].reason
    assert any("is cut short in z.png" in note for note in samples.notes)
    samples = read(put(tmp_path, good() + entry("z.json", b'{"label": "cat"}') + header("z.png", 8**11 - 1)))
    assert [(one.name, one.code) for one in samples.rejected] == [("z.png", "truncated")]
    assert any("has no end mark" in note for note in read(put(tmp_path, good())).notes)


@pytest.mark.parametrize(
    ("kept", "tested", "said"),
    [
        (["cat"] * 4, [], "only 'cat'"),
        ([*["cat"] * 4, "dog"], [], "dog 1"),
        ([*["cat"] * 2, *["dog"] * 2], ["elk"], "elk (as in"),
    ],
)
def test_a_cut_is_named_where_it_leaves_too_little(tmp_path: Path, kept: list[str], tested: list[str], said: str) -> None:
    put(tmp_path, b"".join(labelled(f"{i:03}", label, picture(i)) for i, label in enumerate(kept)), "train-0.tar")
    if tested:
        put(tmp_path, b"".join(labelled(f"t{i:03}", label, picture(i)) for i, label in enumerate(tested)) + END, "test-0.tar")
    with pytest.raises(DataUnusable) as caught:
        read(tmp_path)
    assert said in caught.value.got
    assert "train-0.tar has no end mark: it may have been cut short" in caught.value.got


def test_labels_that_cannot_be_understood(tmp_path: Path) -> None:
    bad = {
        b'{"label": {"a": 1}}': "a label of type dict",
        b"[1]": "no JSON object",
        b"{" * 100_000: "no JSON object",
        b'{"label": "' + b"x" * 300 + b'"}': "is too long",
        b'{"label": "a\\nb"}': "control character",
        b'{"pad": "' + b"x" * (1 << 20) + b'"}': "1,048,587 bytes",
    }
    for told, said in bad.items():
        with pytest.raises(DataUnusable) as caught:
            read(put(tmp_path, good() + entry("e.json", told) + entry("e.png", IMAGE) + END))
        assert said in str(caught.value), said
        assert "e.json" in str(caught.value)
    (tmp_path / "classes.json").write_text('["cat"]')
    with pytest.raises(DataUnusable, match="class 7, of 1 in the list of classes"):
        read(put(tmp_path, good() + entry("e.cls", b"7") + entry("e.png", IMAGE) + END))
    (tmp_path / "classes.json").write_text('{"cat": 0, "dog": 5}')
    with pytest.raises(DataUnusable, match=r"classes\.json: something else"):
        read(tmp_path)


def test_mutated_archives(tmp_path: Path) -> None:
    """No exception but ours, no image that was not there, little memory."""
    sound = good(6) + END
    images = {picture(index) for index in range(6)}
    chance = random.Random(7)
    refused = list[str]()
    tracemalloc.start()
    for _ in range(200):
        data = bytearray(sound)
        for _ in range(chance.choice([1, 1, 3, 20])):
            # Headers more often than pictures.
            at = (
                chance.randrange(len(data))
                if chance.random() < 0.3
                else chance.randrange(len(data) // 512) * 512 + chance.randrange(160)
            )
            data[min(at, len(data) - 1)] = chance.randrange(256)
        path = put(tmp_path, bytes(data[: chance.randrange(len(data))] if chance.random() < 0.3 else data))
        try:
            for member in list_members(path).members:
                try:
                    read_image(member)
                except ImageRejected:
                    continue
        except RegraftError as error:
            refused.append(error.got)
    assert refused
    assert all("shards-000.tar" in got for got in refused)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    assert {read_image(member) for member in list_members(put(tmp_path, sound)).members} == images


def test_entries_are_those_of_pythons_own_reader(tmp_path: Path) -> None:
    """On archives of every format, names and places are the ones that tarfile has."""
    chance = random.Random(3)
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        files = {}
        for index in range(40):
            folder = "/".join(chance.choice("abcdeé") * chance.randrange(1, 30) for _ in range(chance.randrange(3)))
            files[f"{folder}/{index}.png".lstrip("/")] = chance.randbytes(chance.randrange(2000))
        path = put(tmp_path, tar_of(files, form))
        with tarfile.open(path) as archive:
            expected = [(one.name, one.offset_data, one.size) for one in archive]
        assert [(m.inner, m.offset, m.size) for m in list_members(path).members] == expected
