"""The server's side of a federated run: strategies, checks on what arrives, the byte ledger."""

from strategies.fedavg import DenseFedAvg
from strategies.ledger import Ledger
from strategies.roster import Roster, SiteCard, call_the_roll
from strategies.rs_dgc import RsDgc
from strategies.scores import Scores

__all__ = [
    "DenseFedAvg",
    "Ledger",
    "Roster",
    "RsDgc",
    "Scores",
    "SiteCard",
    "call_the_roll",
]
