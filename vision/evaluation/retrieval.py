"""Image-text retrieval: how often does an image find its caption, and a caption its image?

    python -m vision.evaluation.retrieval --workdir runs/clip
    python -m vision.evaluation.retrieval --workdir runs/clip --data csv:photos.csv?text=caption \\
        --out retrieval.json

Measures recall at 1, 5 and 10 in both directions on the test split of a run of the objective
`contrastive`, next to chance, the recall of a random order. A caption that several images share is
searched for once, and any of its images is right. A source without captions gets those that the
run's `text.templates` make from its class names. --out writes all numbers as JSON.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from vision import cli
from vision.config.flags import parse_stage
from vision.errors import UserError
from vision.metrics import RECALLS, retrieval
from vision.support.extras import require_stage
from vision.support.files import write_json

WAYS = {"image_to_text": "image to text", "text_to_image": "text to image"}


def main(argv: Sequence[str]) -> None:
    _, values, words = parse_stage(argv, __doc__, _flags)
    if words:
        raise UserError(f"unexpected argument '{words[0]}': flags start with --")
    if not values.workdir:
        raise UserError("which model? Give --workdir RUN")
    if values.out and not pathlib.Path(values.out).parent.is_dir():
        raise UserError(f"cannot write --out={values.out}: its folder does not exist")
    require_stage("retrieval", "retrieve")
    from vision import matching

    record = measure(matching.open_matcher(values.workdir), values.data, values.split)
    cli.show(
        f"{record['data']}, {record['split']}: {record['images']:,} images, "
        f"{record['captions']:,} different captions"
    )
    for way, title in WAYS.items():
        print(f"{title}: {', '.join(_shown(record, way, k) for k in RECALLS)}")
    if values.out:
        write_json(values.out, record)


def measure(matcher: Any, spec: str = "", split_name: str = "") -> dict[str, Any]:
    """Returns {"data", "split", "images", "captions"} and `vision.metrics.retrieval`.

    Args:
        matcher: a `vision.matching.Matcher`.
        spec: name of another source than the run's; "" for that.
        split_name: see `vision.evaluation.data.open_split`.

    Raises:
        UserError: the source cannot be opened, or has no captions.
    """
    from vision.data.captions import captions_of
    from vision.data.sources import open_splits
    from vision.objectives.contrastive import same_texts

    config = matcher.classifier.config
    classes = matcher.classifier.classes
    if spec:
        classes = next(iter(open_splits(spec, config.data.bits, 1).values())).classes
    split, rows, vectors = _embed(matcher.projector(classes), spec, split_name)
    texts = captions_of(config.text, split.name, split.source, config.seed)
    missing = sum(not text.strip() for text in texts[rows])
    if missing:
        raise UserError(
            f"{missing:,} images of {split.name} have no caption to be found by: leave out "
            "empty=keep, and name the captions of each joined source"
        )
    ids, _ = matcher.tokenizer.encode(texts[rows])
    numbers = same_texts(ids)
    measured = retrieval(vectors, matcher.vectors_of(ids), numbers)
    described = {"data": split.spec, "split": split.name, "images": len(ids)}
    return described | {"captions": int(numbers.max()) + 1} | measured


def _embed(projector, spec, name):
    """Returns (the split, int64 (N,) places of its readable images there, their vectors (N, D))."""
    from vision import parallel
    from vision.evaluation.data import open_split
    from vision.evaluation.outputs import Forward, batch_size, collect

    mesh = parallel.make_mesh()
    split = open_split(projector, projector.config, mesh, spec, name)
    forward = Forward(projector, mesh)
    rows = []
    vectors = []
    start = 0
    for loader in split.loaders.values():
        size = batch_size(projector.config.train, mesh)
        outputs = collect(forward, loader, size, embedded=0, label="embedding")
        rows.append(outputs.rows + start)
        vectors.append(outputs.logits)
        start += len(loader)
    return split, np.concatenate(rows), np.concatenate(vectors)


def _shown(record, way, k):
    value = record[f"{way}_at_{k}"]
    return f"recall@{k} {value:.4f} (chance {record[f'{way}_chance_at_{k}']:.4f})"


def _flags(values):
    flags.DEFINE_string("workdir", "", "run directory", flag_values=values)
    flags.DEFINE_string("data", "", "source to use instead of the run's", flag_values=values)
    flags.DEFINE_string("split", "", "train, val, test or all", flag_values=values)
    flags.DEFINE_string("out", "", "JSON file to write the numbers to", flag_values=values)


if __name__ == "__main__":
    cli.run(main, outlives_output=True)
