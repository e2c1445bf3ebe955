"""Your own images with a text, with columns of a table, or with both: one CSV file, one command.

    python -m vision.main --config configs/fusion_csv.py:skin.csv:age,site
    python -m vision.main --config configs/fusion_csv.py:skin.csv:age,site:gated \\
        --config.model.options.image=efficientnet_lite:0 --config.model.pretrained=WEIGHTS
    python -m vision.predict --workdir RUN --table new.csv

The table has columns of paths and labels, see docs/data.md, and those that are learned from. A text
is named with the file, in quotes because of the shell: 'ads.csv?text=title&empty=keep', where
empty=keep keeps the images that have none. Not measured: it depends on your table; docs/fusion.md
has an example.
"""

from vision.config import default


def get_config(source="images.csv?text=text&empty=keep", columns="", method="late"):
    c = default()
    c.data.source = f"csv:{source}"
    c.data.columns = columns
    c.data.image_size = 64
    if "text=" in source:
        c.text.tokenizer = "bpe"
        c.text.context = 32
    c.model.name = "fusion"
    c.model.variant = method
    c.model.options.image = "cnn:small"
    c.augment.flip_horizontal = True

    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 1e-3
    c.optimizer.weight_decay = 0.05
    c.schedule.name = "warmup_cosine"
    c.schedule.warmup = 0.1
    c.train.epochs = 20.0
    c.train.batch_size = 64
    return c
