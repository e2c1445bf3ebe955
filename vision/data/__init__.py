"""From a source's name to batches: sources, splits, decoding, loading, augmentation, sampling."""
