"""Ten labels for each class of steel defects, with and without pictures that have none."""

from experiments.run import Row

DATA = "runs/neu"
FEW = {"data.labels": "10/class", "data.labels_seed": "{seed}", "data.image_size": 96}
ALONE = FEW | {"train.steps": 300, "train.batch_size": 16, "train.eval_every": 100}

ROWS = (
    Row(
        "transfer alone",
        "configs/transfer_folder.py:{data}/split",
        ALONE | {"checkpoint.metric": "val/step"},
        "88.7 ± 1.1 (experiments/transfer_neu, other splits)",
    ),
    Row("FixMatch", "configs/fixmatch_folder.py:{data}/split:{data}/pictures", FEW),
)
