"""Random damage to image files: counted, so that a seed gives the same file again."""

import random
import struct
import zlib
from collections.abc import Callable

Mutator = Callable[[bytes, random.Random, bytes], bytes]


def mutate(data: bytes, other: bytes, seed: int) -> bytes:
    """`data` with one to three kinds of damage; `other` is a second file to splice with."""
    draw = random.Random(seed)
    for _ in range(draw.choice((1, 1, 2, 3))):
        data = draw.choice(MUTATORS)(data, draw, other)
    return data


def truncate(data: bytes, draw: random.Random, other: bytes) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def flip_bits(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """One to eight bits; in half of the cases among the first 256 bytes, where the headers are."""
    if not data:
        return data
    changed = bytearray(data)
    end = min(256, len(data)) if draw.random() < 0.5 else len(data)
    for _ in range(draw.randint(1, 8)):
        changed[draw.randrange(end)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def set_length(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """A number of 16 or 32 bits somewhere becomes 0, -1, 2**31 and the like."""
    value = draw.choice((0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
    form = draw.choice(("<I", ">I", "<H", ">H"))
    body = struct.pack(form, value & (0xFFFF if form.endswith("H") else 0xFFFFFFFF))
    at = draw.randrange(max(1, min(len(data), 512 if draw.random() < 0.7 else len(data))))
    return data[:at] + body + data[at + len(body) :]


def move_piece(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """A piece is removed, doubled, or put somewhere else."""
    start = draw.randrange(len(data) + 1)
    end = min(len(data), start + draw.randint(1, 64))
    piece, rest = data[start:end], data[:start] + data[end:]
    how = draw.randrange(3)
    if how == 0:
        return rest
    if how == 1:
        return data[:end] + piece * draw.randint(1, 20) + data[end:]
    at = draw.randrange(len(rest) + 1)
    return rest[:at] + piece + rest[at:]


def splice(data: bytes, draw: random.Random, other: bytes) -> bytes:
    return data[: draw.randrange(len(data) + 1)] + other[draw.randrange(len(other) + 1) :]


def png_chunks(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """PNG chunks change places, double, vanish or have a byte changed, with a correct checksum half of the time."""
    chunks, at = [], 8
    while at + 12 <= len(data) and len(chunks) < 100:
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append(data[at : at + 12 + length])
        at += 12 + length
    if not data.startswith(b"\x89PNG") or not chunks:
        return flip_bits(data, draw, other)
    index = draw.randrange(len(chunks))
    how, chunk = draw.randrange(4), bytearray(chunks[index])
    if how == 0:
        chunks.insert(draw.randrange(len(chunks)), chunks.pop(index))
    elif how == 1:
        chunks.insert(index, chunks[index])
    elif how == 2:
        del chunks[index]
    elif len(chunk) > 12:
        chunk[draw.randrange(4, len(chunk) - 4)] = draw.randrange(256)
        chunks[index] = bytes(chunk)
        if draw.random() < 0.5:
            chunks[index] = bytes(chunk[:-4]) + struct.pack(">I", zlib.crc32(chunk[4:-4]))
    return data[:8] + b"".join(chunks)


MUTATORS: tuple[Mutator, ...] = (truncate, flip_bits, flip_bits, set_length, set_length, move_piece, splice, png_chunks)
