"""``sage chat --web``: the conversation as a page, on loopback unless a key protects it.

One conversation, whatever tabs look at it. NiceGUI brings its scripts and fonts along, so that the
page needs no other host.
"""

import importlib.util
import socket
from itertools import cycle
from typing import TYPE_CHECKING, Any

from rich.console import Console

from flows.commands.chat_key import VARIABLE, KeyRequired, key_for
from sage_core.errors import ConfigError, SageError
from sage_core.states import FIELDS

if TYPE_CHECKING:
    from sage_core.chat import Chat, Turn
    from sage_core.sac import StateAction

# The sliders that are always there.
SLIDERS = tuple(f"agent.{field.name}={value}" for field in FIELDS for value in field.sliders)
STRONGEST = 8.0  # logits; a value the model hardly ever writes is frequent at this boost
_COLOURS = ("blue-1", "pink-1", "green-1", "purple-1", "amber-1")  # of the fields, in their order


def check(host: str, port: int) -> None:
    """
    Raises:
        ConfigError: the page's library is missing, the port is taken, or others can reach ``host``
            and there is no key.
    """
    key_for(host)
    if importlib.util.find_spec("nicegui") is None:
        raise ConfigError("--web needs NiceGUI; install it with pip install 'sage-dialogue[chat]'")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"--host {host} --port {port} cannot be used ({error}); choose another"
            ) from None


def serve(conversation: "Chat", host: str, port: int, out: Console) -> None:
    """Serve the page until interrupted; prints its address once it answers."""
    from nicegui import app, ui
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if key := key_for(host):
        app.add_middleware(KeyRequired, key=key)
        address += f"/?key=KEY, with the key that {VARIABLE} holds"
    else:
        # Other names that point to loopback belong to pages of strangers (DNS rebinding).
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[host, "localhost"])
    app.on_startup(lambda: out.print(f"{address}  (stop with Ctrl-C)", highlight=False))
    page = Page(conversation)
    try:
        ui.run(
            page.build,
            host=host,
            port=port,
            title=f"SAGE: {conversation.agent.name}",
            show=False,
            reload=False,
            show_welcome_message=False,
        )
    except KeyboardInterrupt:
        out.print("stopping")


