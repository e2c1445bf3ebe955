"""Hyperparameter search: Optuna drives the trainer, and a trial is an ordinary run."""
