"""`python -m fedsweep.plan encoder.bits=8 model=cnn`: what is sent, tensor by tensor, without training."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import hydra
from rich.console import Console
from rich.table import Table

from fedsweep import cli, environment, importing, schema, shown
from fedsweep.errors import UserError
from fedsweep.units import format_bits

if TYPE_CHECKING:
    from fedsweep.federated.plan import Plan, TensorPlan
    from fedsweep.models import Model


def main(arguments: list[str]) -> None:
    """Prints the plan of the configuration that the overrides in `arguments` give."""
    with cli.one_line_errors():
        if {"-h", "--help"} & set(arguments):
            print(__doc__, "Overrides are those of `python -m fedsweep`; --help there lists them.", sep="\n")
            return
        if options := [argument for argument in arguments if argument.startswith("-")]:
            raise UserError(f"{options[0]}: the plan is of one configuration; it takes overrides only")
        with hydra.initialize_config_dir(cli.config_folder(), version_base="1.3"):
            config = schema.check(hydra.compose("config", arguments))

        environment.configure(config.runtime)  # before TensorFlow is imported
        with importing.quickly():
            from fedsweep import datasets, models
            from fedsweep.federated import plan as planning

        model = models.build(config.model, datasets.spec(config.dataset))
        show(config, model, planning.of(config, model, lambda: datasets.population(config.dataset, config.seed)))


def show(config: schema.Config, model: Model, plan: Plan) -> None:
    """Tables of both directions for one client and round, then totals for a round and for the run."""
    from fedsweep.federated import plan as planning

    console = Console(width=None if sys.stdout.isatty() else 120, emoji=False, markup=False)
    console.print(
        f"{shown.printable(model.name)} on {config.dataset.name}: {model.parameters:,} parameters."
        " Bits are for one client and round."
    )
    up = _table("Uplink: what a client sends", plan.uplink)
    _summary(up, "weight", planning.WEIGHT_BITS, planning.WEIGHT_BITS)
    _summary(up, "metrics", plan.metrics_bits, plan.metrics_bits)
    _summary(up, "total", plan.uplink_bits, plan.float32_uplink_bits, plan.uplink)
    down = _table("Downlink: what the server sends", plan.downlink)
    if parameters := sum(tensor.parameter_bits for tensor in plan.uplink):
        _summary(down, "parameters of the uplink's encoder", parameters)
    _summary(down, "total", plan.downlink_bits, plan.float32_downlink_bits, plan.downlink)
    console.print(up, down)

    more = " and what the codes take" if plan.coded else ""
    everyone = f" (the model to all {plan.receivers} of the data set)" if plan.receivers != plan.clients else ""
    for name, (sent, received) in {
        f"A round of {plan.clients} clients{everyone}": plan.round_bits,
        f"{config.rounds} rounds": plan.run_bits,
    }.items():
        console.print(
            f"{name}: uplink {format_bits(sent)}, downlink {format_bits(received)}, total"
            f" {format_bits(sent + received)}{more}",
            highlight=False,
        )
    for line in planning.notes(config, plan):
        console.print(shown.printable(line), style="yellow")


def _table(title: str, tensors: Iterable[TensorPlan]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in ("tensor", "shape", "elements", "encoder", "bits", "bits/element", "float32/bits"):
        table.add_column(column, justify="left" if column in ("tensor", "shape", "encoder") else "right")
    for t in tensors:
        table.add_row(
            shown.printable(t.tensor),
            "x".join(map(str, t.shape)),
            f"{t.elements:,}",
            shown.printable(t.encoder),
            f"{t.bits:,}{' + code' if t.coded else ''}",
            "" if t.coded else f"{t.bits / t.elements:.3f}",
            "" if t.coded else f"{t.float32_bits / t.bits:.2f}",
        )
    return table


def _summary(
    table: Table, name: str, bits: int, float32_bits: int | None = None, tensors: Iterable[TensorPlan] = ()
) -> None:
    coded = any(tensor.coded for tensor in tensors)
    ratio = f"{float32_bits / bits:.2f}" if float32_bits and not coded else ""
    table.add_row(name, "", "", "", f"{bits:,}{' + code' if coded else ''}", "", ratio)


if __name__ == "__main__":
    main(sys.argv[1:])
