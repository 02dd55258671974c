"""Vote blind on pairs of answers in a browser: ``python -m scripts.evaluate review results/demo --reviewer NAME``.

The page listens on this machine alone and loads nothing from elsewhere. Which model stands left is drawn per reviewer
and pair; each vote is appended to ``votes.jsonl`` at once, so that closing the page loses nothing. Two answers that are
the same, or both empty, are a tie that nobody is asked about. `report` shows the result.
"""

import errno
import hashlib
import html
import json
import os
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.chat.hosting import QUIET, check_machine, preferred, require_password, run_page, url, without_proxies
from scripts.common import NOTICE, NOTICE_ZH, UserError, read_json, read_jsonl
from scripts.page import STYLE

CHOICES = ("left", "right", "tie", "skip")
TEXTS = read_json(Path(__file__).with_name("review.json"))
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
    line = f"{json.dumps(row, ensure_ascii=False)}\n".encode()
    with votes.open("ab", buffering=0) as file:
        whole = file.seek(0, os.SEEK_END)
        try:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(votes))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(whole)  # half a vote would make the whole file unreadable
            raise


def card(answer: str, thought: str, texts: dict[str, str]) -> str:
    """An answer with its reasoning folded; the model's text is escaped, never rendered."""
    fold = f"<details><summary>{texts['thought']}</summary>"
    folded = f'{fold}<div class="text">{html.escape(thought)}</div></details>' if thought else ""
    return f'<div class="card">{folded}<div class="text">{html.escape(answer) or texts["nothing"]}</div></div>'


def report_command(folder: Path) -> str:
    """What to run next."""
    return f"python -m scripts.evaluate report {shlex.quote(str(folder))}"


def show(pairs: list[dict], votes: Path, reviewer: str, texts: dict[str, str]) -> tuple[str, str, str, str]:
    """HTML of progress, question, left and right answer for the next open pair."""
    left = open_pairs(pairs, votes, reviewer)
    done = f"{len(pairs) - len(left)} / {len(pairs)}"
    if not left:
        end = f"{done} · {texts['done']}<br><code>{report_command(votes.parent)}</code>"
        return end, "", "", ""
    pair = left[0]
    sides = ("tuned", "base") if is_swapped(reviewer, pair["id"]) else ("base", "tuned")
    asked = f'<b>{texts["question"]}</b><div class="text">{html.escape(pair["question"])}</div>'
    answers = (card(pair[side], pair.get(f"{side}_thought", ""), texts) for side in sides)
    return done, f'<div class="card">{asked}</div>', *answers


def build_page(folder: Path, reviewer: str) -> Any:
    """The Gradio page, in the browser's language."""
    pairs, votes = read_pairs(folder), folder / "votes.jsonl"  # before the import, which takes seconds
    os.environ.update(QUIET)
    with without_proxies():
        import gradio as gr

    def now(request: gr.Request) -> tuple[str, str, str, str]:
        return show(pairs, votes, reviewer, TEXTS[preferred(request.headers, TEXTS)])

    def opened(request: gr.Request) -> list[str]:
        texts = TEXTS[preferred(request.headers, TEXTS)]
        return [f"<h2>{texts['ask']}</h2>", *now(request), *(texts[choice] for choice in CHOICES)]

    def voting(choice: str) -> Any:
        def vote(shown: str, request: gr.Request) -> tuple:
            current = open_pairs(pairs, votes, reviewer)
            # A second click that arrives late belongs to a pair that was voted on already.
            if current and now(request)[1] == shown:
                for pair in open_pairs(pairs, votes, reviewer, same=True):  # with a first vote, not when the page opens
                    save_vote(votes, reviewer, pair, "tie")
                save_vote(votes, reviewer, current[0], choice)
            return now(request)

        return vote

    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no fonts from the network
    head = f"<style>{STYLE.read_text('utf-8')}</style>{HEAD.read_text('utf-8')}"
    with gr.Blocks(title="MedCoT review", analytics_enabled=False, head=head, theme=theme) as page:
        ask = gr.HTML()
        gr.HTML(f"<small>{NOTICE} {NOTICE_ZH}</small>")
        progress, question = gr.HTML(elem_id="progress"), gr.HTML(elem_id="question")
        sides = []
        with gr.Row():
            for side in ("left", "right"):
                with gr.Column(min_width=280):  # on a phone one below the other
                    sides.append(gr.HTML(elem_id=side))
        outputs = [progress, question, *sides]
        buttons = []
        with gr.Row():
            for choice in CHOICES:
                kind = "secondary" if choice == "skip" else "primary"
                button = gr.Button(elem_id=f"vote-{choice}", variant=kind)
                button.click(voting(choice), question, outputs, api_name=False)
                buttons.append(button)
        page.load(opened, None, [ask, *outputs, *buttons], api_name=False)
    return page


def launch(folder: Path, reviewer: str, port: int, host: str = "127.0.0.1") -> None:
    """Serve the page until interrupted. UserError where the port is taken, or anybody could come in."""
    password = require_password(host, "MEDCOT_REVIEW_PASSWORD")
    check_machine(host, port)
    votes = folder / "votes.jsonl"
    if not os.access(votes if votes.exists() else folder, os.W_OK):
        raise UserError(f"{votes}: cannot be written; make it writable, or copy {folder} to where you may write")
    print(f"{NOTICE}\nopens at {url(host, port)} in some seconds", flush=True)
    page = build_page(folder, reviewer)
    print(f"votes go to {votes}; then: {report_command(folder)}", flush=True)
    run_page(page, host, port, password)
