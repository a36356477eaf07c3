"""Pictures of evidence in a folder: names that are safe everywhere and follow from the image's path."""

import contextlib
import hashlib
import os
import re
from pathlib import Path

from regraft.errors import OutOfSpace, OutputExists, UsageError
from regraft.replacing import cannot_write

_LONGEST_STEM = 60


def check_folder(folder: Path, *, keep: bool, option: str = "--explain") -> None:
    """Before any work: raises OutputExists for a folder that holds something, unless `keep`, UsageError where none can be.

    `option` is what names it.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputExists(
            expected=f"a folder for {option}", got=f"{folder}: a file", fix=f"name another one: {folder}-pictures"
        )
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), folder)
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(
            expected=f"to be able to write to {folder}", got=f"{there}: no permission", fix=f"choose another {option}"
        )
    if folder.is_dir() and not keep and any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise OutputExists(
            expected=f"{folder} to be new or empty",
            got=f"{folder}: something is in it already",
            fix=f"give another {option}; or --overwrite, which replaces pictures of the same images and leaves the rest",
        )


def picture_name(path: str) -> str:
    """A file name for the picture of an image: its own without unusual letters, and a digest of the whole path.

    The same path gives the same name in every run; two paths give two, also where letters differ in case alone.
    """
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(path).stem).strip("_")[:_LONGEST_STEM] or "image"
    digest = hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{stem}-{digest[:12]}.jpg"


def write_picture(folder: Path, path: str, picture: bytes) -> Path:
    """Write the picture of the image `path` and return its own path. Raises OutOfSpace, UsageError."""
    out = folder / picture_name(path)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(picture)
        temporary.replace(out)
    except OSError as error:
        raise _failure(out, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return out


def _failure(out: Path, error: OSError) -> OutOfSpace | UsageError:
    failure = cannot_write(out, error)
    return type(failure)(expected=failure.expected, got=failure.got, fix=failure.fix.replace("--out", "--explain"))
