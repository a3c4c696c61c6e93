"""The server's side of a federated run: strategies, checks on what arrives, the byte ledger."""

from strategies.fedavg import DenseFedAvg
from strategies.ledger import Ledger
from strategies.metrics import Scores
from strategies.rs_dgc import RsDgc
from strategies.sites import SiteInfo, SiteManager, discover_sites

__all__ = [
    "DenseFedAvg",
    "Ledger",
    "RsDgc",
    "Scores",
    "SiteInfo",
    "SiteManager",
    "discover_sites",
]
