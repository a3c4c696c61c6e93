"""The report of a run: one self-contained HTML file.

===================  =====================================================================
module               purpose
===================  =====================================================================
``page``             :func:`write_report`: from a run folder to ``report.html``
``report_template``  the page's HTML
``learning_curves``  accuracy and loss against rounds, accuracy against bytes
``time_split``       where the time of a run went
``byte_charts``      ratios of layers, bytes of sites
``ledger_totals``    sums over the byte ledger
``confusion``        the confusion matrix and the scores of classes
``site_scores``      scores of the final model at each site
``intervals``        how far a score of the test chips may be from that on all imagery
``outlying_sites``   sites that report figures far from those of the others
``imagery``          what is shown of the data: the map of a scene, or a gallery of chips
``land_cover_map``   reference, prediction and errors of one scene
``prediction``       classes that the saved model predicts
``figure_files``     every figure as files for a paper: SVG, PNG and CSV
===================  =====================================================================

The records of a run folder come from ``fl_app.runs.records``; colors, mosaics and the page's style
come from ``data_prep.pictures``, which the data page uses too.
"""

from fl_app.report.page import write_report

__all__ = ["write_report"]
