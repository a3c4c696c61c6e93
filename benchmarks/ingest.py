"""How fast scenes become chips, and chips become batches, beside plain rasterio.

Writes a scene of 10,000 × 10,000 pixels and four bands of uint16 (smooth fields with sensor noise)
as deflated tiles, deflated strips and bare tiles, ingests each with chips of 64 px, and reads every
block of the same files once with rasterio in as many processes. Then it takes random batches from
a store of 13 × 64 × 64 uint16, and random windows from GeoTIFFs as torchgeo's samplers do.

Plain reading imports NumPy and rasterio alone (:mod:`benchmarks.plain_reading`); beside it the same
with every pixel written to a file, which is the least that an ingestion can do.

    python -m benchmarks.ingest work/ --processes 2
    python -m benchmarks.ingest work/ --size 2000 --chips 2000        # small, to try it out
    python -m benchmarks.ingest work/ --profile                       # where the time goes
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    """Run all measurements and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("work", type=Path, help="folder for scenes and stores; kept for reuse")
    parser.add_argument("--size", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--chips", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loader-only", action="store_true", help="leave the scenes out")
    parser.add_argument("--profile", action="store_true", help="profile, and nothing else")
    args = parser.parse_args()
    # every process that is started imports this module, and should not wait for what it never calls
    from benchmarks.ingestion import compare_ingestion, profile_ingestion  # noqa: PLC0415
    from benchmarks.loading import compare_loading  # noqa: PLC0415

    if args.profile:
        profile_ingestion(args)
        return
    if not args.loader_only:
        compare_ingestion(args)
    compare_loading(args)


if __name__ == "__main__":
    main()
