"""From equal band hashes to the documents that are removed, on whole arrays."""

import numpy as np
import numpy.typing as npt

from data_prep.hashing import UInt64s


def duplicate_pairs(hashes: UInt64s, ids: UInt64s) -> UInt64s:
    """Pairs of documents with the same hash, (smallest id of the group, other id), shape (m, 2).

    A group of k distinct ids gives k - 1 pairs, which is all it takes to connect it.

    Args:
        hashes: One band's hash of each document, shape (n,).
        ids: The documents, shape (n,); need not be distinct.
    """
    order = np.lexsort((ids, hashes))
    hashes, ids = hashes[order], ids[order]
    begins = np.ones(len(hashes), dtype=bool)
    begins[1:] = hashes[1:] != hashes[:-1]
    smallest = ids[begins][np.cumsum(begins) - 1]
    repeated = np.zeros(len(hashes), dtype=bool)
    repeated[1:] = ~begins[1:] & (ids[1:] != ids[:-1])
    return np.stack([smallest[repeated], ids[repeated]], axis=1)


def ids_to_remove(pairs: UInt64s) -> UInt64s:
    """All documents but the one with the smallest id of each group that `pairs` connect, sorted.

    Who resembles whom is passed on: if a resembles b and b resembles c, one of the three is kept.

    Args:
        pairs: Pairs of ids, shape (m, 2).
    """
    ids, ends = np.unique(pairs, return_inverse=True)
    roots = _smallest_connected(len(ids), ends.reshape(-1, 2))
    return ids[roots != np.arange(len(ids))]


def _smallest_connected(num_nodes: int, edges: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The smallest node of each node's connected component, shape (num_nodes,).

    Each round hooks the larger of two connected roots under the smaller and then flattens all trees by
    pointer jumping (Shiloach and Vishkin 1982). A path in order is done in one round, one of 100,000 nodes
    in random order in about ten.
    """
    parents = np.arange(num_nodes)
    while len(edges):
        roots = parents[edges]
        apart = roots[:, 0] != roots[:, 1]
        edges, roots = edges[apart], roots[apart]
        np.minimum.at(parents, roots.max(axis=1), roots.min(axis=1))
        while not np.array_equal(grandparents := parents[parents], parents):
            parents = grandparents
    return parents
