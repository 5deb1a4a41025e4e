"""The commands of ``sage``: one module for each command or group of commands.

A command's module is light, since every start of ``sage`` imports it; what is heavy is imported in
the command, from :mod:`flows.commands.pipeline_run`, :mod:`flows.commands.single_stages`,
:mod:`flows.commands.doctor_checks` and :mod:`flows.commands.ui_servers`.
"""
