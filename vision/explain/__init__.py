"""Where a model looks: heat maps of a run or a bundle, and how faithful they are."""
