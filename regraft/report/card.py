"""The model card: README.md in the form that model hubs read, with what the fit measured and nothing that it did not.

Front matter: the metadata of Hugging Face model cards (Mitchell et al. 2019, "Model Cards for Model Reporting", for the idea).
"""

import hashlib
import json
import math
import re
import string
from collections.abc import Callable, Iterator
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from regraft.evaluate import macro_f1_interval
from regraft.report import text
from regraft.report.abstention import abstain_words
from regraft.report.advice import to_fix
from regraft.report.content import ReportContent
from regraft.report.summary import sentences
from regraft.report.text import counted, percent, plain, short
from regraft.values import ClassScore, RunSummary, Scores

CLASSES_NAMED = 100
CLASS_ROWS = 30
OWN_CODE = ("hub:", "module:", "python:")  # networks whose code is in no folder of ours
MAX_BYTES = 1_000_000  # of a README.md that is looked at for changes by hand
_MARK = "Written by regraft from report.json. Changed by hand, it is left as it is."
_SEAL = re.compile(rb"<!-- " + re.escape(_MARK).encode() + rb" ([0-9a-f]{64}) -->\n\Z")
_SPECIAL = str.maketrans({letter: f"\\{letter}" for letter in string.punctuation})


class Safe(str):
    """Text that is meant as Markdown: all other text is escaped on its way into the card."""


def card_of(content: ReportContent) -> str:
    """The card as Markdown, with a last line by which `is_edited` knows it again."""
    summary, scores = content.summary, content.scores
    drawn = (
        card_environment()
        .get_template("card.md")
        .render(
            summary=summary,
            scores=scores,
            multi_label=content.headline.multi_label,
            judged=_judged(summary),
            sentences=sentences(summary, content.headline),
            faults=to_fix(content.audit, summary.test_scores),
            limits=tuple(_limits(content)),
            macro_f1=macro_f1_interval(content.headline, resamples=1000 if scores.n <= 5000 else 200),
            per_class=sorted(scores.per_class, key=_hardest_first)[:CLASS_ROWS],
            classes=summary.classes[:CLASSES_NAMED],
            title=title_of(summary.run, "A classifier of images"),
            base_model=base_model(summary.backbone, summary.weights),
            own_code=summary.backbone.startswith(OWN_CODE),
        )
    )
    return sealed_card(drawn)


def sealed_card(drawn: str) -> str:
    """The card with a last line by which `is_edited` knows it again."""
    digest = hashlib.sha256(drawn.encode("utf-8", "backslashreplace")).hexdigest()
    return f"{drawn}<!-- {_MARK} {digest} -->\n"


def is_edited(path: Path) -> bool:
    """Whether a card is there that somebody wrote or changed."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        card = file.read(MAX_BYTES + 1)
    seal = _SEAL.search(card)
    return seal is None or hashlib.sha256(card[: seal.start()]).hexdigest().encode() != seal[1]


def markdown(words: object) -> Safe:
    """Any text as Markdown that shows just it: every mark that could mean something is escaped, what is invisible shown."""
    return Safe(plain(str(words)).translate(_SPECIAL))


def base_model(backbone: str, weights: str) -> str:
    """The network's name on the Hugging Face hub, "timm/resnet18.a1_in1k", where that is known; else empty.

    timm publishes its weights there, one repository for each network and tag.
    """
    name, tag = backbone.removeprefix("timm:").partition(".")[0], weights.removeprefix("timm ")
    published = weights.startswith("timm ") and tag != "default" and re.fullmatch(r"[\w.-]+", f"{name}{tag}")
    return f"timm/{name}.{tag}" if backbone.startswith("timm:") and published else ""


def card_environment() -> Environment:
    """Templates of cards: what they are given is escaped as Markdown unless it is `Safe`."""
    environment = Environment(
        loader=PackageLoader("regraft.report", "."),
        # Markdown, where HTML's escapes would be shown; whatever is not Safe is escaped as Markdown.
        autoescape=False,
        finalize=lambda value: value if isinstance(value, Safe) else markdown(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for name in ("percent", "span", "count", "counted", "figure"):
        environment.filters[name] = _safe(getattr(text, name))
    environment.filters |= {"quoted": quoted, "cut": lambda words: short(plain(words), 120), "sentence": _sentence}
    return environment


def quoted(value: object) -> Safe:
    """`value` as YAML: JSON's spelling of texts and numbers, which YAML shares."""
    return Safe(json.dumps(plain(value) if isinstance(value, str) else value, ensure_ascii=False, allow_nan=False))


def _sentence(words: str) -> Safe:
    """A sentence of the report. Everything is escaped but the marks that mean nothing where they stand, which stay readable.

    A stop between letters or a colon before slashes stays escaped: several readers make links of bare addresses.
    """
    escaped = plain(words).translate(_SPECIAL)
    readable = re.sub(r"(?<!^)\\([-()'\"%=])", r"\1", escaped)
    readable = re.sub(r"\\([.,;:?])(?=\s|$)", r"\1", readable)
    return Safe(re.sub(r"(?<=\d)\\([.,])(?=\d)", r"\1", readable).replace(text.NBSP, " "))


def _safe(written: Callable[..., str]) -> Callable[..., Safe]:
    return lambda *given: Safe(written(*given).replace(text.NBSP, " "))


def title_of(run: Path, otherwise: str) -> str:
    """The name of the run, or `otherwise` where it has none."""
    return short(plain(run.name), 120) or otherwise


def _judged(summary: RunSummary) -> str:
    if summary.test_scores:
        return "test images, never used for any choice"
    return "validation images, which chose the epoch" if summary.history else "training images, in cross-validation"


def _hardest_first(row: ClassScore) -> tuple[bool, float, str]:
    return (math.isnan(row.f1), 0.0 if math.isnan(row.f1) else row.f1, row.name)


def _limits(content: ReportContent) -> Iterator[str]:
    """What not to expect of the model, from what was measured."""
    summary, scores = content.summary, content.scores
    known = counted(len(summary.classes), "class", "classes")
    if summary.abstain:
        yield f"It knows {known}. {abstain_words(summary.abstain)}"
    else:
        yield f"It knows {known} and gives one of them for every image, whatever it shows: it has no answer for other things."
    yield "The scores hold for images of the kind that it was judged on. Of other cameras, places or styles they say nothing."
    yield from _weak(scores, content.headline.multi_label)
    if content.audit:
        for shortcut in content.audit.shortcuts[:3]:
            yield (
                f"The {short(plain(shortcut.what), 80)} of files alone gives the class in {percent(shortcut.accuracy.value)} "
                f"of cases (largest class {percent(shortcut.baseline)}): on files made otherwise it may do worse."
            )
    if content.audit is None:
        yield "The data were not searched for copies, wrong labels or shortcuts."


def _weak(scores: Scores, multi_label: bool) -> Iterator[str]:
    if scores.accuracy.low <= scores.baseline:
        yield f"It is not clearly better than a fixed answer, which would be right on {percent(scores.baseline)}."
    missed = [row for row in scores.per_class if row.support and row.recall < 0.5]
    if missed:
        worst = sorted(missed, key=lambda row: (row.recall, row.name))[:5]
        names = ", ".join(short(plain(row.name), 80) for row in worst) + (", ..." if len(missed) > 5 else "")
        kind = ("label", "labels") if multi_label else ("class", "classes")
        yield f"Of {counted(len(missed), *kind)} it finds less than half of the images: {names}."
    unseen = [row for row in scores.per_class if not row.support]
    if unseen:
        yield f"{counted(len(unseen), 'class was', 'classes were')} not judged at all, for lack of images."
