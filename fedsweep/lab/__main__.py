"""What encoders lose and send, without training: error of the mean over clients against bits, in seconds.

  python -m fedsweep.lab "encoder=uniform encoder.bits=1,2,4,8" "encoder=eden,drive encoder.bits=1,2" --out lab

Each positional argument is a list of overrides, those of `python -m fedsweep` (--help there); commas list values, and
every combination is measured. Without one, every encoder is, with its defaults. encoder.threshold is 0 unless given.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fedsweep import cli, environment, schema
from fedsweep.errors import UserError
from fedsweep.lab import choices, report
from fedsweep.lab.progress import LabProgress

KINDS = ("gaussian", "laplace", "lognormal", "sparse", "updates")


def main(arguments: list[str] | None = None) -> None:
    """Measures what `arguments` (default: the command line's) ask for, prints tables, writes files with --out."""
    with cli.one_line_errors():
        options = _parser().parse_args(arguments)
        kinds = _check(options)
        chosen, refused = choices.read(options.encoders)
        for line in refused:
            print(f"fedsweep: skipped {line}", file=sys.stderr)
        run = _short_run(options) if "updates" in kinds else None
        if options.out:
            report.prepare(options.out)

        # before TensorFlow is imported: one thread, so that times are those of one
        environment.configure(schema.MapReduceRuntime("map_reduce", threads=1))
        from fedsweep.lab import measure, updates, vectors

        rows: list[report.Row] = []
        lab = measure.Lab(options.repeats, options.seed)
        with LabProgress(len(kinds) * len(chosen)) as progress:
            for kind in kinds:
                if kind == "updates":
                    sample = updates.load(run, options.clients, progress.say)
                else:
                    sample = vectors.make(kind, options.dimension, options.clients, options.seed)
                own = _measured(lab, kind, sample, chosen, progress)
                progress.show(report.table(own, sample.title, options.repeats))
                rows += own
        if any(choice.config.encoder.error_feedback for choice in chosen):
            print("error_feedback has no effect here: there is no next round that adds what a message lost")
        if options.out:
            report.write(options.out, rows, options.clients, options.repeats, options.seed)
            print(f"Files: {', '.join(str(options.out / name) for name in report.FILES)}")


def _measured(lab, kind, sample, chosen, progress) -> list[report.Row]:
    """The rows of one kind of vectors; of encoders that are the same there, the first alone."""
    first: dict[tuple[str, ...], choices.Choice] = {}
    rows = []
    for choice in chosen:
        progress.start(f"{kind}: {choice.label}")
        known = first.setdefault(lab.same(choice.config, sample), choice)
        if known is choice:
            rows.append(report.Row(choice, kind, lab.measure(choice.config, sample)))
        else:
            progress.say(f"{choice.label}: the same as {known.label} on {kind}, not measured again")
    for what, choice in first.items():
        if set(what) == {"identity"} and choice.encoder != "identity":
            progress.say(f"{choice.label}: sends {kind} as float32, there is nothing that it could encode")
    return report.marked(rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fedsweep.lab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("encoders", nargs="*", metavar="OVERRIDES", help='e.g. "encoder=top_k encoder.share=0.01,0.1"')
    parser.add_argument(
        "--vectors",
        default="gaussian,updates",
        help=f"of {', '.join(KINDS)} (%(default)s); updates: of real clients, from a short run, cached",
    )
    parser.add_argument(
        "--dimension", type=int, default=100_000, help="elements of the vectors but updates (%(default)s)"
    )
    parser.add_argument("--clients", type=int, default=10, help="clients, each with a vector of its own (%(default)s)")
    parser.add_argument("--repeats", type=int, default=10, help="seeds that everything is encoded with (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="vectors, the encoders' noise, the short run (%(default)s)")
    parser.add_argument(
        "--run", default="", metavar="OVERRIDES", help='of the short run, e.g. "model=2nn client_epochs=5"'
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"writes {', '.join(report.FILES)} there")
    return parser


def _check(options: argparse.Namespace) -> list[str]:
    """The kinds of vectors; refuses options that cannot be meant."""
    kinds = list(dict.fromkeys(options.vectors.split(",")))
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(
                f"--vectors {options.vectors}: no kind of vectors is called {kind!r}; choose from {', '.join(KINDS)}"
            )
    for name in ("dimension", "clients", "repeats"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: must be at least 1")
    if not 0 <= options.seed < 2**31:
        raise UserError(f"--seed {options.seed}: must be from 0 to 2147483647")
    if options.run and "updates" not in kinds:
        raise UserError(f"--run {options.run}: is for updates; add them to --vectors")
    return kinds


def _short_run(options: argparse.Namespace) -> schema.Config:
    """The configuration of the run that updates come from."""
    own = ["encoder=identity", "tracker=csv", f"seed={options.seed}"]
    with choices.composer() as compose:
        config = compose([*own, *options.run.split()])
    if config.encoder.name != "identity" or config.runtime.name != "map_reduce":
        raise UserError(f"--run {options.run}: updates are taken before they are encoded, with runtime=map_reduce")
    return config


if __name__ == "__main__":
    main()
