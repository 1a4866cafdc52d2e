"""Drawings of graphs, made without a network or another program.

- `tree`       a graph as a tree: nodes in groups, and arrows at the group that holds both of their ends
- `ranks`      the layers of a group's members, and their order
- `columns`    the columns of the members of each layer
- `tracks`     the rows of arrows between two layers
- `level`      the members of one group at their places, and the arrows between them
- `picture`    the whole graph in cells of a terminal, which all formats draw; `shapes` are its parts
- `terminal`   a picture as text, `svg` as SVG, `png` as PNG

A group is placed like a node, after its members have been placed in it. So each group is a layered drawing
as Sugiyama, Tagawa and Toda describe it (1981): layers by the longest path, an order with few crossings by
means of neighbours, bends for arrows that pass a layer.
"""

from mahsm.cli._drawing.picture import Picture as Picture
from mahsm.cli._drawing.picture import picture_of as picture_of
from mahsm.cli._drawing.png import png as png
from mahsm.cli._drawing.svg import svg as svg
from mahsm.cli._drawing.terminal import text as text

__all__ = ["Picture", "picture_of", "png", "svg", "text"]
