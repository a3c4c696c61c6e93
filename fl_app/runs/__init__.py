"""A run's folder: who may work in it, what is written there, and reading it again.

``folder``
    :func:`~fl_app.runs.folder.open_run` creates a run folder, or checks that the run in it can be
    resumed, and locks it. It yields an :class:`~fl_app.runs.folder.ActiveRun`, which writes
    configuration, model and summary.
``resumption``
    Which run a folder holds, and with which settings it can be resumed.
``own_code``
    Whether the code that a run's settings name is the same as when it was started.
``lock``
    One server application at a time works in a run folder.
``replacement``
    Whether a folder is in use, and replacing an old run in it by a new one, for ``--force``.
``inputs``
    ``inputs.json``: what using the run's model on imagery takes beside the configuration.
``records``
    The schema of ``config.json`` and ``summary.json``, and :func:`~fl_app.runs.records.read_run`,
    which reads a whole folder. The records of ``rounds.jsonl`` and ``history.jsonl`` are those of
    the byte ledger, :mod:`strategies.ledger`.
``provisional``
    The records of a run that is not complete, summed up from its ledger so far.
``growing_records``
    Reading a ledger's file while a run writes it.

The server application writes; the report, comparisons and the commands that resume a run read.
"""
