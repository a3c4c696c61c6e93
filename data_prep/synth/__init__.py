"""A synthetic remote-sensing archive that looks and behaves like a real one.

Sites of four landscapes hold scenes with terrain, a meandering river, towns on street grids,
fields, forests and quarries, seen by sensors with their own radiometry, season and haze. Classes
come in groups with the same spectra, so that texture, geometry and context have to be learned.
Everything made from it is synthetic and says so.

::

    report = write_archive("archive", sites=4, seed=0)
"""

from data_prep.synth.archive_writer import ArchiveReport, write_archive

__all__ = ["ArchiveReport", "write_archive"]
