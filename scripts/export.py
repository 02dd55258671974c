"""Merge an adapter, measure what merging changes, make it ready for Ollama: ``python -m scripts.export RECIPE``.

The merge is LLaMA-Factory's. The folder appears whole or not at all, with a Modelfile and a model card; the check's
numbers go to results/<folder's name>/merge.json. docs/export.md goes on to GGUF.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from scripts.common import NOTICE, UserError, load_recipe, provenance, read_json, run_main, write_json, write_text
from scripts.evaluate.perplexity import encode, measure, read_records, summarise
from scripts.evaluate.report import NOTICE_ZH
from scripts.evaluate.subject import TINY, Store, Subject, find_subject, load_tokenizer
from scripts.train import run as run_dir

MARK = "medcot_export.json"  # what a folder of ours holds
PROMPTS, LENGTH = 8, 64  # of the greedy comparison: held-out questions, tokens of each answer
SHARE = 0.25  # of the adapter's effect that the merge may be off by: more than rounding, less than a wrong scale
NAMES = {"trained": "as trained", "unquantised": "unquantised base + adapter", "merged": "merged"}
EXAMPLES = """examples:
  python -m scripts.export examples/merge_cpu.yaml
  python -m scripts.export yamls/merge.yaml adapter_name_or_path=saves/own export_dir=saves/own_merge"""


class Tuned(Subject):
    """A base with its adapter on; the base alone is not measured."""

    names = ("tuned",)


def read_recipe(path: str, overrides: list[str]) -> dict[str, Any]:
    """The export recipe with its KEY=VALUE overrides; UserError for what cannot be merged, or would be lost."""
    recipe = load_recipe(path, overrides, ("model_name_or_path", "adapter_name_or_path", "template", "export_dir"))
    for key in ("quantization_bit", "export_quantization_bit"):
        if recipe.get(key):
            raise UserError(f"{path}: {key} is {recipe[key]}; adapters merge into unquantised weights only: remove it")
    model, target = str(recipe["model_name_or_path"]), Path(recipe["export_dir"])
    if model.startswith(("saves/", ".", "/")) and not Path(model, "config.json").is_file():
        raise UserError(f"{path}: model_name_or_path is {model}, which has no config.json; train it, or `make demo`")
    if target.exists() and not (target / MARK).is_file():
        raise UserError(f"{target} is there and not from `make export`: move it away, or choose export_dir=saves/other")
    return recipe


def held_out(adapter: str) -> Path:
    """The test split of the data that the adapter was trained on; UserError where it is not known or not there."""
    identity = Path(adapter) / run_dir.IDENTITY
    if not identity.is_file():
        raise UserError(f"{identity}: no such file, so the held-out records are not known; pass --data FILE.jsonl")
    try:
        return run_dir.held_out(read_json(identity))
    except UserError as error:
        raise UserError(f"no held-out records to check with: {error}; or pass --data FILE.jsonl") from error


def modelfile(template: Any, tokenizer: Any, settings: Any, context: int) -> str:
    """A Modelfile that gives Ollama the trained prompt. ``settings``: LLaMA-Factory's generating arguments.

    LLaMA-Factory's own starts with the BOS token, which the engine adds too where the tokenizer says add_bos_token; it
    has no place for thinking, no sampling, and 4096 tokens of context whatever the model was trained with.
    """
    convert = template._convert_slots_to_ollama
    user = convert(template.format_user.apply(), tokenizer, ".Content")
    prefix = convert(template.format_prefix.apply(), tokenizer)
    if getattr(tokenizer, "add_bos_token", False):
        prefix = prefix.removeprefix(tokenizer.bos_token)
    stops = {tokenizer.decode([token]) for token in template.get_stop_token_ids(tokenizer)}
    words = {"prefix": prefix, "user": user, "system": convert(template.format_system.apply(), tokenizer, ".System")}
    words["end"] = convert(template.format_assistant.apply(), tokenizer, ".Content").removeprefix("{{ .Content }}")
    words |= dict(zip(("opened", "closed"), template.thought_words, strict=True))
    words |= {"stops": sorted(stops | {user.split("{{ .Content }}")[0].strip()})}  # a forged turn ends an answer too
    return render("Modelfile.j2", **words, settings=settings, context=context)


def render(name: str, **words: Any) -> str:
    """A file of templates/ with its words filled in."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    found = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return found.get_template(name).render(**words, notice=NOTICE, notice_zh=NOTICE_ZH)


