"""Every error that this project raises deliberately.

::

    RsdgcError              one line: what is wrong, the value, the remedy
    ├── SettingError        a setting is unknown, out of range, or contradicts another
    ├── DataError           imagery, labels, a store or a partition cannot be used
    ├── WireError           bytes that came from a peer are not a valid update
    ├── StateError          a site's state files cannot be read or written
    └── RunError            a federated run cannot start, or did not finish

Catch :class:`RsdgcError` to handle them all. Any other exception is a bug.
"""

from __future__ import annotations


class RsdgcError(Exception):
    """Base of all deliberate errors; the text is one line for a terminal."""


class SettingError(RsdgcError):
    """A setting is unknown, out of range, or contradicts another."""


class DataError(RsdgcError):
    """Imagery, labels, a store or a partition cannot be used."""


class WireError(RsdgcError):
    """Bytes that came from a peer are not a valid update."""


class StateError(RsdgcError):
    """A site's state files cannot be read or written."""


class RunError(RsdgcError):
    """A federated run cannot start, or did not finish."""
