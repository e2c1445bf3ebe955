"""A space that needs one compiled program: the rate and the decay are arguments of the step."""


def space(trial, config):
    config.optimizer.learning_rate = trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
    config.optimizer.weight_decay = trial.suggest_float("weight_decay", 1e-5, 1e-2, log=True)
