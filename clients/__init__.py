"""What runs at a site: local training, and the durable state that error feedback needs.

A round (:mod:`~clients.site`) goes this way: ``task`` is what the server asks for and what the
site replies, ``scores`` among it. ``replica`` patches the site's copy of the published model.
``model_parts`` loads it into the network, which ``evaluation`` scores and ``training`` trains on
batches from ``loader``; ``normalization`` makes float32 of stored pixels on the device, and
``augment`` varies them. ``uplink`` compresses the change plus the residual. ``state`` keeps
replica, residual and upload on disk (as ``mapped_vectors``), and ``state_cleanup`` deletes the
states of old runs.

This package does not know Flower, the server, or how imagery is stored on disk.
"""
