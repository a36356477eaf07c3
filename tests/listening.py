"""Which sockets of a process listen, as Linux tells."""

from contextlib import suppress
from pathlib import Path

_LISTENS = "0A"


def listeners(pid: int) -> list[str]:
    """The addresses, in the hexadecimal digits of /proc/net/tcp, at which a process listens."""
    own = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            own.add(str(entry.readlink()))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS and f"socket:[{fields[9]}]" in own:
                found.append(fields[1].partition(":")[0])
    return found
