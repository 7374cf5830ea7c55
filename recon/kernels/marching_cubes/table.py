# SPDX-License-Identifier: Apache-2.0
"""The case table of marching cubes, derived instead of listed.

Source of the idea: Lorensen and Cline, "Marching cubes", SIGGRAPH 1987; the loops are traced on the faces of the
cube, so that two cells that share a face always agree about it.

Notation: corner c of a cell stands at its bits (x = c & 1, y = c >> 1 & 1, z = c >> 2 & 1).  A case is the set of
inside corners (negative distance) as a bit mask.  Edge e = 4 a + r runs along axis a from the corner whose two other
coordinates are the bits of r, in ascending order of axes; a crossed edge carries one vertex.

Walking around a face counter-clockwise as seen from outside the cell, the contour enters the inside at some edges
and leaves it at others.  Each entering edge is joined to the leaving edge that follows it: an inside corner is cut
off from the one diagonally opposite (the rule for ambiguous faces).  The rule names inside corners only, so the
neighbour across the face draws the same segments, in the opposite direction.  An edge lies on two faces, which walk
it in opposite directions; so every vertex has one segment in and one out, and the segments close to loops.

A loop is cut into triangles by the diagonals that stay off the cell's faces (a diagonal on a face could coincide
with one of the neighbour, and an edge would then have four triangles).
"""

from __future__ import annotations

import functools
from itertools import product

import numpy as np

EDGE_COUNT = 12


def edge_ends(edge: int) -> tuple[int, int]:
    """Returns the corner where an edge starts and the one where it ends."""
    axis, rest = divmod(edge, 4)
    low, high = [a for a in range(3) if a != axis]
    start = ((rest & 1) << low) | ((rest >> 1) << high)
    return start, start | (1 << axis)


def edge_between(a: int, b: int) -> int:
    """Returns the edge that joins two corners."""
    return next(edge for edge in range(EDGE_COUNT) if set(edge_ends(edge)) == {a, b})


@functools.cache
def faces() -> tuple[tuple[int, int, int, int], ...]:
    """Returns the corners of each face, counter-clockwise as seen from outside the cell."""
    result = []
    for axis, side in product(range(3), (0, 1)):
        second, third = (axis + 1) % 3, (axis + 2) % 3
        ring = [(0, 0), (1, 0), (1, 1), (0, 1)] if side else [(0, 0), (0, 1), (1, 1), (1, 0)]
        a, b, c, d = ((side << axis) | (i << second) | (j << third) for i, j in ring)
        result.append((a, b, c, d))
    return tuple(result)


def loops(case: int) -> list[list[int]]:
    """Returns the closed loops of crossed edges of a case, each directed so that the inside lies on its left as seen
    from outside (from the side of positive distance, counter-clockwise)."""
    follower: dict[int, int] = {}
    for face in faces():
        inside = [bool(case >> corner & 1) for corner in face]
        for i in range(4):
            if inside[i] or not inside[(i + 1) % 4]:
                continue
            j = (i + 1) % 4
            while inside[(j + 1) % 4]:
                j = (j + 1) % 4
            entering = edge_between(face[i], face[(i + 1) % 4])
            follower[entering] = edge_between(face[j], face[(j + 1) % 4])
    found = []
    while follower:
        loop = [min(follower)]
        while loop[-1] in follower:
            loop.append(follower.pop(loop[-1]))
        found.append(loop[:-1])
    return found


def _midpoint(edge: int) -> np.ndarray:
    ends = edge_ends(edge)
    return np.mean([[corner & 1, corner >> 1 & 1, corner >> 2 & 1] for corner in ends], axis=0)


def _share_face(a: int, b: int) -> bool:
    corners = {*edge_ends(a), *edge_ends(b)}
    return any(corners <= set(face) for face in faces())


def triangulate(loop: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Cuts a loop into triangles: of all ways with the fewest diagonals on faces, the one with the shortest."""
    points = {edge: _midpoint(edge) for edge in loop}

    @functools.cache
    def best(first: int, last: int) -> tuple[tuple[int, float], tuple[tuple[int, int, int], ...]]:
        """The cheapest triangles between the chord first-last and the loop's vertices from first to last."""
        if last - first < 2:
            return (0, 0.0), ()
        options = []
        for middle in range(first + 1, last):
            left, right = best(first, middle), best(middle, last)
            flat, length = left[0][0] + right[0][0], left[0][1] + right[0][1]
            for a, b in ((first, middle), (middle, last)):
                if b - a > 1:
                    flat += _share_face(loop[a], loop[b])
                    length += float(np.linalg.norm(points[loop[a]] - points[loop[b]]))
            triangles = (*left[1], (loop[first], loop[middle], loop[last]), *right[1])
            options.append(((flat, round(length, 9)), triangles))
        return min(options)

    return list(best(0, len(loop) - 1)[1])


@functools.cache
def case_table() -> np.ndarray:
    """Returns [256, 3·M + 1] int8: the number of triangles of each case, then their edges, -1 where unused."""
    triangles = [[t for loop in loops(case) for t in triangulate(tuple(loop))] for case in range(256)]
    most = max(len(case) for case in triangles)
    table = np.full((256, 1 + 3 * most), -1, np.int8)
    for row, case in zip(table, triangles):
        row[0] = len(case)
        row[1 : 1 + 3 * len(case)] = np.ravel(np.array(case, np.int8)) if case else ()
    table.setflags(write=False)
    return table
