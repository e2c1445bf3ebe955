"""Ways of learning, one file each.

An objective is an `nnx.Module` that holds the model (`self.model`) and whatever else learning
needs:

    loss(batch) -> (scalar, {name: scalar})   batch: "image", normalized float (B, H, W, C),
                                              "label", float (B, C), and "progress", float32 (), the
                                              share of the training that is done
    after_update()                            optional: called after each optimizer step, to change
                                              what does not learn
    frozen = ("teacher", ...)                 optional: attributes that do not learn

Its file has `build(c, model, *, class_counts, rngs)`, with c = config.objective and class_counts
the int (C,) array of training images. The trainer knows nothing else of it.
"""

from vision.objectives.quantized import simulate
from vision.support.modules import find


def build(c, model, *, class_counts, rngs):
    """Builds the objective that `config.objective.name` names, whose model computes as `quantize`
    says.

    Raises:
        UserError: there is no such objective, or `vision.objectives.quantized.simulate` cannot be
            had.
    """
    module = find("objective", c.name, __name__)
    simulate(model, c.quantize)
    return module.build(c, model, class_counts=class_counts, rngs=rngs)
