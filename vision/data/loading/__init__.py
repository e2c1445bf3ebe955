"""From a split to batches on the device: sampler, dataset and loaders."""
