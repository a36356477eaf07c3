"""What torchrun has told this process: its rank, how many there are, which start of theirs this is. torch is not imported.

The processes of one machine share a private folder (`Launch.folder`): there they leave each other word, and there is nothing
that listens. Its name follows from a folder that torchrun makes for each of its runs, so that two runs never meet in it.
"""

import atexit
import hashlib
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from regraft.errors import NotWritable


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """This process among those that torchrun started. `attempt` counts how often it has started all of them again.

    `run` is text that the processes of this run have on this machine, and those of no other run.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    attempt: int
    most_attempts: int
    run: str

    @property
    def one_machine(self) -> bool:
        return self.local_size == self.size

    @property
    def root(self) -> Path:
        """The folder of this run on this machine, for all of its starts."""
        name = hashlib.sha256(f"{self.run} {_user()}".encode()).hexdigest()[:24]
        return Path(tempfile.gettempdir()) / f"regraft-ranks-{name}"

    def folder(self) -> Path:
        """The folder of this start, made where it is not there; removed when the last process of this machine has ended.

        Raises NotWritable where it cannot be this user's alone.
        """
        folder = self.root / str(self.attempt)
        try:
            self.root.mkdir(mode=0o700, exist_ok=True)
            seen = self.root.lstat()
            if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != _user() or seen.st_mode & 0o077:
                raise PermissionError(f"{self.root} is somebody else's")
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise NotWritable(
                expected="a folder of this user's own for what the processes leave each other",
                got=str(error),
                fix="free some space, or name another place in the environment variable TMPDIR",
            ) from error
        _tidied_at_the_end(self)
        return folder

    def first_to_say(self, text: str) -> bool:
        """Whether no other process of this machine has said this; whoever asks first is to say it."""
        name = f"said-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}"
        try:
            os.close(os.open(self.folder() / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        except (OSError, NotWritable):
            return True  # said twice is better than not at all
        return True

    def keep(self, name: str, text: str) -> None:
        """Leave word for the next start of this run."""
        self.folder()
        (self.root / name).write_text(text, encoding="utf-8", errors="surrogateescape")

    def kept(self, name: str) -> str | None:
        """What an earlier start of this run left."""
        with suppress(OSError):
            return (self.root / name).read_text(encoding="utf-8", errors="surrogateescape")
        return None


def launched() -> Launch | None:
    """What torchrun has told this process; None where it was not started by it."""
    told = os.environ
    if "TORCHELASTIC_RUN_ID" not in told:
        return None
    own_file = told.get("TORCHELASTIC_ERROR_FILE", "")
    made = str(Path(own_file).parents[2]) if own_file.count("/") > 3 else ""
    number = {name: int(told.get(name, "0")) for name in ("RANK", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT")}
    return Launch(
        rank=number["RANK"],
        size=int(told.get("WORLD_SIZE", "1")),
        local_rank=number["LOCAL_RANK"],
        local_size=int(told.get("LOCAL_WORLD_SIZE", "1")),
        attempt=number["TORCHELASTIC_RESTART_COUNT"],
        most_attempts=int(told.get("TORCHELASTIC_MAX_RESTARTS", "0")),
        run=" ".join([told["TORCHELASTIC_RUN_ID"], made or f"{told.get('MASTER_ADDR')}:{told.get('MASTER_PORT')}"]),
    )


def asked_for() -> int:
    """How many processes torchrun has started for this command, 1 where it did not."""
    launch = launched()
    return 1 if launch is None else launch.size


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


@cache
def _tidied_at_the_end(launch: Launch) -> None:
    atexit.register(tidy, launch)


def gone(launch: Launch, local_rank: int) -> None:
    """Note that a process of this machine needs the folder no more."""
    with suppress(OSError):
        (launch.root / str(launch.attempt) / f"gone-{local_rank}").touch()


def tidy(launch: Launch) -> None:
    """The last process of this machine to end takes the folder away; where there may be another start, that of this one."""
    folder = launch.root / str(launch.attempt)
    gone(launch, launch.local_rank)
    with suppress(OSError):
        if len(list(folder.glob("gone-*"))) < launch.local_size:
            return
        shutil.rmtree(folder, ignore_errors=True)
        if launch.attempt >= launch.most_attempts or not (launch.root / "place").exists():
            shutil.rmtree(launch.root, ignore_errors=True)


def finished(launch: Launch) -> None:
    """Nothing is left to do in another start: what was kept for it may go."""
    with suppress(OSError):
        (launch.root / "place").unlink(missing_ok=True)
