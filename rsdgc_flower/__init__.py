"""The codec under somebody else's Flower app: one line at each side, nothing else changes.

::

    app = ClientApp(mods=[CompressionMod(Compression("100x"))])       # client_app.py

    strategy = DecodingStrategy(FedAvg(fraction_train=0.5))           # server_app.py

Uploads are compressed with error feedback; downloads stay as they are. What the two say to each
other is in :mod:`~rsdgc_flower.records`; :mod:`~rsdgc_flower.client_mod` and
:mod:`~rsdgc_flower.decoding_strategy` are the two ends. The app must use Flower's message API
(``flwr.clientapp``, ``flwr.serverapp``), and ``rsdgc`` must be installed at both ends.
"""

from rsdgc.compression import Compression
from rsdgc_flower.client_mod import CompressionMod
from rsdgc_flower.decoding_strategy import DecodingStrategy

__all__ = ["Compression", "CompressionMod", "DecodingStrategy"]
