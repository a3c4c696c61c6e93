"""A process's share of a GPU, divided over the sites that it works for.

In a simulation ``sites-per-gpu`` processes work on a GPU, each for any of the run's sites. In a
deployment one process works for one site, and the machine's own ``gpu-share`` goes before the
run's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from logging import INFO, WARNING
from typing import Any

import torch
from flwr.common import log
from torch import nn

from clients.acceleration import half_type
from clients.device_memory import (
    MemoryPlan,
    estimate_training,
    gigabytes,
    plan_memory,
    process_bytes,
)
from clients.optimizers import OPTIMIZERS
from fl_app.prepared_model import input_shapes
from fl_app.settings import Settings
from rsdgc.documents import shorten
from rsdgc.errors import SettingError
from strategies.sites import ModalityInfo


def plan_gpu(
    settings: Settings,
    node_config: Mapping[str, Any],
    model: nn.Module,
    modalities: Sequence[ModalityInfo],
    device: torch.device,
    most_sites: int,
) -> MemoryPlan:
    """Divide this process's share of a GPU, before a site takes any of it.

    Parameters
    ----------
    settings : Settings
        Of the run.
    node_config : mapping
        Of the node; it has a ``data-dir`` in a deployment alone, and may have a ``gpu-share``.
    model : torch.nn.Module
        Not yet on the GPU.
    modalities : sequence of ModalityInfo
        What the model takes.
    device : torch.device
        The GPU.
    most_sites : int
        Sites that the process keeps open at most.

    Raises
    ------
    SettingError
        The share is too small to train on one chip at once, or the node's own is no share.
    """
    processes, together = 1, _gpu_share(settings, node_config)
    deployed = bool(node_config.get("data-dir"))
    if not deployed:
        processes = settings.sites_per_gpu
        most_sites = min(most_sites, int(node_config.get("num-partitions", most_sites)))
    share = together / processes
    more_memory = "lower sites-per-gpu, " if processes > 1 else ""
    if together < 1:
        more_memory += f"raise gpu-share{' in site.toml' if deployed else ''}, "
    if share < 1:
        # Another process's memory is then safe from this one.
        torch.cuda.set_per_process_memory_fraction(share)
    memory = estimate_training(
        model,
        input_shapes(settings.model, modalities),
        settings.batch_size,
        states=OPTIMIZERS[settings.optimizer].states + (settings.proximal > 0),
        half=settings.amp and half_type(device) is not None,
    )
    usable = process_bytes(device, share)
    plan = plan_memory(memory, usable, settings.batch_size, most_sites, more_memory)
    log(
        INFO,
        "%s: training takes about %s (%s); %s for the chips of each of %d sites",
        device,
        gigabytes(memory.weights + memory.step(plan.chips_at_once)),
        memory,
        gigabytes(plan.cache_bytes),
        plan.sites,
    )
    if plan.chips_at_once < settings.batch_size:
        log(
            WARNING,
            "%s has memory for %d chips at once: the gradients of batches of %d are added up",
            device,
            plan.chips_at_once,
            settings.batch_size,
        )
    return plan


def _gpu_share(settings: Settings, node_config: Mapping[str, Any]) -> float:
    """Return the share of the GPU that all of its processes may take: the node's before the run's.

    Raises :class:`SettingError` if the node's own is not a number above 0 and up to 1.
    """
    own = node_config.get("gpu-share")
    if own is None:
        return settings.gpu_share
    if isinstance(own, bool) or not isinstance(own, int | float) or not 0 < own <= 1:
        raise SettingError(
            f"this node's gpu-share is {shorten(str(own))}: start it with a number above 0 and up "
            "to 1, such as 0.5"
        )
    return float(own)
