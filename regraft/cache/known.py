"""Which images a table of the cache has, found when they are asked for: a look costs the same in a table of any size."""

from collections.abc import Callable, Iterator, Mapping

Find = Callable[[bytes], tuple[int, int] | None]


class Known(Mapping[bytes, int]):
    """Digest -> row of a table. A row is checked when it is first asked for; one that is not as it was stored is not there.

    `find` gives row and checksum of a digest, `intact` says whether the row still has it, `every` lists all digests; `bad` gets
    those that are not. What is asked for by several threads at once may be checked twice.
    """

    def __init__(
        self,
        find: Find,
        intact: Callable[[int, int], bool] | None,
        every: Callable[[], list[bytes]],
        bad: dict[bytes, int],
    ) -> None:
        self._find, self._intact, self._every, self._bad = find, intact, every, bad
        self._good: dict[bytes, int] = {}

    def __getitem__(self, digest: bytes) -> int:
        if (row := self._good.get(digest)) is not None:
            return row
        found = self._find(digest)
        if found is None or self._bad.get(digest) == found[0]:
            raise KeyError(digest)
        if self._intact is not None and not self._intact(*found):
            self._bad[digest] = found[0]
            raise KeyError(digest)
        self._good[digest] = found[0]
        return found[0]

    def __iter__(self) -> Iterator[bytes]:
        return (digest for digest in self._every() if digest in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)
