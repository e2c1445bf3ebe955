"""New classes for a finished run: CIFAR-10 from 8 to 10, steel defects from 5 to 6."""

from experiments.run import Row

DATA = "runs/neu/split"
CIFAR10 = "tfds:cifar10?classes="
CIFAR10_OLD = CIFAR10 + "airplane,automobile,bird,cat,deer,dog,frog,horse"
CIFAR10_NEW = CIFAR10 + "ship,truck"
NEU = "folder:{data}?classes="
NEU_OLD = NEU + "crazing,inclusion,patches,pitted_surface,rolled-in_scale"
NEU_NEW = NEU + "scratches"
CONFIG = "configs/incremental.py"
# With 1,000 the training on CIFAR-10 diverges: its steps are too large for so stiff
# a penalty.
CIFAR10_EWC = 100.0
NEU_EWC = 1000.0


def _ways(ewc: float) -> dict[str, dict]:
    """Returns {way: keys of the config}; all from the run before, without a memory unless it says
    so."""
    return {
        "fine-tuning alone": {"continual.memory": "", "objective.options.lwf": 0.0},
        "EWC": {
            "continual.memory": "",
            "objective.options.lwf": 0.0,
            "objective.options.ewc": ewc,
        },
        "LwF": {"continual.memory": "", "objective.options.lwf": 1.0},
        "memory of 20 images per class": {"objective.options.lwf": 0.0},
        "memory of 20 images per class, LwF": {},
        "joint: memory of all images": {"continual.memory": "all", "objective.options.lwf": 0.0},
    }


# If only the last layer learns, there are few weights to keep, and EWC has no row of its own. The
# new images' share of the loss says how much the old classes may lose.
LAST_LAYER_WAYS = {
    "fine-tuning alone": {"continual.memory": "", "objective.options.lwf": 0.0},
    "LwF": {"continual.memory": ""},
    "memory of 20 images per class": {"objective.options.lwf": 0.0},
    "memory of 20 images per class, LwF": {},
    "memory of 20 images per class, LwF, new_share 0.05": {"objective.options.new_share": 0.05},
    "joint: memory of all images": {"continual.memory": "all", "objective.options.lwf": 0.0},
}


def _rows(
    title: str, before: Row, source: str, flags: dict, ways: dict[str, dict]
) -> tuple[Row, ...]:
    after = (
        Row(
            f"{title}, {way}",
            f"{CONFIG}:{{run:{before.name}}}:{source}",
            flags | keys,
            continual=True,
        )
        for way, keys in ways.items()
    )
    return (before, *after)


CIFAR10_BEFORE = Row(
    "CIFAR-10, the first 8 classes",
    "configs/resnet_cifar10.py:20",
    {"data.source": CIFAR10_OLD, "data.labels": "1000/class", "train.steps": 1000},
    importance=True,
)
LAST_LAYER_BEFORE = Row(
    "CIFAR-10, last layer, the first 8 classes",
    "configs/transfer_folder.py:{data}:head",
    {
        "data.source": CIFAR10_OLD,
        "data.labels": "1000/class",
        "data.image_size": 96,
        "train.epochs": 20.0,
    },
)
NEU_BEFORE = Row(
    "NEU, 5 classes",
    "configs/transfer_folder.py:{data}",
    {"data.source": NEU_OLD, "data.image_size": 96, "train.epochs": 6.0},
    importance=True,
)
CIFAR10_FLAGS = {"data.labels": "1000/class", "train.steps": 400}
LAST_LAYER_FLAGS = {
    "data.labels": "1000/class",
    "transfer.mode": "head",
    "optimizer.learning_rate": 1e-3,
    "train.steps": 100,
    "train.eval_every": 100,
}
ROWS = (
    *_rows("CIFAR-10", CIFAR10_BEFORE, CIFAR10_NEW, CIFAR10_FLAGS, _ways(CIFAR10_EWC)),
    *_rows(
        "CIFAR-10, last layer",
        LAST_LAYER_BEFORE,
        CIFAR10_NEW,
        LAST_LAYER_FLAGS,
        LAST_LAYER_WAYS,
    ),
    *_rows("NEU", NEU_BEFORE, NEU_NEW, {"train.epochs": 6.0}, _ways(NEU_EWC)),
)
