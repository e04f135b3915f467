"""Output formats: rasters, vectors, pictures, STAC."""
