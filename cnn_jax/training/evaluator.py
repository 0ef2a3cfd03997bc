"""The evaluation of states: metrics and class probabilities of a part of the data."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cnn_jax.config.compare import flat
from cnn_jax.core import imports, trees
from cnn_jax.core.errors import check
from cnn_jax.eval import evaluation, protocols
from cnn_jax.eval import steps as eval_steps
from cnn_jax.training.averages import SWA
from cnn_jax.training.setup import Setup
from cnn_jax.training.step import TrainState


class Evaluator:
    """Evaluates states of one setup, with the moving average where there is one.

    Args:
      put: places a batch on the devices; None: `Setup.put`.
    """

    def __init__(self, setup: Setup, *, put: Callable[[Any], Any] | None = None):
        self.setup = setup
        self.put = put or setup.put

    @functools.cached_property
    def _eval_step(self) -> Callable[..., Any]:
        confusion = self.setup.config.eval.confusion_matrix
        return eval_steps.make_eval_step(self.setup.network, **self.setup.data.normalization, confusion=confusion)

    def evaluate(self, state: TrainState, part: str) -> dict[str, Any]:
        """Returns the metrics on a part; see `evaluation.evaluate`.

        The test part is seen as config.eval.protocol says, the others in single views; "protocol" says it in words.
        """
        setup, config = self.setup, self.setup.config
        single = part != "test" or config.eval.protocol == "single"
        if single and not config.eval.metrics:
            metrics = evaluation.evaluate(
                self._eval_step,
                *self._parameters(state, part),
                setup.data.parts[part],
                setup.resident(part),
                batch_size=config.eval.batch_size,
                put=self.put,
            )
        else:
            probabilities, labels = self.predict(state, part, "single" if single else config.eval.protocol)
            confusion = config.eval.confusion_matrix
            metrics = evaluation.measure(probabilities, labels, setup.data.parts[part], confusion=confusion)
            metrics |= self._further_metrics(probabilities[labels >= 0], labels[labels >= 0])
        return metrics | {"protocol": self.describe("single" if single else config.eval.protocol)}

    def describe(self, protocol: str) -> str:
        """Returns in words how a protocol sees an example."""
        return protocols.describe(flat(self.setup.config.to_dict()) | {"eval.protocol": protocol})

    def _further_metrics(self, probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Returns what the functions of config.eval.metrics say of class probabilities [N, K] and labels [N]."""
        found = {}
        for path in self.setup.config.eval.metrics:
            value = imports.load(path, field="config.eval.metrics")(probabilities, labels)
            check(
                np.ndim(value) == 0,
                f"config.eval.metrics has {path!r}, which must return a number, not {value!r}",
            )
            found[path.split(":")[1]] = float(value)
        return found

    def predict(self, state: TrainState, part: str, protocol: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns (class probabilities, labels) of a part; see `evaluation.predict`.

        Args:
          protocol: how examples are seen; None: as config.eval.protocol says.
        """
        setup = self.setup
        protocol = str(protocol or setup.config.eval.protocol)
        mirror = protocols.is_mirrored(protocol)
        return evaluation.predict(
            eval_steps.make_predict_step(setup.network, **setup.data.normalization, mirror=mirror),
            *self._parameters(state, part),
            setup.data.parts[part],
            setup.resident(part),
            protocol=protocol,
            scales=protocols.scales(setup.config),
            batch_size=setup.config.eval.batch_size,
            put=self.put,
        )

    def _parameters(self, state: TrainState, part: str) -> tuple[Any, Any]:
        """Returns the trained parameters, and all other parameters and statistics, that an evaluation takes.

        For the test part the statistics are recomputed first, if the configuration asks for it. Those of a mean of
        weights are recomputed already, from the same batches; see `averages.with_statistics`.
        """
        setup = self.setup
        params, stats = (state.params, state.stats) if state.ema is None else (state.ema["params"], state.ema["stats"])
        others = trees.merged(stats, state.frozen)
        batches = setup.config.eval.recompute_statistics
        has_own = isinstance(setup.average, SWA) and int(state.step) >= setup.average.first
        if part == "test" and batches and not has_own and jax.tree.leaves(stats):
            recomputed = evaluation.recompute_statistics(
                eval_steps.make_statistics_step(setup.network, **setup.data.normalization),
                params,
                others,
                setup.data.parts["train"],
                setup.resident("train"),
                batch_size=setup.config.batch_size,
                batches=batches,
                put=self.put,
            )
            others = trees.merged(others, recomputed)
        return params, others