def greedy(subject: Subject, records: list[dict], cutoff_len: int) -> list[list[int]]:
    """Greedy answers to the records' questions, as token ids: one list of at most LENGTH per record."""
    import torch

    model, tokenizer, template = subject.loaded()
    answers = []
    for record in records:
        ids = torch.tensor([encode(record, tokenizer, template, cutoff_len)["prompt"]], device=model.device)
        options = {"do_sample": False, "top_p": None, "temperature": None, "top_k": None, "max_new_tokens": LENGTH}
        with torch.inference_mode():
            answers.append(model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, ids.shape[1] :])
    return [answer.tolist() for answer in answers]


def check_tokens(trained: Subject, records: list[dict], cutoff_len: int, merged: Path) -> dict[str, int]:
    """Compare greedy answers of base + adapter with a float32 merge's, in float32; UserError unless identical."""
    exact: dict[str, Any] = {"template": trained.template, "precision": {"bits": None, "dtype": "float32"}}
    subjects = (Subject(trained.model, trained.adapter, **exact), Subject(str(merged), None, **exact))
    pairs = list(zip(*(greedy(subject, records, cutoff_len) for subject in subjects), strict=True))
    same = sum(before == after for before, after in pairs)
    if same < len(pairs):
        found = f"{len(pairs) - same} of {len(pairs)} greedy answers, float32, differ from base + adapter"
        raise UserError(f"{found}: the merge is not what was trained; report this with your versions")
    return {"prompts": len(pairs), "identical": same, "tokens": sum(len(before) for before, _ in pairs)}


def check_perplexity(trained: Subject, merged: Path, *how: Any) -> dict[str, Any]:
    """Perplexity as trained, unquantised and merged, paired; UserError for a wrong merge. ``how``: see measure.

    ``share``: the sum over records of |loss merged - loss of base + adapter|, both unquantised, as a share of the same
    sum of what the adapter changes. 0 is a perfect merge; an adapter left out, or merged at twice its scale, is near 1.
    """
    plain = {"bits": None, "dtype": trained.precision["dtype"]}
    model, adapter, template = trained.model, trained.adapter, trained.template
    rows = {"merged": measure(Subject(str(merged), None, template, plain), *how)}
    rows["trained"] = measure(Tuned(model, adapter, template, trained.precision), *how)
    both = measure(Subject(model, adapter, template, plain), *how)
    rows |= {
        new: [row for row in both if row["model"] == old] for new, old in (("base", "base"), ("unquantised", "tuned"))
    }
    found: dict[str, Any] = {}
    for name in ("trained", "unquantised"):
        sides = (("base", rows[name]), ("tuned", rows["merged"]))
        result = summarise([row | {"model": side} for side, group in sides for row in group])
        found |= {name: result["base"], "merged": result["tuned"], f"merged - {name}": result["difference"]}
        del found[f"merged - {name}"]["gain"]
    losses = {name: [sum(row["nll"].values()) for row in group] for name, group in rows.items()}
    off, whole = (
        sum(abs(one - other) for one, other in zip(losses[name], losses["unquantised"], strict=True))
        for name in ("merged", "base")
    )
    if off > SHARE * whole:
        said = f"merged, the held-out losses are off by {off:.3g} nats; the adapter itself changes them by {whole:.3g}"
        raise UserError(f"{said} (expected at most {SHARE:.0%} of it): try infer_dtype=float32, or report this")
    return found | {"share": off / whole if whole else 0.0}


def summary(found: dict[str, Any]) -> str:
    """The check's numbers in lines for people."""
    if not found:
        return "not checked"
    tokens, ppl = found["greedy_float32"], found["perplexity"]
    said = f"{tokens['identical']} of {tokens['prompts']} identical to base + adapter" if tokens else "not compared"
    lines = [f"greedy answers in float32: {said}"]
    lines += [f"perplexity, {label}: {ppl[name]['ppl']:.3f} (n = {ppl[name]['n']})" for name, label in NAMES.items()]
    for name in ("trained", "unquantised"):
        change = ppl[f"merged - {name}"]
        ends = " to ".join(f"{end:+.3f}" for end in change["ci95"]) if change["ci95"] else "none"
        lines.append(f"merged - {NAMES[name]}: {change['ppl']:+.3f} (95% interval: {ends})")
    return "\n".join([*lines, f"the merge is off by {ppl['share']:.1%} of what the adapter changes (unquantised)"])


