"""Packs: the same pixels and batches as from the source, whatever happens while they are
written."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from vision import cli
from vision.config import default
from vision.data import __main__ as command
from vision.data import pack as packing
from vision.data.decode import UnreadableImage
from vision.data.pack import Options, open_parts, pack
from vision.data.records import Records
from vision.data.sources import open_splits
from vision.data.sources._shards import Shard, parse_shard
from vision.data.verify import verify
from vision.errors import RunError, UserError
from vision.support.lock import locked

REPOSITORY = Path(__file__).parents[2]
SMALL = Options(shard_mib=1)


@pytest.fixture(scope="module")
def steel(shared_data, tmp_path_factory):
    """237 photographs of steel, 3.4 MB, one folder a class."""
    root = tmp_path_factory.mktemp("steel")
    with tarfile.open(shared_data / "neu_det.tar") as tar:
        for member in tar:
            file = Path(member.name)
            defect, _, number = file.stem.rpartition("_")
            if file.suffix == ".jpg" and int(number) <= 40:
                (root / defect).mkdir(exist_ok=True)
                (root / defect / file.name).write_bytes(tar.extractfile(member).read())
    return root


def pack_of(spec, out, **options):
    """Packs what a name means, in this process; returns the manifest."""
    c = default()
    c.data.source = spec
    return pack(spec, open_parts(c.data, c.seed), out, **options)[0]


def contents(folder):
    """Returns {name: bytes} of a pack's files, but for the manifest, which has a date."""
    return {
        file.name: file.read_bytes() for file in folder.iterdir() if file.name != "manifest.json"
    }


@pytest.fixture(scope="module")
def steel_pack(steel, tmp_path_factory):
    out = tmp_path_factory.mktemp("packs") / "steel"
    pack_of(f"folder:{steel}", out, options=SMALL)
    return out


def test_files_go_in_as_they_are(steel, steel_pack):
    theirs = open_splits(f"folder:{steel}")["all"]
    ours = open_splits(f"packed:{steel_pack}")["all"]
    assert len(list(steel_pack.glob("all-*-of-00004.array_record"))) == 4
    assert (ours.classes, ours.encoded, ours.findings) == (theirs.classes, True, ())
    assert ours.labels.dtype == np.int32 and np.array_equal(ours.labels, theirs.labels)
    again = pickle.loads(pickle.dumps(ours))
    for index in np.random.RandomState(0).permutation(len(theirs)).tolist():
        assert ours.file(index) == theirs.file(index) and ours.name(index) == theirs.name(index)
        assert np.array_equal(again[index]["image"], theirs[index]["image"])
        assert again[index]["label"] == theirs[index]["label"]


def test_a_run_sees_the_same_batches(steel, steel_pack):
    from vision import parallel
    from vision.data.pipeline import open_data

    results = []
    for spec in (f"folder:{steel}", f"packed:{steel_pack}"):
        c = default()
        c.data.source = spec
        c.data.image_size = 64
        c.data.random_crop_area = (0.3, 1.0)
        c.data.workers = 0
        data = open_data(c, parallel.make_mesh(1))
        loader = data.loaders["train"]
        batches = loader.train_batches([(step, 1) for step in range(4)], 32)
        results.append(
            [{key: np.asarray(value) for key, value in batch.items()} for batch in batches]
        )
        results[-1] += [
            [loader.names(step, 32) for step in range(4)],
            [len(loader) for loader in data.loaders.values()],
        ]
    for theirs, ours in zip(*results, strict=True):
        np.testing.assert_equal(ours, theirs)


def test_opening_reads_no_record(steel_pack, monkeypatch):
    monkeypatch.setattr(Records, "__getitem__", lambda *_: pytest.fail("a record was read"))
    assert len(open_splits(f"packed:{steel_pack}")["all"].labels) == 237


def test_any_number_of_processes_writes_the_same_bits(steel, steel_pack, tmp_path):
    pack_of(f"folder:{steel}", tmp_path / "two", options=SMALL, workers=2)
    assert contents(tmp_path / "two") == contents(steel_pack)


@pytest.mark.parametrize("moment", range(6))
def test_stopped_at_any_moment_it_goes_on(steel, steel_pack, tmp_path, monkeypatch, moment):
    out = tmp_path / "out"
    calls = []
    replace = os.replace

    def stop(*paths):
        calls.append(paths)
        if len(calls) > 2 * moment:
            raise KeyboardInterrupt
        replace(*paths)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "replace", stop)
        pack_of(f"folder:{steel}", out, options=SMALL)
    finished = {file: file.stat().st_mtime_ns for file in out.glob("*.array_record")}
    assert not (out / "manifest.json").exists()
    if moment:
        with pytest.raises(UserError, match="not finished"):
            open_splits(f"packed:{out}")
    pack_of(f"folder:{steel}", out, options=SMALL)
    assert contents(out) == contents(steel_pack)
    kept = [file for file, written in finished.items() if file.stat().st_mtime_ns == written]
    assert len(kept) >= len(finished) - 1  # the last may not have been noted yet


