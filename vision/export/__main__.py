"""Writes a run's model, or a config's pretrained one, for other programs.

    python -m vision.export --workdir runs/pets --format safetensors --out pets/
    python -m vision.export --config configs/efficientnet_lite_imagenet.py --format safetensors --out lite0/

safetensors: `model.safetensors` with timm's names and layouts, and timm's `config.json` beside it. timm loads it with
`timm.create_model(NAME, num_classes=N, checkpoint_path="pets/model.safetensors")`, this project with
`model.pretrained=pets/model.safetensors`.
"""

from absl import flags

from vision import cli
from vision.errors import UserError, check_choice

FORMATS = ("safetensors",)


def main(argv):
    config, values, words = cli.parse_stage(argv, __doc__, _flags)
    check_choice("--format", values.format, FORMATS)
    if words:
        raise UserError(f"unexpected argument '{words[0]}': flags start with --")
    if not values.out:
        raise UserError("where to? Give --out DIRECTORY")
    from vision import inference
    from vision.export.safetensors import write

    print(write(inference.from_flags(config, values.workdir), values.out))


def _flags(values):
    flags.DEFINE_string("workdir", "", "directory of a run", flag_values=values)
    flags.DEFINE_string("format", "safetensors", "safetensors", flag_values=values)
    flags.DEFINE_string("out", "", "directory to write to; made if need be", flag_values=values)


if __name__ == "__main__":
    cli.run(main)