def check(recipe: dict[str, Any], trained: Subject, merged: Path, exact: Path, data: Path, limit: int) -> dict:
    """What merging changed; also in results/. ``exact``: where a tiny model is merged in float32 for a while."""
    from llamafactory.train.tuner import export_model

    results, tokens = Path("results") / Path(recipe["export_dir"]).name, None
    if sum(file.stat().st_size for file in merged.glob("*.safetensors")) / 2 < TINY:
        export_model(recipe | {"export_dir": str(exact), "infer_dtype": "float32"})
        tokens = check_tokens(trained, read_records(data)[:PROMPTS], recipe.get("cutoff_len", 2048), exact)
    how = (data, recipe.get("cutoff_len", 2048), Store(results / "merge_samples.jsonl"), limit)
    found = {"greedy_float32": tokens, "perplexity": check_perplexity(trained, merged, *how)}
    settings = {"recipe": recipe, "data": str(data), "limit": limit, "trained_precision": trained.precision}
    write_json(results / "merge.json", found | {"settings": settings, "provenance": provenance()})
    return found


def export(recipe: dict[str, Any], trained: Subject, data: Path | None, limit: int = 200) -> dict[str, Any]:
    """Merge into a temporary folder, check, complete and rename it; ``data`` None: no check. Returns the check's."""
    from llamafactory.hparams import get_infer_args
    from llamafactory.train.tuner import export_model
    from transformers import AutoConfig

    target = Path(recipe["export_dir"])
    folder, exact, old = (target.with_name(f".tmp-{name}-{target.name}") for name in ("export", "float32", "old"))
    settings = get_infer_args(recipe)[3]
    if old.exists() and not target.exists():
        old.rename(target)  # a kill between the two renames below
    try:
        export_model(recipe | {"export_dir": str(folder)})
        found = check(recipe, trained, folder, exact, data, limit) if data else {}
        room = AutoConfig.from_pretrained(folder).max_position_embeddings
        context = min(recipe.get("cutoff_len", 2048) + settings.max_new_tokens, room)
        tokenizer, template = load_tokenizer(Subject(str(folder), None, recipe["template"]))
        write_text(folder / "Modelfile", modelfile(template, tokenizer, settings, context))
        write_text(folder / "README.md", render("merged_card.j2", recipe=recipe, summary=summary(found)))
        write_json(folder / MARK, {"recipe": recipe, "trained": trained.identity("tuned"), "notice": NOTICE})
        if target.exists():
            target.rename(old)
        folder.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        for path in (folder, exact):
            shutil.rmtree(path, ignore_errors=True)
    return found


def main() -> None:
    style = {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": f"{EXAMPLES}\n\n{NOTICE}"}
    parser = argparse.ArgumentParser(prog="python -m scripts.export", description=__doc__, **style)
    parser.add_argument("recipe", nargs="?", default="yamls/merge.yaml")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="override a key of the recipe")
    parser.add_argument("--data", type=Path, help="held-out records (default: the adapter's own test split)")
    parser.add_argument("--limit", type=int, default=200, help="records of the perplexities (default: %(default)s)")
    parser.add_argument("--no-check", action="store_true", help="only merge")
    args = parser.parse_intermixed_args()
    recipe = read_recipe(args.recipe, args.overrides)
    adapter = str(recipe["adapter_name_or_path"])
    trained = find_subject(str(recipe["model_name_or_path"]), adapter, template=recipe["template"])
    data = None if args.no_check else args.data or held_out(adapter)
    if data:
        read_records(data)  # a wrong file is said before the merge
    found = export(recipe, trained, data, args.limit)
    print(f"{summary(found)}\nwrote {recipe['export_dir']}; next: docs/export.md\n{NOTICE}")


if __name__ == "__main__":
    run_main(main)
