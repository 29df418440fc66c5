"""The energy that a processor says it used: Linux' powercap counters (Intel's RAPL, which AMD's processors have too).

https://www.kernel.org/doc/html/latest/power/powercap/powercap.html: a zone counts microjoules in `energy_uj`, from 0 up
to `max_energy_range_uj` and then from 0 again. Since Linux 5.10 most systems let root alone read it (CVE-2020-8694).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, final

import msgspec

__all__ = ["POWERCAP", "Meter", "find_meter"]

POWERCAP: Final = Path("/sys/class/powercap")
# Processors, and memory where it is counted apart. "core" and "uncore" are parts of a package, and "psys" is a whole
# that holds packages: with them something would count twice.
WHOLES: Final = ("package", "dram")


class _Zone(msgspec.Struct, frozen=True):
    file: Path
    range_uj: int


@final
class Meter:
    """Counters of energy: all processors, and memory where it has its own.

    They count what the whole machine does, not this process alone.
    """

    def __init__(self, zones: tuple[_Zone, ...]) -> None:
        self._zones = zones

    def read(self) -> tuple[int, ...]:
        """What the counters say, microjoules.

        Raises:
            OSError: a counter can no longer be read.
            ValueError: it holds no number.
        """
        return tuple(int(zone.file.read_text(encoding="ascii")) for zone in self._zones)

    def joules(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        """Between two readings, which are to be less than one turn of a counter apart (minutes at least)."""
        used = 0
        for zone, start, end in zip(self._zones, before, after, strict=True):
            used += end - start if end >= start else end - start + zone.range_uj
        return used / 1e6


def find_meter(root: Path = POWERCAP) -> Meter | str:
    """The meter of this machine; or why there is none, in words."""
    zones, packages = [], 0
    for folder in sorted(root.glob("intel-rapl:*")):  # intel-rapl-mmio: counts the same a second time
        try:
            name = (folder / "name").read_text(encoding="ascii").strip()
            if name.startswith(WHOLES):
                int((folder / "energy_uj").read_text(encoding="ascii"))
                span = int((folder / "max_energy_range_uj").read_text(encoding="ascii"))
                zones.append(_Zone(folder / "energy_uj", span))
                packages += name.startswith("package")
        except PermissionError:
            return f"{folder / 'energy_uj'} can be read by root only"
        except (OSError, ValueError):  # a zone that is gone, or is none
            continue
    if not packages:
        return f"this machine does not expose it (no package below {root})"
    return Meter(tuple(zones))
