"""The stages as Python functions: what `import vision` offers, and the types that it returns.

Nothing here computes: `vision.inference` and `vision.bundle` run a model, `vision.training.run`
trains, `vision.evaluation.stage` evaluates and `vision.export.stage` exports, as they do for the
commands. A bundle is loaded and used without JAX.
"""

from vision.api.evaluation import EvaluationResult, Metric
from vision.api.model import LoadedModel
from vision.api.prediction import Prediction
from vision.api.training import TrainedRun

__all__ = ["EvaluationResult", "LoadedModel", "Metric", "Prediction", "TrainedRun"]
