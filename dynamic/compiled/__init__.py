"""A network's portfolio as static graphs, and the session that runs them without PyTorch.

`compiling.py` makes a folder of graphs (with PyTorch); `folder.py` opens it, `session.py` runs it (without). Words:

* a *node* is a prefix of options: the values that are alive behind the segment that it ends with;
* a *stretch* is a part of a path from the images or a node to a later node or the logits, one static graph;
* on its way a stretch may *emit* the values of nodes, and *looks*: small tensors that policies see.
"""
