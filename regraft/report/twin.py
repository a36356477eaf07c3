"""report.json: all that the report shows and predictions.parquet does not hold, for programs, and to draw the page again.

One line of ASCII JSON that ends with the SHA-256 of what stands before it, so that damage is found. Layout: docs/report.md.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, get_type_hints

from regraft.artifact.canonical import parse_object
from regraft.artifact.files import open_regular, refusal
from regraft.report.codec import of_plain, to_plain
from regraft.report.content import ReportContent
from regraft.values import Predictions, Scores

FORMAT, VERSION = "regraft-report", 1
MAX_BYTES = 256_000_000
_MAX_DEPTH, _MAX_BRACKETS = 32, 20_000_000
_PARTS = ("summary", "audit", "augmented", "thumbnails", "overlays")
_SEAL = re.compile(rb',"checksum":"([0-9a-f]{64})"}\n\Z')
AGAIN = "fit again to have it written; the report.html that is there stays readable"


def twin_of(content: ReportContent) -> bytes:
    """The file's bytes. Predictions are left out: they have a table of their own."""
    return sealed({"format": FORMAT, "version": VERSION} | {part: to_plain(getattr(content, part)) for part in _PARTS})


def sealed(described: dict[str, Any]) -> bytes:
    """`described` as one line of JSON with its checksum."""
    # ASCII: file names that are not Unicode keep their bytes as escapes.
    text = json.dumps(described, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")[:-1]
    return text + f',"checksum":"{hashlib.sha256(text).hexdigest()}"}}\n'.encode()


def read_twin(path: Path, *, test: Predictions | None, cross_validation: Predictions) -> ReportContent:
    """What `twin_of` wrote, with the predictions that belong to it.

    Raises SavedModelRefused where the file is missing, damaged, of another version, or of other predictions than those.
    """
    described = read_sealed(path, FORMAT, VERSION)
    kinds = get_type_hints(ReportContent)
    if unknown := sorted(described.keys() - {"format", "version", "checksum", *_PARTS}):
        raise refusal(path, expected=f"version {VERSION} of {FORMAT}", got=f"the unknown part {unknown[0][:40]!r}", fix=AGAIN)
    try:
        parts = {part: of_plain(kinds[part], described[part], part) for part in _PARTS}
    except (ValueError, KeyError) as error:
        raise refusal(path, expected="a report written by regraft", got=f"a damaged one: {error}", fix=AGAIN) from None
    content = ReportContent(**parts, test=test, cross_validation=cross_validation)
    _check_scores(path, content)
    return content


def read_sealed(path: Path, form: str, version: int) -> dict[str, Any]:
    """What `sealed` wrote; raises SavedModelRefused where it is missing, damaged, or not of this format and version."""
    expected = "report.json, from which a report is drawn again"
    with open_regular(path, expected) as file:
        if not 2 <= file.size <= MAX_BYTES:
            raise file.foreign(expected, f"{file.size:,} bytes, not 2 to {MAX_BYTES:,}")
        text = file.read(file.size)
    seal = _SEAL.search(text)
    if seal is None or hashlib.sha256(text[: seal.start()]).hexdigest().encode() != seal[1]:
        raise refusal(path, expected="the checksum that was saved with it", got="other contents: damaged or edited", fix=AGAIN)
    try:
        described = parse_object(text, max_depth=_MAX_DEPTH, max_brackets=_MAX_BRACKETS)
    except (ValueError, RecursionError) as error:
        raise refusal(path, expected=expected, got=str(error), fix=AGAIN) from None
    _check_version(path, described, form, version)
    return described


def _check_version(path: Path, described: dict[str, Any], form: str, version: int) -> None:
    found, number = described.get("format"), described.get("version")
    if found != form or type(number) is not int:
        raise refusal(path, expected=f"the format {form}", got=f"format {str(found)[:40]!r}", fix=AGAIN)
    if number != version:
        fix = "use the version of regraft that wrote it, or a newer one"
        raise refusal(path, expected=f"version {version} of {form}", got=f"version {number}", fix=fix)


def _check_scores(path: Path, content: ReportContent) -> None:
    """Raise SavedModelRefused unless the scores are of these predictions."""
    pairs = ((content.summary.test_scores, content.test), (content.summary.cross_validation, content.cross_validation))
    if not all(_belong(scores, predictions) for scores, predictions in pairs):
        raise refusal(
            path,
            expected="the report of the predictions.parquet beside it",
            got="that of other images or classes",
            fix="copy the whole run folder again from where it was made, or fit again",
        )


def _belong(scores: Scores | None, predictions: Predictions | None) -> bool:
    if scores is None or predictions is None:
        return scores is None and predictions is None
    sides = (len(scores.classes),) * 2
    square = scores.confusion_KK is None or scores.confusion_KK.shape == sides
    return square and (scores.n, scores.classes) == (len(predictions.names), predictions.classes)
