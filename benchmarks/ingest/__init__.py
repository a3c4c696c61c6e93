"""Speed of ingestion and of random batches, compared with plain rasterio."""
