"""Files that go through the tower in one call, and all that is committed and told with them."""

from dataclasses import dataclass, field

from mcr_infer.decoding import Decoded
from mcr_infer.index import Row
from mcr_infer.pipeline.outcome import Outcome
from mcr_infer.sources import FileStamp, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Fresh:
    """A decoded file that is to be embedded."""

    source: Source
    stamp: FileStamp
    """As it is kept, see `Naming`."""
    decoded: Decoded
    """As it is kept, too."""


@dataclass(slots=True)
class Group:
    """Filled file by file; nothing of it is told before it is committed."""

    fresh: dict[str, Fresh] = field(default_factory=dict)
    """To be embedded, by id."""

    retold: dict[str, Row] = field(default_factory=dict)
    """Known rows whose file moved or whose header changed: the vector stands."""

    stamps: list[tuple[FileStamp, str]] = field(default_factory=list)
    """Files that need not be opened again, with the id that they hold."""

    learned: list[FileStamp] = field(default_factory=list)
    """Unchanged files whose ctime the index does not know yet."""

    outcomes: list[Outcome] = field(default_factory=list)

    def tell(self, outcome: Outcome) -> None:
        """Say this once the group is committed."""
        self.outcomes.append(outcome)
