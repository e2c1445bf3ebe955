"""What is wrong with images by themselves, and with the classes: sizes, blur, balance, spelling."""

import numpy as np

from vision.audit.issues import Issue
from vision.data.labels import alike

KINDS = ("unreadable", "blank", "tiny", "odd_aspect", "blurred", "spelling")
_ENOUGH = 20  # images of a class, for its own median sharpness to mean something
# of the logarithm of sharpness: where all images are equally sharp, a little less is no blur
_LEAST_SPREAD = 0.2


def find(images, scan, c):
    """Finds images that are unreadable, blank, tiny, oddly shaped or blurred, and classes that are
    spelled two ways.

    Scores: `blank`, 255 less the standard deviation of the gray values; `tiny`, pixels that the
    shorter side lacks; `odd_aspect`, the longer side over the shorter one; `blurred`, robust
    deviations below the median of the logarithm of sharpness of its class (from 3.5 on, Iglewicz
    and Hoaglin 1993 call a value an outlier).

    Args:
        images: `vision.audit.images.Images`.
        scan: its `vision.audit.scan.Scan`.
        c: config.audit.

    Returns:
        List of `Issue`, by kind, the worst of each first. A blank image is not blurred as well.
    """
    issues = [
        Issue(int(i), "unreadable", 1.0, str(scan.reason[i]), "drop")
        for i in np.flatnonzero(~scan.readable)
    ]
    blank = scan.readable & (scan.std < c.blank)
    shorter = np.minimum(scan.height, scan.width)
    longer = np.maximum(scan.height, scan.width)
    # Where most images are so small, that is what the data are.
    usual = np.median(shorter[scan.readable]) if scan.readable.any() else 0
    tiny = scan.readable & (shorter < c.tiny) & (usual >= c.tiny)
    aspect = longer / np.maximum(shorter, 1)
    odd = scan.readable & (aspect > c.aspect)
    deviations = blur(images, scan, scan.readable & ~blank)
    issues += _sorted(
        blank,
        "blank",
        255 - scan.std,
        lambda i: f"gray values of {scan.std[i]:.1f} around one",
        "drop",
    )
    issues += _sorted(
        tiny, "tiny", c.tiny - shorter, lambda i: f"{scan.width[i]}x{scan.height[i]} pixels"
    )
    issues += _sorted(
        odd, "odd_aspect", aspect, lambda i: f"{scan.width[i]}x{scan.height[i]} pixels"
    )
    issues += _sorted(
        (deviations >= c.blur) & ~blank,
        "blurred",
        deviations,
        lambda i: f"{deviations[i]:.1f} robust deviations below its class's sharpness",
    )
    return issues + misspelled(images)


def _sorted(chosen, kind, score, says, action=""):
    rows = np.flatnonzero(chosen)
    return [
        Issue(int(i), kind, float(score[i]), says(i), action)
        for i in rows[np.argsort(-score[rows], kind="stable")]
    ]


def blur(images, scan, judged):
    """Returns float (N,): robust deviations (median, MAD) below the class's sharpness, on a
    logarithmic scale.

    A class with few images is judged by all of them: some things are smooth, such as sky or steel.

    Args:
        images, scan: as `find`.
        judged: bool (N,), the images that count; the others get 0.
    """
    found = np.zeros(len(scan))
    level = np.log(scan.sharpness + 1e-6)
    rows = np.flatnonzero(judged)
    for label in np.unique(images.labels[rows]):
        own = rows[images.labels[rows] == label]
        reference = level[own if len(own) >= _ENOUGH else rows]
        median = np.median(reference)
        spread = max(1.4826 * np.median(np.abs(reference - median)), _LEAST_SPREAD)
        found[own] = (median - level[own]) / spread
    return found


def misspelled(images):
    """Returns an issue for each image of a class that has a commonlier spelled one beside it:
    relabel to that."""
    counts = np.bincount(images.labels, minlength=len(images.classes))
    issues = []
    for group in alike(images.classes):
        labels = sorted(
            (images.classes.index(name) for name in group), key=lambda label: -counts[label]
        )
        right = images.classes[labels[0]]
        for label in labels[1:]:
            says = f"spelled {images.classes[label]!r}, but {right!r} {counts[labels[0]]:,} times"
            rows = np.flatnonzero(images.labels == label)
            issues += [Issue(int(i), "spelling", 1.0, says, f"relabel:{right}") for i in rows]
    return issues


def balance(images):
    """Returns {"counts": {split: {class: images}}, "ratio": of train's largest class to its
    smallest, "absent": [...]}.

    The ratio leaves classes without any image in train out; they are among the absent, as (class,
    split).
    """
    counts = {}
    for i, name in enumerate(images.names):
        numbers = np.bincount(
            images.labels[images.split == i], minlength=len(images.classes)
        ).tolist()
        counts[name] = dict(zip(images.classes, numbers, strict=True))
    train = [n for n in counts["train"].values() if n]
    absent = [(label, split) for split, of in counts.items() for label, n in of.items() if not n]
    return {"counts": counts, "ratio": max(train) / min(train), "absent": absent}
