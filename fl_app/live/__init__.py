"""A run while it goes on: one reader of its folder, and what shows it.

The server application writes the ledger's files and, with every reply, ``progress.json``
(:mod:`~fl_app.live.status_file`). :mod:`~fl_app.live.progress` reads them, for the table in a
terminal (:mod:`~fl_app.live.terminal_view`) and for the page of ``rsdgc dashboard``
(:mod:`~fl_app.live.dashboard_server`), in simulations and deployments alike. While a run goes on,
its report is renewed by a process of low priority (:mod:`~fl_app.live.report_renewal`).
"""
