"""Reports a run to MLflow or Weights & Biases while it trains."""
