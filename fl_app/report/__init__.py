"""The report of a run: one self-contained HTML file.

==============  ================================================================
module          gives
==============  ================================================================
``write``       :func:`write_report`, from a run folder to ``report.html``
``run_folder``  the files of a run as typed records
``ledger``      sums over the byte ledger
``curves``      accuracy against rounds and bytes
``plots``       ratios of layers, bytes of sites, confusion matrix
``imagery``     land-cover map or gallery of chips, with the saved model
``page``        the page's context and template
==============  ================================================================
"""

from fl_app.report.write import write_report

__all__ = ["write_report"]
