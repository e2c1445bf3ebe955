"""The config of a run that takes a second."""

from vision.config import default


def mlp_config(source, steps):
    """Returns a config with a small MLP and one device, without a bar."""
    c = default()
    c.data.source = source
    c.model.name = "mlp"
    c.model.variant = "32x1"
    c.train.steps = steps
    c.train.batch_size = 16
    c.optimizer.learning_rate = 3e-3
    c.log.tensorboard = False
    c.log.progress = False
    c.parallel.devices = 1
    c.checkpoint.metric = "val/step"
    return c
