"""The paper's experiment: data-parallel training, a compressed gradient in every step.

Xie et al., arXiv 2312.17530. One process a node, over ``torch.distributed``, with
:mod:`rsdgc.torch`. DATA is a folder of class folders (your copy of UC Merced Land Use or
NWPU-RESISC45), or a store of ``rsdgc ingest``. Each of these is one command::

    python -m benchmarks.reproduce DATA --out r.jsonl --experiment nwpu-vgg19 --methods dense
    python -m benchmarks.reproduce DATA --out r.jsonl --experiment nwpu-vgg19 --methods dgc
    ...                                  --methods random | paper-static | paper-dynamic | ours

and together they are the table::

    python -m benchmarks.reproduce DATA --out r.jsonl --experiment nwpu-vgg19 \
        --budgets 50 100 --seeds 0 1 2

Every run is a line of the results file; runs that it has are not run again, and ``--table`` runs
nothing. ``--describe`` says what of an experiment the paper states and what is a guess; every value
can be set (``--set nodes=8 batch_size=16``). A method takes settings of its own, for ablations::

    --methods paper-dynamic paper-dynamic+indicator=l1 paper-dynamic+factor_masking=false

On several machines, or several GPUs, the same command runs under torchrun, with as many processes
as the experiment has nodes::

    torchrun --nproc-per-node 4 -m benchmarks.reproduce DATA --out r.jsonl --experiment nwpu-vgg19
"""
