"""Score the same hand-read outputs by our extractor, lm-eval's filters and HuatuoGPT-o1-style scoring.

    python -m scripts.bench.answers                 print the table, write docs/answer_extraction.{json,md}
    python -m scripts.bench.answers --errors        print what ours got wrong in the half we develop on

tests/data/answers_500.jsonl holds outputs and the letter a person reads in each (null: none, or more than one). Half of
them, by a hash of the id, were looked at while the patterns were written; the other half was only counted.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Callable

from scripts.common import ROOT, UserError, file_hash, provenance, read_jsonl, run_main, write_json, write_text
from scripts.evaluate.answers import extract_choice
from scripts.evaluate.stats import mcnemar_exact, proportion_ci

DATA = "tests/data/answers_500.jsonl"
FLAN = r"(\([A-Z]\))"  # of lm-eval's mmlu_flan_cot_zeroshot, "flexible-extract"
MMLU_PRO = r"answer is \(?([ABCDEFGHIJ])\)?"  # of lm-eval's mmlu_pro, "custom-extract"
Reader = Callable[[dict], set[str]]  # letters for which the scorer would credit the output


def ours(row: dict) -> set[str]:
    """scripts.evaluate.answers, as the evaluation calls it."""
    choice = extract_choice(row["text"], row["letters"], row["prompt_opened"], row["options"])
    return {choice} - {None}


def lm_eval_filter(name: str, **settings: str | int | bool) -> Reader:
    """A filter class of lm-eval on what its ``think_end_token`` leaves, then its take_first."""
    from lm_eval.filters import extraction
    from lm_eval.models.utils import postprocess_generated_text

    chosen = getattr(extraction, name)(**settings)

    def read(row: dict) -> set[str]:
        text = postprocess_generated_text(row["text"], [], "</think>")
        doc = {"choices": list((row["options"] or dict.fromkeys(row["letters"], "\0")).values())}
        return {chosen.apply([[text]], [doc])[0][0].strip("()")} & set(row["letters"])

    return read


def huatuo_style(row: dict) -> set[str]:
    """As HuatuoGPT-o1's scorer is described: "answer is X", else letters, else options' texts; first and last count."""
    text = row["text"].split("</think>")[-1]
    letters = "".join(row["letters"])
    for pattern in (rf"answer is\s*?\(?([{letters}])", rf"(?:^|[^A-Za-z])([{letters}])(?![A-Za-z])"):
        if found := re.findall(pattern, text):
            return {found[0], found[-1]}
    options = {option.lower(): letter for letter, option in (row["options"] or {}).items()}
    places = sorted(
        (at.start(), letter) for o, letter in options.items() for at in re.finditer(re.escape(o), text.lower())
    )
    return {places[0][1], places[-1][1]} if places else set()


def figures(rows: list[dict], read: list[set[str]], reference: list[bool] | None) -> dict:
    """Agreement with the truth and the kinds of error; ``reference``: where our extractor agrees, for McNemar's p."""
    truth = [{row["truth"]} - {None} for row in rows]
    agrees = [found == want for found, want in zip(read, truth, strict=True)]
    pairs = list(zip(read, truth, rows, strict=True))
    return {
        "n": len(rows),
        "agreement": sum(agrees) / len(rows),
        "ci95": proportion_ci(sum(agrees), len(rows)),
        "p_against_ours": mcnemar_exact(agrees, reference)["p"] if reference else None,
        "wrong_letter": sum(bool(found and want and found != want) for found, want, _ in pairs),
        "invented": sum(bool(found and not want) for found, want, _ in pairs),
        "missed": sum(bool(want and not found) for found, want, _ in pairs),
        "random_key_accuracy": sum(len(found) / len(row["letters"]) for found, _, row in pairs) / len(rows),
        "random_key_accuracy_of_truth": sum(len(want) / len(row["letters"]) for _, want, row in pairs) / len(rows),
    }


def half(row: dict) -> str:
    """The half an output belongs to: ``developed on`` (its errors were looked at) or ``held out``."""
    return "held out" if hashlib.sha256(str(row["id"]).encode()).digest()[0] % 2 else "developed on"


def main() -> None:
    """Score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=DATA, help=f"outputs with truth ({DATA})")
    parser.add_argument(
        "--errors", action="store_true", help="print our errors in the half we develop on; write nothing"
    )
    options = parser.parse_args()
    rows = [row for _, row in read_jsonl(options.data)]
    if not rows:
        raise UserError(f"{options.data}: no outputs; restore the file from the repository")
    if options.errors:
        for row in rows:
            if half(row) == "developed on" and ours(row) != {row["truth"]} - {None}:
                print(f"{row['id']} want {row['truth']} got {ours(row) or None}: {row['note']}\n{row['text']!r}\n")
        return
    scorers: dict[str, Reader] = {
        "MedCoT (scripts/evaluate/answers.py)": ours,
        "lm-eval regex (mmlu_pro)": lm_eval_filter("RegexFilter", regex_pattern=MMLU_PRO),
        "lm-eval multi_choice_regex (mmlu_flan_cot_zeroshot)": lm_eval_filter(
            "MultiChoiceRegexFilter", regex_pattern=FLAN, group_select=-1, ignore_case=True, ignore_punctuation=True
        ),
        "HuatuoGPT-o1-style (first or last)": huatuo_style,
    }
    groups = {"all": rows} | {name: [r for r in rows if half(r) == name] for name in ("developed on", "held out")}
    groups |= {lang: [r for r in rows if r["lang"] == lang] for lang in sorted({r["lang"] for r in rows})}
    result: dict = {"data": DATA, "data_hash": file_hash(options.data), "groups": {}}
    head = "| scorer | n | agreement [95%] | wrong letter | invented | missed | accuracy with random keys (truth) | p |"
    lines = [f"# Reading letters from outputs\n\n{__doc__.split(chr(10) * 2, 2)[2].strip()}\n"]
    for group, chosen in groups.items():
        reference = [ours(row) == {row["truth"]} - {None} for row in chosen]
        lines += [f"## {group}\n", head, "|---" * 8 + "|"]
        for name, reader in scorers.items():
            cell = figures(chosen, [reader(row) for row in chosen], None if reader is ours else reference)
            result["groups"].setdefault(group, {})[name] = cell
            low, high = cell["ci95"]
            p = "–" if cell["p_against_ours"] is None else f"{cell['p_against_ours']:.2g}"
            lines.append(
                f"| {name} | {cell['n']} | {cell['agreement']:.1%} [{low:.1%}, {high:.1%}] | {cell['wrong_letter']} | "
                f"{cell['invented']} | {cell['missed']} | {cell['random_key_accuracy']:.3f} "
                f"({cell['random_key_accuracy_of_truth']:.3f}) | {p} |"
            )
        lines.append("")
    result["provenance"] = provenance()
    print("\n".join(lines))
    write_json(ROOT / "docs" / "answer_extraction.json", result)
    write_text(ROOT / "docs" / "answer_extraction.md", "\n".join(lines))


if __name__ == "__main__":
    run_main(main)
