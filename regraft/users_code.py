"""Code of the user's own: which files are theirs, and where in them an error arose."""

import traceback
from pathlib import Path

_OURS, _PYTHONS = Path(__file__).parent, str(Path(traceback.__file__).parent)


def is_users(file: str) -> bool:
    """Whether a file of code is neither Python's, nor installed, nor one of these."""
    installed = "site-packages" in file or "dist-packages" in file or file.startswith((_PYTHONS, "<"))
    return not installed and not Path(file).is_relative_to(_OURS)


def users_line(error: BaseException) -> tuple[str, int] | None:
    """The file and the line of the user's in which an error arose, not the way there; None where no line is theirs."""
    places = [
        (frame.filename, frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.lineno is not None and is_users(frame.filename)
    ]
    if isinstance(error, SyntaxError) and error.filename and error.lineno is not None:
        places.append((error.filename, error.lineno))
    return places[-1] if places else None
