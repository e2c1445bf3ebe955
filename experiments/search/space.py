"""Rate, weight decay and batch size: three programs, whatever the rates."""


def space(trial, config):
    c = config
    c.optimizer.learning_rate = trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    c.optimizer.weight_decay = trial.suggest_float("weight_decay", 1e-5, 1.0, log=True)
    c.train.batch_size = trial.suggest_categorical("batch_size", [32, 64, 128])
    c.train.eval_every = 40 * 64 // c.train.batch_size
