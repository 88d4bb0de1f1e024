"""The command line, `streamer COMMAND`. Each command is one file here and one line of `COMMANDS`, imported when it runs."""

import errno
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pkgutil import resolve_name
from types import FrameType

import click

from streamer import __version__
from streamer.core.errors import StreamerError
from streamer.core.garbage_collection import collect_seldom

# Name to "module:function" and the description in `streamer --help`.
COMMANDS = {
    "serve": ("streamer.cli.serve:serve", "Learn from events and answer queries, in one process."),
    "publish": ("streamer.cli.publish:publish", "Send a file to a running streamer, or to Kafka."),
    "recommend": ("streamer.cli.recommend:recommend", "Recommend items to a user."),
    "promote": ("streamer.cli.promote:promote", "Make another learner, or another generation, answer."),
    "renormalise": ("streamer.cli.renormalise:renormalise", "Retrain everything on the whole history."),
    "generations": ("streamer.cli.renormalise:generations", "List the generations and their stages."),
    "rollback": ("streamer.cli.renormalise:rollback", "Return to the previous generation."),
    "backup": ("streamer.cli.backup:backup", "Copy everything a streamer knows, while it learns."),
    "restore": ("streamer.cli.restore:restore", "Restore a backup into a new data directory."),
    "archive": ("streamer.cli.archive:archive", "Verify the archive's files, or repair damaged ones."),
    "recover": ("streamer.cli.recover:recover", "Make a new log of what a damaged one and the archive still hold."),
    "forget": ("streamer.cli.forget:forget", "Forget a user, in every file."),
    "evaluate": ("streamer.cli.evaluate:evaluate", "Score learners prequentially on a file."),
    "validate": ("streamer.cli.validate:validate", "Look at a file without learning from it."),
    "train": ("streamer.cli.train:train", "Fit, measure and diagnose models of the field on a file."),
    "report": ("streamer.cli.report:report", "Write one HTML file about models of the field on a file."),
    "vectors": ("streamer.cli.vectors:vectors", "Export and import item vectors in word2vec's formats."),
    "simulate": ("streamer.cli.simulate:simulate", "Write a simulated world to a file."),
    "inspect": ("streamer.cli.inspect:inspect", "Show the contents of a state directory."),
    "doctor": ("streamer.cli.doctor:doctor", "Check this installation, and compile the kernels."),
    "bench": ("streamer.cli.bench:bench", "Measure speed on this machine."),
}


class _Commands(click.Group):
    """Imports a command only when it is run, so that `--help` is fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = resolve_name(COMMANDS[cmd_name][0])
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from `COMMANDS`, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="streamer")
def group() -> None:
    """A recommender that learns from every event the moment it arrives.

    \b
    streamer serve --simulate          learn from a simulated world, then open http://127.0.0.1:8080
    streamer recommend 7               ask it what user 7 may like
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. Exit codes: 0 done, 1 failed, 2 bad usage, 78 bad settings or state, 130 interrupted."""
    collect_seldom()
    with suppress(ValueError):  # outside the main thread the caller handles signals
        signal.signal(signal.SIGTERM, _terminated)  # as Ctrl-C: close what is open, delete temporary folders
    try:
        group.main(args=arguments, prog_name="streamer", standalone_mode=False)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has ended
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO):
            raise
        sys.stderr.write(f"streamer: cannot write: {error.strerror}\n")
        sys.exit(1)
    except StreamerError as error:
        click.echo(f"streamer: {error}", err=True)
        sys.exit(error.exit_code)
    finally:
        with suppress(ValueError):  # everything is closed, and libraries should not be interrupted while they shut down
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
