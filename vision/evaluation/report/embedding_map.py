"""A map of the embeddings: images that the network finds similar are close together."""

import importlib.util

import numpy as np

from vision.errors import UserError, check_choice

METHODS = ("none", "pca", "tsne", "umap")
_COMPONENTS = 50  # that t-SNE and UMAP start from, as van der Maaten and Hinton 2008 do


def check(method: str) -> None:
    """Raises `UserError` if a method is unknown, or its package is not installed."""
    check_choice("evaluation.map", method, METHODS)
    if method == "umap" and not importlib.util.find_spec("umap"):
        raise UserError(
            "evaluation.map = 'umap' needs a package: pip install umap-learn, or choose tsne"
        )


def project(embeddings: np.ndarray, method: str = "tsne", seed: int = 0) -> np.ndarray:
    """Returns a 2-D map, float64 (N, 2).

    Args:
        embeddings: float (N, D).
        method: "pca"; "tsne", van der Maaten and Hinton 2008 (JMLR 9); or "umap", McInnes et al.
            2018 (arXiv:1802.03426), which needs the package umap-learn.
        seed: seed of t-SNE and UMAP.

    Raises:
        UserError: if the method is unknown, or umap-learn is not installed.
    """
    from sklearn.decomposition import PCA

    check(method)
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
            perplexity=min(30.0, (len(x) - 1) / 3),
            init="pca" if x.shape[1] > 1 else "random",
            random_state=seed,
        ).fit_transform(x)
    from umap import UMAP

    return UMAP(n_neighbors=min(15, len(x) - 1), random_state=seed).fit_transform(x)
