"""The report of a run: one self-contained HTML file.

===================  =====================================================================
module               purpose
===================  =====================================================================
``page``             :func:`write_report`: from a run folder to ``report.html``
``report_template``  the page's HTML
``accuracy_curves``  accuracy against rounds and against bytes
``byte_charts``      ratios of layers, bytes of sites
``confusion``        the confusion matrix and the scores of classes
``ledger_totals``    sums over the byte ledger
``imagery``          what is shown of the data: the map of a scene, or a gallery of chips
``land_cover_map``   reference, prediction and errors of one scene
``prediction``       classes that the saved model predicts
``svg``              matplotlib figures as inline SVG that follows the page's colors
===================  =====================================================================

The records of a run folder come from ``fl_app.runs.records``; colors, mosaics and the page's style
come from ``data_prep.pictures``, which the data page uses too.
"""

from fl_app.report.page import write_report

__all__ = ["write_report"]
