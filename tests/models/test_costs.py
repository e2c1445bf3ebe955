"""`python -m vision.models`: what each variant costs, against what others counted."""

import csv
import io

import pytest

from vision import cli
from vision.models import __main__ as command
from vision.models.surgery.costs import rows
from vision.support.modules import find, names

PUBLISHED_GMACS = {  # GMACs as torchvision's documentation states them ("GFLOPS" there)
    ("resnet", "18"): 1.81,
    ("resnet", "50"): 4.09,
    ("mobilenet", "small"): 0.06,
    ("convnext", "T"): 4.46,
    ("alexnet", "owt"): 0.71,
}


ARCHITECTURES = [
    "airbench",
    "alexnet",
    "cnn",
    "convnext",
    "efficientnet",
    "efficientnet_lite",
    "fusion",
    "inception",
    "mlp",
    "mobile_space",
    "mobilenet",
    "resnet",
    "swin",
    "vgg",
    "vit",
    "wide_resnet",
]


def test_every_architecture_is_listed_and_nothing_else():
    assert names("vision.models") == ARCHITECTURES
    for name in ARCHITECTURES:
        module = find("model", name, "vision.models")
        assert len(module.VARIANTS) > 1
        assert "arXiv" in module.__doc__ or name in ("cnn", "efficientnet_lite")


def run(capsys, *argv):
    cli.run(command.main, list(argv))
    return capsys.readouterr().out


@pytest.mark.parametrize(("name", "variant"), PUBLISHED_GMACS)
def test_multiply_adds(name, variant):
    row = next(r for r in rows([name]) if r.variant == variant)
    assert row.gmacs == pytest.approx(PUBLISHED_GMACS[name, variant], rel=0.1)


def test_formats(capsys):
    table = list(csv.DictReader(io.StringIO(run(capsys, "alexnet", "--format=csv"))))
    assert [row["variant"] for row in table] == ["owt"] and table[0]["parameters"] == "61100840"
    assert "alexnet-owt-7be5be79.pth" in table[0]["weights"]
    lines = run(capsys, "alexnet").splitlines()
    assert len(lines) == 2 and "61,100,840" in lines[1]


@pytest.mark.parametrize(
    ("argv", "message"),
    [(("alexnett",), "did you mean 'alexnet'"), (("--format=xml",), "table, csv")],
)
def test_mistakes(argv, message, capsys):
    with pytest.raises(SystemExit) as error:
        run(capsys, *argv)
    assert error.value.code == 2 and message in capsys.readouterr().err
