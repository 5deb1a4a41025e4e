"""What a training method is: which examples it takes, how they become tokens, and its loss.

A method is one file with one class. :class:`LossMethod` computes a loss of its own from batches of
token ids; :class:`PreferenceMethod` uses one of the preference losses of TRL's ``DPOTrainer``.
Instances have no state: each process that trains makes its own from the class.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import BaseModel

from sage_core.schema import PreferencePair
from sage_core.training.data import Length, Usable
from sage_core.training.tokens import Encoder

if TYPE_CHECKING:
    import torch

Batch = dict[str, "torch.Tensor"]
NOT_SCORED = -100  # the label that transformers and TRL skip


class Settings(Protocol):
    """What every method's settings have; all else is read by the method alone."""

    @property
    def epochs(self) -> float: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def batch_size(self) -> int:
        """Examples per optimiser step."""

    @property
    def micro_batch_size(self) -> int:
        """Examples per forward pass."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """As Pydantic's."""


Example = TypeVar("Example")
Given = TypeVar("Given", bound=Settings)


class Method(ABC, Generic[Example, Given]):
    """A way to train an adapter.

    Attributes:
        name: the method's; also the stage in a checkpoint's lineage.
        example: the type of its examples, one that :mod:`sage_core.schema` has a table of.
        settings: the Pydantic model of its settings.
    """

    name: ClassVar[str]
    example: type[Example]
    settings: type[BaseModel]

    @abstractmethod
    def fitting(
        self, examples: Sequence[Example], settings: Given, length: Length
    ) -> Usable[Example]:
        """The examples that can be trained on, cut to the longest length; ``length`` counts the
        tokens of a conversation.

        Raises:
            DataError: none is left.
        """

    @abstractmethod
    def encode(self, example: Example, encoder: Encoder) -> dict[str, list[int]]:
        """An example as lists of integers, token ids among them."""

    def arguments(self, settings: Given) -> dict[str, Any]:
        """What the settings change in TRL's configuration, beyond those of :class:`Settings`."""
        return {}


class Tally(Protocol):
    """Adds up what is logged by parts, over an optimiser step and all processes."""

    def add(self, parts: "torch.Tensor", values: "torch.Tensor") -> None:
        """Add ``values`` to the means of their ``parts``: numbers of the same shape, n for the n-th
        name of :attr:`LossMethod.parts` (from 1), 0 for none."""


class LossMethod(Method[Example, Given]):
    """A method that computes its loss itself.

    The loss of an optimiser step is the sum of :meth:`loss` over its batches, divided by the sum of
    :meth:`weight`; so it does not depend on how a step is cut into batches and processes.
    """

    parts: ClassVar[tuple[str, ...]] = ()
    """Names of the means that are logged as ``loss/NAME``."""

    @abstractmethod
    def collate(self, rows: Sequence[dict[str, list[int]]], pad: int) -> Batch:
        """Encoded examples as one batch with ``input_ids``, ``attention_mask`` and ``labels``,
        each (B, T); ``pad`` is the id of the padding token."""

    @abstractmethod
    def weight(self, batch: Batch, settings: Given) -> "torch.Tensor":
        """What a batch counts for in the mean of a step, a scalar."""

    @abstractmethod
    def loss(self, model: Any, batch: Batch, settings: Given, tally: Tally) -> "torch.Tensor":
        """The loss of a batch, summed, a scalar with a gradient."""


class PreferenceMethod(Method[PreferencePair, Given]):
    """A method whose loss is one of TRL's on preference pairs; the reference is the model that
    training starts from. :meth:`arguments` names the loss (``loss_type``, ``beta``)."""

    example = PreferencePair

    def encode(self, example: PreferencePair, encoder: Encoder) -> dict[str, list[int]]:
        """In the columns that TRL's collator reads."""
        pair = encoder.pair(example)
        return {
            "prompt_ids": pair.prompt,
            "chosen_ids": pair.chosen,
            "rejected_ids": pair.rejected,
        }


def padded(rows: Sequence[dict[str, list[int]]], **fill: int) -> Batch:
    """Right-padded tensors (B, T) of the lists that ``fill`` names, each filled up with its value,
    and the attention mask (B, T)."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    batch = {
        name: pad_sequence([torch.tensor(row[name]) for row in rows], True, value)
        for name, value in fill.items()
    }
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    width = batch["input_ids"].shape[1]
    return {**batch, "attention_mask": (torch.arange(width) < lengths[:, None]).long()}


def log_probs(model: Any, batch: Batch) -> "torch.Tensor":
    """(B, T - 1) log-probabilities of the tokens from the second on; 0 where the label is -100."""
    scored = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    found: torch.Tensor = model(**scored, use_cache=False, fused_lm_head=True).log_probs
    return found


@dataclass(frozen=True)
class Training(Generic[Given]):
    """Tokens and settings of a training.

    Attributes:
        rows: the encoded examples, some in parts (:meth:`Encoder.parts`).
        places: where each was in the input, from 0.
    """

    rows: list[dict[str, list[int]]]
    places: list[int]
    settings: Given

    @classmethod
    def of(
        cls,
        method: Method[Example, Given],
        usable: Usable[Example],
        settings: Given,
        encoder: Encoder,
    ) -> "Training[Given]":
        """The tokens of what can be trained on."""
        parts = [
            (method.encode(part, encoder), place)
            for row, place in zip(usable.rows, usable.places, strict=True)
            for part in encoder.parts(row)
        ]
        return cls([row for row, _ in parts], [place for _, place in parts], settings)
