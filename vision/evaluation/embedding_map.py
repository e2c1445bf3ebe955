"""A map of the embeddings: images that the network takes for alike lie close together."""

import numpy as np

from vision.errors import UserError, check_choice

METHODS = ("none", "pca", "tsne", "umap")
_COMPONENTS = 50  # that t-SNE and UMAP start from, as van der Maaten and Hinton 2008 do


def project(embeddings, method="tsne", seed=0):
    """Returns a 2-D map, float64 (N, 2).

    Args:
        embeddings: float (N, D).
        method: "pca"; "tsne", van der Maaten and Hinton 2008 (JMLR 9); or "umap", McInnes et al. 2018
            (arXiv:1802.03426), which needs the package umap-learn.
        seed: of the latter two.

    Raises:
        UserError: an unknown method, or umap-learn is not there.
    """
    from sklearn.decomposition import PCA

    check_choice("evaluation.map", method, METHODS)
    x = np.asarray(embeddings, np.float64)
    if len(x) < 4 or np.ptp(x) == 0:
        return np.pad(x[:, :2], ((0, 0), (0, max(0, 2 - x.shape[1]))))
    dimensions = 2 if method == "pca" else _COMPONENTS
    x = PCA(min(dimensions, *x.shape), random_state=seed).fit_transform(x)
    if method == "pca":
        return np.pad(x, ((0, 0), (0, 2 - x.shape[1])))
    if method == "tsne":
        from sklearn.manifold import TSNE

        return TSNE(
            perplexity=min(30.0, (len(x) - 1) / 3), init="pca" if x.shape[1] > 1 else "random", random_state=seed
        ).fit_transform(x)
    try:
        from umap import UMAP
    except ImportError as error:
        raise UserError("evaluation.map = 'umap' needs a package: pip install umap-learn, or choose tsne") from error
    return UMAP(n_neighbors=min(15, len(x) - 1), random_state=seed).fit_transform(x)
