"""``sage chat``: a conversation with a model, in the terminal or as a page."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from flows.commands.options import Overrides, Preset

if TYPE_CHECKING:
    from sage_core.chat import Chat, Turn
    from sage_core.sac import StateAction

HELP = """\
/boost motivation=humor:1.0  add a value to the logits of a word; 0 takes the boost back
/force emotion=playful       set a field of the state; a list: /force topic=cats,dogs
/ban emotion=angry           never this value
                             user.emotion=... is the user's state; `off` drops all of a kind,
                             nothing behind the command shows what is asked for
/reset                       forget the conversation; what is asked for stays
/save FILE                   write the conversation with its states as JSON lines
/quit                        end (or Ctrl-D)"""
_KINDS = {"boost": "boosts", "force": "forces", "ban": "bans"}


def chat(
    model: Annotated[
        str, typer.Option(help="A model of the SAGE home (m0, raw, m1, ..., dpo) or its folder.")
    ],
    boost: Annotated[
        list[str] | None, typer.Option(help="Raise a value's logits: motivation=humor:1.0")
    ] = None,
    force: Annotated[list[str] | None, typer.Option(help="Set a field: emotion=playful")] = None,
    ban: Annotated[list[str] | None, typer.Option(help="Exclude a value: emotion=angry")] = None,
    web: Annotated[
        bool, typer.Option("--web", help="Open a web page instead of the terminal.")
    ] = False,
    host: Annotated[
        str, typer.Option(help="Address of the page; off loopback, SAGE_CHAT_KEY must hold a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the page.", min=1, max=65535)] = 8090,
    preset: Preset = "demo",
    overrides: Overrides = None,
) -> None:
    """Talk with a model: its states are shown, and can be steered as you talk."""
    from flows import environment
    from sage_core.config.loading import load_config
    from sage_core.engines.steering import Steering

    config = load_config(preset, overrides or ())
    steering = Steering.read(boost=boost or (), force=force or (), ban=ban or ())
    environment.prepare(quiet=True)
    if web:
        from flows.commands import chat_web

        chat_web.check(host, port)

    from tasks import checkpoints

    found = checkpoints.find(model, config.model)
    out = Console()
    with out.status(f"loading {found.name}"):
        from sage_core.chat import Chat, check

        check(found.name, steering, states=found.states)  # before the model is loaded
        from sage_core.search.dialogue import Speaker
        from tasks.engines import engine_of

        settings = config.evaluation.selfplay
        engine = engine_of(settings.agent_engine, found.base, config.model, found.adapter)
        agent = Speaker(found.name, engine, found.states, config.conversation.agent)
        conversation = Chat(agent, settings, config.seed, steering)
    if web:
        chat_web.serve(conversation, host, port, out)
    else:
        converse(conversation, out)


def converse(conversation: "Chat", out: Console) -> None:
    """Read lines until ``/quit`` or the end of the input; a pipe will do."""
    from sage_core.errors import SageError

    if out.is_terminal:
        out.print(f"Talking with {conversation.agent.name}; /help lists the commands.", style="dim")
    for line in _lines(out):
        if line == "/quit":
            break
        try:
            if line.startswith("/"):
                out.print(Text(command(conversation, line), style="dim"), soft_wrap=True)
            else:
                with out.status("..."):
                    turn = conversation.reply(line)
                show(turn, conversation.agent.name, out)
        except SageError as error:
            out.print(Text(f"error: {error}", style="red"), soft_wrap=True)
        except KeyboardInterrupt:
            out.print("stopped; nothing was said", style="dim")


def command(conversation: "Chat", line: str) -> str:
    """Carry out a line that starts with ``/``; what to say about it.

    Raises:
        SageError: it is no command, or a wrong one.
    """
    from sage_core.errors import ConfigError

    name, _, rest = line[1:].partition(" ")
    rest = rest.strip()
    if name in _KINDS:
        return _steer(conversation, name, rest)
    if name == "help":
        return HELP
    if name == "reset":
        conversation.reset()
        return "the conversation starts anew"
    if name == "save" and rest:
        conversation.save(Path(rest).expanduser())
        return f"{len(conversation.turns)} turns in {rest}"
    if name == "save":
        raise ConfigError("/save needs the name of a file, such as /save chat.jsonl")
    raise ConfigError(
        f"'/{name}' is not a command; the commands are /boost, /force, /ban, /reset, /save, /help "
        "and /quit"
    )


def _steer(conversation: "Chat", kind: str, text: str) -> str:
    from sage_core.engines.steering import Steering

    if text == "off":
        conversation.steering = replace(conversation.steering, **{_KINDS[kind]: ()})
    elif text:
        conversation.steering = conversation.steering.joined(Steering.read(**{kind: [text]}))
    asked = [
        f"{kind} {value}"
        for kind, values in conversation.steering.written().items()
        for value in values
    ]
    return "\n".join(asked) or "nothing is asked of the states"


def show(turn: "Turn", name: str, out: Console) -> None:
    """Print a reply: its states dimmed above what was said."""
    if turn.left_out:
        out.print(f"the oldest {turn.left_out} turns are out of the model's sight", style="dim")
    for label, state in (("sees", turn.user), ("plans", turn.agent)):
        if state is not None:
            out.print(Text(f"  {label:5}  {_state(state)}", style="dim"), soft_wrap=True)
    said = Text.assemble((name, "bold"), f"  {turn.utterance}".replace("\x1b", ""))
    out.print(said, soft_wrap=not out.is_terminal)
    if turn.cut_off:
        out.print("cut off at max_new_tokens", style="dim")


def _state(state: "StateAction") -> str:
    from sage_core.states import FIELDS

    return " | ".join(", ".join(field.of(state)) or "-" for field in FIELDS)


def _lines(out: Console) -> Iterator[str]:
    """What is typed or piped in, without empty lines."""
    if not sys.stdin.isatty():
        # Bytes that are no UTF-8 must not end the conversation.
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="replace")
        yield from filter(None, map(str.strip, sys.stdin))
        return
    while True:
        try:
            line = out.input("[bold green]you[/]  ").strip()
        except (EOFError, KeyboardInterrupt):
            out.print()
            return
        if line:
            yield line
