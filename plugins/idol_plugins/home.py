"""What `info` and `selftest` know of a library, or a home of the kernel; another package may add its own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from idol_plugins.cases import Case

__all__ = ["BUILD", "Home", "Listed", "Status", "Variant"]

Array: TypeAlias = NDArray[Any]

BUILD = "idol-deploy plugins build"


@dataclass(frozen=True)
class Status:
    """Whether a library is there.

    Attributes:
        file: its library; None: it is not built.
        detail: what it offers.
        why: it cannot be used; empty: it can.
        fix: the command that mends it, or what to do where no command does.
    """

    file: Path | None = None
    detail: str = ""
    why: str = ""
    fix: str = ""

    @property
    def ready(self) -> bool:
        """It can be used."""
        return not self.why


@dataclass(frozen=True)
class Variant:
    """One way to run a home.

    Attributes:
        name: the instructions or the form, for instance.
        run: a case's output [N, Q, M * D] float32; None where this way is not offered for the case.
        classic: it computes the classic form, `Case.classic`, not the fused one.
    """

    name: str
    run: Callable[[Case], Array | None]
    classic: bool = False


class Listed(Protocol):
    """What `info` tells of.

    Attributes:
        name: one word.
        title: as people know it.
    """

    name: str
    title: str

    def status(self) -> Status:
        """Whether it is there, and what to do if not. Loads the library, builds nothing."""


class Home(Listed, Protocol):
    """A place that the kernel runs in."""

    def variants(self) -> list[Variant]:
        """All ways to run it here.

        Raises:
            PluginError: it cannot be run here.
        """
