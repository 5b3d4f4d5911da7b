"""Where the labels of an epoch come from: tracklets in the warm-up, clusters after it, people where they are known."""

# N = images, D = embedding

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reidge.edge.errors import ReidgeError
from reidge.train.choose import agreement, silhouette, tracklet_consistency
from reidge.train.cluster import OUTLIER, ClusterConfig, Clustering, cluster, num_clusters
from reidge.train.neighbors import AllAlike

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from numpy.typing import NDArray
    from torch import Tensor

    from reidge.train.run import Run
    from reidge.train.run_folder import Progression

MAX_FAILURES = 3
"""Clusterings in a row that may find too little before the run stops."""
MIN_CLUSTERS = 2
"""With fewer there is nothing to contrast."""
MIN_K1 = 4
"""Smallest neighbourhood a small set is clamped to."""
SHOWN_FROM = 20_000
"""Crops from which the search for neighbours takes long enough to be shown."""
LARGE_SHARE = 0.5
"""Share of the clustered images in one cluster that is worth a warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelling:
    """The labels of an epoch, and what can be said of them without knowing who is who."""

    labels_N: NDArray[np.int64]
    """Pseudo labels 0 .. K-1 or `OUTLIER`."""
    eps: float | None = None
    """None where nothing was clustered."""
    agreement: float | None = None
    """With the clustering before; None where there is none."""
    silhouette: float | None = None
    tracklets: float | None = None
    """How far tracklets stay whole; None where the crops have none."""
    recall: float | None = None
    """Share of the true neighbours that the clustering was made from; None where all pairs were compared."""


def pseudo_labels(
    run: Run, progression: Progression, features_ND: Tensor, unreadable: AbstractSet[int] = frozenset()
) -> Labelling:
    """Label every image of the epoch about to begin.

    Where clustering finds too little, the last labels or the tracklets stand in, but not for long.

    Args:
        run: What the run works with.
        progression: How far it has come; the labels found are kept there.
        features_ND: Unit length.
        unreadable: Images that have become so: outliers, whatever they were.

    Raises:
        ReidgeError: Clustering has failed `MAX_FAILURES` times in a row, or nothing can stand in.
    """
    epoch, images = len(progression.history), run.images
    if run.phase(epoch) == "distil":
        return Labelling(labels_N=_readable(np.arange(len(images)), unreadable))  # every crop stands for itself
    if run.phase(epoch) == "warmup":
        assert images.tracklets is not None
        return Labelling(labels_N=_readable(images.tracklets, unreadable))
    if run.recipe.cluster.method == "labels":
        assert images.pids is not None
        return Labelling(labels_N=_readable(np.unique(images.pids, return_inverse=True)[1].reshape(-1), unreadable))
    labelling = scored_clusters(run, progression, features_ND, unreadable)
    if num_clusters(labelling.labels_N) < MIN_CLUSTERS:
        return Labelling(labels_N=_readable(_stand_in(run, progression, labelling.labels_N), unreadable))
    _warn_of_one_that_swallows(run, labelling)
    progression.labels_N, progression.failures = labelling.labels_N, 0
    return labelling


def scored_clusters(
    run: Run, progression: Progression, features_ND: Tensor, unreadable: AbstractSet[int] = frozenset()
) -> Labelling:
    """Cluster the images as this epoch's schedule says, and score the result without labels."""
    epoch, seed = len(progression.history), run.recipe.loop.seed
    # Past the last epoch comes the clustering that scores the last encoder, on the same terms.
    training_epoch = min(epoch - run.recipe.warmup_epochs, run.recipe.loop.epochs - 1)
    config = clamp(run.recipe.cluster, len(features_ND))
    if config != run.recipe.cluster and training_epoch == 0:
        run.warn(
            f"{len(features_ND)} crops are few: k1 is {config.k1} instead of {run.recipe.cluster.k1}, k2 {config.k2}"
        )
    eps = config.schedule.eps_at(config.eps, training_epoch, run.recipe.loop.epochs)
    try:
        clustering = _clustered(run, features_ND, config, eps=eps, epoch=epoch)
    except AllAlike as error:  # it may recover: the last labels stand in for a while
        run.warn(str(error).rstrip("."))
        return Labelling(labels_N=np.full(len(features_ND), OUTLIER), eps=eps)
    labels_N = _readable(clustering.labels_N, unreadable)
    if num_clusters(labels_N) < MIN_CLUSTERS:
        return Labelling(labels_N=labels_N, eps=eps)
    tracklets_N, last_N = run.images.tracklets, progression.labels_N
    rng = np.random.default_rng([seed, epoch])  # its own, so that scoring does not change the training
    return Labelling(
        labels_N=labels_N,
        eps=eps,
        recall=clustering.recall,
        agreement=None if last_N is None else agreement(labels_N, last_N),
        silhouette=silhouette(features_ND, labels_N, rng=rng, device=run.device),
        tracklets=None if tracklets_N is None else tracklet_consistency(labels_N, tracklets_N),
    )


