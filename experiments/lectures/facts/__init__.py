"""The numbers of the lectures: what a slide says, what an independent count gives, and what our networks give.

`FACTS` is the table, `WORDS` the statements without a number. `ours` is computed from the modules each time;
`right` is by hand, or the paper's.
"""

from experiments.lectures.facts import alexnet, costs, examples, googlenet, lenet, resnet, squeezenet, toy, vgg
from experiments.lectures.facts.fact import Fact
from experiments.lectures.facts.words import WORDS

FACTS: list[Fact] = [
    *examples.facts(),
    *toy.facts(),
    *costs.facts(),
    *lenet.facts(),
    *alexnet.facts(),
    *vgg.facts(),
    *googlenet.facts(),
    *squeezenet.facts(),
    *resnet.facts(),
]

__all__ = ["FACTS", "WORDS", "Fact"]
