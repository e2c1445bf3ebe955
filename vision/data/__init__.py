"""From a source's name to batches: sources, splits, decoding, the loader, augmentation,
resampling."""
