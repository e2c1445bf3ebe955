"""Writes the pipelines of this folder as YAML, which Kubeflow Pipelines 2 takes.

python -m scripts.kubeflow.compile --image registry.example.com/vision:1 --out pipelines
"""

import argparse
import pathlib
import tempfile

from vision import cli
from vision.errors import UserError
from vision.support.files import make_directory, replacing


def main(argv: list[str]) -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--image", required=True, help="container image in which the steps run")
    p.add_argument("--out", type=pathlib.Path, required=True)
    a = p.parse_args(argv)
    if not a.image.strip():
        raise UserError("--image must name a container image")
    try:
        from kfp import compiler
    except ImportError as error:
        raise UserError(
            "this needs kfp: pip install --requirement scripts/kubeflow/requirements.txt"
        ) from error
    from scripts.kubeflow.pipeline import pipelines

    make_directory(a.out)
    for name, pipeline in pipelines(a.image).items():
        file = a.out / f"{name}.yaml"
        with tempfile.TemporaryDirectory() as folder, replacing(file) as target:
            part = pathlib.Path(folder, file.name)  # kfp wants the ending
            compiler.Compiler().compile(pipeline, str(part))
            target.write(part.read_text("utf-8"))
        cli.show(f"{file}: {pipeline.pipeline_spec.pipeline_info.name}")


if __name__ == "__main__":
    cli.run(main)
