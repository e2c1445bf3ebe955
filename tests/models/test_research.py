"""Models outside of the package: what they are offered, and which options they have."""

import sys

import pytest

from tests.models.test_models import abstract, config
from vision.errors import UserError

RESEARCH = """
from flax import nnx

class Model(nnx.Module):
    def __init__(self, size, num_classes, *, rngs, image_size, gain=1):
        self.gain = gain
        self.image_size = image_size
        self.head = nnx.Linear(3, num_classes, rngs=rngs)
    def embed(self, images):
        return images.mean((1, 2))
    def __call__(self, images):
        return self.head(self.embed(images))

class Child(Model):
    def __init__(self, *shape, loud=False, **options):
        super().__init__(*shape, **options)

BUILD
"""


SIGNATURES = {  # ways to write a research module's `build`
    "explicit": "def build(variant, num_classes, *, rngs, gain=1, **_):\n"
    "    return Model(variant, num_classes, rngs=rngs, image_size=32, gain=gain)",
    "annotated": "def build(variant, num_classes, **options) -> Model:\n"
    "    return Model(variant, num_classes, **options)",
    "inherited": "def build(variant, num_classes, **options) -> 'Child':\n"
    "    return Child(variant, num_classes, **options)",
}


@pytest.fixture
def research(tmp_path, monkeypatch):
    """Returns a function that writes a research module and gives its dotted name."""
    names = []

    def write(build):
        name = f"ideas_{len(names)}"
        (tmp_path / name).mkdir()
        text = RESEARCH.replace("BUILD", build)
        (tmp_path / name / "model.py").write_text(text)
        names.append(f"{name}.model")
        return names[-1]

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    for name in names:
        sys.modules.pop(name, None)
        sys.modules.pop(name.partition(".")[0], None)


@pytest.mark.parametrize("signature", SIGNATURES)
def test_research_module(research, signature):
    """It gets what it accepts of what every model is offered; an option must be accepted."""
    name = research(SIGNATURES[signature])
    model = abstract(config(name, "mine", options={"gain": 3}), 4)
    assert model.head.kernel.shape == (3, 4)
    assert (model.gain, model.image_size) == (3, 32)
    with pytest.raises(UserError, match="no option 'dropout'; its options: .*gain"):
        abstract(config(name, "mine", dropout=0.5))
    with pytest.raises(UserError, match=r"no option 'gian' \(did you mean 'gain'\?\)"):
        abstract(config(name, "mine", options={"gian": 3}))


def test_a_class_that_passes_options_on_has_those_of_its_base(research):
    name = research(SIGNATURES["inherited"])
    assert abstract(config(name, "mine", options={"gain": 3, "loud": True})).gain == 3


def test_options_without_an_annotation_accept_nothing(research):
    name = research("def build(variant, num_classes, *, rngs, **_):\n    return None")
    with pytest.raises(UserError, match="no option 'gain'; its options: none"):
        abstract(config(name, "mine", options={"gain": 3}))
