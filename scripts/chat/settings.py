"""Which model is talked to, settled and checked before a minute of loading."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from scripts.common import ROOT, UserError, load_recipe, look_for_hub, read_json
from scripts.train.preflight import mistyped
from scripts.train.run import IDENTITY, home_of, newest_adapter, read_run, same_base

SAMPLING = str(ROOT / "yamls/webchat.yaml")  # where no recipe is named, the run's settings with this one's sampling
SAMPLING_KEYS = ("infer_backend", "trust_remote_code", "do_sample", "temperature", "top_p", "max_new_tokens")
LIMITS = {"temperature": (0, 100), "top_p": (0.001, 1), "repetition_penalty": (0.01, 100), "max_new_tokens": (1, 10**6)}
LIMITS["top_k"] = (0, 10**6)
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
    if settings.get("do_train") or "output_dir" in settings:
        known = ", ".join(sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("*/webchat*.yaml")))
        raise UserError(
            f"{recipe} is a recipe for training; name one for chatting ({known}), or none but the run "
            f"that it trained, adapter_name_or_path={settings.get('output_dir', 'its output_dir')}"
        )
    if not named:
        kept = {*SAMPLING_KEYS, *(override.partition("=")[0] for override in overrides)}
        own = settings["adapter_name_or_path"] if "adapter_name_or_path" in kept else None
        settings = settings_of(own) | {key: settings[key] for key in kept}
    check_files(settings)
    check_adapter(settings)
    return settings


def places() -> int:
    """Answers at once (MAX_CONCURRENT), others wait. None are batched, so that more would only share the speed."""
    told = os.environ.get("MAX_CONCURRENT", "2")
    if not told.isdecimal() or not int(told):
        raise UserError(f"MAX_CONCURRENT is {told!r}, expected a number from 1 on")
    return int(told)


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
    """Raise UserError where an adapter was trained with another template or base model than it would be loaded with."""
    template, base = settings["template"], settings["model_name_or_path"]
    for name in filter(None, str(settings.get("adapter_name_or_path") or "").split(",")):
        own_template, own, own_hash = trained_with(Path(name))
        wrong = {}
        if own_template not in (None, template):
            wrong["template"] = (own_template, template)
        if own and not same_base(own, base, own_hash):
            wrong["model_name_or_path"] = (own, base)
        if wrong:
            said = "; ".join(f"{key} {trained}, found {found}" for key, (trained, found) in wrong.items())
            remedy = " ".join(f"{key}={trained}" for key, (trained, _) in wrong.items())
            raise UserError(
                f"{name} was trained with {said}: give {remedy}, a RECIPE with it, or no recipe and only "
                f"adapter_name_or_path={name}"
            )


def trained_with(adapter: Path) -> tuple[str | None, str | None, str | None]:
    """Template, base model and the base's hash, by the run's identity; else the base by the adapter's own file."""
    identity, own = home_of(adapter) / IDENTITY, adapter / "adapter_config.json"
    if identity.is_file():
        try:
            run = read_json(identity)
            return run["template"], run["model"]["name"], run["model"].get("hash")
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{identity} is of an older MedCoT, or damaged: remove it, or train again") from error
    base = read_json(own).get("base_model_name_or_path") if own.is_file() else None
    known = base and (Path(base).is_dir() or is_hub_id(base))  # nothing is known of a folder that is gone
    return None, base if known else None, None


def is_hub_id(name: str) -> bool:
    """Whether a model's name is a hub's, not a folder's."""
    return name.count("/") == 1 and not name.startswith(("saves/", ".", "/"))


def check_files(settings: dict[str, Any]) -> None:
    """Raise UserError where a local model or adapter is not there, with the command that makes it."""
    for key, file in FILES.items():
        for name in str(settings.get(key) or "").split(","):
            if is_hub_id(name):
                look_for_hub(name)
            elif name and not Path(name, file).is_file():
                made = "make demo" if re.match("saves/(demo|qwen_coder|tiny)", name) else "make train"
                raise UserError(f"{key} is {name}, which has no {file}: run `{made}` first, or name another")
