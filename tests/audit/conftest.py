"""A folder of real photographs with mistakes planted in it, and its audit by the command."""

import contextlib
import io
import tarfile
from pathlib import Path

import pytest

from tests.audit.planting import plant
from vision import cli


@pytest.fixture(scope="session")
def photos(shared_data):
    """{class: [(name, bytes)]}: 15 photos of each of four defects of steel, and 60 others."""
    photos_by_class = {}
    for archive, step in (("neu_det.tar", 20), ("imagenet_samples.tar", 1)):
        with tarfile.open(shared_data / archive) as tar:
            images = sorted(
                (m for m in tar.getmembers() if m.name.endswith(".jpg")), key=lambda m: m.name
            )
            for member in images[::step]:
                name = Path(member.name).name
                label = (
                    name.rpartition("_")[0]
                    if "neu" in archive
                    else f"photo {len(photos_by_class.get('photo 0', ())) // 30}"
                )
                if len(photos_by_class.setdefault(label, [])) < (15 if "neu" in archive else 30):
                    photos_by_class[label].append((name, tar.extractfile(member).read()))
    return {
        label: files
        for label, files in photos_by_class.items()
        if label not in ("crazing", "patches")
    }


@pytest.fixture(scope="session")
def planted(photos, tmp_path_factory):
    """What `plant` has written."""
    return plant(photos, tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="session")
def audited(planted, tmp_path_factory):
    """The directory that the command wrote with --apply --strict, with exit code and messages."""
    from vision.audit.__main__ import main

    out = tmp_path_factory.mktemp("audits") / "planted"
    argv = [f"--data=folder:{planted.root}", f"--out={out}", "--apply", "--strict"]
    argv.append("--embeddings=pixels")
    said = io.StringIO()
    code = 0
    with contextlib.redirect_stderr(said):
        try:
            cli.run(main, argv)
        except SystemExit as ended:
            code = ended.code
    (out / "stderr").write_text(said.getvalue())
    (out / "code").write_text(str(code))
    return out
