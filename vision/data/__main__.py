"""Describes a dataset, and packs it into a few large files.

    python -m vision.data info SOURCE
    python -m vision.data pack SOURCE OUT [--shard-mib 256] [--shorter-side 0] [--quality 95]
    [--workers N] [--shard I/N]
    python -m vision.data verify OUT
    python -m vision.data sheet SOURCE --out sheet.png [--per-class 8] [--config FILE]

`info` prints the parts, the images of each class, the sizes and anything odd. `pack` converts any
source to array_record files, which `data.source=packed:OUT` reads; if it is killed, repeat it to
continue. With --shard 1/16 to 16/16, 16 processes or machines each pack a share, into one folder or
into several whose files you then move into one. `verify` compares the SHA-256 of each file. `sheet`
draws a row of images of each class; with --config, the row below has the same images as training
augments them. SOURCE is a value of `data.source`, such as folder:photos; with --config, that
config's fractions and seed split it for ?imbalance= and ?flip_labels=, which need splits.
"""

import pathlib
from collections.abc import Callable, Sequence

from absl import flags

from vision import cli
from vision.config import default
from vision.config.flags import parse_stage
from vision.errors import RunError, UserError, check_choice, check_count, check_range
from vision.support import disk

WORDS = {"info": ("SOURCE",), "pack": ("SOURCE", "OUT"), "verify": ("OUT",), "sheet": ("SOURCE",)}


def main(argv: Sequence[str]) -> None:
    config, values, words = parse_stage(argv, __doc__, _flags)
    command, *arguments = words or [""]
    check_choice("the command", command, tuple(WORDS), ": python -m vision.data COMMAND ...")
    if len(arguments) != len(WORDS[command]):
        raise UserError(
            f"usage: python -m vision.data {command} {' '.join(WORDS[command])}, and flags; "
            "see --help"
        )
    if command == "sheet":
        _sheet(config, values, *arguments)
        return
    commands: dict[str, Callable[..., None]] = {"info": _info, "pack": _pack, "verify": _verify}
    commands[command](config or default(), values, *arguments)


def _flags(values):
    integers = {
        "shard-mib": (256, "pack: approximate size of each file, MiB"),
        "shorter-side": (0, "pack: shrink larger images to this many pixels; 0 = never"),
        "quality": (95, "pack: JPEG quality of JPEG files that are shrunk"),
        "workers": (0, "pack: number of decoding processes; 0 = one per core"),
    }
    for name, (default_value, help_text) in integers.items():
        flags.DEFINE_integer(name, default_value, help_text, flag_values=values)
    help_text = "sheet: images of each class"
    flags.DEFINE_integer("per-class", 8, help_text, flag_values=values)
    help_text = "sheet: the picture to write, .png, .jpg or .webp"
    flags.DEFINE_string("out", "", help_text, flag_values=values)
    flags.DEFINE_string("shard", "", "pack: the share to pack, such as 3/16", flag_values=values)
    help_text = "pack: share of images that may be left out"
    flags.DEFINE_float("max-unreadable", 0.01, help_text, flag_values=values)


def _open(config, spec):
    from vision.data.pack import open_parts
    from vision.data.splits import split_seed

    config.data.source = spec
    return open_parts(config.data, split_seed(config))


def _info(config, values, spec):
    from vision.data.info import describe

    cli.show(*describe(spec, _open(config, spec)))


def _pack(config, values, spec, out):
    from vision.data.encode import Options
    from vision.data.pack import pack
    from vision.data.sources._shards import missing_shards, parse_shard
    from vision.support.processes import cores

    options = Options(
        values["shard-mib"].value, values["shorter-side"].value, values["quality"].value
    )
    max_unreadable = values["max-unreadable"].value
    check_count("--workers", values.workers, 0, 1024)
    check_range("--max-unreadable", max_unreadable, 0 <= max_unreadable <= 1, "in [0, 1]")
    workers = values.workers or cores()
    shard = parse_shard(values.shard)
    parts = _open(config, spec)
    manifest, new = pack(spec, parts, out, options, workers, max_unreadable, shard)
    counts = ", ".join(f"{part['images']:,} {name}" for name, part in manifest["parts"].items())
    shards = [shard for part in manifest["parts"].values() for shard in part["shards"]]
    size = sum(shard["bytes"] for shard in shards) / 2**20
    prefix = "" if new else "already complete: "
    share = f", shard {shard.index} of {shard.count}" if values.shard else ""
    cli.show(
        f"packed:{out}{share}: {prefix}{counts} images, {size:,.1f} MiB in files: {len(shards):,}"
    )
    if missing := shard.count > 1 and missing_shards(pathlib.Path(out), shard.count):
        cli.show(f"shards still missing: {', '.join(map(str, missing))} of {shard.count}")
    if lost := len(manifest["unreadable"]):
        name = f"{out}/manifest{shard.suffix}.json"
        cli.show(f"note: {lost:,} unreadable images are left out; {name} lists them")


def _verify(config, values, out):
    from vision.data.verify import verify

    count, problems = verify(out)
    if problems:
        cli.show(*(f"{out}/{file} {problem}" for file, problem in problems.items()))
        raise RunError(
            f"{len(problems)} of {count} files are missing or damaged: remove them and repeat the "
            "pack command"
        )
    cli.show(f"packed:{out}: all {count} files are unchanged")


def _sheet(config, values, spec):
    from vision.data.sheet import MOST_CLASSES, check_name, draw_sheet, write_sheet

    per_class = values["per-class"].value
    check_count("--per-class", per_class, 1, 100)
    if not values.out:
        raise UserError("where to? Give --out sheet.png")
    check_name(values.out)
    parts = _open(config or default(), spec)
    part = "train" if "train" in parts else next(iter(parts))
    source = parts[part]
    sheet = draw_sheet(source, per_class, config)
    try:
        write_sheet(values.out, sheet)
    except OSError as error:
        raise disk.failed(f"--out {values.out}", error) from error
    classes = len(source.classes)
    cut = f", the first {MOST_CLASSES} of them" if classes > MOST_CLASSES else ""
    cli.show(
        f"{values.out}: {part} of {spec}, {classes:,} classes{cut}; {sheet.width}x{sheet.height}"
    )


if __name__ == "__main__":
    cli.run(main)
