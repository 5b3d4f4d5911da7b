"""Who is who among the sightings of a while: clustering that heeds what cannot be.

Evidence has one currency, similarity. Different people reach a similarity with a share that falls off exponentially,
`p * exp(-(x - u) / decay)`, so whoever wants a stranger to pass e times more rarely asks for one `decay` more, and what
makes it e times likelier that two sightings are one person, such as the time between them, is worth about as much.

Groups are joined greedily, the best pair first, by the mean similarity of their members (average linkage) and by what
the times of all members in a row say, as long as that reaches the bar; then single sightings move to another group
where that is better. Who cannot be one person is never joined.
"""

# N = nodes: sightings, and what is known of identities from longer ago

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEVER = -1e9
"""Value of joining who cannot be one person."""
TIME_WEIGHT = 1.4
"""How many decays a factor of e by times is worth. More than one: likeness errs alike for all pairs of two lookalikes,
times do not; found on recorded sites."""
SLACK = 1.0
"""Natural logarithm: what a join may gain besides the two new links of a chain, by links that it breaks."""
MOVES = 3
"""Times that all sightings may move."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known about each pair of nodes; the nodes are in order of time, those from longer ago first."""

    similarity_NN: NDArray[np.float64]
    """Cosine, symmetric."""
    weight_N: NDArray[np.float64]
    """Of each node in the mean."""
    transit_NN: NDArray[np.float64]
    """Natural logarithm of how much likelier than chance the column's node came directly after the row's; upper
    triangle."""
    apart_NN: NDArray[np.bool_]
    """Whether two nodes cannot be one person, symmetric."""
    decay: float
    """Similarity by which the tail of different people falls to one e-th."""

    @property
    def time_weight(self) -> float:
        """Similarity that a factor of e by times is worth."""
        return TIME_WEIGHT * self.decay


