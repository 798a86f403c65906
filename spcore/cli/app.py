"""The application: the core's commands and those that plugins add."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from spcore import __version__
from spcore.cli import (
    bench,
    chat,
    convert,
    doctor,
    evaluate,
    export,
    finetune,
    generate,
    inspect,
    launch,
    parity,
    plugins,
    predict,
    pretrain,
    run,
)


class _Group(TyperGroup):
    """Adds `command` components to the core's commands; a broken plugin costs its own command only."""

    _listing = False

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list in `--help`, by summaries: no command is imported for it."""
        self._listing = True
        try:
            super().format_commands(ctx, formatter)
        finally:
            self._listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        """Names, the core's first."""
        from spcore.components import default_registry

        own = super().list_commands(ctx)
        return own + [name for name in default_registry().names("command") if name not in own]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command; a component's target is a Typer application or a function."""
        found = super().get_command(ctx, cmd_name)
        if found is not None:
            return found
        from spcore.components import default_registry

        registry = default_registry()
        if not registry.has("command", cmd_name):
            return None
        if self._listing:
            return TyperCommand(
                cmd_name, help=next(c.summary for _, c in registry.components("command") if c.name == cmd_name)
            )
        target = registry.load("command", cmd_name)
        if not isinstance(target, typer.Typer):
            single = typer.Typer()
            single.command(cmd_name)(target)
            target = single
        command = typer.main.get_command(target)
        command.name = cmd_name
        return command


def _version(value: bool) -> None:
    if value:
        typer.echo(f"slimpajama {__version__}")
        raise typer.Exit()


app = typer.Typer(
    cls=_Group, rich_markup_mode=None, no_args_is_help=True, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, adapt and deploy language models out of exchangeable parts.",
)  # fmt: skip


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    from spcore.cli.output import log_to_stderr

    context.with_resource(log_to_stderr())


app.command("run")(run.run)
app.command("launch")(launch.launch)
app.command("pretrain")(pretrain.pretrain)
app.command("finetune")(finetune.finetune)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("generate")(generate.generate)
app.command("chat")(chat.chat)
app.command("bench")(bench.bench)
app.command("parity")(parity.parity)
app.command("export")(export.export)
app.command("convert")(convert.convert)
app.add_typer(inspect.app, name="data")
app.add_typer(plugins.app, name="plugins")
app.command("doctor")(doctor.doctor)
