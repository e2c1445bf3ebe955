"""fastai's own few lines for images in folders, with timm's network from given weights.

    ENVIRONMENT/bin/python experiments/first_hour/fastai_train.py DATA WEIGHTS SEED

DATA has train/, val/ and test/; it needs nothing of this project. The lines between the marks are
those that a user writes; the others read the arguments and measure the test images.
"""

import sys

from fastai.vision.all import (
    ImageDataLoaders,
    Resize,
    accuracy,
    aug_transforms,
    get_image_files,
    set_seed,
    vision_learner,
)

data, weights, seed = sys.argv[1:]
set_seed(int(seed), reproducible=True)
# begin
dls = ImageDataLoaders.from_folder(
    data, train="train", valid="val", item_tfms=Resize(256), batch_tfms=aug_transforms(size=224)
)
learn = vision_learner(
    dls, "tf_efficientnet_lite0", metrics=accuracy, pretrained_cfg_overlay={"file": weights}
)
learn.fine_tune(20)
# end
test = learn.dls.test_dl(get_image_files(f"{data}/test"), with_labels=True)
print(f"test accuracy {learn.validate(dl=test)[1]:.4f}")
