"""From archives of imagery to training chips, and to the sites that train on them.

Data goes one way: ``ingest`` reads an archive (``synth`` and ``indian_pines`` write two) through
``rasters``, cuts chips, splits them (``splits``, ``block_split``, ``field_split``, by the ground in
``footprints``) and writes a store; ``partition`` divides a store over sites; ``dataset`` opens
either and reads the samples of a site.

A store is a folder: sharded memory maps (``shards``), a Parquet manifest with one row per sample
(``manifest``) and ``meta.json`` (``schema``). ``store_writer`` writes it in a folder that appears
complete (``staging``); ``store`` reads it. ``statistics`` adds up bands; ``common_statistics`` is
what sites share of the sums. ``inspect`` prints what a store holds, in tables that fit the terminal
(``terminal_table``); ``data_page`` draws it with ``pictures``. ``number_format`` writes numbers for
people; ``choices`` are the names that functions and the command line take. Nothing here knows
Flower or the compression method.
"""
