"""How often each block was begun: what tells a block that ends every worker from one that lost its worker by chance."""

from collections import Counter


class Ledger:
    """An actor of Ray, which tries a block again for ever; whoever begins one asks here whether that makes sense."""

    def __init__(self) -> None:
        self._begun = Counter[int]()

    def begin(self, block: int) -> int:
        """Note that the block with this number is begun, and say how often it was, this time included."""
        self._begun[block] += 1
        return self._begun[block]

    def again(self) -> int:
        """How many times a block was begun again."""
        return sum(self._begun.values()) - len(self._begun)
