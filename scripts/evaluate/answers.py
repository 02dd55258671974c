"""Read a model's text: its reasoning, its answer, the letter it chose. Pure, and the only place that reads model text.

The rule for a letter: the last statement of an answer in the text after ``</think>``; never the better of first and
last. A statement that leaves two letters open ("C or D"), or none at all, is None: the item counts as unparsed.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

OPEN, CLOSE = re.compile(r"<\s*think\s*>", re.I), re.compile(r"<\s*/\s*think\s*>", re.I)
SPECIAL = re.compile(r"<[|｜][^<>|｜\n]{1,40}[|｜]>|</?s>|\[/?INST\]")
TURN_END = re.compile(r"<[|｜](?:end▁of▁sentence|User|im_end|endoftext|eot_id)[|｜]>")
MARKUP = re.compile(r"[*`$#_]+|\\(?:text\w*|math\w+|[()\[\]]|rm\b|bf\b)")
CJK, WORD = re.compile(r"[\u3400-\u9fff]"), re.compile(r"[A-Za-z]{2,}")

# Letters that name a thing, not an option: vitamin A, hepatitis B, 维生素C, B型, C反应蛋白, E. coli, T cell.
NAMED = re.compile(
    r"(?:\b(?:vitamins?|hepatitis|influenza|types?|groups?|class|stage|grade|factor|protein|category|plan|strep\w*|"
    r"haemophilus|coenzyme|figure|child-?pugh|immunoglobulin)\s+|维生素|维他命|蛋白|因子|方案|辅酶)[A-J]\b"
    r"|\b[A-J](?=\s?(?:[型族超级期类肝链群区段]|细胞|淋巴|组(?!合)|反应|lymphocytes?\b|cells?\b|reactive\b|dimers?\b))"
    r"|\b[A-J](?=\. ?(?:coli|diff\w*|perfringens|botulinum|tetani|cereus|anthracis|burgdorferi|fragilis|pertussis|"
    r"baumannii|fumigatus|faec\w+|albicans|trachomatis|jejuni|histolytica|lamblia|influenzae)\b)",
    re.A | re.I,
)
# Words between a cue and its letter. There is no "not" here: a denied letter is no statement.
FILLER = (
    r"(?:[\s\"'“”‘’:=>\-–—→(\[{<「『【《】\]}]|选择?项?|答案|应该?|最?可能|字母|[是为当即就了的择定取]|(?:is|be|are|was|it|should|must|"
    r"would|will|to|has|seems?|therefore|thus|then|most|likely|probably|clearly|definitely|indeed|still|also|the|"
    r"option|choice|letter|answer|key|either|both|between|boxed|correct|best|only)\b){0,40}?"
)
GAP = r"(?:\s(?:to|for|in|of|here|among|from|based|given|that|according|which)\b[^\n:。?]{0,90}?\s(?:is|be|:))?"
CUE = (
    r"(?:\\boxed|\bans\b\.?|\b(?:answers?|(?:correct|right|best|final|appropriate|likely|suitable|selected|chosen|my) "
    r"(?:choice|option|selection|letter|pick|response|one|statement))\b" + GAP + r"|"
    r"\b(?:choose|chose|pick|picked|select|selected|(?:go|going|went) with|opt(?:ed)? for|settled? on|say|guess|"
    r"lean(?:ing)? towards?|points? to|final|it's|it is)\b|\b(?:actually|correction|instead|wait|no),?(?=\s)|"
    r"\b(?:not|n't) (?:option )?\(?[A-J]\)?,? (?:but|rather)\b|而是|应该?[是为]|应当[是为]|"
    r"答案(?:应该?|就|只能)?|(?<![不没勿别可候非挑])选(?!项|用)|(?:正确|最佳|合适|适当|恰当|符合|错误|不当)的?(?:选项|选择|一项|说法|叙述))"
)
WEAK = (
    r"(?i:\b(?:is|are|be|therefore|thus|hence|so|conclusion|option|choice)\b|[:→>是为选故]|因此|所以|选项)[\s:\"'“(\[,]*"
    r"|[.?!。]\s+\(?(?=[A-Z]\W*\Z)"
)
VERDICT = (
    r"[)\]\"'”.:]*\s*(?:(?:选项|项|答案|option)?\s*[才就都应该是为最]*(?:正确|对(?![于应症比照抗])|符合|恰当|合适|合理)|[—–-]*\s*"
    r"(?:correct\b|right\b|[✓✅√])|(?:is|would be|seems|appears|remains|must be) (?:therefore |thus |clearly |likely )?"
    r"(?:to be )?(?:the |my )?(?:single |only |final )?(?:best|correct|right\b|answer|only|exception|final|most "
    r"(?:likely|appropriate|suitable|accurate|consistent|probable|plausible|correct))|(?:best|correctly) \w+s\b|"
    r"[.):][^\n]{0,300}?(?:\b[Tt]his is (?:therefore )?the (?:correct|best|right)|[是为]正确(?:答案|选项)))"
)
DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|n't|nor|neither|and|or|whether|than|except|besides)\b|[不没勿别非或和与及、/除]|排除)"
    r"\s*(?:either |option |choice |选项?|是|为)*[\s(\"'“]*$",
    re.I | re.A,
)
NEGATED = re.compile(
    r"(?:\b(?:not|never|cannot|avoid|than|incorrect|wrong|un\w+)|n't|错误|[不非])\s*(?:to |the |be )*$", re.I
)
DENIED_AFTER = re.compile(
    r"[)\].\"'”\s]*(?:option|选项|项)?\s*(?:(?:is|was|are) (?:not|wrong|incorrect|less|unlikely|false)|isn't|"
    r"[是也都均]?(?:错|不(?:正确|对|符合|合适|恰当|是|成立|考虑|能|应))|\?|吗)",
    re.A,
)
HYPOTHETICAL = re.compile(
    r"(?:\bif\b(?! (?:i|we) (?:had|have|must|were))[^.\n]*\bwould\b|(?:如果|假如|倘若|假设)(?!必须|一定|非))[^.。\n]*$",
    re.I,
)
PRONOUN = re.compile(
    r"\s+(?!(?:because|since|as|due|given|and|or|with|based|according|not|rather|but|is|was)\b)[A-Za-z0-9]"
)


class Reasoning(NamedTuple):
    """The parts of one output, stripped. ``closed``: no thought is left open at the end of the text."""

    thought: str
    answer: str
    closed: bool


def split_reasoning(text: str, prompt_opened: bool = False) -> Reasoning:
    """Split at ``</think>``: before it the thought (an opening tag is optional), after it the answer.

    ``prompt_opened``: the prompt ended with ``<think>\\n``, so text without a closing tag is an unfinished thought.
    Text without any tag is all answer. Where thoughts follow each other, the answer is the last text outside of them.
    """
    pieces = CLOSE.split(text)
    if len(pieces) == 1 and not prompt_opened and not OPEN.search(text):
        return Reasoning("", text.strip(), True)
    outside = [OPEN.split(piece, maxsplit=1) for piece in pieces[1:]]
    thoughts = [OPEN.sub("", pieces[0]), *(part[1] for part in outside if len(part) > 1)]
    answer = next((part[0].strip() for part in reversed(outside) if part[0].strip()), "")
    closed = len(pieces) > 1 and len(outside[-1]) == 1
    return Reasoning("\n".join(thoughts).strip(), answer, closed)


@lru_cache
def _patterns(letters: str) -> dict[str, re.Pattern]:
    """Patterns for a set of letters; each has the chosen one in its last group."""
    upper, any_case = f"([{letters}])", f"([{letters}{letters.lower()}])"
    other = r"[^A-Za-z0-9\n\u3400-\u9fff]"
    alone = r"(?![A-Za-z0-9+])(?!['’-]\w)(?![./][a-z])"
    also = rf"(?:maybe |possibly |option |choice |选项?)*[(\[\"']*{upper}(?![A-Za-z0-9])"
    joined = rf"(?:\s*[,、]\s*[{letters}])*(?:\s*,?\s*(?:and|or|和|或)\s*[{letters}])?"
    listed = joined + r"[)\]\s]*(?:[.。;\n]|$|[均都](?=正确|对|可|符合|是))"
    mark = r"(?<![A-Za-z0-9.])[{letters}](?:[.):]|、(?![A-J]))"
    # options quoted back: the marks A. B. C. … in order, three or more, with no other mark between them
    between = rf"(?:(?!{mark.format(letters=letters)})[\s\S])*"
    steps = [between * bool(i) + mark.format(letters=letter) for i, letter in enumerate(letters)]
    sources = {
        "cue": (rf"{CUE}{FILLER}{any_case}{alone}", re.I),
        "verdict": (rf"(?<![A-Za-z0-9]){upper}{VERDICT}", 0),
        "weak": (rf"(?:{WEAK}){upper}{alone}(?=[)\]\"'”]*(?:[.:,;。、\n]|\s*$))", 0),
        "line": (
            rf"^{other}*(?:option\s+|choice\s+|选项)?{upper}{alone}(?:[)\].:、,。]|\s*$|\s(?=[A-Z])|(?=[\u3400-\u9fff]))",
            re.M,
        ),
        "bare": (rf"^{other}*(?:(?:option|choice|answer|选项|答案){other}*)?{any_case}{other}*$", re.I),
        "mark": (mark.format(letters=letters), 0),
        "listing": ("".join(steps[:3]) + "".join(f"(?:{step}" for step in steps[3:]) + ")?" * len(steps[3:]), 0),
        "joint": (
            rf"[)\]}}\"'”.\s]*(?:and/or|or|and|[&/|]|,? or|或者?|还是|[和及与])\s*{also}"
            r"(?!\s+(?:is|was|does|can|has)\b|[错不项])",
            re.I,
        ),
        "list": (rf"[)\]}}\"'”\s]*[,、]\s*{also}{listed}", 0),
        "far": (rf"[.)\]:、][^\n]{{0,80}}?(?:\bor|或者?|还是)\s*(?:option )?\(?{upper}[.):、]", 0),
    }
    return {name: re.compile(source, flags | re.A) for name, (source, flags) in sources.items()}


def _plain(text: str) -> str:
    """Half-width characters, no mark-up; nothing after the end of the turn."""
    return MARKUP.sub("", unicodedata.normalize("NFKC", TURN_END.split(text)[0])).strip()


def extract_choice(
    text: str, letters: str = "ABCD", prompt_opened: bool = False, options: dict[str, str] | None = None
) -> str | None:
    """The letter chosen in the answer after the reasoning, or None where there is none or more than one is left open.

    ``letters``: the item's letters in order. ``options`` (letter to text) lets an answer be the option's text alone.
    """
    full = _plain(split_reasoning(text, prompt_opened).answer)
    patterns = _patterns(letters)
    named = NAMED.sub(lambda found: found[0][:-1] + "•", full)
    if bare := patterns["bare"].match(named):
        return bare[1].upper()
    body = patterns["listing"].sub(lambda run: patterns["mark"].sub("•", run[0]), named)
    cues = [read for found in patterns["cue"].finditer(body) if (read := _read(found, body, patterns))]
    verdicts = [read for found in patterns["verdict"].finditer(named) if (read := _read(found, named, patterns))]
    if not cues and len({letter for _, _, letter in verdicts}) > 1:
        return None
    if cues or verdicts:
        return max(cues + verdicts)[2] or None
    if options and (letter := _by_text(re.split(CUE, full, flags=re.I | re.A)[1:][-1:], options)):
        return letter
    for name in ("weak", "line"):
        found = {read[2] for at in patterns[name].finditer(body) if (read := _read(at, body, patterns))}
        if found:
            return found.pop() or None if len(found) == 1 else None
    last = full.splitlines()[-1:]
    return _by_text([*last, full], options) if options else None


def _read(found: re.Match, text: str, patterns: dict[str, re.Pattern]) -> tuple[bool, int, str] | None:
    """(meant as such, position, letter or "" where two are left open) of one statement; None where it is denied."""
    at, end = found.span(found.lastindex)
    letter, before, after = text[at], text[max(0, at - 200) : at], text[end : end + 200]
    lead = text[max(0, found.start() - 60) : found.start()]
    if letter in "aAiI" and PRONOUN.match(after) and not (letter == "A" and re.match(r" [A-Z][a-z]", after)):
        return None
    if NEGATED.search(lead) or (found.start() == at and DENIED_BEFORE.search(before)) or DENIED_AFTER.match(after):
        return None
    others = (patterns[name].match(after) for name in ("joint", "list", "far"))
    open_ = any(other and other[1].upper() != letter.upper() for other in others)
    return not HYPOTHETICAL.search(before), at, "" if open_ else letter.upper()


def _by_text(passages: list[str], options: dict[str, str]) -> str | None:
    """The only option whose text stands in the first passage that holds any; a longer option hides those inside it."""
    flat = {letter: re.sub(r"\W+", " ", _plain(option)).strip().lower() for letter, option in options.items()}
    for passage in passages:
        rest, found = re.sub(r"\W+", " ", passage).lower(), []
        for letter, option in sorted(flat.items(), key=lambda pair: -len(pair[1])):
            pattern = re.escape(option) if CJK.search(option) else rf"(?<!\w){re.escape(option)}(?!\w)"
            rest, times = re.subn(pattern, " ", rest) if option else (rest, 0)
            found += [letter] * bool(times)
        if found:
            return found[0] if len(found) == 1 else None
    return None


def in_language(text: str, lang: str) -> bool:
    """Whether a text is in ``zh`` (at least half Chinese among Chinese characters and Latin words) or ``en`` (at most a
    fifth). True for any other ``lang``, which is not checked, and for a text like "C", which has no language.
    """
    chinese, words = len(CJK.findall(text)), len(WORD.findall(text))
    share = chinese / max(1, chinese + words)
    return {"zh": share >= 0.5, "en": share <= 0.2}.get(lang, True) or chinese + words == 0


def format_problems(text: str, question_lang: str, prompt_opened: bool = False) -> list[str]:
    """Names of what is wrong with an output's form, in a fixed order; empty where it is well formed.

    no_reasoning, unclosed_reasoning, repeated_tag, no_answer, special_token, answer_language (see ``in_language``).
    """
    parts = split_reasoning(text, prompt_opened)
    opened, closed = len(OPEN.findall(text)) + prompt_opened, len(CLOSE.findall(text))
    problems = {
        "no_reasoning": not parts.thought,
        "unclosed_reasoning": not parts.closed,
        "repeated_tag": max(opened, closed) > 1,
        "no_answer": not parts.answer,
        "special_token": bool(SPECIAL.search(text)),
        "answer_language": not in_language(parts.answer, question_lang),
    }
    return [name for name, found in problems.items() if found]
