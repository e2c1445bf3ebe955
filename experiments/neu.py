"""NEU's steel defects as folders, for the experiments on them.

    python -m experiments.neu neu_det.tar runs/neu

photos/CLASS/*.jpg               all images, sorted by class
split/{train,val,test}/CLASS/    the same, divided 7 : 2 : 1 within each class, the same each time
rare/{train,val,test}/CLASS/     as split, but with only 30 images to train on of two classes
pictures/*.jpg                   those of split/train once more, without classes: what a factory has
                                 before anyone has labeled it

The tar file holds neu_det/images/CLASS_NUMBER.jpg: Song and Yan 2013, Applied Surface Science 285.
"""

import argparse
import pathlib
import shutil
import tarfile

import numpy as np

from vision import cli

SHARES = {"train": 0.7, "val": 0.2, "test": 0.1}
RARE = ("crazing", "scratches")
FEW = 30  # images of each of them


def main(argv):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("tar", type=pathlib.Path)
    p.add_argument("folder", type=pathlib.Path)
    a = p.parse_args(argv)
    photos = sort_by_class(a.tar, a.folder / "photos")
    counts = divide(photos, a.folder / "split", a.folder / "pictures")
    make_rare(a.folder / "split", a.folder / "rare")
    print(f"{a.folder}: " + ", ".join(f"{count:,} {split}" for split, count in counts.items()))


def sort_by_class(tar, folder):
    """Extracts the images into FOLDER/CLASS/, unless it exists; returns the folder."""
    if not folder.is_dir():
        with tarfile.open(tar) as archive:
            for member in archive:
                name = pathlib.PurePath(member.name)
                if name.suffix == ".jpg":
                    file = folder / name.stem.rpartition("_")[0] / name.name
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(archive.extractfile(member).read())
    return folder


def divide(photos, split_folder, pictures):
    """Copies the images into a folder for each split and class, and those to train on into one.

    Returns:
        {split: number of images}.
    """
    counts = dict.fromkeys(SHARES, 0)
    pictures.mkdir(parents=True, exist_ok=True)
    for folder in sorted(path for path in photos.iterdir() if path.is_dir()):
        files = sorted(folder.glob("*.jpg"))
        order = np.random.RandomState(0).permutation(len(files))
        ends = np.round(np.cumsum(list(SHARES.values())) * len(files)).astype(int)
        for split, rows in zip(SHARES, np.split(order, ends[:-1]), strict=True):
            place = split_folder / split / folder.name
            place.mkdir(parents=True, exist_ok=True)
            for row in rows:
                shutil.copy(files[row], place)
                if split == "train":
                    shutil.copy(files[row], pictures)
            counts[split] += len(rows)
    return counts


def make_rare(split_folder, folder):
    """Copies the splits, but only the first `FEW` training images of the classes `RARE`."""
    for place in sorted(path for path in split_folder.glob("*/*") if path.is_dir()):
        files = sorted(place.glob("*.jpg"))
        if place.parent.name == "train" and place.name in RARE:
            files = files[:FEW]
        target = folder / place.relative_to(split_folder)
        target.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(file, target)


if __name__ == "__main__":
    cli.run(main)
