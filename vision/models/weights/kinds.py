"""Tells what a file of weights is from its first bytes, whatever its name says.

People give what a download left behind: the page of a login, a pointer of Git LFS, a model in
another format. The message then says what the file is and what to do.
"""

import pathlib
import re
import zipfile

from vision.errors import UserError, brief

HEAD = 1024  # bytes
_ANOTHER = "give .safetensors, .npz or a file of torch.save"
_KERAS = "convert it to .safetensors or .npz with the names of timm or torchvision"
_UNPACK = "unpack it, and give the weights file"
_FETCH = "fetch the file itself"
# (bytes that a file begins with, what it is, what to do)
_BEGINNINGS = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, such as Keras writes", _KERAS),
    (b"GGUF", "a GGUF file of a language model", _ANOTHER),
    (b"\x1f\x8b", "compressed with gzip", _UNPACK),
    (b"BZh", "compressed with bzip2", _UNPACK),
    (b"\xfd7zXZ\x00", "compressed with xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"\x93NUMPY", "a single array in .npy format", "give an .npz file of named arrays"),
    (b"\x89PNG", "an image", _ANOTHER),
    (b"\xff\xd8\xff", "an image", _ANOTHER),
    (b"%PDF", "a PDF document", _FETCH),
    (b"\x7fELF", "a program", _ANOTHER),
    (b"MZ", "a program", _ANOTHER),
    (b"PAR1", "a Parquet table", _ANOTHER),
    (b"SQLite format 3", "a database", _ANOTHER),
)
_MARKUP = re.compile(rb"<(!doctype|html|head|body|\?xml|!--|svg|error|script|title)", re.IGNORECASE)
# A version of the format, then the name of the producer or a graph.
_ONNX = re.compile(rb"\x08[\x01-\x20](\x12.[\w. :-]{2,}|[:\x1a\x3a\x42])", re.DOTALL)


def recognize(path: pathlib.Path) -> str:
    """Returns what reads a file: "torch", "npz", "safetensors" or "index" of several files.

    Raises:
        UserError: it is none of these; says what it is, as far as that can be told.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise UserError(f"cannot read {path}: {brief(error)}") from error
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _kind_of_zip(path)
    if head[8:9] == b"{" or (head[8:] == b"" and path.suffix == ".safetensors" and head):
        return "safetensors"
    if text.startswith((b"{", b"[")):
        if path.name.endswith(".index.json"):
            return "index"
        raise UserError(f"{path} is JSON text, not weights: {_FETCH}, or the .index.json of shards")
    if head.startswith(b"\x80") or path.suffix in (".pth", ".pt", ".bin", ".ckpt"):
        # a pickle; PyTorch's reader says what is wrong with any other file of these names
        what = _describe(head, text, path)
        if what is None:
            return "torch"
        raise UserError(f"{path} {what}")
    what = _describe(head, text, path)
    if what is not None:
        raise UserError(f"{path} {what}")
    if path.suffix in (".safetensors", ".npz"):
        return path.suffix[1:]
    raise UserError(f"{path} is not a supported weights file: {_ANOTHER}")


def _describe(head, text, path):
    """Returns what a file is that holds no weights for us, and what to do; None if it may."""
    if not head:
        return f"is empty: {_FETCH} again"
    if head.startswith(b"version https://git-lfs"):
        size = re.search(rb"^size (\d{1,15})$", head, re.MULTILINE)
        length = f" of {int(size[1]) / 1e6:,.1f} MB" if size else ""
        return (
            f"is only a pointer to a file{length} in Git LFS, not the weights: "
            "run `git lfs pull` in its repository, or download the file itself"
        )
    if _MARKUP.match(text):
        return (
            "is a web page (HTML or XML), not weights: the download needs a login, a confirmation "
            f"or another address; {_FETCH}"
        )
    for beginning, what, remedy in _BEGINNINGS:
        if head.startswith(beginning):
            return f"is {what}: {remedy}"
    if head[257:262] == b"ustar":
        return f"is a tar archive: {_UNPACK}"
    if head[4:8] == b"TFL3":
        return f"is a TensorFlow Lite model, not weights: {_ANOTHER}"
    if path.suffix == ".onnx" or _ONNX.match(head):
        return f"is an ONNX model, not weights by name: {_ANOTHER}"
    if path.suffix in (".index", ".meta") or re.search(r"\.data-\d{5}-of-\d{5}$", path.name):
        return f"is a part of a TensorFlow checkpoint: {_KERAS}"
    if path.suffix == ".pb":
        return f"is a TensorFlow graph: {_KERAS}"
    if path.suffix == ".msgpack":
        return f"is in Flax's MessagePack format: {_ANOTHER}"
    return None


def _kind_of_zip(path):
    """Returns "torch" or "npz" for a zip archive of one of these kinds."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # cut short; its reader says so
        return "npz" if path.suffix == ".npz" else "torch"
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    if "model.weights.h5" in names:
        raise UserError(f"{path} is a Keras model: {_KERAS}")
    inside = next((n for n in names if n.endswith((".pth", ".pt", ".bin", ".safetensors"))), None)
    if inside:
        raise UserError(f"{path} is a zip archive with {inside!r:.80} in it: {_UNPACK}")
    raise UserError(f"{path} is a zip archive of other files ({names[:1]!r:.80}): {_ANOTHER}")
