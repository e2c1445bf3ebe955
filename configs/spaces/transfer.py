"""How much of a pretrained network learns, and how fast.

    python -m vision.search --config configs/transfer_folder.py:photos \\
        --space configs/spaces/transfer.py --trials 30 --pruner asha --out runs/transfer

The rate is drawn within a range that fits the mode: a new head alone takes ten times the rate of
the whole network (experiments/transfer_neu). Layer decay is the rate of each layer as a share of
that of the layer after it (Clark et al. 2020, arXiv:2003.10555); lora is for networks that have it.
"""

MODES = ("full", "partial", "head", "lora")
DEPTHS = (1, 2, 3, 5, 8)  # last layers that learn, if only part of the network does
DECAYS = (1.0, 0.9, 0.75, 0.65)
RATES = {"full": (1e-5, 3e-3), "partial": (1e-4, 1e-2), "head": (1e-3, 0.1), "lora": (3e-4, 3e-2)}


def space(trial, config):
    c = config
    mode = trial.suggest_categorical("mode", MODES)
    c.transfer.mode = mode
    if mode == "partial":
        c.transfer.depth = trial.suggest_categorical("depth", DEPTHS)
    if mode == "full":
        c.transfer.layer_decay = trial.suggest_categorical("layer_decay", DECAYS)
    low, high = RATES[mode]
    c.optimizer.learning_rate = trial.suggest_float(f"learning_rate_{mode}", low, high, log=True)
    c.optimizer.weight_decay = trial.suggest_float("weight_decay", 1e-5, 0.1, log=True)
