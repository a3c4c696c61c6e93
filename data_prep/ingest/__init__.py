"""Ingestion: folders of imagery to stores.

``scenes`` and ``class_folders`` hold the two calls, ``options`` what they take. Data goes one way:

- ``archive`` lists files; ``discovery`` or a ``description`` makes each ``scene`` of them, with
  ``sensors`` (what names say), ``labels`` (``label_format``, ``polygons``) and ``class_list``.
  Scenes that a model is used on have ``no_labels``.
- ``plan`` checks the scenes against each other (``modalities``) and against a ``grid``, and cuts
  them into jobs; ``dry_run`` prints it.
- ``job_pool`` runs the jobs of ``chips`` or ``pixel_mode`` and reports their ``progress``. They
  read through ``scene_reader`` and ``aligned``, and leave ``job_results`` in a ``work_folder``.
- ``scenes`` orders the results, ``finalize`` splits the samples and writes the records;
  ``sources`` remembers what the store was made of.
"""