class Groups:
    """Nodes in groups; at first everybody stands alone."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        count = len(evidence.weight_N)
        self.members = {node: [node] for node in range(count)}
        self._transit: list[list[float]] = evidence.transit_NN.tolist()  # single numbers are read faster from lists
        self._chains = dict.fromkeys(range(count), 0.0)
        self._sum_NN = evidence.similarity_NN * np.outer(evidence.weight_N, evidence.weight_N)
        self._weight_N = evidence.weight_N.copy()
        self._link_NN = np.maximum(evidence.transit_NN, evidence.transit_NN.T)
        self._gain_NN = self._link_NN.copy()  # the best link between two groups
        self._apart_NN = evidence.apart_NN.copy()
        self._value_NN = evidence.similarity_NN + evidence.time_weight * evidence.transit_NN
        self._value_NN[self._apart_NN | (np.tri(count) > 0)] = NEVER

    def join(self, bar: float) -> None:
        """Join the best pair again and again, as long as it reaches the bar."""
        while len(self.members) > 1:
            a, b = divmod(int(self._value_NN.argmax()), len(self._weight_N))
            if self._value_NN[a, b] < bar:
                return
            self._merge(a, b, bar)

    def _merge(self, a: int, b: int, bar: float) -> None:
        self.members[a] = sorted(self.members[a] + self.members.pop(b))
        self._chains[a] = self.chain(self.members[a])
        del self._chains[b]
        self._sum_NN[a] += self._sum_NN[b]
        self._sum_NN[:, a] = self._sum_NN[a]
        self._weight_N[a] += self._weight_N[b]
        self._apart_NN[a] |= self._apart_NN[b]
        self._apart_NN[:, a] |= self._apart_NN[b]
        self._value_NN[[a, b]] = NEVER
        self._value_NN[:, [a, b]] = NEVER
        self._gain_NN[a] = np.maximum(self._gain_NN[a], self._gain_NN[b])
        self._gain_NN[:, a] = self._gain_NN[a]
        # Only those that times could still bring over the bar are worth their chains.
        most_N = self._sum_NN[a] / (self._weight_N[a] * self._weight_N)
        most_N = most_N + self.evidence.time_weight * (2 * self._gain_NN[a] + SLACK) / sqrt(len(self.members[a]))
        for other in np.flatnonzero((most_N >= bar) & ~self._apart_NN[a]).tolist():
            if other != a and other in self.members:
                low, high = sorted((a, other))
                self._value_NN[low, high] = self._value(a, other)

    def _value(self, a: int, b: int) -> float:
        mean = self._sum_NN[a, b] / (self._weight_N[a] * self._weight_N[b])
        chain = self.chain(sorted(self.members[a] + self.members[b])) - self._chains[a] - self._chains[b]
        # One meeting in time against the likeness of many pairs: the more there are, the surer is their mean.
        return float(mean + self.evidence.time_weight * chain / sqrt(len(self.members[a]) * len(self.members[b])))

    def chain(self, nodes: list[int]) -> float:
        """What the times of nodes say if they are one person: each came directly after the one before."""
        return sum(self._transit[a][b] for a, b in pairwise(nodes))

    def move(self, bar: float, lead: float) -> None:
        """Let single nodes go where they are better off by `lead`, or stand alone where they are not wanted."""
        for _ in range(MOVES):
            self.members = {group: members for group, members in self.members.items() if members}
            homes = {node: group for group, members in self.members.items() for node in members}
            near_NG = self._near(bar)
            if not any([self._move(node, homes, near_NG[node], bar, lead) for node in range(len(homes))]):
                return

    def _near(self, bar: float) -> NDArray[np.bool_]:
        """Which groups times could bring a node to; columns in the order of `members`."""
        evidence = self.evidence
        near_NG = np.zeros((len(evidence.weight_N), len(self.members)), dtype=bool)
        for column, members in enumerate(self.members.values()):
            weight_K = evidence.weight_N[members]
            mean_N = evidence.similarity_NN[:, members] @ weight_K / weight_K.sum()
            gain_N = evidence.time_weight * (2 * self._link_NN[:, members].max(axis=1) + SLACK) / sqrt(len(members))
            near_NG[:, column] = (mean_N + gain_N >= bar) & ~evidence.apart_NN[:, members].any(axis=1)
        return near_NG

    def _move(self, node: int, homes: dict[int, int], near_G: NDArray[np.bool_], bar: float, lead: float) -> bool:
        home = homes[node]
        rest = [n for n in self.members[home] if n != node]
        stays = self.affinity(node, rest) if rest else bar
        best, where = stays, home
        groups = list(self.members)
        for column in np.flatnonzero(near_G):
            group = groups[column] if column < len(groups) else home
            if group != home and (value := self.affinity(node, self.members[group])) >= max(bar, best + lead):
                best, where = value, group
        if where != home:
            self.members[where] = sorted([*self.members[where], node])
        elif not rest or stays >= bar - lead:
            return False
        else:
            where = max(self.members) + 1
            self.members[where] = [node]
        homes[node], self.members[home] = where, rest
        return True

    def affinity(self, node: int, group: list[int]) -> float:
        """What speaks for a node to be of a group."""
        evidence = self.evidence
        if not group or evidence.apart_NN[node, group].any():
            return NEVER
        weight_K = evidence.weight_N[group]
        mean = float(evidence.similarity_NN[node, group] @ weight_K / weight_K.sum())
        chain = self.chain(sorted([*group, node])) - self.chain(group)
        return mean + evidence.time_weight * chain / sqrt(len(group))


def associate(evidence: Evidence, *, bar: float, lead: float) -> list[list[int]]:
    """Group nodes that are one person.

    Args:
        evidence: About the nodes.
        bar: Least value, in similarity, at which two groups are joined.
        lead: By how much a move has to be better.

    Returns:
        The groups, each in order of time, in the order of their first nodes.
    """
    groups = Groups(evidence)
    groups.join(bar)
    groups.move(bar, lead)
    return sorted(members for members in groups.members.values() if members)
