"""MLflow's model registry: a name with numbered versions, each the network that a run stored, and aliases.

A version is no copy: it names a run of the same store, whose files are read like those of any run. Its tag `CONTENT`
has the SHA-256 of the recipe of that network, which in turn has those of the other files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quantexp.config import ModelReference
from quantexp.system.errors import TrackingError
from quantexp.system.passwords import without_password
from quantexp.tracking.store import RunFacts, Store, tracking_errors

CONTENT = "quantexp.sha256"  # of a version: the SHA-256 of the recipe of its network
FLOAT_RUN = "quantexp.float_run"  # of a version: the run of the sweep with the float network
MOST_NAMED = 20  # registered networks in an error
UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # MLflow's answers for names it does not have


@dataclass(frozen=True)
class Version:
    """A version of a registered network: the run that stored it, and its tags."""

    name: str
    number: str
    run_id: str
    tags: Mapping[str, str]


def find(store: Store, reference: ModelReference) -> Version:
    """Return the version that a reference names. Raises TrackingError if there is none."""
    from mlflow.exceptions import MlflowException

    client = store.client
    with tracking_errors(f"the model registry of {without_password(store.uri)} cannot be read"):
        try:
            if reference.alias:
                found = client.get_model_version_by_alias(reference.name, reference.alias)
            else:
                found = client.get_model_version(reference.name, reference.version)
        except MlflowException as error:
            if error.error_code not in UNKNOWN:
                raise
            raise TrackingError(_unknown(store, reference)) from error
    if not found.run_id:
        raise TrackingError(
            f"{reference} names no run, so quantexp did not register it; register a network with "
            "python -m quantexp.register SWEEP"
        )
    return Version(found.name, str(found.version), found.run_id, dict(found.tags))


def _unknown(store: Store, reference: ModelReference) -> str:
    """Say what the registry has in place of a version."""
    from mlflow.exceptions import MlflowException

    shown = without_password(store.uri)
    try:
        aliases = store.client.get_registered_model(reference.name).aliases
    except MlflowException:
        names = sorted(model.name for model in store.client.search_registered_models(max_results=MOST_NAMED))
        there = f"it has {', '.join(names)}" if names else "it has none"
        return f"{shown} has no registered network {reference.name!r}; {there}"
    known = ", ".join(f"@{alias} (version {number})" for alias, number in sorted(aliases.items()))
    what = f"alias {reference.alias!r}" if reference.alias else f"version {reference.version}"
    return f"{reference.name} in {shown} has no {what}; its aliases: {known or 'none'}"


def register(
    store: Store, run: RunFacts, folder: str, name: str, alias: str, description: str, tags: Mapping[str, str]
) -> tuple[Version, bool]:
    """Give a name and an alias to the network in a folder of a run; return its version, and whether it is a new one.

    A run that is registered under this name already gets no second version.

    Raises:
        TrackingError: If the registry cannot be written, or does not accept the name or the alias.
    """
    client = store.client
    with tracking_errors(f"the network of {run.run_id} cannot be registered as {name}@{alias}"):
        if name not in [model.name for model in client.search_registered_models(f"name = '{name}'")]:
            client.create_registered_model(name)
        same = [found for found in client.search_model_versions(f"name = '{name}'") if found.run_id == run.run_id]
        if same:
            found = max(same, key=lambda version: int(version.version))
            client.update_model_version(name, found.version, description)
            for key, value in tags.items():
                client.set_model_version_tag(name, found.version, key, value)
        else:
            source = f"{run.artifact_uri.rstrip('/')}/{folder}"
            found = client.create_model_version(name, source, run.run_id, tags=dict(tags), description=description)
        client.set_registered_model_alias(name, alias, found.version)
    return Version(name, str(found.version), run.run_id, dict(tags)), not same
