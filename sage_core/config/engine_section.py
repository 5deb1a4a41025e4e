"""What the settings of every kind of engine have. Other code asks for what a section declares
(:class:`Traits`) and never for its kind."""

from dataclasses import dataclass
from typing import ClassVar

from sage_core.config.section import Section
from sage_core.named import Named


@dataclass(frozen=True)
class Traits:
    """What an engine can do and where it runs, as far as that is known from its settings.

    Attributes:
        loads_adapters: it serves checkpoints of this run, not only m0 or a model of its own.
        scores_replies: it gives the log-probability of any text as a reply.
        is_m0: without a checkpoint it is m0; else it is another model.
        runs_here: it takes this machine's memory and devices, so that stages go one at a time and
            a plan counts GPU-hours; else it is asked by many at once, and a plan counts its price.
        in_process: the weights are loaded into this process.
    """

    loads_adapters: bool = False
    scores_replies: bool = False
    is_m0: bool = False
    runs_here: bool = True
    in_process: bool = True


class EngineSection(Section):
    """What the settings of every kind of engine have.

    Attributes:
        opened_by: what opens the engine (:func:`sage_core.engines.opening.open_engine`), as
            ``package.module:name``; empty = what ``kind`` names.
        checked_by: the module with ``check`` and ``examine`` for these settings
            (:mod:`sage_core.engines.opening`); empty = they need no check.
        modules_elsewhere: modules that run outside this process for it; they are in the keys of
            the steps that ask it.
        shared: settings that all roles of this kind must have in common, since one server of this
            process serves them.
    """

    opened_by: ClassVar[str] = ""
    checked_by: ClassVar[str] = ""
    modules_elsewhere: ClassVar[tuple[str, ...]] = ()
    shared: ClassVar[tuple[str, ...]] = ()

    kind: str

    @property
    def named(self) -> Named:
        """What opens the engine; its code is in the keys of the steps that ask it."""
        return Named(self.kind, self.opened_by or self.kind)

    @property
    def traits(self) -> Traits:
        raise NotImplementedError

    @property
    def where(self) -> str:
        """Where the model runs, for people."""
        return "a model in this process"

    @property
    def gpus(self) -> int:
        """GPUs of this machine that the weights are split over."""
        return 1

    @property
    def requests_at_once(self) -> int | None:
        """Requests that are sent at once; None: all."""
        return None

    @property
    def prices(self) -> tuple[float, float] | None:
        """USD per million prompt and completion tokens; None: not known."""
        return None

    def shares_server(self, other: "EngineSection") -> bool:
        """Whether one server of this process serves both, which has one base model."""
        return bool(self.shared) and type(self) is type(other)
