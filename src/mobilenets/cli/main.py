"""The command `mobilenets`: finds the verb, and tells a person or a program what went wrong.

Exit codes: 0 done; 1 a check failed (a gate, a budget); 2 bad use or bad input; 70 a mistake in this package; 130
stopped by Ctrl-C; 141 the reader of the output went away (`| head`).

Errors are one line on standard error, `error: got; wanted; do`. With `--json` among the arguments, standard output gets
`{"error": {"kind", "got", "wanted", "do"}}` as well, so that a program that reads JSON there always gets some.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import click

from .. import __version__
from ..errors import MissingExtraError, MobileNetsError, UnknownNameError

__all__ = ["VERBS", "main"]

# name -> (module, one line of help): written here so that `--help` imports no verb.
VERBS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "models": ("models", "List the networks that are known by name."),
        "info": ("info", "Count a network: parameters, mult-adds, memory, layer by layer."),
        "verify": ("verify", "Recount every published number with our tables."),
        "import": ("import_", "Bring a trained checkpoint of another library."),
        "train": ("train", "Train a network on labelled images."),
        "val": ("val", "Measure how often a model is right."),
        "predict": ("predict", "Say what is in images."),
        "fit": ("fit", "Find, train and export the best network for a budget."),
        "prune": ("prune", "Take the least important channels out of a network."),
        "elastic": ("elastic", "Train one set of weights for every width and resolution."),
        "slice": ("slice", "Take one width and resolution out of an elastic bundle."),
        "diagnose": ("diagnose", "Say why a network is as good as it is, and what to do."),
        "compress": ("compress", "Distil, prune, quantise: keep what pays, account for all."),
        "quantize": ("quantize", "Make an int8 file that is as right as float32, and faster."),
        "export": ("export", "Make a file that runs without torch, and check its answers."),
        "doctor": ("doctor", "Say what is wrong with a model file, or slow in it."),
        "bench": ("bench", "Measure how fast artifacts answer here."),
        "profile": ("profile", "Say where the time goes, row by row."),
    }
)
# What a missing module is called, and the extra that brings it.
EXTRAS: Mapping[str, str] = MappingProxyType(
    {
        "torch": "train",
        "torchvision": "train",
        "safetensors": "train",
        "huggingface_hub": "train",
        "h5py": "train",
        "tflite": "train",
        "yaml": "train",
        "matplotlib": "train",
        "mlxtend": "train",
        "onnx": "export",
        "openvino": "openvino",
        "ai_edge_litert": "litert",
        "executorch": "executorch",
        "coremltools": "coreml",
    }
)
EXIT_BUG = 70  # EX_SOFTWARE of sysexits.h: not to be mistaken for a failed check
EXIT_INTERRUPT = 130  # 128 + SIGINT, as shells have it
EXIT_PIPE = 141  # 128 + SIGPIPE, likewise


class _Verbs(click.Group):
    """The verbs, imported when they are used. Subclassing is how click documents lazy loading."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, _ = VERBS[cmd_name]
        command: click.Command = importlib.import_module(f".{module}", package=__package__).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in VERBS:
            raise UnknownNameError("command", args[0], known=VERBS)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in VERBS.items()])


@click.group(cls=_Verbs, name="mobilenets", invoke_without_command=True)
@click.version_option(__version__, prog_name="mobilenets", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show where an error comes from.  [also: MOBILENETS_DEBUG=1]")
@click.pass_context
def _root(context: click.Context, debug: bool) -> None:
    """Labelled images and a budget in; a MobileNet that runs there, with proof, out.

    \b
    Train on a folder with one folder of images per class, export, use:
        mobilenets train mobilenet_v2 flowers/ --time 20m
        mobilenets export runs/train/mobilenet_v2-flowers/best --data flowers/ -o rose
        mobilenets predict rose garden.jpg

    \b
    Look first:
        mobilenets models
        mobilenets info mobilenet_v2_1.4_224 --by-type

    Every command has --help with examples.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code.

    Args:
        arguments: without the program's name; None: those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    code = _run(given)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        code = EXIT_PIPE
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Everything that `main` does but ending the process; returns the exit code."""
    debug = "--debug" in _before_verb(arguments) or os.environ.get("MOBILENETS_DEBUG", "0") not in ("", "0")
    as_json = "--json" in arguments
    try:
        code = _root.main(args=arguments, prog_name="mobilenets", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except MobileNetsError as error:
        return _told(error, debug=debug, as_json=as_json)
    except click.ClickException as error:
        return _told_usage(error, debug=debug, as_json=as_json)
    except SystemExit as stop:
        # click ends the process by itself when nobody reads what is printed (`| head`), and with 1, a failed check.
        return EXIT_PIPE if stop.code == 1 else int(stop.code or 0)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        return EXIT_INTERRUPT
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in EXTRAS:
            return _told(MissingExtraError(package, extra=EXTRAS[package]), debug=debug, as_json=as_json)
        return _bug()
    except Exception:
        return _bug()


def _before_verb(arguments: list[str]) -> list[str]:
    first = next((index for index, argument in enumerate(arguments) if not argument.startswith("-")), len(arguments))
    return arguments[:first]


def _told(error: MobileNetsError, *, debug: bool, as_json: bool) -> int:
    if debug:
        traceback.print_exception(error)
    if as_json:
        _echo_json(type(error).__name__, got=error.got, wanted=error.wanted, do=error.do)
    click.echo(f"error: {error}", err=True)
    return error.exit_code


def _told_usage(error: click.ClickException, *, debug: bool, as_json: bool) -> int:
    """A wrong option or argument, as click found it."""
    if debug:
        traceback.print_exception(error)
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context is not None else "mobilenets"
    if as_json:
        usage = context.get_usage() if context is not None else "a correct command line"
        _echo_json("UsageError", got=error.format_message(), wanted=usage, do=f"see: {path} --help")
    click.echo(f"error: {error.format_message()}; see: {path} --help", err=True)
    return 2


def _bug() -> int:
    """Nobody wants to train for hours again to see where it went wrong, so the traceback is shown at once."""
    traceback.print_exc()
    click.echo("error: this is a mistake in mobilenets; please report it with the lines above", err=True)
    return EXIT_BUG


def _echo_json(kind: str, *, got: str, wanted: str, do: str) -> None:
    content = {"error": {"kind": kind, "got": got, "wanted": wanted, "do": do}}
    click.echo(json.dumps(content, ensure_ascii=False))
