"""The method for anyone who trains with PyTorch; only this package of ``rsdgc`` needs it.

- :mod:`~rsdgc.torch.communication_hook`: compressed gradients in
  ``torch.nn.parallel.DistributedDataParallel``;
- :mod:`~rsdgc.torch.gradients`: a model's gradients as bytes, and back;
- :mod:`~rsdgc.torch.state_dicts`: the change between two state dicts as bytes, and back.

They share :mod:`~rsdgc.torch.tensors` (tensors as the flat layers that the codec works on),
:mod:`~rsdgc.torch.collectives` (what workers exchange) and :mod:`~rsdgc.torch.saved_state`.

::

    from rsdgc.torch import Compression, NsiState, nsi_hook

    model = DistributedDataParallel(model)
    model.register_comm_hook(NsiState(model, Compression("100x")), nsi_hook)
"""

from rsdgc.compression import Compression
from rsdgc.torch.communication_hook import NsiState, nsi_hook
from rsdgc.torch.gradients import GradientCompressor, load_gradients
from rsdgc.torch.state_dicts import StateDictCompressor, apply_to_state_dict

__all__ = [
    "Compression",
    "GradientCompressor",
    "NsiState",
    "StateDictCompressor",
    "apply_to_state_dict",
    "load_gradients",
    "nsi_hook",
]
