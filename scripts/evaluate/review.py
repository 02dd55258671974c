"""Vote blind on pairs of answers in a browser: ``python -m scripts.evaluate review results/demo --reviewer NAME``.

The page listens on this machine alone and loads nothing from elsewhere. Which model stands left is drawn per reviewer
and pair; each vote is appended to ``votes.jsonl`` at once, so that closing the page loses nothing. Two answers that are
the same, or both empty, are a tie that nobody is asked about. `report` shows the result.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.chat.hosting import QUIET, check_machine, require_password, run_page, url, without_proxies
from scripts.common import NOTICE, NOTICE_ZH, UserError, read_jsonl
from scripts.page import STYLE

CHOICES = {"left": "1 · Left is better · 左边更好", "right": "2 · Right is better · 右边更好"}
CHOICES |= {"tie": "0 · Equally good · 相当", "skip": "S · Skip · 跳过"}
HEAD = Path(__file__).with_name("templates") / "review.html"  # its style, and keys that press the buttons


def read_pairs(folder: Path) -> list[dict]:
    """The pairs of an evaluation; raises UserError where there are none."""
    if not (folder / "pairs.jsonl").is_file():
        raise UserError(f"{folder}: no pairs.jsonl; run `make eval` first (with an adapter and held-out records)")
    return [row for _, row in read_jsonl(folder / "pairs.jsonl")]


def pair_key(pair: dict) -> str:
    """What a vote belongs to: the two texts, so that votes on an earlier run's answers are not counted for this one."""
    return hashlib.sha256(json.dumps([pair["id"], pair["base"], pair["tuned"]]).encode()).hexdigest()[:16]


def is_swapped(reviewer: str, pair_id: str) -> bool:
    """Whether the tuned model stands left: a fixed coin per reviewer and pair."""
    return hashlib.sha256(f"{reviewer}\n{pair_id}".encode()).digest()[0] % 2 == 1


def is_same(pair: dict) -> bool:
    """Whether there is nothing to choose between: the answers are identical, or both empty."""
    return pair["base"].split() == pair["tuned"].split()


def open_pairs(pairs: list[dict], votes: Path, reviewer: str, same: bool = False) -> list[dict]:
    """Pairs this reviewer has not voted on, in an order of its own; ``same``: those nobody is asked about."""
    cast = [vote for _, vote in read_jsonl(votes)] if votes.exists() else []
    done = {vote["pair"] for vote in cast if vote["reviewer"] == reviewer}
    left = [pair for pair in pairs if pair_key(pair) not in done and is_same(pair) == same]
    return sorted(left, key=lambda pair: hashlib.sha256(f"{pair['id']}\n{reviewer}".encode()).digest())


def save_vote(votes: Path, reviewer: str, pair: dict, choice: str) -> None:
    """Append one vote in terms of the models and flush it to the disk."""
    swapped = is_swapped(reviewer, pair["id"])
    meant = {"left": ("base", "tuned")[swapped], "right": ("tuned", "base")[swapped]}.get(choice, choice)
    row = {"reviewer": reviewer, "id": pair["id"], "pair": pair_key(pair), "vote": meant, "tuned_left": swapped}
    row |= {"asked": not is_same(pair), "time": datetime.now(UTC).isoformat()}
    with votes.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def card(answer: str, thought: str) -> str:
    """An answer with its reasoning folded; the model's text is escaped, never rendered."""
    fold = "<details><summary>Reasoning · 思考过程</summary>"
    folded = f'{fold}<div class="text">{html.escape(thought)}</div></details>' if thought else ""
    return f'<div class="card">{folded}<div class="text">{html.escape(answer) or "(no answer · 无答案)"}</div></div>'


def report_command(folder: Path) -> str:
    """What to run next."""
    return f"python -m scripts.evaluate report {shlex.quote(str(folder))}"


def show(pairs: list[dict], votes: Path, reviewer: str) -> tuple[str, str, str, str]:
    """HTML of progress, question, left and right answer for the next open pair."""
    left = open_pairs(pairs, votes, reviewer)
    done = f"{len(pairs) - len(left)} / {len(pairs)}"
    if not left:
        end = f"{done} · All done, thank you · 已全部完成，谢谢<br><code>{report_command(votes.parent)}</code>"
        return end, "", "", ""
    pair = left[0]
    sides = ("tuned", "base") if is_swapped(reviewer, pair["id"]) else ("base", "tuned")
    question = f'<div class="card"><b>Question · 问题</b><div class="text">{html.escape(pair["question"])}</div></div>'
    return done, question, *(card(pair[side], pair.get(f"{side}_thought", "")) for side in sides)


def build_page(folder: Path, reviewer: str) -> Any:
    """The Gradio page."""
    os.environ.update(QUIET)
    with without_proxies():
        import gradio as gr

    pairs, votes = read_pairs(folder), folder / "votes.jsonl"

    def vote(shown: str, choice: str) -> tuple:
        current = open_pairs(pairs, votes, reviewer)
        # A second click that arrives late belongs to a pair that was voted on already.
        if current and show(pairs, votes, reviewer)[1] == shown:
            for pair in open_pairs(pairs, votes, reviewer, same=True):  # with a first vote, not when the page opens
                save_vote(votes, reviewer, pair, "tie")
            save_vote(votes, reviewer, current[0], choice)
        return show(pairs, votes, reviewer)

    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no fonts from the network
    title, words = "MedCoT: blind review · 盲评", "Which answer serves the asker better? 哪个回答对提问者更好？"
    head = f"<style>{STYLE.read_text('utf-8')}</style>{HEAD.read_text('utf-8')}"
    with gr.Blocks(title=title, analytics_enabled=False, head=head, theme=theme) as page:
        gr.HTML(f"<h2>{title}</h2>{words}<br><small>{NOTICE} {NOTICE_ZH}</small>")
        progress, question = gr.HTML(elem_id="progress"), gr.HTML(elem_id="question")
        with gr.Row():
            sides = [gr.HTML(elem_id="left"), gr.HTML(elem_id="right")]
        outputs = [progress, question, *sides]
        with gr.Row():
            for choice, label in CHOICES.items():
                kind = "secondary" if choice == "skip" else "primary"
                button = gr.Button(label, elem_id=f"vote-{choice}", variant=kind)
                button.click(lambda shown, choice=choice: vote(shown, choice), question, outputs, show_api=False)
        page.load(lambda: show(pairs, votes, reviewer), None, outputs, show_api=False)
    return page


def launch(folder: Path, reviewer: str, port: int, host: str = "127.0.0.1") -> None:
    """Serve the page until interrupted. UserError where the port is taken, or anybody could come in."""
    password = require_password(host, "MEDCOT_REVIEW_PASSWORD")
    check_machine(host, port)
    print(f"{NOTICE}\nopens at {url(host, port)} in some seconds", flush=True)
    page = build_page(folder, reviewer)
    print(f"votes go to {folder / 'votes.jsonl'}; then: {report_command(folder)}", flush=True)
    run_page(page, host, port, password)