def test_killed_it_leaves_no_process_and_goes_on(steel, steel_pack, tmp_path):
    """With two processes, as a command; also, that neither JAX nor TensorFlow is imported."""
    code = (
        "import os, signal, sys, multiprocessing\n"
        "import vision.data.pack as p, vision.data.__main__ as m\n"
        "write = p.write_json\n"
        "def kill(path, values):\n"
        "    write(path, values)\n"
        "    if len(values['shards']) == 2:\n"
        "        pids = [c.pid for c in multiprocessing.active_children()]\n"
        "        print(*pids, {'jax', 'tensorflow'} & {*sys.modules})\n"
        "        sys.stdout.flush()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "p.write_json = kill\n"
        f"m.main(['pack', 'folder:{steel}', '{tmp_path}/out', '--shard-mib=1', '--workers=2'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    # the pipe is read to its end, so they are gone
    *workers, imported = done.stdout.split(maxsplit=2)
    assert len(workers) == 2 and imported.strip() == "set()"
    commands = [Path(f"/proc/{pid}/cmdline") for pid in workers]
    # a dead one's is empty
    assert not [file for file in commands if file.exists() and file.read_text()]
    cli.run(
        command.main, ["pack", f"folder:{steel}", f"{tmp_path}/out", "--shard-mib=1", "--workers=1"]
    )
    assert contents(tmp_path / "out") == contents(steel_pack)


def test_a_second_call_does_nothing(steel, steel_pack, capsys):
    before = {file: file.stat().st_mtime_ns for file in steel_pack.iterdir()}
    cli.run(command.main, ["pack", f"folder:{steel}", str(steel_pack), "--shard-mib", "1"])
    assert "already complete" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in steel_pack.iterdir()} == before


