"""Merge an adapter, measure what merging changes, make it ready for Ollama: ``make export`` (python -m scripts.export).

The merge is LLaMA-Factory's. The folder appears whole or not at all, with a Modelfile and a model card; the check's
numbers go to results/<folder's name>/merge.json. docs/export.md goes on to GGUF.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts.common import (
    NOTICE,
    NOTICE_ZH,
    STARTING,
    UserError,
    atomic_folder,
    load_recipe,
    look_for_hub,
    provenance,
    quiet_libraries,
    run_main,
    write_json,
    write_text,
)
from scripts.evaluate.engines import LoadedModel
from scripts.evaluate.perplexity import compare_parts, measure, read_records
from scripts.evaluate.store import Store
from scripts.evaluate.subject import PLAIN, Subject, find_subject
from scripts.train.run import newest_adapter, read_run
from scripts.train.template import PromptFormat

MARK = "medcot_export.json"  # what a folder of ours holds
SHARE = 0.25  # of the adapter's effect that the merge may be off by: more than rounding, less than a wrong scale
NAMES = {"trained": "as trained", "unquantised": "unquantised base + adapter", "merged": "merged"}
MEANS = {"trained": "what 16-bit instead of 4-bit weights change", "unquantised": "what merging changes"}
EXAMPLES = """examples:
  python -m scripts.export                                  the run that ended last
  python -m scripts.export adapter_name_or_path=saves/own export_dir=saves/own_merge
  python -m scripts.export examples/merge_cpu.yaml"""


def read_recipe(arguments: list[str]) -> dict[str, Any]:
    """The export recipe with its KEY=VALUE overrides; without one, yamls/merge.yaml for the adapter named or newest.

    Raises UserError for what cannot be merged, or would be lost.
    """
    path, overrides = "yamls/merge.yaml", arguments
    if arguments and "=" not in arguments[0]:
        path, *overrides = arguments
    else:
        named = [part.partition("=")[2] for part in overrides if part.startswith("adapter_name_or_path=")]
        adapter = named[-1] if named else newest_adapter("name one: adapter_name_or_path=DIR")
        run = read_run(adapter)
        known = {"model_name_or_path": run["model"]["name"], "adapter_name_or_path": adapter}
        known |= {"template": run["template"], "export_dir": f"{adapter}_merged", "cutoff_len": run["cutoff_len"]}
        overrides = [*(f"{key}={value}" for key, value in known.items()), *overrides]
    recipe = load_recipe(path, overrides, ("model_name_or_path", "adapter_name_or_path", "template", "export_dir"))
    for key in ("quantization_bit", "export_quantization_bit"):
        if recipe.get(key):
            raise UserError(f"{path}: {key} is {recipe[key]}; adapters merge into unquantised weights only: remove it")
    look_for_hub(str(recipe["model_name_or_path"]))
    target = Path(recipe["export_dir"])
    if target.exists() and not (target / MARK).is_file():
        raise UserError(f"{target} is there and not from `make export`: move it away, or choose export_dir=saves/other")
    return recipe


def trained_subject(recipe: dict[str, Any]) -> Subject:
    """The subject that is merged; UserError where the recipe contradicts the adapter's run."""
    options = {"adapter": str(recipe["adapter_name_or_path"]), "model": str(recipe["model_name_or_path"])}
    options |= {"template": recipe["template"], "system": recipe.get("default_system")}
    return find_subject(argparse.Namespace(**options))


def slots_text(slots: list[Any], tokenizer: Any) -> str:
    """A template's slots as text: plain text, {"token": text}, or a set with the name of a special token."""
    text = ""
    for slot in slots:
        if isinstance(slot, set):
            text += getattr(tokenizer, next(iter(slot))) or ""
        else:
            text += slot["token"] if isinstance(slot, dict) else slot
    return text


def modelfile(form: PromptFormat, settings: Any, context: int) -> str:
    """A Modelfile that gives Ollama the trained prompt. ``settings``: LLaMA-Factory's generating arguments.

    LLaMA-Factory's own starts with the BOS token, which the engine adds too where the tokenizer says add_bos_token; it
    has no place for thinking, no sampling, and 4096 tokens of context whatever the model was trained with.
    """
    template, tokenizer = form.template, form.tokenizer
    prefix = slots_text(template.format_prefix.apply(), tokenizer)
    if getattr(tokenizer, "add_bos_token", False):
        prefix = prefix.removeprefix(tokenizer.bos_token)
    user = slots_text(template.format_user.apply(content="{{ .Content }}", idx="0"), tokenizer)
    system = slots_text(template.format_system.apply(content="{{ .System }}"), tokenizer)
    end = slots_text(template.format_assistant.apply(content=""), tokenizer)
    stops = {*form.stop_words(), user.split("{{ .Content }}")[0].strip()}  # a forged turn ends an answer too
    words = {"prefix": prefix, "user": user, "system": system, "end": end, "default_system": form.system}
    words |= dict(zip(("opened", "closed"), template.thought_words, strict=True))
    return render("Modelfile.j2", **words, stops=sorted(stops), settings=settings, context=context)


