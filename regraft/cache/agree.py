"""What the processes of one fit have to be agreed on before they share a table: the engine, and whether all went well."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from regraft.cache.choose import Chosen, named_engine
from regraft.cache.engines import Network
from regraft.cache.store import Table
from regraft.data.preprocess import Preprocess
from regraft.errors import RegraftError, UsageError
from regraft.ranks import Ranks

Value = TypeVar("Value")


def agreed(ranks: Ranks, work: Callable[[], Value]) -> Value:
    """What `work` gives on this rank, once it is done on all of them. An error that one of them meets is raised on all.

    For errors that are a user's to mend: with any other the process ends, and the group with it.
    """
    if ranks.alone:
        return work()
    found: Value | None = None
    box = np.empty(1, object)
    try:
        found = work()
    except RegraftError as error:
        box[0] = (type(error), error.expected, error.got, error.fix)
    for said in ranks.rows(box):
        if said is not None:
            raise _again(*said)
    return found  # type: ignore[return-value]


def _again(kind: type[RegraftError], expected: str, got: str, fix: str) -> RegraftError:
    error = kind.__new__(kind)  # kinds have fields of their own, which the message does not need
    RegraftError.__init__(error, expected=expected, got=got, fix=fix)
    return error


def check_same_table(ranks: Ranks, table: Table) -> None:
    """Raise UsageError, on all ranks, where they would not write to the same table: its name says all that makes a row."""
    if len(set(ranks.rows(np.array([table.folder.name])))) > 1:
        raise UsageError(
            expected="the same network in every process, as rows of one are read by all",
            got="networks of different weights or preparation",
            fix="load its weights from a file, or draw them after torch.manual_seed",
        )


def rows_of_all(ranks: Ranks, table: Table, digests: Sequence[bytes]) -> list[int]:
    """The rows of images that some rank has stored. Raises UsageError, on all ranks, where one does not see them."""
    stored = table.lookup(check=False)
    lacking = sum(digest not in stored for digest in digests)

    def check() -> None:
        if lacking:
            raise UsageError(
                expected="one cache folder that all processes see",
                got=f"{lacking} of {len(digests)} images that another process has stored and this one does not find",
                fix="give a --cache on a file system that all machines share",
            )

    agreed(ranks, check)
    return [stored[digest] for digest in digests]


def same_engine(ranks: Ranks, chosen: Chosen, network: Network, preprocess: Preprocess, device: str) -> Chosen:
    """The engine that rank 0 has chosen: its name is part of what a table is found by.

    Every rank has measured by then: one that waits for another's measurement could be taken for lost. Raises UsageError
    where this machine does not have that engine.
    """
    name = ranks.shared(lambda: chosen.name)
    return chosen if name == chosen.name else named_engine(network, preprocess, device, name)
