"""What the server knows of every site: the last upload accepted, the version it confirmed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Books:
    """Two numbers a site, by name; a site that is not in them stands at zero.

    Attributes
    ----------
    accepted : dict of str to int
        Last round whose upload is in the model. A site that finds its last upload is not there
        takes it back.
    confirmed : dict of str to int
        Version that the site's last reply said its replica is at, on its disk. It may have got
        further since; what it has twice it passes over.
    """

    accepted: dict[str, int] = field(default_factory=dict)
    confirmed: dict[str, int] = field(default_factory=dict)

    def confirm(self, site: str, version: object, published: int) -> None:
        """Take a site at its word about its replica's version, if it is a possible one."""
        if isinstance(version, int) and 0 <= version <= published:
            self.confirmed[site] = version

    def to_json(self) -> dict[str, dict[str, int]]:
        """Return plain values."""
        return {"accepted": dict(self.accepted), "confirmed": dict(self.confirmed)}

    @classmethod
    def from_json(cls, content: Mapping[str, Mapping[str, int]]) -> Books:
        """Take up what :meth:`to_json` returned."""
        return cls(dict(content["accepted"]), dict(content["confirmed"]))
