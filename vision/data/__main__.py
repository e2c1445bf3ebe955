"""Looks at data, and packs them into a few large files.

    python -m vision.data info SOURCE
    python -m vision.data pack SOURCE OUT [--shard-mib 256] [--shorter-side 0] [--quality 95]
    [--workers N]
    python -m vision.data verify OUT

`info` prints parts, images of each class, sizes and what is odd. `pack` turns any source into
array_record files, which `data.source=packed:OUT` reads; killed, it goes on where it was when it is
given again. `verify` compares the SHA-256 of each file. SOURCE is what `data.source` takes, such as
folder:photos; with --config, that config's fractions and seed divide it for ?imbalance= and
?flip_labels=, which ask for splits.
"""

from absl import flags

from vision import cli
from vision.config import default
from vision.config.flags import parse_stage
from vision.errors import RunError, UserError, check_choice, check_range

WORDS = {"info": ("SOURCE",), "pack": ("SOURCE", "OUT"), "verify": ("OUT",)}


def main(argv):
    config, values, words = parse_stage(argv, __doc__, _flags)
    command, *arguments = words or [""]
    check_choice("the command", command, tuple(WORDS), ": python -m vision.data COMMAND ...")
    if len(arguments) != len(WORDS[command]):
        raise UserError(
            f"usage: python -m vision.data {command} {' '.join(WORDS[command])}, and flags; see --help"
        )
    {"info": _info, "pack": _pack, "verify": _verify}[command](
        config or default(), values, *arguments
    )


def _flags(values):
    flags.DEFINE_integer("shard-mib", 256, "pack: about how large each file is", flag_values=values)
    flags.DEFINE_integer(
        "shorter-side",
        0,
        "pack: shrink larger images to so many pixels; 0 = no",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "quality", 95, "pack: of the JPEG that a shrunk JPEG becomes", flag_values=values
    )
    flags.DEFINE_integer(
        "workers", 0, "pack: processes that decode; 0 = as many as cores", flag_values=values
    )
    flags.DEFINE_float(
        "max-unreadable", 0.01, "pack: share of images that may be left out", flag_values=values
    )


def _open(config, spec):
    from vision.data.pack import open_parts

    config.data.source = spec
    return open_parts(config.data, config.seed)


def _info(config, values, spec):
    from vision.data.info import describe

    print(*describe(spec, _open(config, spec)), sep="\n")


def _pack(config, values, spec, out):
    from vision.data.pack import Options, pack
    from vision.support.processes import cores

    options = Options(
        values["shard-mib"].value, values["shorter-side"].value, values["quality"].value
    )
    share = values["max-unreadable"].value
    check_range("--workers", values.workers, values.workers >= 0, "at least 0")
    check_range("--max-unreadable", share, 0 <= share <= 1, "in [0, 1]")
    manifest, new = pack(spec, _open(config, spec), out, options, values.workers or cores(), share)
    sizes = ", ".join(f"{part['images']:,} {name}" for name, part in manifest["parts"].items())
    shards = [shard for part in manifest["parts"].values() for shard in part["shards"]]
    size = sum(shard["bytes"] for shard in shards) / 2**20
    said = "" if new else "nothing to do, it is complete: "
    print(f"packed:{out}: {said}{sizes} images, {size:,.1f} MiB in files: {len(shards):,}")
    if lost := len(manifest["unreadable"]):
        print(f"note: {lost:,} unreadable images are left out: {out}/manifest.json names them")


def _verify(config, values, out):
    from vision.data.verify import verify

    count, bad = verify(out)
    if bad:
        print(*(f"{out}/{file} {why}" for file, why in bad.items()), sep="\n")
        raise RunError(
            f"{len(bad)} of {count} files are wrong: remove them, and give the pack command again"
        )
    print(f"packed:{out}: all {count} files are as they were written")


if __name__ == "__main__":
    cli.run(main)
