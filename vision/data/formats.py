"""Which image formats can be read here, and why the others cannot.

PIL reads what it was built with, and HEIC if the package `pillow-heif` is installed.
"""

import functools
import os

from PIL import Image, features

# first bytes of a file, and its format
MAGIC = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
HEAD = 16  # bytes that `format_of` looks at
# Drawings, icons, video and tables: PIL opens them, some with external programs, but none is a
# photograph.
_NOT_PHOTOS = {
    *("BUFR", "CUR", "EPS", "FLI", "GRIB", "HDF5", "ICNS", "ICO", "MPEG", "PDF", "WMF"),
    *("DCX", "GBR", "IPTC", "XVTHUMB"),
}
_NEEDS = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}  # optional parts of PIL
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_RAW = ("arw", "cr2", "cr3", "dng", "nef", "nrw", "orf", "pef", "raf", "raw", "rw2", "srw")
_ADVICE = {
    "HEIC photos": (("heic", "heif", "hif"), "convert them, or pip install pillow-heif"),
    "AVIF images": (("avif", "avifs"), "convert them, or pip install a newer pillow"),
    "JPEG XL images": (("jxl",), "convert them to PNG or JPEG"),
    "JPEG 2000 images": (("jp2", "j2k", "jpx", "jpf", "jpc", "j2c"), "convert them to PNG"),
    "raw camera images": (_RAW, "develop them to PNG, TIFF or JPEG"),
    "DICOM images": (("dcm", "dicom"), "convert them to PNG, with the window that matters"),
    "volumes": (("nii", "nii.gz", "nrrd", "mha", "mhd"), "write slices as PNG"),
    "whole-slide images": (("svs", "ndpi", "mrxs", "czi", "lif"), "write tiles as PNG or JPEG"),
}


@functools.cache
def register_formats():
    """Lets PIL open HEIC files, if the package for them is installed."""
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener()


@functools.cache
def image_extensions() -> tuple[str, ...]:
    """Returns the extensions, such as ".jpg", of the image files that can be decoded here."""
    register_formats()
    return tuple(
        extension
        for extension, name in Image.registered_extensions().items()
        if (name in Image.OPEN or name == "MPO")  # PIL reads MPO as JPEG
        and name not in _NOT_PHOTOS
        and (name not in _NEEDS or features.check(_NEEDS[name]))
    )


@functools.cache
def known_extensions() -> tuple[str, ...]:
    """Returns the extensions of all image files, also of those that cannot be decoded here."""
    others = [f".{extension}" for extensions, _ in _ADVICE.values() for extension in extensions]
    return tuple(dict.fromkeys((*image_extensions(), *others)))


def is_image_file(path: str) -> bool:
    """Whether a file is an image by its extension or, if it has none, by its first bytes."""
    extension = os.path.splitext(path)[1].lower()
    if extension in image_extensions():
        return True
    if extension and not extension[1:].isdecimal():  # "scan.001" may be an image too
        return False
    try:
        with open(path, "rb") as file:
            return format_of(file.read(HEAD)) != "other"
    except OSError:
        return False


def undecodable(name: str) -> tuple[str, str] | None:
    """Returns (kind, advice) of an image file that cannot be decoded here, by its extension.

    For example, ("HEIC photos", "convert them, or pip install pillow-heif"). None if the extension
    is not that of an image, or of one that can be decoded.
    """
    lower = name.lower()
    if lower.endswith(image_extensions()):
        return None
    for kind, (extensions, advice) in _ADVICE.items():
        if lower.endswith(tuple(f".{extension}" for extension in extensions)):
            return kind, advice
    return None


def why_unknown(data: bytes, name: str) -> str:
    """Returns why PIL cannot identify a file, from its first bytes and its name."""
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS:
        name = ".heic"
    if problem := undecodable(name):
        kind, advice = problem
        return f"{kind} cannot be decoded: {advice}"
    return "not in an image format that PIL reads"


def format_of(data: bytes | None) -> str:
    """Returns the name of an image file's format, from its first bytes.

    Returns "array" for None, and "other" if the format is unknown.
    """
    if data is None:
        return "array"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"):
        return "AVIF"
    return next((name for magic, name in MAGIC.items() if data.startswith(magic)), "other")
