"""Where pictures of images are written: apart for different images, and not among them."""

import itertools
import os

import pytest

from vision.errors import UserError
from vision.support.outputs import check_outside, place_below

DIFFERENT = [
    *("p/cat/1.png", "p/cat_1.png", "p_cat_1.png"),
    *("/p/1.png", "p/1.png", "_/p/1.png", "___/p/1.png"),
    *("../1.png", "1.png", "__/1.png", "____/1.png", "../../1.png", "__.png"),
    *(f"{'x' * 240}{end}.png" for end in "ab"),
    *(f"{begin}{'x' * 240}.png" for begin in "ab"),
    *(f"{'猫' * 80}{end}.png" for end in "ab"),
    os.fsdecode(b"\xff" * 240),
]


def test_different_files_have_different_places_below_the_directory():
    for suffix in (".jpg", ".map.png"):
        places = [place_below(file, suffix) for file in DIFFERENT]
        assert len(set(places)) == len(DIFFERENT)
        for place in places:
            assert os.path.normpath(place) == place and place.endswith(suffix)
            assert not os.path.isabs(place) and ".." not in place.split(os.sep)
            assert max(len(os.fsencode(part)) for part in place.split(os.sep)) <= 200


def test_the_folders_stay():
    assert place_below("photos/cat/1.png", ".jpg") == os.path.join("photos", "cat", "1.png.jpg")
    assert place_below("./photos//cat/../1.png", ".jpg") == os.path.join("photos", "1.png.jpg")
    assert place_below("/a/1.png", ".jpg") == place_below("//a/1.png", ".jpg") == "_/a/1.png.jpg"
    assert place_below("../1.png", ".jpg") == "__/1.png.jpg"


def test_names_of_any_length_can_be_written(tmp_path):
    for file in DIFFERENT:
        path = tmp_path / place_below(file, ".map.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    paths = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(paths) == len(DIFFERENT)


@pytest.mark.parametrize("flag", ["--maps", "--pictures"])
def test_a_directory_where_images_are_looked_for_is_refused(flag, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_text("")
    inside = [("photos", "photos/out"), ("photos", "photos"), ("photos/**/*.png", "photos/b/c")]
    for word, directory in inside:
        with pytest.raises(UserError, match=f"^{flag} {directory} is where .* looks for images"):
            check_outside(flag, directory, ["photos/a.png", word])
    for word, directory in itertools.product(("photos", "photos/a.png"), ("out", "photos-2")):
        check_outside(flag, directory, [word])
    check_outside(flag, "photos/out", ["photos/*.png"])
    check_outside(flag, "", ["."])
