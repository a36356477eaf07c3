"""Look at every image's header before any work starts, and set aside what cannot be used. Nothing on disk is changed."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from regraft.data.names import count_of, listing, printable, shown
from regraft.errors import DataUnusable, TooManyUnreadable
from regraft.progress import Progress, Silent
from regraft.values import ImagePath, Member, Rejected, Sample

# More than this share of unreadable images means that something is wrong with the data, not with single files.
MOST_UNREADABLE = 0.1
# Reading headers waits for the disk more than it computes.
THREADS = 8
CHUNK = 128
FIRST = 10
TASK = "checking images"

Check = Callable[[ImagePath, str], Rejected | None]


def scan_images(
    samples: Sequence[Sample],
    *,
    skip_bad: bool = False,
    progress: Progress = Silent(),
    check: Check | None = None,
    task: str = TASK,
) -> tuple[tuple[Sample, ...], tuple[Rejected, ...]]:
    """The samples whose headers are sound, and the others with the reason; both keep their order.

    Raises TooManyUnreadable when more than a tenth is rejected, unless `skip_bad`; DataUnusable when nothing remains.
    """
    found = _check_all(samples, check or _header_check(), progress, task)
    rejected = tuple(problem for problem in found if problem is not None)
    if samples and len(rejected) == len(samples):
        raise DataUnusable(expected="images that can be read", got=_first_reasons(samples, rejected), fix=_cure(rejected))
    if len(rejected) > MOST_UNREADABLE * len(samples) and not skip_bad:
        raise TooManyUnreadable(
            expected=f"at most {MOST_UNREADABLE * 100:.0f} % unreadable images",
            got=_first_reasons(samples, rejected),
            fix=f"{_cure(rejected)}; or go on without them with --skip-bad",
        )
    return tuple(sample for sample, problem in zip(samples, found, strict=True) if problem is None), rejected


def rejection_notes(rejected: Sequence[Rejected]) -> list[str]:
    """One line that counts what was set aside, by reason."""
    if not rejected:
        return []
    codes = sorted(Counter(problem.code for problem in rejected).items())
    reasons = listing([f"{code.replace('_', ' ')} {count:,}" for code, count in codes])
    return [f"{count_of(len(rejected), 'unreadable image')} set aside: {reasons}"]


def _header_check() -> Check:
    from regraft.data.decode import check_header  # Opens Pillow; this file can be imported without it.

    def check(path: ImagePath, name: str) -> Rejected | None:
        # Looking at images elsewhere would fetch all of them once more; the pass over them finds what cannot be read.
        elsewhere = isinstance(path, Member) and path.remote and path.trouble is None
        return None if elsewhere else check_header(path, name)

    return check


def _check_all(samples: Sequence[Sample], check: Check, progress: Progress, words: str) -> list[Rejected | None]:
    chunks = [samples[start : start + CHUNK] for start in range(0, len(samples), CHUNK)]
    found: list[Rejected | None] = []
    # Ctrl-C leaves the loop, which drops the map and with it the chunks that wait.
    with ThreadPoolExecutor(THREADS, thread_name_prefix="scan") as pool, progress.task(words, len(samples), "images") as task:
        for results in pool.map(lambda chunk: [check(sample.path, sample.name) for sample in chunk], chunks):
            found += results
            task.advance(len(results))
    return found


def _first_reasons(samples: Sequence[Sample], rejected: Sequence[Rejected]) -> str:
    lines = [f"\n       {shown(problem.name)}: {printable(problem.reason)}" for problem in rejected[:FIRST]]
    more = f"\n       and {len(rejected) - FIRST:,} more" if len(rejected) > FIRST else ""
    share = f"{len(rejected):,} of {len(samples):,} ({100 * len(rejected) / len(samples):.0f} %)"
    return f"{share} unreadable:{''.join(lines)}{more}"


def _cure(rejected: Sequence[Rejected]) -> str:
    if all(problem.code == "missing" for problem in rejected):
        return "check the paths: those in a table are relative to the table's own folder"
    return "repair or remove these files"