def test_a_damaged_file_is_found_and_repaired(steel, tmp_path, capsys):
    out = tmp_path / "out"
    pack_of(f"folder:{steel}", out, options=SMALL)
    before = contents(out)
    shard = out / "all-00001-of-00004.array_record"
    broken = bytearray(before[shard.name])
    broken[len(broken) // 2] ^= 1
    shard.write_bytes(broken)
    with pytest.raises(SystemExit) as ended:
        cli.run(command.main, ["verify", str(out)])
    output = capsys.readouterr()
    assert (
        ended.value.code == 1
        and f"{shard} is damaged" in output.out
        and "1 of 6 files are missing or damaged" in output.err
    )
    source = open_splits(f"packed:{out}")["all"]
    bad = []
    for index in range(len(source)):
        try:
            source[index]
        except UnreadableImage as error:
            bad.append((error.name, source.name(index)))
    assert bad and len(bad) < 60 and set(bad) <= {(f"{out}/all[{i}]",) * 2 for i in range(59, 118)}
    shard.unlink()
    with pytest.raises(UserError, match="is missing: copy it again"):
        open_splits(f"packed:{out}")
    shard.write_bytes(broken[:-100])
    with pytest.raises(UserError, match="has .* of .* bytes"):
        open_splits(f"packed:{out}")
    pack_of(f"folder:{steel}", out, options=SMALL)
    assert contents(out) == before and verify(out) == (6, {})


def test_labels_and_manifest_are_checked_when_opened(steel_pack, tmp_path):
    """60 of 222 changed labels trained without a word."""
    for name in ("all.labels.npy", "manifest.json"):
        out = shutil.copytree(steel_pack, tmp_path / name)
        if name == "manifest.json":
            text = (out / name).read_text().replace("crazing", "scratching")
            (out / name).write_text(text)
        else:
            labels = np.load(out / name)
            labels[:60] = (labels[:60] + 1) % 6
            np.save(out / name, labels)
        with pytest.raises(UserError, match=f"{name} is damaged: its SHA-256 differs"):
            open_splits(f"packed:{out}")


@pytest.mark.parametrize("count", [2, 7])
def test_shards_read_like_one_pack(count, steel, steel_pack, tmp_path, capsys):
    """Written in any order, into one folder or into several, by killed and repeated commands."""
    spec = f"folder:{steel}"
    out = tmp_path / "out"
    for index in range(count, 0, -1):
        place = out if index % 2 else tmp_path / f"machine{index}"
        words = ["pack", spec, str(place), f"--shard={index}/{count}", "--shard-mib=1"]
        cli.run(command.main, [*words, "--workers=1"])
        if index == count:
            assert "shards still missing: 1" in capsys.readouterr().out
    names = ", ".join(f"{i}/{count}" for i in range(2, count + 1, 2))
    with pytest.raises(UserError, match=f"lacks shards of its pack: {names}. Copy"):
        open_splits(f"packed:{out}")
    for index in range(2, count + 1, 2):
        shutil.copytree(tmp_path / f"machine{index}", out, dirs_exist_ok=True)
    ours = open_splits(f"packed:{out}")["all"]
    theirs = open_splits(f"packed:{steel_pack}")["all"]
    assert (ours.classes, ours.findings) == (theirs.classes, theirs.findings)
    assert np.array_equal(ours.labels, theirs.labels) and len(ours) == len(theirs)
    for index in range(len(theirs)):
        assert ours.records[index] == theirs.records[index]
    assert verify(out)[1] == {}
    before = contents(out)
    next(out.glob("all-00000-of-*.array_record")).unlink()
    next(out.glob("manifest-00001-of-*.json")).unlink()
    cli.run(command.main, ["pack", spec, str(out), f"--shard=1/{count}", "--shard-mib=1"])
    now = contents(out)
    assert now.keys() == before.keys()
    assert all(now[n] == before[n] for n in now if not n.startswith("manifest"))
    with pytest.raises(UserError, match="contains shards of a pack"):
        pack_of(spec, out, options=SMALL)
    with pytest.raises(UserError, match="without shards"):
        pack_of(spec, steel_pack, options=SMALL, shard=Shard(1, 2))


def test_shards_of_different_packs_do_not_join(steel, tmp_path):
    pack_of(f"folder:{steel}", tmp_path, options=SMALL, shard=Shard(1, 2))
    pack_of("digits", tmp_path / "other", options=SMALL, shard=Shard(2, 2))
    shutil.copytree(tmp_path / "other", tmp_path, dirs_exist_ok=True)
    with pytest.raises(UserError, match="are shards of different packs"):
        open_splits(f"packed:{tmp_path}")
    with pytest.raises(UserError, match="I from 1 to N, such as 3/16, got '17/16'"):
        parse_shard("17/16")


def test_unreadable_images_are_left_out_and_named(steel, tmp_path):
    photos = sorted(steel.rglob("*.jpg"))[:80]
    for i, photo in enumerate(photos):
        (tmp_path / "photos" / f"c{i % 2}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / f"c{i % 2}" / f"{i:02}.jpg").write_bytes(photo.read_bytes())
    (tmp_path / "photos/c0/20.jpg").write_bytes(photos[0].read_bytes()[:5000])
    (tmp_path / "photos/c1/33.jpg").write_bytes(b"")
    spec = f"folder:{tmp_path}/photos"
    out = tmp_path / "out"
    with pytest.raises(
        UserError, match=r"1 of 80 images so far.*--max-unreadable=0.01.*\n.*20.jpg"
    ):
        pack_of(spec, out)
    manifest = pack_of(spec, out, max_unreadable=0.05)
    named = {image["name"]: image["reason"] for image in manifest["unreadable"]}
    assert named == {f"{tmp_path}/photos/c0/20.jpg": named[f"{tmp_path}/photos/c0/20.jpg"]} | {
        f"{tmp_path}/photos/c1/33.jpg": "empty file"
    }
    ours = open_splits(f"packed:{out}")["all"]
    theirs = open_splits(spec)["all"]
    kept = [i for i in range(80) if theirs.name(i) not in named]
    assert [ours.name(i) for i in range(78)] == [theirs.name(i) for i in kept]
    assert np.array_equal(ours.labels, theirs.labels[kept])
    assert [(f.name, f.lost) for f in ours.findings] == [(name, True) for name in named]


def test_what_is_there_is_never_lost(steel, steel_pack, tmp_path, monkeypatch):
    spec = f"folder:{steel}"
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="contains other files, such as 'notes.txt'"):
        pack_of(spec, tmp_path)
    with pytest.raises(UserError, match="other data or options .*shard_mib was 1"):
        pack_of(spec, steel_pack)
    with pytest.raises(UserError, match="source was"):
        pack_of("digits", steel_pack, options=SMALL)
    with pytest.raises(UserError, match="which is a file"):
        pack_of(spec, tmp_path / "notes.txt")
    newer = tmp_path / "newer"  # of a version with one option more
    newer.mkdir()
    request = json.loads((steel_pack / "manifest.json").read_text())["request"] | {"crop": 3}
    progress = {"request": request, "plan": {}, "shards": {}, "unreadable": []}
    (newer / "progress.json").write_text(json.dumps(progress))
    with pytest.raises(UserError, match=r"other data or options \(crop was 3\)"):
        pack_of(spec, newer, options=SMALL)
    with locked(tmp_path / "busy"), pytest.raises(UserError, match="another process"):
        pack_of(spec, tmp_path / "busy")
    monkeypatch.setattr(
        packing, "record_writer", lambda path: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(RunError, match="stopped: No space left on device; free some space and r"):
        pack_of(spec, tmp_path / "full")


def test_info_says_what_a_source_holds(steel_pack, tmp_path, capsys):
    cli.run(command.main, ["info", "digits?imbalance=10"])
    output = capsys.readouterr().out
    for part in (
        "10 classes\nclass     train       val      test\n0",
        "imbalance: 10",
        "8 x 8 px, gray",
    ):
        assert part in output
    cli.run(command.main, ["info", f"packed:{steel_pack}"])
    output = capsys.readouterr().out
    assert "crazing                40\n" in output and "200 x 200 px, RGB; 64 JPEG" in output
