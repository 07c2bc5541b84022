"""What a run's steps measure, summed and logged."""

from collections.abc import Mapping

import jax
from ml_collections import ConfigDict

from bertjax.errors import NotFiniteError
from bertjax.logs import Log
from bertjax.tasks.interface import Rows, Task
from bertjax.throughput import Throughput


class Meter:
    """Sums what the steps measure and logs their means, without waiting for the newest step."""

    def __init__(self, config: ConfigDict, task: Task, rows: Mapping[str, Rows], phase: str, log: Log):
        """Args:
        rows: of the run's phases, of which `phase` is the one that runs.
        """
        self._config, self._task, self._rows, self._log = config, task, rows, log
        self._flops = rows[phase].flops
        self.throughput = Throughput()
        self._steps: list[tuple[int, dict[str, jax.Array]]] = []

    def add(self, step: int, measured: dict[str, jax.Array]) -> None:
        """Takes the results of a step that may still be running."""
        self._steps.append((step, measured))
        if len(self._steps) > 2:  # bounds how far the host runs ahead of the devices
            jax.block_until_ready(self._steps[-3][1])

    def log(self, newest: bool = True) -> None:
        """Logs the mean over the steps since the last call, with the newest or up to the one before.

        Raises:
          NotFiniteError: there were config.train.max_bad_steps skipped updates in a row.
        """
        keep = [] if newest else self._steps[-1:]
        steps, self._steps = self._steps[: len(self._steps) - len(keep)], keep
        if not steps:
            return
        totals: dict[str, float] = {}
        for step, measured in jax.device_get(steps):
            self.throughput.add(
                sequences=int(measured["sequences"]), tokens=int(measured["tokens"]), flops=self._flops
            )
            if measured["bad_in_a_row"] >= self._config.train.max_bad_steps:
                exact = self._config.model.dtype == "float32"
                raise NotFiniteError(
                    f"step {step}: the loss or gradient was not finite {int(measured['bad_in_a_row'])} times "
                    "in a row; begin in another workdir with a lower --config.optim.learning_rate"
                    + ("" if exact else ", or with --config.model.dtype=float32")
                )
            if not measured["bad_in_a_row"]:
                for name, value in measured.items():
                    totals[name] = totals.get(name, 0.0) + float(value)
        means = self._task.metrics(totals) if totals else {}
        state = {name: float(measured[name]) for name in ("learning_rate", "grad_norm", "bad_steps")}
        rates = self.throughput.read()
        if rates:
            speed = rates["mfu"] * rates["peak_flops_per_second"]
            rates["seconds_left"] = self._flops_after(step) / speed
        self._log.metrics(step, means | state | rates)

    def _flops_after(self, step: int) -> float:
        """Of the run's steps behind `step`, in every phase."""
        total, begin = 0.0, 0
        for section, rows in self._rows.items():
            end = begin + self._config[section].steps
            total += max(0, end - max(step, begin)) * rows.flops
            begin = end
        return total
