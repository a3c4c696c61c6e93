"""Speed of ingestion and of random batches, compared with plain rasterio.

``__main__`` compares ingestion with ``plain_reading``, then ``batches`` from a store with windows
of a GeoTIFF.
"""
