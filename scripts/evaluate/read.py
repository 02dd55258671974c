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
# What follows these was not asked: a base model goes on with a next turn or question.
TURN_END = re.compile(
    r"<[|｜](?:end▁of▁sentence|User|im_end|endoftext|eot_id)[|｜]>|\n\s*(?:Question|Human|User|题目|问题|用户)\s*\d*\s*[:：]"
)
MARKUP = re.compile(r"[*`$#]+|\\(?:text\w*|math\w+|[()\[\]]|rm\b|bf\b)")
CJK, WORD = re.compile(r"[\u3400-\u9fff]"), re.compile(r"[A-Za-z]{2,}")


def _any(*sources: str) -> str:
    return f"(?:{'|'.join(sources)})"


# Letters that name a thing, not an option.
NAMED = re.compile(
    _any(
        r"\b(?:vitamins?|hepatitis|influenza|types?|groups?|class|stage|grade|factor|protein|category|plan|strep\w*|"
        r"coenzyme|figure|child-?pugh|immunoglobulin)(?: is|:)?\s+[A-J]\b",
        r"(?:维生素|维他命|蛋白|因子|方案|辅酶|血型[是为]?)[A-J]\b",
        r"\b[A-J](?=\s?(?:[型族超级期类肝肽链群区段]|细胞|淋巴|组(?!合)|反应))",
        r"\b[A-J](?= (?:lymphocytes?|cells?|reactive|dimers?)\b)",
        r"\b[A-J](?=\. ?(?:coli|diff\w*|perfringens|botulinum|tetani|cereus|anthracis|burgdorferi|fragilis|pertussis|"
        r"baumannii|fumigatus|faec\w+|albicans|trachomatis|jejuni|histolytica|lamblia|influenzae)\b)",
    ),
    re.A | re.I,
)
# What announces an answer. Between it and the letter only FILLER may stand, which has no "not" in it.
CUE = _any(
    r"\\boxed|\bans\b\.?",
    r"\b(?:answers?|(?:correct|right|best|final|appropriate|likely|suitable|selected|chosen|my) "
    r"(?:choice|option|selection|letter|pick|response|one|statement))\b"
    r"(?:\s(?:to|for|in|of|here|among|from|based|given|that|according|which)\b[^\n:。?]{0,90}?\s(?:is|be|:))?",
    r"\b(?:choose|chose|pick|picked|select|selected|(?:go|going|went) with|opt(?:ed)? for|settled? on|say|guess|think|"
    r"believe|lean(?:ing)? towards?|points? to|leav(?:es?|ing)(?: us with)?|left with|final|only|probably|likely|it's|"
    r"it is|i meant|(?:chang|revis|correct)(?:e|ed|ing)\b[^.\n]{0,30}? to)\b",
    r"\b(?:actually|correction|instead|wait|no|finally|reflection|second thought|scratch that|elimination|"
    r"exclusion)\b[,:]?",
    r"\b(?:not|n't) (?:option )?\(?[A-J]\)?,? (?:but|rather)\b",
    r"答案(?:应该?|就|只能)?|(?<![没候非挑])选(?!项|用)|而是|哦?不[,对]+是|应?改[为成选]|更正为|只?剩下?|倾向于?",
    r"(?:大概|估计|应该?|应当)[是为]",
    r"(?:正确|最佳|合适|适当|恰当|符合|错误|不当)的?(?:选项|选择|一项|说法|叙述)",
)
FILLER = (
    _any(
        r"[\s\"'“”‘’:=>\-–—→(\[{<「『【《】\]}]",
        "选择?项?|答案|应该?|最?可能|字母|[是为当即就了的择定取]",
        r"(?:is|be|are|was|it|should|must|would|will|to|has|seems?|therefore|thus|then|most|likely|probably|clearly|"
        r"definitely|indeed|still|also|the|option|choice|letter|answer|key|either|both|between|boxed|correct|best|only)\b",
    )
    + "{0,40}?"
)
# What is said of a letter that stands before it; WEAK and SO count only where nothing clearer is said.
VERDICT = r"[)\]\"'”.:]*\s*" + _any(
    r"it is\b|fits? best\b|(?:best|correctly) \w+s\b",
    r"(?:选项|项|答案|option)?\s*[才就都应该是为最更]*(?:正确|对(?![于应症比照抗])|符合|恰当|合适|合理)",
    r"[(—–-]*\s*(?:correct\b|right\b|[✓✔✅√])",
    r"(?:is|would be|seems|appears|remains|must be) (?:therefore |thus |clearly |likely )?(?:to be )?(?:the |my )?"
    r"(?:single |only |final )?(?:best|correct|right\b|answer|only|exception|final|\w+ of choice|"
    r"most (?:likely|appropriate|suitable|accurate|consistent|probable|plausible|correct))",
    r"[.):][^\n]{0,300}?(?:\b[Tt]his is (?:therefore )?the (?:correct|best|right)|[是为]正确(?:答案|选项))",
    r"[.):][^\n]{0,300}?[,:;。\s(—-](?:正确|符合题意|[Cc]orrect|[✓✔✅√])[.。!)]*(?=\n|\Z)",
)
SO = r"(?i:\b(?:therefore|thus|hence|so)\b|因此|所以|故)[\s:\"'“(\[,]*"
WEAK = r"(?:(?i:\b(?:is|are|be|conclusion|option|choice)\b)|[:→>是为选]|选项)[\s:\"'“(\[,]*"
LAST = r"(?:[?!。…]\s*|\.+\s+)\(?"  # then a letter that is the whole last sentence
DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|n't|nor|neither|and|or|whether|than|except|besides)\b|[不没勿别非或和与及、/除]|排除)"
    r"\s*(?:either |option |choice |选项?|是|为)*[\s(\"'“]*$",
    re.I | re.A,
)
DENIED_CUE = re.compile(
    r"(?:\b(?:not|never|cannot|avoid|than|incorrect|wrong|un\w+)|n't|错误|"
    r"[不非勿别没](?:应该?|能|可以?|会|要|宜|该|建议)?)\s*(?:to |the |be )*$",
    re.I,
)
DENIED_AFTER = re.compile(
    r"[)\].\"'”\s]*(?:option|选项|项)?\s*(?:(?:is|was|are) (?:not|wrong|incorrect|less|unlikely|false)|isn't|\?|吗|"
    r"[是也都均]?(?:错|不(?:正确|对|符合|合适|恰当|是|成立|考虑|能|应))|[(\s]*[×✗✘❌])",
    re.A,
)
OTHER_CASE = re.compile(
    r"(?:\bif\b(?! (?:i|we) (?:had|have|must|were))[^.\n]*\bwould\b|"
    r"(?:如果|假如|倘若|假设|若[^。\n]*[则就])(?!必须|一定|非))[^.。\n]*$",
    re.I,
)
SENTENCE = re.compile(r"[。;!?\n]|\.\s")
# After "a" or "I": a word, so that the letter is an article or a pronoun.
WORD_FOLLOWS = re.compile(
    r"[ \t]+(?!(?:because|since|as|due|given|and|or|with|based|according|not|rather|but|is|was)\b)[A-Za-z0-9]"
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
    shut = r"[)\]}\"'”.\s]*"
    one = rf"[(\[]?[{letters}][)\]]?"
    joined = rf"[)\]]?(?:\s*[,、]\s*{one})*(?:\s*,?\s*(?:and|or|和|或)\s*{one})?"
    listed = joined + r"[)\]}\s]*(?:[.。;\n]|$|全|等|[均都](?=正确|对|可|符合|是))"
    mark = r"(?<![A-Za-z0-9.])[{letters}](?=[.):]|、(?![A-J]))"
    # options quoted back: the marks A. B. C. … in order, three or more, with no other mark between them
    between = rf"(?:(?!{mark.format(letters=letters)})[\s\S])*"
    steps = [between * bool(i) + mark.format(letters=letter) for i, letter in enumerate(letters)]
    sources = {
        "cue": (rf"{CUE}{FILLER}{any_case}{alone}", re.I),
        "verdict": (rf"(?<![A-Za-z0-9]){upper}{VERDICT}", 0),
        "last": (rf"{LAST}{upper}{other}*\Z", 0),
        "weak": (rf"(?:{WEAK}(?=[{letters}][)\]\"'”]*(?:[.:,;。、\n]|\s*$))|{SO}){upper}{alone}", 0),
        "line": (
            rf"^{other}*(?:option\s+|choice\s+|选项)?{upper}{alone}(?:[)\].:、,。]|\s*\(|\s*$|\s(?=[A-Z])|(?=[\u3400-\u9fff]))",
            re.M,
        ),
        "bare": (rf"^{other}*(?:(?:option|choice|answer|选项|答案){other}*)?{any_case}{other}*$", re.I),
        "mark": (mark.format(letters=letters), 0),
        "listing": (
            "".join(steps[:3]) + "".join(f"(?:{step}" for step in steps[3:]) + ")?" * len(steps[3:]) + "[.):、]",
            0,
        ),
        "or": (rf"{shut}(?:and/or|or|[&/|+]|,? or|或者?|还是|,?\s*也(?:有?可能|许|可以)[是为选]?)\s*{also}", re.I),
        "and": (rf"{shut}(?:and|[和及与])\s*{also}(?!\s+(?:is|was|does|can|has)\b|[错不项])", re.I),
        "list": (rf"{shut}[,、]\s*{also}{listed}", 0),
        "far": (rf"[.)\]:、][^\n]{{0,80}}?(?:\bor|或者?|还是)\s*(?:option )?\(?{upper}[.):、]", 0),
    }
    return {name: re.compile(source, flags | re.A) for name, (source, flags) in sources.items()}


def _plain(text: str) -> str:
    """Half-width characters, no mark-up; nothing after the end of the turn."""
    return MARKUP.sub("", unicodedata.normalize("NFKC", TURN_END.split(text)[0]).replace("_", " ")).strip()


def extract_choice(
    text: str, letters: str = "ABCD", prompt_opened: bool = False, options: dict[str, str] | None = None
) -> str | None:
    """The letter chosen in the answer after the reasoning, or None where there is none or more than one is left open.

    ``letters``: the item's letters in order. ``options`` (letter to text) lets an answer be the option's text alone.
    """
    full = _plain(split_reasoning(text, prompt_opened).answer)
    patterns = _patterns(letters)

    def blank(found: re.Match) -> str:
        return patterns["mark"].sub("•", found[0])

    def read(name: str, passage: str) -> list[tuple[bool, int, str]]:
        found = (_read(at, passage, patterns) for at in patterns[name].finditer(passage))
        return [statement for statement in found if statement]

    def agreed(statements: list[tuple[bool, int, str]]) -> str | None:
        chosen = {letter for _, _, letter in statements}
        return chosen.pop() or None if len(chosen) == 1 else None

    named = NAMED.sub(lambda found: found[0][:-1] + "•", full)
    if bare := patterns["bare"].match(named):
        return bare[1].upper()
    body = patterns["listing"].sub(blank, named)
    said, verdicts = read("cue", body) + read("last", body), read("verdict", named)
    if any(meant for meant, _, _ in said):
        return max(said + verdicts)[2] or None
    if said or verdicts:  # what would be said in other cases, or of single options
        return agreed(said + verdicts)
    told = re.split(CUE, full, flags=re.I | re.A)[1:][-1:]
    if options and told and (letter := _by_text(SENTENCE.split(told[0]), options)):
        return letter
    if rest := read("weak", body) or read("line", body):
        return agreed(rest)
    lines = [line for line in patterns["listing"].sub(blank, full).splitlines() if not line.startswith("•")]
    alone = [line for line in lines if _by_text([line], options or {}, whole=True)]
    return _by_text([*alone[:1], *lines[-1:], " ".join(lines)], options or {})


def _read(found: re.Match, text: str, patterns: dict[str, re.Pattern]) -> tuple[bool, int, str] | None:
    """(meant as such, position, letter or "" where two are left open) of one statement; None where it is denied."""
    at, end = found.span(found.lastindex)
    letter, before, after = text[at], text[max(0, at - 200) : at], text[end : end + 200]
    lead = text[max(0, found.start() - 60) : found.start()]
    if letter in "aAiI" and WORD_FOLLOWS.match(after) and not (letter == "A" and re.match(r" [A-Z][a-z]", after)):
        return None
    if DENIED_CUE.search(lead) or (found.start() == at and DENIED_BEFORE.search(before)) or DENIED_AFTER.match(after):
        return None
    others = (patterns[name].match(after) for name in ("or", "and", "list", "far"))
    open_ = any(other and other[1].upper() != letter.upper() for other in others)
    return not OTHER_CASE.search(before), at, "" if open_ else letter.upper()


def _by_text(passages: list[str], options: dict[str, str], whole: bool = False) -> str | None:
    """The only option whose text stands in the first passage that holds any; a longer option hides those inside it.

    ``whole``: the passage must be nothing but the option.
    """
    flat = {letter: re.sub(r"\W+", " ", _plain(option)).strip().lower() for letter, option in options.items()}
    for passage in passages:
        rest, found = re.sub(r"\W+", " ", passage).strip().lower(), []
        for letter, option in sorted(flat.items(), key=lambda pair: -len(pair[1])):
            pattern = re.escape(option) if CJK.search(option) else rf"(?<!\w){re.escape(option)}(?!\w)"
            rest, times = re.subn(pattern, " ", rest) if option else (rest, 0)
            found += [letter] * bool(times)
        if found:
            return found[0] if len(found) == 1 and not (whole and rest.strip()) else None
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
