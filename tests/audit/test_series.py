"""Series that straddle splits: frames of videos are found, and what the finding advises helps."""

import cv2
import numpy as np
import pytest

from vision import cli
from vision.audit.__main__ import main


def write(path, video, frame):
    """A scene of its own for each video, which moves a little from frame to frame."""
    scene = np.random.RandomState(video).randint(0, 255, (6, 6, 3)).astype(np.uint8)
    scene = cv2.resize(scene, (64, 64), interpolation=cv2.INTER_CUBIC)
    noise = np.random.RandomState([video, frame]).randint(-12, 12, scene.shape)
    moved = np.roll(scene, 2 * frame, 1)[:48, :48] + noise[:48, :48]
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), moved.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("video{0}/{1:03}.png", "?group=folder:-1"),
        ("video{0}_{1:03}.png", r"?group=regex:^(.*?)[-_ .]*\d+\.\w+$"),
    ],
)
def test_frames_of_videos(tmp_path, capsys, name, option):
    for video in range(16):
        for frame in range(6):
            label = "cat" if video % 2 else "dog"
            write(tmp_path / "photos" / label / name.format(video, frame), video, frame)

    def audit(spec, out):
        cli.run(main, [f"--data={spec}", f"--out={tmp_path / out}", "--embeddings=pixels"])
        return capsys.readouterr().out

    spec = f"folder:{tmp_path}/photos"
    said = audit(spec, "a")
    assert f"{option} would keep together" in said and "own series, against" in said
    assert "look alike there" in (tmp_path / "a/report.html").read_text()
    assert "would keep together" not in audit(f"{spec}{option}", "b")


def test_numbers_alone_are_no_series(tmp_path, capsys):
    for video in range(80):
        write(tmp_path / "photos" / ("cat" if video % 2 else "dog") / f"{video:03}.png", video, 0)
    cli.run(main, [f"--data=folder:{tmp_path}/photos", f"--out={tmp_path / 'a'}"])
    assert "would keep together" not in capsys.readouterr().out
