"""Packages as npm publishes them, made for a test."""

import io
import tarfile

from vision.export import npm


def tarball(files):
    """Returns the bytes of a package with {name: content}."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return archive.getvalue()


def packages(runtime):
    """Returns packages with the names of the files that a runtime for browsers needs."""
    return [
        tarball({name: name.encode() for name in package["files"]})
        for package in npm.pinned()[runtime]
    ]
