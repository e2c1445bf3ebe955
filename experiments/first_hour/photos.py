"""The photos of the first hour: ImageNet samples in a folder for each of three classes.

    python -m experiments.first_hour.photos imagenet_samples.tar photos

The archive has one photo for every fifth class of ImageNet, as NUMBER_WORDNET_NAME.jpg; the number
is the class, from 0 to 999. Those from 905 on, most of them food, plants and landscapes, are left
out.
"""

import argparse
import pathlib
import tarfile

from vision import cli
from vision.errors import UserError

MAMMALS = (range(102, 107), range(147, 151), range(151, 300), range(330, 389))
ANIMALS = range(398)
THINGS = range(398, 905)


def main(argv):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("archive", type=pathlib.Path, help="tar of NUMBER_WORDNET_NAME.jpg")
    p.add_argument("folder", type=pathlib.Path, help="a new folder")
    a = p.parse_args(argv)
    if not a.archive.is_file():
        raise UserError(f"{a.archive} is not a file: give the tar of ImageNet samples")
    if a.folder.exists():
        raise UserError(f"{a.folder} exists: give a new folder")
    sort_photos(a.archive, a.folder)
    photos = read_photos(a.folder)
    for place in sorted({photo.parent for photo in photos}):
        print(f"{place.name}: {sum(photo.parent == place for photo in photos)} photos")


def sort_photos(archive: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes the photos of a tar file as FOLDER/CLASS/NAME.

    Raises:
        UserError: the file is not a tar file.
    """
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = pathlib.PurePath(member.name).name
                number = name.partition("_")[0]
                place = class_of(int(number)) if number.isdecimal() else ""
                content = tar.extractfile(member)
                if place and content is not None:
                    (folder / place).mkdir(parents=True, exist_ok=True)
                    (folder / place / name).write_bytes(content.read())
    except tarfile.TarError:
        raise UserError(f"{archive} is not a tar file, or a damaged one") from None


def class_of(number: int) -> str:
    """Returns the class of an ImageNet class from 0 to 999; "" for those that are left out."""
    if any(number in numbers for numbers in MAMMALS):
        return "mammals"
    if number in ANIMALS:
        return "other_animals"
    return "things" if number in THINGS else ""


def read_photos(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the photos FOLDER/CLASS/*.jpg, sorted.

    Raises:
        UserError: there is none.
    """
    photos = sorted(folder.glob("*/*.jpg"))
    if not photos:
        raise UserError(f"--photos {folder} has no CLASS/*.jpg: give a folder of a folder a class")
    return photos


if __name__ == "__main__":
    cli.run(main)
