"""Judges' prompts in MLflow's prompt registry: taken from there, and kept there in versions.

A version is a question, the text that a judge is asked; the conversations and the form of the
answer are added to it in any case (:mod:`sage_core.evaluation.judge`). Call these with the home
held.
"""

import re
import warnings
from collections.abc import Iterable

import mlflow
from mlflow.entities.model_registry import PromptVersion
from mlflow.exceptions import MlflowException

from sage_core.evaluation.prompts import PROMPTS
from sage_core.steps.judged import Judge
from tasks.tracking_store import connect, tracking_uri

PREFIX = "sage-judge."  # models and prompts share one space of names
_PAGE = 100


def address(prompt: str) -> str:
    """``prompts:/name/version`` of a prompt that is named so, or by an alias.

    Raises:
        ConfigError: it is not there, or is not a plain text.
    """
    return str(_found(prompt).uri)


def text(prompt: str) -> str:
    """The text of a prompt in the registry.

    Raises:
        ConfigError: as :func:`address`.
    """
    return str(_found(prompt).template)


def registered(judges: Iterable[Judge]) -> dict[str, PromptVersion]:
    """Judge -> the version of its prompt, where the store keeps prompts."""
    found = {each.settings.name: kept(each.settings.prompt, each.question) for each in judges}
    return {name: version for name, version in found.items() if version is not None}


def kept(prompt: str, question: str) -> PromptVersion | None:
    """The version that ``prompt`` of the settings is in the registry. One of SAGE's or of a user's
    module is put there, unless a version with this text is there already. None, with a warning,
    where the store keeps no prompts.
    """
    if PROMPTS.keeps(prompt):
        return _found(prompt)
    client, name = connect(), PREFIX + re.sub(r"[^a-zA-Z0-9_.-]", ".", prompt)
    try:
        if client.get_prompt(name) is None:
            client.create_prompt(name, "What a judge is asked (evaluation.judges.prompt).")
        there = _version_with(client, name, question)
        return there or client.create_prompt_version(
            name, question, f"evaluation.judges.prompt = {prompt}"
        )
    except MlflowException as error:
        warnings.warn(
            f"MLflow at {tracking_uri()} did not keep the judge prompt '{prompt}': {error}; its "
            "text is part of the keys of the verdicts in any case",
            stacklevel=2,
        )
        return None


def _version_with(client: mlflow.MlflowClient, name: str, question: str) -> PromptVersion | None:
    token: str | None = None
    while token != "":
        page = client.search_prompt_versions(name, _PAGE, token)
        for version in page:
            if version.template == question:
                return version
        token = page.token or ""
    return None


def _found(prompt: str) -> PromptVersion:
    name, separator, alias = prompt.removeprefix("prompts:/").partition("@")
    name, _, version = name.partition("/")
    client = connect()
    try:
        found = (
            client.get_prompt_version_by_alias(name, alias)
            if separator
            else client.get_prompt_version(name, version)
        )
    except MlflowException as error:
        raise PROMPTS.error(prompt, f"is not in MLflow at {tracking_uri()} ({error})") from None
    if found is None:
        raise PROMPTS.error(prompt, f"is not in MLflow at {tracking_uri()}")
    if not isinstance(found.template, str) or not found.template.strip():
        raise PROMPTS.error(prompt, "is not a plain text, which a judge's prompt has to be")
    if found.variables:
        raise PROMPTS.error(
            prompt,
            f"has variables ({', '.join(sorted(found.variables))}), which nothing fills: the "
            "conversations are shown after it",
        )
    return found
