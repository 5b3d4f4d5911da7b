"""The command `reidge`: finds the stage, runs it, and turns failures into one clear line."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, NoReturn, Protocol, cast

from reidge.edge.errors import ReidgeError, reason_of
from reidge.edge.log import PLAIN, logging_to, redact_tracebacks
from reidge.edge.redact import redact_text

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

STAGES = {
    "demo": "run the whole trip on a simulated site and score every stage",
    "harvest": "footage -> crop folder, without labels",
    "train": "crop folder -> re-ID encoder, without labels",
    "evaluate": "mAP and rank-k of an encoder or bundle on a labelled split",
    "export": "encoder + calibration crops -> bundle (ONNX, INT8 ONNX, parity report)",
    "export detector": "YOLOX or RT-DETR + frames -> detector bundle (ONNX, INT8 ONNX)",
    "engine": "bundle -> TensorRT engine, built and checked on the device that will run it",
    "drift": "bundle + crops of the running site -> whether to calibrate again",
    "bench": "how fast a bundle runs here, by backend, precision and batch",
    "run": "bundle + cameras -> identities and events",
    "gallery": "who is known: look for people, enrol, merge, split, erase, export",
    "doctor": "what this machine can do",
}


class Stage(Protocol):
    """What each module of `reidge.cli` other than this one offers. Heavy imports belong inside `run`."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the stage's arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do the work and return the exit status."""


def load_stage(name: str) -> Stage:
    """Import the module of one stage; the others stay unloaded, so `reidge run` starts without torch."""
    return cast("Stage", importlib.import_module(f"reidge.cli.{name.replace(' ', '_')}"))


class Parser(argparse.ArgumentParser):
    """Repeats what it does not understand without the passwords of addresses in it."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the arguments and end with exit status 2."""
        super().error(redact_text(message))


def build_parser(stage: str | None) -> argparse.ArgumentParser:
    """Build the parser; only `stage` gets its arguments, the rest their line in the overview."""
    parser = Parser(prog="reidge", description="Unlabeled camera footage in, live person re-identification out.")
    parser.add_argument("--version", action="version", version=f"reidge {version('reidge')}")
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for name, summary in STAGES.items():
        sub = stages.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        if name == stage:
            load_stage(name).add_arguments(sub)
    return parser


def explain(error: BaseException) -> str:
    """Say a failure in one line, without the secrets of addresses in it."""
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}. Check the path, its permissions and the free space."
    elif isinstance(error, ModuleNotFoundError):
        text = f"the Python package {error.name} is missing. See what to install with: reidge doctor"
    else:
        text = reason_of(error) if isinstance(error, OSError) else " ".join(str(error).split())
    return redact_text(text)


def join_stage(argv: Sequence[str]) -> list[str]:
    """Make one argument of a stage whose name has two words."""
    words = " ".join(argv[:2])
    return [words, *argv[2:]] if words in STAGES else list(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one stage; 0 done, 1 failed, 2 wrong usage or input."""
    argv = join_stage(sys.argv[1:] if argv is None else argv)
    args = build_parser(argv[0] if argv and argv[0] in STAGES else None).parse_args(argv)
    redact_tracebacks()
    with logging_to(getattr(args, "log", "text")):
        return run_stage(args)


def run_stage(args: argparse.Namespace) -> int:
    """Run the stage that was asked for; a failure is one line of the log."""
    try:
        return load_stage(args.stage).run(args)
    except ReidgeError as error:
        log.error("reidge %s: %s", args.stage, explain(error), extra=PLAIN)
        return error.exit_status
    except BrokenPipeError:  # the reader of our output went away, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, ModuleNotFoundError) as error:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("reidge"):
            raise
        log.error("reidge %s: %s", args.stage, explain(error), extra=PLAIN)
        return 1
    except KeyboardInterrupt:
        log.error("reidge %s: interrupted", args.stage, extra=PLAIN)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