class Page:
    """What each visitor sees of the conversation."""

    def __init__(self, conversation: "Chat") -> None:
        from nicegui import ui

        self._chat = conversation
        self._unanswered = ""
        self._messages = ui.refreshable(self._show_turns)

    def build(self) -> None:
        from nicegui import ui

        name = self._chat.agent.name
        ui.query("body").classes("bg-grey-2")
        with ui.header().classes("items-center bg-white text-black"):
            ui.label(f"SAGE: {name}").classes("text-lg font-medium")
            ui.space()
            ui.button("Reset", on_click=self._reset).props("flat dense no-caps")
            ui.button("Download", on_click=self._download).props("flat dense no-caps")
        with ui.left_drawer(value=True, bordered=True).classes("bg-white").props("width=320"):
            if self._chat.agent.states:
                self._build_steering()
            else:
                ui.label(f"{name} writes no states, so there is nothing to steer.")
        with ui.column().classes("w-full max-w-3xl mx-auto"):
            self._messages()
        with (
            ui.footer().classes("bg-white text-black"),
            ui.row().classes("w-full max-w-3xl mx-auto no-wrap items-center"),
        ):
            said = ui.input(placeholder="Say something").props("outlined dense autofocus")
            said.classes("grow").mark("message")

            async def send() -> None:
                text, said.value = said.value, ""
                if not await self._send(text):
                    said.value = text

            said.on("keydown.enter", send)
            ui.button("Send", on_click=send).props("unelevated no-caps")

    def _build_steering(self) -> None:
        from nicegui import ui

        from sage_core.engines.steering import Steering

        asked = self._chat.steering.written()
        boosts = {
            name: float(value) for name, _, value in (b.rpartition(":") for b in asked["boost"])
        }
        sliders: dict[str, Any] = {}

        def apply() -> None:
            try:
                self._chat.steering = Steering.read(
                    boost=[f"{name}:{float(s.value)!r}" for name, s in sliders.items() if s.value],
                    force=forces.value,
                    ban=bans.value,
                )
            except SageError as error:
                ui.notify(str(error), type="negative", multi_line=True)
                written = self._chat.steering.written()
                forces.value, bans.value = written["force"], written["ban"]
            show()

        def show() -> None:
            written = self._chat.steering.written()
            lines = [f"{kind} {value}" for kind, values in written.items() for value in values]
            summary.text = "\n".join(lines) or "nothing"

        ui.label("Asked of the states").classes("font-medium")
        summary = ui.label().classes("text-xs text-grey-8 whitespace-pre-line").mark("asked")
        ui.label("Boost (logits)").classes("font-medium")
        for name in dict.fromkeys((*SLIDERS, *boosts)):
            value = boosts.get(name, 0.0)
            with ui.row().classes("w-full no-wrap items-center gap-3"):
                text = name.removeprefix("agent.").replace("=", " ")
                ui.label(text).classes("w-36 shrink-0 text-sm")
                slider = ui.slider(
                    min=min(0.0, value), max=max(STRONGEST, value), step=0.5, value=value
                )
                sliders[name] = slider.props(f'dense aria-label="{name}"')
                ui.label().classes("w-6 text-xs").bind_text_from(slider, "value", "{:g}".format)
        ui.label("Force").classes("font-medium")
        forces = ui.input_chips("emotion=playful, then Enter", value=asked["force"])
        ui.label("Ban").classes("font-medium")
        bans = ui.input_chips("emotion=angry, then Enter", value=asked["ban"])
        for chips in (forces, bans):
            chips.classes("w-full").props("dense")
        for control in (*sliders.values(), forces, bans):
            control.on_value_change(apply)
        show()

    def _show_turns(self) -> None:
        from nicegui import ui

        for turn in self._chat.turns:
            _show(turn.utterance, self._chat.agent.name, turn)
        if self._unanswered:
            _show(self._unanswered)
            ui.spinner("dots", size="lg")

    async def _send(self, text: str) -> bool:
        """Ask for a reply; whether there was one."""
        from nicegui import run, ui

        if self._unanswered or not text.strip():
            return False
        self._unanswered = text
        self._messages.refresh()
        try:
            await run.io_bound(self._chat.reply, text)
            return True
        except SageError as error:
            ui.notify(str(error), type="negative", multi_line=True)
            return False
        finally:
            self._unanswered = ""
            self._messages.refresh()
            ui.run_javascript("window.scrollTo(0, document.body.scrollHeight)")

    def _reset(self) -> None:
        if not self._unanswered:
            self._chat.reset()
            self._messages.refresh()

    def _download(self) -> None:
        from nicegui import ui

        ui.download.content(self._chat.as_jsonl(), "chat.jsonl")


def _show(utterance: str, name: str = "", turn: "Turn | None" = None) -> None:
    """Show a turn, or what the user said while the answer is being made."""
    from nicegui import ui

    mine = turn is None or turn.role == "user"
    if turn and turn.left_out:
        _note(f"the oldest {turn.left_out} turns are out of the model's sight")
    with ui.column().classes(f"w-full gap-0 {'items-end' if mine else 'items-start'}"):
        for label, state in (("sees", turn.user), ("plans", turn.agent)) if turn else ():
            if state is not None:
                _chips(label, state)
        message = ui.chat_message(utterance, name="you" if mine else name, sent=mine)
        message.props(f"bg-color={'grey-3' if mine else 'blue-1'}").classes("max-w-full")
    if turn and turn.cut_off:
        _note("cut off at max_new_tokens")


def _chips(label: str, state: "StateAction") -> None:
    from nicegui import ui

    with ui.row().classes("items-center gap-1"):
        ui.label(label).classes("text-xs text-grey-7 w-9")
        for field, colour in zip(FIELDS, cycle(_COLOURS), strict=False):
            for value in field.of(state):
                chip = ui.chip(value, color=colour).props("dense")
                chip.classes("text-xs").tooltip(field.name).mark(f"{label}-{field.name}")


def _note(text: str) -> None:
    from nicegui import ui

    ui.label(text).classes("text-xs text-grey-7")
