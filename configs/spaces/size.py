"""The size of a network, with the rate that fits it.

    python -m vision.search --config configs/resnet_cifar10.py --space configs/spaces/size.py \\
        --trials 30 --pruner hyperband --out runs/size
    python -m vision.search --config configs/digits.py --space configs/spaces/size.py \\
        --objective val/accuracy,parameters --sampler nsga2 --trials 60 --out runs/front

The second asks for the networks that no other beats in both accuracy and number of parameters.
"""

from vision.errors import UserError

SIZES = {  # of the config's own model.name
    "resnet": ("cifar20", "cifar32", "cifar44", "cifar56"),
    "vit": ("mu/4", "Ti/4", "S/4"),
    "wide_resnet": ("16-4", "28-2", "28-10"),
}


def space(trial, config):
    name = config.model.name
    if name not in SIZES:
        raise UserError(f"configs/spaces/size.py has no sizes of {name}: add them to SIZES")
    config.model.variant = trial.suggest_categorical("variant", SIZES[name])
    rate = config.optimizer.learning_rate
    config.optimizer.learning_rate = trial.suggest_float(
        "learning_rate", rate / 10, rate * 10, log=True
    )
