"""The method for anyone who trains with PyTorch; only this package of ``rsdgc`` needs it.

- :mod:`~rsdgc.torch.communication_hook`: compressed gradients in
  ``torch.nn.parallel.DistributedDataParallel``.
- :mod:`~rsdgc.torch.tensors`: tensors as the flat float32 layers that the codec works on.

::

    from rsdgc.torch import Compression, NsiState, nsi_hook

    model = DistributedDataParallel(model)
    model.register_comm_hook(NsiState(model, Compression("100x")), nsi_hook)
"""

from rsdgc.compression import Compression
from rsdgc.torch.communication_hook import NsiState, nsi_hook

__all__ = ["Compression", "NsiState", "nsi_hook"]
