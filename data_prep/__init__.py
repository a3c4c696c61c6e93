"""From archives of imagery to training chips, and to the sites that train on them.

Data goes one way: ``ingest`` reads an archive (``synth`` and ``indian_pines`` write two), cuts
chips, splits them (``splits``, ``block_split``, ``field_split``) and writes a store; ``partition``
divides a store over sites; ``dataset`` opens either and reads the samples of a site.

A store is a folder: sharded memory maps (``shards``), a Parquet manifest with one row per sample
(``manifest``, with geometry from ``footprints``) and ``meta.json`` (``schema``). ``store_writer``
writes it in a folder that appears complete (``staging``); ``store`` reads it. ``statistics`` adds
up bands; ``common_statistics`` is what sites share of the sums. ``rasters`` and ``geotiff`` read
and write files through GDAL, ``progress`` reports, ``choices`` lists the names that options take.
``inspect`` prints what a store holds;
``data_page`` draws it with ``pictures``. Nothing here knows Flower or the compression method.
"""