def _clustered(run: Run, features_ND: Tensor, config: ClusterConfig, *, eps: float, epoch: int) -> Clustering:
    """Cluster, and show how a long search comes along."""
    seed = run.recipe.loop.seed + epoch
    if len(features_ND) < SHOWN_FROM or config.method == "kmeans":
        return cluster(features_ND, config, eps=eps, seed=seed, device=run.device)
    shown_epoch = min(epoch, run.recipe.total_epochs - 1)
    with run.progress(shown_epoch, "neighbours", total=len(features_ND), unit="crops") as progress:
        clustering = cluster(features_ND, config, eps=eps, seed=seed, device=run.device, searched=progress.advance)
    if clustering.recall is not None and clustering.recall < config.search.min_recall:
        run.warn(
            f"the search found {clustering.recall:.1%} of the true neighbours, on a sample. For more, raise "
            "cluster.search.compared"
        )
    elif clustering.recall is not None:
        run.say(f"the search found {clustering.recall:.1%} of the true neighbours, on a sample")
    return clustering


def clamp(config: ClusterConfig, images: int) -> ClusterConfig:
    """Keep neighbourhoods a fraction of a small set: k1 at most a tenth of it (but 4), k2 at most a fifth of k1."""
    k1 = min(config.k1, max(MIN_K1, images // 10))
    return config if k1 == config.k1 else config.model_copy(update={"k1": k1, "k2": min(config.k2, max(1, k1 // 5))})


def _readable(labels_N: NDArray[np.int64], unreadable: AbstractSet[int]) -> NDArray[np.int64]:
    """Leave out unreadable images, and number the labels that remain from 0."""
    labels_N = labels_N.astype(np.int64)
    labels_N[sorted(unreadable)] = OUTLIER
    kept = labels_N != OUTLIER
    labels_N[kept] = np.unique(labels_N[kept], return_inverse=True)[1].reshape(-1)
    return labels_N


def _stand_in(run: Run, progression: Progression, labels_N: NDArray[np.int64]) -> NDArray[np.int64]:
    progression.failures += 1
    name, last_N = _last_labels(run, progression)
    outliers = int((labels_N == OUTLIER).sum())
    what = f"clustering found {num_clusters(labels_N)} clusters among {len(labels_N)} crops ({outliers} outliers)"
    if progression.failures >= MAX_FAILURES or last_N is None:
        why = "and nothing can stand in" if last_N is None else f"{progression.failures} times in a row"
        raise ReidgeError(
            f"{what}, {why}. Change --set cluster.eps (larger joins more, smaller "
            "splits more), or harvest more footage."
        )
    run.warn(f"{what}; this epoch goes on with {name}")
    return last_N


def _last_labels(run: Run, progression: Progression) -> tuple[str, NDArray[np.int64] | None]:
    if progression.labels_N is None:
        return "the tracklets", run.images.tracklets
    return "the last clusters", progression.labels_N


def _warn_of_one_that_swallows(run: Run, labelling: Labelling) -> None:
    sizes = np.bincount(labelling.labels_N[labelling.labels_N != OUTLIER])
    if sizes.max() > LARGE_SHARE * sizes.sum():
        run.warn(
            f"one cluster holds {sizes.max()} of {sizes.sum()} clustered crops (eps {labelling.eps:.3g}). If that goes "
            "on, lower --set cluster.eps"
        )
