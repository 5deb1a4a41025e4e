"""A base model in memory: its tokenizer, its adapters, and how it generates.

One copy of the base stays; adapters are loaded next to each other and switched, never merged.
"""

from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from sage_core.config.model import ModelConfig
from sage_core.engines.base import Constraint, Request
from sage_core.engines.loading import load_model, load_tokenizer, stop_tokens
from sage_core.engines.memory import droppable
from sage_core.engines.prompts import Prompts
from sage_core.engines.self_test import Generation, generation
from sage_core.engines.steerer import Steerer, Vocabulary
from sage_core.engines.steering import Steering
from sage_core.errors import EngineError


class LoadedModel:
    """A loaded base model with everything derived from its tokenizer; ``generation`` is how it
    generates and scores.

    Raises:
        EngineError: it cannot be loaded, or fails on plain text.
    """

    def __init__(self, base: Path, config: ModelConfig) -> None:
        self.config = config
        self.tokenizer: Any = load_tokenizer(base)
        self.model: Any = load_model(base, config)
        self.vocabulary: int = self.model.get_output_embeddings().weight.shape[0]
        self.stop = set(stop_tokens(self.model, self.tokenizer))
        self.generation: Generation = generation(self.model, self.tokenizer)
        self._peft: Any = None
        self._adapters: list[str] = []
        self._compiled: dict[Constraint, Any] = {}
        self._steerers: dict[tuple[Steering, bool], Steerer] = {}

    def using(self, adapter: Path | None) -> "_Adapter":
        return _Adapter(self, adapter)

    def activate(self, adapter: Path | None) -> None:
        """Switch to an adapter, loading it if it is not here; None switches adapters off."""
        from peft import PeftModel

        if adapter is None:
            if self._peft is not None:
                self._peft.base_model.disable_adapter_layers()
            return
        name = str(adapter.resolve()).replace(".", "_")
        if self._peft is None:
            self._peft = PeftModel.from_pretrained(
                self.model, adapter, adapter_name=name, autocast_adapter_dtype=False
            ).eval()
            self._adapters = [name]
        elif name not in self._adapters:
            if len(self._adapters) >= self.config.resident_adapters:
                self._peft.delete_adapter(self._adapters.pop(0))
            self._peft.load_adapter(adapter, adapter_name=name, autocast_adapter_dtype=False)
            self._adapters.append(name)
        self._peft.base_model.enable_adapter_layers()
        self._peft.set_adapter(name)

    @cached_property
    def prompts(self) -> Prompts:
        return Prompts(self.tokenizer, self.config.max_context)

    @property
    def token_texts(self) -> list[bytes]:
        """The text of each token of the vocabulary; special tokens have none."""
        return self._vocabulary.texts

    def steerer(self, request: Request) -> Steerer:
        """What carries out the request's steering.

        Raises:
            ConfigError: the tokenizer cannot write a keyword.
        """
        assert request.steering is not None
        key = request.steering, request.constraint is not None
        if key not in self._steerers:
            self._steerers[key] = Steerer(self._vocabulary, key[0], grammar=key[1])
        return self._steerers[key]

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary.of(self.tokenizer, self.vocabulary)

    def compiled(self, constraint: Constraint, *, at_start: bool) -> Any:
        """The compiled constraint; ``at_start``: nothing of the reply is there yet."""
        if at_start:
            constraint = self.prompts.led(constraint)
        if constraint not in self._compiled:
            try:
                if constraint.kind == "grammar":
                    compiled = self._compiler.compile_grammar(constraint.text)
                else:
                    compiled = self._compiler.compile_json_schema(
                        constraint.text, any_whitespace=False
                    )
            except RuntimeError as error:
                raise EngineError(
                    f"the {constraint.kind} cannot be compiled: {error}; fix it:\n{constraint.text}"
                ) from None
            self._compiled[constraint] = compiled
        return self._compiled[constraint]

    def matcher(self, compiled: Any) -> Any:
        import xgrammar

        return xgrammar.GrammarMatcher(compiled, override_stop_tokens=sorted(self.stop))

    def bitmask(self, rows: int) -> Any:
        import xgrammar

        return xgrammar.allocate_token_bitmask(rows, self.vocabulary)

    @cached_property
    def _compiler(self) -> Any:
        import xgrammar

        info = xgrammar.TokenizerInfo.from_huggingface(self.tokenizer, vocab_size=self.vocabulary)
        return xgrammar.GrammarCompiler(info)


class _Adapter:
    """The adapter that is on while a batch runs; off again afterwards."""

    def __init__(self, loaded: LoadedModel, adapter: Path | None) -> None:
        self._loaded, self._adapter = loaded, adapter

    def __enter__(self) -> None:
        self._loaded.activate(self._adapter)

    def __exit__(self, *error: object) -> None:
        self._loaded.activate(None)


_last: list[LoadedModel] = []  # the one that is kept although no engine uses it
_alive: WeakValueDictionary[tuple[Path, ModelConfig], LoadedModel] = WeakValueDictionary()


def loaded_model(base: Path, config: ModelConfig) -> LoadedModel:
    """The model of a base folder: the copy that is in memory, or one that is loaded now.

    A copy that an engine still uses is found even after :func:`release`, so that there are never
    two of one model.
    """
    found = _alive.get((base, config))
    if found is None:
        release()  # so that two models are in memory only if both are in use
        found = _alive[base, config] = LoadedModel(base, config)
    _last[:] = [found]
    return found


@droppable
def release() -> None:
    """Forget the model in memory."""
    _last.clear()
