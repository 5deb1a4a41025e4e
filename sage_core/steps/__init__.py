"""The steps of the method, one class each; a step makes one artefact.

A step is a frozen dataclass. Its fields are its inputs: references to artefacts, models, sections
of the configuration, plain values. :meth:`~sage_core.steps.base.Step.run` loads them, calls one
function of the library and saves into a folder. What it saves depends on the fields only: no time,
no path, no set order.

The key of a step (:mod:`sage_core.steps.key`) is its name, its fields without runtime settings, and
the code and packaged files that its module can reach (:mod:`sage_core.steps.code`). So steps that
run different code are in modules of their own.
"""