def render(name: str, **words: Any) -> str:
    """A file of templates/ with its words filled in."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    found = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return found.get_template(name).render(**words, notice=NOTICE, notice_zh=NOTICE_ZH)


def check_perplexity(
    trained: Subject, merged: Path, records: list[dict], cutoff_len: int, store: Store
) -> dict[str, Any]:
    """Perplexity as trained, unquantised and merged; UserError where the merge is off by more than rounding."""
    whole = replace(trained, model=str(merged), adapter=None, precision=PLAIN, run=None)
    plain = LoadedModel(trained, PLAIN)
    rows = {
        "trained": measure(LoadedModel(trained), records, cutoff_len, store, ("tuned",)),
        "base": measure(plain, records, cutoff_len, store, ("base",)),
        "unquantised": measure(plain, records, cutoff_len, store, ("tuned",)),
        "merged": measure(LoadedModel(whole), records, cutoff_len, store, ("base",)),
    }
    found: dict[str, Any] = {}
    for name in ("trained", "unquantised"):
        pair = [row | {"model": "base"} for row in rows[name]] + [row | {"model": "tuned"} for row in rows["merged"]]
        result = compare_parts(pair)
        found |= {name: result["base"], "merged": result["tuned"], f"merged - {name}": result["difference"]}
    nats = {name: [sum(row["nll"].values()) for row in measured] for name, measured in rows.items()}
    off, effect = (
        sum(abs(one - other) for one, other in zip(nats[name], nats["unquantised"], strict=True))
        for name in ("merged", "base")
    )
    if off > SHARE * effect:
        said = f"merged, the held-out losses are off by {off:.3g} nats; the adapter itself changes them by {effect:.3g}"
        raise UserError(f"{said} (expected at most {SHARE:.0%} of it): try infer_dtype=float32, or report this")
    return found | {"share": off / effect if effect else 0.0}


def summary(found: dict[str, Any]) -> str:
    """The check's numbers in lines for people."""
    if not found:
        return "not checked"
    lines = [f"perplexity, {label}: {found[name]['ppl']:.3f} (n = {found[name]['n']})" for name, label in NAMES.items()]
    for name in ("trained", "unquantised"):
        change = found[f"merged - {name}"]
        ends = " to ".join(f"{end:+.4f}" for end in change["ci95"]) if change["ci95"] else "none"
        value = f"{change['value']:+.4f} nats/token (95% interval: {ends})"
        lines.append(f"merged - {NAMES[name]}: {value}, {MEANS[name]}")
    off = f"merged right: off by {found['share']:.1%} of what the adapter changes, at most {SHARE:.0%} is accepted"
    return "\n".join([*lines, off])


def export(recipe: dict[str, Any], trained: Subject, data: Path | None, limit: int = 200) -> dict[str, Any]:
    """Merge into a temporary folder, check, complete and rename it; ``data`` None: no check. Returns the check's."""
    from llamafactory.hparams import get_infer_args
    from llamafactory.train.tuner import export_model
    from transformers import AutoConfig

    settings, cutoff_len, found = get_infer_args(recipe)[3], recipe.get("cutoff_len", 2048), {}
    results = Path("results") / Path(recipe["export_dir"]).name
    with atomic_folder(recipe["export_dir"]) as folder:
        export_model(recipe | {"export_dir": str(folder)})
        if data:
            records, store = read_records(data)[:limit], Store(results / "merge_items.jsonl")
            found = check_perplexity(trained, folder, records, cutoff_len, store)
            about = {"recipe": recipe, "data": str(data), "limit": limit, "trained_precision": trained.precision}
            about = {"subject": trained.about(), "settings": about, "provenance": provenance()}
            write_json(results / "merge.json", {"perplexity": found, **about})
        room = AutoConfig.from_pretrained(folder).max_position_embeddings
        form = replace(trained, model=str(folder)).prompt_format()
        write_text(folder / "Modelfile", modelfile(form, settings, min(cutoff_len + settings.max_new_tokens, room)))
        card = render("merged_card.j2", recipe=recipe, summary=summary(found), marks=form.frame().marks)
        write_text(folder / "README.md", card)
        write_json(folder / MARK, {"recipe": recipe, "trained": trained.about(), "notice": NOTICE})
    return found


def main() -> None:
    style = {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": f"{EXAMPLES}\n\n{NOTICE}"}
    parser = argparse.ArgumentParser(prog="python -m scripts.export", description=__doc__, **style)
    said = "an export recipe (default: yamls/merge.yaml for the last run), and keys to override"
    parser.add_argument("arguments", nargs="*", metavar="RECIPE KEY=VALUE", help=said)
    parser.add_argument("--data", type=Path, help="held-out records (default: the run's own)")
    parser.add_argument("--limit", type=int, default=200, help="records of the perplexities (default: 200)")
    parser.add_argument("--no-check", action="store_true", help="only merge")
    args = parser.parse_intermixed_args()
    print(STARTING, flush=True)
    quiet_libraries()
    recipe = read_recipe(args.arguments)
    trained = trained_subject(recipe)
    data = None if args.no_check else args.data or trained.held_out()
    if data:
        read_records(data)  # a wrong file is said before the merge
    elif not args.no_check:
        raise UserError("no held-out records are known for this adapter: name some with --data FILE, or --no-check")
    print(f"merging {trained.adapter} into {trained.model}, then checking what that changed", flush=True)
    found = export(recipe, trained, data, args.limit)
    print(f"{summary(found)}\nwrote {recipe['export_dir']}\nNext: docs/export.md (Ollama, GGUF)\n{NOTICE}")


if __name__ == "__main__":
    run_main(main)
