"""One frozen model per stage, and :class:`PipelineConfig`, which holds them all.

This is the one source of the command line's, the YAML presets' and the Prefect form's parameters.
Defaults are the paper's numbers where the paper gives them; presets override them. In a field
documented with "0 = ...", zero switches the limit off.

Each name is loaded when it is first used. Code of this project imports from the module of a stage
instead, so that a change in the settings of one stage changes the keys of that stage only.
"""

from sage_core.lazy import lazily

__getattr__, __dir__ = lazily(__name__)
