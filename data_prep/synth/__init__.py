"""A synthetic remote-sensing archive that looks and behaves like a real one.

Sites of four landscapes hold scenes with terrain, a meandering river, towns on street grids,
fields, forests and quarries, seen by sensors with their own radiometry, season and haze. Classes
come in groups with the same spectra, so that texture, geometry and context have to be learned.
Everything made from it is synthetic and says so.

``landscapes`` draws sites and their classes; ``render`` makes a scene from ``terrain``,
``land_cover``, ``textures`` and ``radiometry``, all of which use ``random_fields``;
``archive_writer`` writes it. What is drawn is fixed to the bit by the seed: it is the built-in
data of the demo, whose results are published.

::

    scenes = write_archive("archive", sites=4, seed=0)
"""

from data_prep.synth.archive_writer import write_archive

__all__ = ["write_archive"]
