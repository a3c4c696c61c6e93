"""The server's side of a federated run.

:mod:`~strategies.base` runs the rounds; :mod:`~strategies.rs_dgc` and :mod:`~strategies.fedavg`
are the strategies. Down to the sites: :mod:`~strategies.downlink` publishes the model in patches,
:mod:`~strategies.rate_control` keeps messages on budget, :mod:`~strategies.outbox` knows what was
sent to whom, :mod:`~strategies.transport` sends it, :mod:`~strategies.messages` names its fields,
:mod:`~strategies.roll_call` finds its receivers and :mod:`~strategies.sites` knows them. Back up:
:mod:`~strategies.validation` checks replies, :mod:`~strategies.metrics` scores the model. To disk:
:mod:`~strategies.ledger` counts the bytes, :mod:`~strategies.checkpoints` saves the run's state,
:mod:`~strategies.round_log` writes a log line per round. :mod:`~strategies.model_record` converts
models between vectors and Flower's arrays.
"""

from strategies.fedavg import DenseFedAvg
from strategies.ledger import Ledger
from strategies.metrics import Scores
from strategies.roll_call import discover_sites
from strategies.rs_dgc import RsDgc
from strategies.sites import SiteInfo, SiteManager

__all__ = ["DenseFedAvg", "Ledger", "RsDgc", "Scores", "SiteInfo", "SiteManager", "discover_sites"]
