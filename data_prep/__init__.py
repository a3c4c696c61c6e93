"""From archives of imagery to training chips: ingestion, stores, splits and partitions.

Nothing here knows of Flower or of the method: a store is a folder of memory-mapped arrays with a
Parquet manifest, and a partition is a manifest for each site.
"""
