"""Which model is talked to, settled and checked before a minute of loading."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from scripts.common import ROOT, UserError, load_recipe, look_for_hub, read_json
from scripts.train.preflight import mistyped
from scripts.train.run import IDENTITY, newest_adapter, read_run

SAMPLING = str(ROOT / "yamls/webchat.yaml")  # where no recipe is named, the run's settings with this one's sampling
SAMPLING_KEYS = ("infer_backend", "trust_remote_code", "do_sample", "temperature", "top_p", "max_new_tokens")
LIMITS = {"temperature": (0, 100), "top_p": (0.001, 1), "repetition_penalty": (0.01, 100), "max_new_tokens": (1, 1e6)}
FILES = {"model_name_or_path": "config.json", "adapter_name_or_path": "adapter_config.json"}


def read_settings(arguments: list[str]) -> dict[str, Any]:
    """What LLaMA-Factory is to load: a recipe's settings, or those of the run that ended last, with overrides.

    ``arguments``: a recipe (or none), then KEY=VALUE. Raises UserError for a missing model, and where there is no run.
    """
    named = bool(arguments) and arguments[0].endswith((".yaml", ".yml"))
    recipe, overrides = (arguments[0], arguments[1:]) if named else (SAMPLING, arguments)
    for override in overrides:
        if "=" not in override:
            raise UserError(f"found {override!r}, expected a recipe (….yaml) or KEY=VALUE, e.g. temperature=0.7")
    settings = load_recipe(recipe, overrides, ("model_name_or_path", "template"))
    if settings.get("do_train"):
        raise UserError(
            f"{recipe} is a recipe for training; name one for chatting, or none for the run that ended last"
        )
    if not named:
        kept = {*SAMPLING_KEYS, *(override.partition("=")[0] for override in overrides)}
        own = settings["adapter_name_or_path"] if "adapter_name_or_path" in kept else None
        settings = settings_of(own) | {key: settings[key] for key in kept}
    check_files(settings)
    if named:
        check_adapter(settings)
    return settings


def check_values(settings: dict[str, Any]) -> None:
    """Raise UserError for a value of the wrong kind, such as a quoted number. It imports LLaMA-Factory: 20 seconds."""
    wrong = mistyped(settings)
    for key, (least, most) in LIMITS.items():
        value = settings.get(key)
        if isinstance(value, int | float) and not least <= value <= most:
            wrong.append(f"{key} is {value}, expected {least} to {most}")
    if wrong:
        raise UserError("; ".join(wrong))


def settings_of(adapter: str | None) -> dict[str, Any]:
    """Model, adapter, template and precision of a run, as it was trained; without a name, the run that ended last."""
    run = read_run(adapter or newest_adapter("name a recipe: RECIPE=…"))
    precision = run["precision"]
    settings = {"model_name_or_path": run["model"]["name"], "adapter_name_or_path": run["adapter"]}
    settings |= {"template": run["template"], "default_system": run["system"], "enable_thinking": run["thinking"]}
    settings |= {"infer_dtype": precision["dtype"]}
    if precision["bits"]:
        settings |= {"quantization_method": "bnb", "quantization_bit": precision["bits"]}
        settings |= {"quantization_type": precision["type"], "double_quantization": precision["double"]}
    assumed = ", its recipe assumed" if run["assumed"] else ""
    which = "the run" if adapter else "the run that ended last"
    print(f"{which}: {run['adapter']} (template {run['template']}{assumed}); RECIPE=FILE takes another")
    return settings


def check_adapter(settings: dict[str, Any]) -> None:
    """Raise UserError where an adapter was trained with another template or base model than a recipe names for it."""
    adapter = settings.get("adapter_name_or_path")
    if not adapter or not Path(adapter, IDENTITY).is_file():
        return
    run = read_json(Path(adapter, IDENTITY))
    for key, own in (("template", run["template"]), ("model_name_or_path", run["model"]["name"])):
        if own.rpartition("/")[2] != settings[key].rpartition("/")[2]:  # a folder may have moved
            raise UserError(f"{adapter} was trained with {key} {own}, found {settings[key]}: give its own, {key}={own}")


def check_files(settings: dict[str, Any]) -> None:
    """Raise UserError where a local model or adapter is not there, with the command that makes it."""
    for key, file in FILES.items():
        for name in str(settings.get(key) or "").split(","):
            if name.count("/") == 1 and not name.startswith(("saves/", ".", "/")):
                look_for_hub(name)
            elif name and not Path(name, file).is_file():
                made = "make demo" if re.match("saves/(demo|qwen_coder|tiny)", name) else "make train"
                raise UserError(f"{key} is {name}, which has no {file}: run `{made}` first, or name another")
