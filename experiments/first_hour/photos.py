"""The photos of the first hour: a folder with a folder for each class."""

import pathlib

from vision.errors import UserError


def read_photos(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the photos FOLDER/CLASS/*.jpg, sorted.

    Raises:
        UserError: there is none.
    """
    photos = sorted(folder.glob("*/*.jpg"))
    if not photos:
        raise UserError(f"--photos {folder} has no CLASS/*.jpg: give a folder of a folder a class")
    return photos
