"""The end of a command that answers for every image: exit 5 where any of them has no answer."""

from collections.abc import Sequence

from regraft.errors import SomeFailed


def check_all_answered(failed: int, total: int, cut: Sequence[str], *, fix: str) -> None:
    """Raise SomeFailed where inputs failed, which `fix` says more of, or where archives were `cut` short."""
    got = [*([f"{failed:,} of {total:,} failed"] if failed else []), *cut]
    if got:
        raise SomeFailed(
            expected="every input to be an image that can be read" if failed else "archives that are whole",
            got="; ".join(got),
            fix="; ".join([*([fix] if failed else []), *(["get sound copies of the archives"] if cut else [])]),
        )
