"""Read a model's text: its reasoning, its answer, the letter it chose. Pure, and the only place that reads letters.

The letter is read strictly (docs/evaluation.md): the last statement of an answer after the thought; where there
is none, an option named in a concluding sentence or line, if nothing speaks against it. Never from an option's text.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import takewhile
from typing import Literal, NamedTuple

THINK = ("<think>", "</think>")
# What follows the end of a turn, or a next question, was not asked.
TURN_END = re.compile(
    r"<[|｜][^<>|｜\n]{1,40}[|｜]>|</?s>|<end_of_turn>|(?<![和与])<eo[as]>|\[/?INST\]|<(?:human|user|bot)>:?"
    r"|\n\s*(?:Q|Question|Human|User|Instruction|下一?题|题目|问题|用户|请你?回答)\s*\d*\s*:",
    re.I,
)
# A next question that has no such mark: it ends the answer where one was stated.
NEXT = re.compile(
    r"\n\W*(?:(?:next |new )?question ?\d*\W*(?:\n|: )|第?\d+题|下一?[题道]|题目? ?\d"
    r"|\d+[.、] ?(?:[^\n]{1,200}\?|患者|[男女],|某[男女患]|下列|关于|an? \d+[- ](?:year|month|week|day)))",
    re.I,
)
MARKUP = re.compile(r"<eo\w>|[*`$#\"“”‘「」『』]|(?<![a-z])'|'(?![a-z])|\\(?:text\w*|math\w+|rm\b|bf\b|[()\[\]])")
PLAIN = str.maketrans(
    "選擇項應該為確當還與說題問適誤錯類級組細種備✘✗❌✓✔✅_’", "选择项应该为确当还与说题问适误错类级组细种备xxxxxx '"
)

# A letter that stands alone: no part of a word, no variable, no type or cell, no article or pronoun, no species.
ALONE = r"""(?![A-Za-z0-9+'-] | \s?=\s | \s?(?:[型族期级类组群超反肽波链段度形]|细胞|二聚|抗[原体]|蛋白|淋巴))
    (?![ ](?:cells?|lymphocyt\w*|symptoms?|sections?|bands?|waves?|fib(?:er|re)s?|antigens?|peptides?|proteins?)\b)
    (?!(?<=[AI])(?<!nly[ ][AI])(?<!ption[ ][AI])[ \t]+
       (?!(?:and|or|because|since|as|due|for|with|based|given|is|not|but)\b)[a-z0-9])
    (?!\.[ ]?(?:coli|diff|perfr|botul|tetani|albic|fumig|fragil|jejun|faec))"""
NO_KIND = r"(?<!type[ ])(?<!group[ ])(?<!grade[ ])(?<!stage[ ])"
# What announces an answer: "The answer to this question is", "Best option:", "I choose", "\boxed", "答案", "故选".
ABOUT = r"(?:[ ](?:to|for|in|of|here|among|from|based|given|that|which)\b[^\n:.?]{0,80}?)?"
CUE = rf"""(?i: \b(?: ans(?:wer)?s? (?:[ ](?:choice|option|letter|idx|index|key))?
      | (?:final|correct|right|best|closest|chosen|selected|appropriate|suitable|likely|accurate|my)[ ]
        (?:choice|option|selection|response|statement|match|one)s? )\b
      {ABOUT} [)\]}}】]* \s*
      (?:[:=>→]|(?<![A-J])[–—-]|\b(?:(?:would|should|could|must|may|seems?[ ]to|appears?[ ]to)[ ])?(?:is|are|was|be)\b)
    | \b(?:choose|chose|pick|select|go[ ]with|going[ ]with|opt[ ]for|boxed|I(?:'?d|[ ]would)[ ](?:say|guess))\b
    | ^\W*(?:final[ ])?answer[ ](?=(?-i:[A-J])\W*$) )
    | \bnot[ ]\(?[A-J]\)?,?[ ](?:but|it(?:'s|[ ]is))\b | 而是
    | 答案 | (?<!回)答(?=:) | 回答: | (?:正确|最佳|合适|适当|恰当|(?<!不)符合(?:题意)?)的?(?:选项|选择|一项)
    | (?<![备候误错可])选(?![项题])择? | 改[为成] | (?:的|说法|一项|选项)[是为](?=[ ]?[A-J])"""
# What may stand between the cue and the letter; "not" is none of these.
FILLER = r"""(?i: [\s:=>(\[{<【\])}】,–—→-] | 应该?|该|当|就|即|只能|可能|选项|包[括含]|[是为有选择]
    | \b(?:is|are|be|the|therefore|thus|then|clearly|likely|most|probably|also|only|either|both)\b
    | \b(?:option|choice|letter|answer)\b
    | (?<=\n)\d[.)] ){0,12}"""
STATEMENT = re.compile(
    rf"""(?:{CUE}) {FILLER} (?P<cued> (?:[A-J][ ]?)*[A-J] | [a-j](?=\s*(?:[).:\]}}>]|$)) ) {ALONE}
       | <\s*(?P<marked>[A-J])\s*> (?=\s*(?:[.,。]|$))
       | \b(?i:best|most|(?:in)?correct|closest|likely|based|given|therefore|thus)\b [^\n]{{0,150}}
         {NO_KIND} \b(?:is|are|be):?\s\W*
         (?:(?i:option)\s+)? (?P<listed>[A-J]) {ALONE} (?=\s*[).:])
       | (?<![不非])[是为]:?\s* (?:选项)? (?P<chinese>[A-J]) {ALONE} (?=[.、]\s*[\u4e00-\u9fff])
       | \b(?P<judged>[A-J])[)\]】]? \s+ is \s+ (?:therefore\s+|thus\s+)? the \s+ (?:(?:correct|right|best)\s+)?
         (?:answer|choice|option)\b
       | \b[Oo]nly\s (?:option\s)? \(?(?P<only>[A-J])\)? {ALONE}
         (?=\s(?:is|can|could|has|[a-z]+s)\b(?!\s(?:are|were)\b))
         (?![^.\n]*\b(?:no|not|wrong|incorrect|false|excluded|fails|lacks)\b)
       | [只仅]有?(?:选项)? (?P<sole>[A-J]) {ALONE} (?=选?项?(?:符合|正确|满足|成立))
       | (?:选项|因此|所以|故)\s*(?P<correct>[A-J]) {ALONE} [^。\n,、不非和A-J]{{0,20}} 是(?:正确|最[^。\n,]{{1,6}})的?
         (?:答案|选项|选择|诊断)""",
    re.X | re.M,
)
# A second letter in the same statement: "A, C", "C or D", "C) Doxycycline and D) Vancomycin".
JOINT = (
    r"(?:[,、/&+;]|\b(?:and|or|also)\b(?:\ (?:choose|pick|select)\b)?|[和及与]|或者?选?|还是|,?也可能[是选为]?"
    r"|[)\]】](?=\s*[(\[【]))"
)
AGAINST = r"[^。\n]*(?:[不错无]|排除|耐药|\b(?:wrong|incorrect)\b)"  # said about that second letter
ANOTHER = re.compile(
    rf"""(?:\s*\([^()\n]{{1,40}}\))? [\s()\]}}.:】]* (?:{JOINT}\s*)+
         (?:option\s+|选项|\\boxed{{)? [(\[【]* [A-J] {ALONE}
         (?!\s*(?:is|was|does|can|has|选?项?[错不]))
       | [).:,、] (?!\s*[A-J][,、])
         (?:(?!\b(?:because|since|as|not|while|whereas|rather|unlike|but|is|other|wrong|incorrect)\b)
            [^\n.;。,(]){{0,80}}?
         (?:,?\s*\b(?:and(?:\ also)?|or|as\ well\ as)\b|[和或及、,;]) \s* (?:option\s+)? [(\[]? [A-J][).:,、]
         (?!{AGAINST})
       | [ ]?(?=[\u4e00-\u9fff]) [^\n.,;。(]{{1,40}}? (?:[和或及与、](?:选项)?|[,;](?![A-J]选?项)) [ ]?[A-J] {ALONE}
         (?!相?比|{AGAINST}) [ ]?[、\u4e00-\u9fff]""",
    re.X | re.M,
)
# A line of a list of right options below the first one.
ITEM = re.compile(
    rf"(?:[^\w\n]*\d[.)])?[^\w\n]*(?:(?i:option)\s|选项)?([A-J]) {ALONE}"
    r"(?:\W*|(?:[).:、\]】]|\s*(?=[\u4e00-\u9fff]))(?P<text>[^\n]+))",
    re.X,
)
EXPLAINS = re.compile(r"[:;。!]\s*\w|\.\s+\w")  # in an option's line: more than its text
LETTER = re.compile(r"(?<![A-Za-z])[A-J](?![A-Za-z])")
# What makes a statement none: a condition or an example, a denial, a question, a correction after it.
UNSAID = re.compile(
    r"(?:\b(?:if(?! (?:i|we) (?:had|have|must))|unless|e\.g|(?-i:Had|Were|Should))\b"
    r"|如果(?!必须|只能)|如[为是系有遇]|若|假[如设]|例如|比如)(?:(?!\b(?:therefore|thus|so|hence)\b|因此|所以|故)[^.。?\n])*$"
    # somebody else's choice
    r"|\b(?:many|some|others?|students|candidates|examinees|takers|people|tempt\w+)"
    r"(?: (?!(?:i|we|should|must|the|this)\b)[\w'-]+){0,4} $"
    r"|(?:考生|同学|[多少分]学生|[多少有]人(?!工))[^.。,\n故]{0,8}$"
    r"|(?:\b(?:not|never|cannot)|n't|[不勿别未没](?:应该?|能|可以?|会|要|宜|该|建议)?)\s*(?:to |be |the )*$",
    re.I,
)
NOT_IT = re.compile(r"[\s)\]]*(?:\?|吗|(?:is|was) (?:not|incorrect|wrong)\b)", re.I)
# After an answer, what is said of other patients or of the wrong answers is none either.
REMARK = re.compile(
    r"(?:^|[.\n!?;:])\s*(?:(?:but|however|note)\W+)?"
    r"(?:when (?!we|i\b|consid|compar)|(?:in|for|among|with) (?!the |our |her |his )"
    r"[^.\n?]*(?<![a-z])(?:patients|children"
    r"|infants|neonates|adults|adolescents|women|men|people|individuals|those|pregnan\w+|elderly)\b)"
    r"(?![^.\n?]*\b(?:this|these|such)\b)[^.\n?]*$"
    r"|(?:(?:对|当)(?!于?[该此本这])[^.。,\n]{1,15}[者时]|[^患前后两二]者|孕妇|儿童|小儿|老年人|人群)[,宜应可则首当需改]*$",
    re.I,
)
WRONG_ONES = re.compile(
    r"(?:(?:错误|干扰|其[他余它])的?答案|(?:干扰|其[他余它])的?选项"
    r"|\b(?:incorrect|wrong|false|other|remaining) (?:answers|choices))"
    r"(?:[\W是为有]|are)*[A-J ]+$",
    re.I,
)
TAKEN_BACK = re.compile(r"\b(?:wait|actually|correction|no)[,:]|等一下|不对(?!称)|哦不|更正", re.I)
DENIES = re.compile(
    r"\b(?:not|no|neither|nor|incorrect|wrong|rule|less|except|(?:eliminat|exclud|unlike)\w*)\b|n't|非|没有|错|排除|除了"
    r"|不(?:是|对|正确|准确|符合|合适|适|恰当|当|应|宜|能|可|会|选|考虑|支持|属|成立|如)",
    re.I,
)
# A second thought that names another letter.
CORRECTS = re.compile(
    rf"""(?:^|[.。!?\n;:,]) \s* (?i:(?:but|well|oh|however|and),?\ )?
      (?: (?i:actually\b|hmm+\b|sorry\b|scratch\b|on\ (?:second|closer|further|reflection|reconsid|re-?exam)
          |let\ me\ (?:re|corr)|i\ (?:made|meant|mis|take|was\ wrong|stand))
        | 不, | 抱歉 | 其实 | [我让们]*(?:再|仔细|重新|转念)一?[想考思看] )
      [^\n]{{0,100}}? (?<![A-Za-z])(?P<strong>[A-J]) {ALONE} (?![^\n.。]{{0,80}}?(?i:{DENIES.pattern}))
    | (?:^|[.。!?\n;]) \s* (?:(?i:however|but|yet)\b|但|不过|然而)
      [^\n.。]{{0,100}}? (?<![A-Za-z])(?P<weak>[A-J]) {ALONE}
      (?=[^\n.。]{{0,30}}(?:\b(?:better|instead|best|more|most|stronger)\b|[更最]))
      (?![^\n.。]{{0,80}}?(?:(?i:{DENIES.pattern})|\b(?:in|for|if|when|unless)\b))""",
    re.X,
)
# The weaker forms: a sentence that is a letter, a line that begins with one, an option named in a conclusion.
BARE = re.compile(
    r"""\W* (?:(?i:so|only|therefore|thus|hence|conclusion|i[ ]think|it(?:'s|[ ]is|[ ]must[ ]be|[ ]would[ ]be)
        |(?:that|this)[ ](?:is|would[ ]be|leaves(?:[ ]us[ ]with)?)|the[ ](?:letter|option|exception)[ ]is)\W+
        |(?:结论|因此|所以|故|只?剩下?|[只仅]有?|是)\W*)*
    (?:(?:(?i:option|choice)|选项?)\W*)? ((?<![a-z] )[a-j]|[A-J](?:(?:\W|and|or|[和或及与])*[A-J])*)
    (?:选?项)?(?:是?(?:正确|对)的?|符合(?:题意)?)? [^\w?]*""",
    re.X,
)
ONLY_THEN = re.compile(r"\s*(?:only|for|in|if|when|unless)\b", re.I)  # behind "C is the best choice", after an answer
LABEL = re.compile(rf"(?<![A-Za-z0-9.])([A-J]) {ALONE} \s*(?:[):、】\]](?![A-J-])|\.(?=\s*[^\s.])(?![A-J]\b))", re.X)
# "D万古霉素": letter and text only, no word that begins with a letter and nothing that is said about an option.
NO_OPTION = r"(?!因子|受体|选择素|聚体|花环|试验|[臂区带线环管瓣酶药液]|病毒|症状|患者|医生|选?项|[^\n]*[不错非没无])"
GLUED = rf"{ALONE} {NO_OPTION} (?=[\u4e00-\u9fff]{{2,15}}(?:\([^()]*\))?。?\s*$)"
LINE = re.compile(
    rf"[^\w\n]*(?:(?i:option)\s|选项\s*)?(?:{LABEL.pattern}"
    rf"|([A-J])(?:[\s,]+(?=[\u4e00-\u9fff])|[ ][–—-][ ](?=\w)|{GLUED}))",
    re.X,
)
JUDGED = re.compile(rf"{LINE.pattern}[^\n,.;:。(]{{0,30}}?(?:不正确|错误|(?i:\b(?:incorrect|wrong|false)\b))", re.X)
NAMED = re.compile(
    rf"""{NO_KIND} (?:\b(?:is|be|option|choice)\s|[:是为]|选项|^)\s*[(\[【]?([A-J]) {ALONE} (?=\s*[.):】\]]|$)
       | (?:(?i:option)\s+|选项)([A-J]){ALONE} | (?<!ptions[ ])\(([A-J])\) | (?<![A-Za-z])([A-J])\s*选?项
       | \b([A-J])(?=\s+is\s+(?:correct|right)$) | ,\s([A-J])(?=\s+is\s+(?:the\s+)?(?:most\s+likely|best)$)""",
    re.X,
)
SENTENCE_END = re.compile(
    r"(?<=\?)|[。!\n]"
    r"|(?:(?<=[\w)%][a-z0-9)%])|(?<=[A-Za-z][A-Z])|(?<=°C)|(?<=\.\))|(?<=[a-z] (?:option|choice) [A-J]))\.(?=\s|$)"
)
CONCLUDES = re.compile(
    r"\b(?:best|most|correct|right|likely|therefore|thus|so|hence|would be|should|choose|settle|answer|choice|closest"
    r"|match(?:es)?|corresponds)\b|\((?:option|选项) ?[A-J]\)\W*$"
    r"|[最故应宜]|正确|首选|因此|所以|综上|诊断|选择|答案",
    re.I,
)
# What it may deny all the same, where the question asks for what is wrong: "Therefore, the incorrect one is C."
SETTLES = re.compile(
    r"(?:(?:therefore|thus|so|hence)\b.*\bis|(?:因此|所以|故|综上).*[是为:])\s*(?:option|选项)?\s*\(?(?-i:[A-J])\W*",
    re.I | re.S,
)


class Reasoning(NamedTuple):
    """The parts of one output, stripped. ``closed``: no thought is left open at the end of the text."""

    thought: str
    answer: str
    closed: bool


class Choice(NamedTuple):
    """The letter, or None: ``several`` were stated (wrong, not asked again), or ``none`` was (ask again)."""

    letter: str | None
    status: Literal["read", "several", "none"]


def split_reasoning(text: str, opened: bool = False, marks: tuple[str, str] = THINK) -> Reasoning:
    """Split at the closing mark: before it the thought (an opening mark is optional), after it the answer.

    ``opened``: the prompt ended with the opening mark, so text without a closing one is an unfinished thought.
    ``marks``: the template's thought words. Tags are found whatever their case and blanks. Text without any mark is
    all answer. Where thoughts follow each other, the answer is the last text outside of them.
    """
    start, end = (mark_pattern(mark) for mark in marks)
    pieces = end.split(text)
    if len(pieces) == 1 and not opened and not start.search(text):
        return Reasoning("", text.strip(), True)
    outside = [start.split(piece, maxsplit=1) for piece in pieces[1:]]
    thoughts = [start.sub("", pieces[0]), *(part[1] for part in outside if len(part) > 1)]
    answer = next((part[0].strip() for part in reversed(outside) if part[0].strip()), "")
    closed = len(pieces) > 1 and len(outside[-1]) == 1
    return Reasoning("\n".join(thoughts).strip(), answer, closed)


def mark_pattern(mark: str) -> re.Pattern:
    """A pattern for a thought word: its case is free, and the blanks inside a tag. An empty word is never found."""
    return re.compile(r"\s*".join(map(re.escape, re.findall(r"\w+|[^\w\s]", mark))) or r"(?!)", re.I)


def read_choice(text: str, letters: str, opened: bool = False, marks: tuple[str, str] = THINK) -> Choice:
    """The letter among ``letters`` (e.g. "ABCDE") that a whole output, or the text after its thought, chooses."""
    answer = split_reasoning(text, opened, marks).answer.replace("…", " ")
    answer = unicodedata.normalize("NFKC", answer).translate(PLAIN)
    answer = re.sub(r"(?<!回)答[ \t]+案(?!例)[ \t]*", "答案", answer)
    answer = next((turn for turn in TURN_END.split(answer) if turn.strip()), "")
    answer = MARKUP.sub("", answer).strip()
    sentences = [part.strip() for part in SENTENCE_END.split(re.sub(r":\s*\n", ": ", answer)) if part.strip()]
    said = _stated(answer, sentences, letters)
    if said is None:
        said = _named(answer, sentences, letters)
    if len(said) == 1 and said <= set(letters):
        return Choice(min(said), "read")
    return Choice(None, "several" if len(said) > 1 else "none")


def _stated(answer: str, sentences: list[str], options: str) -> set[str] | None:
    """The letters of the last statement of an answer; None without one. A first or last sentence may be a letter."""
    bare = [BARE.fullmatch(sentence) for sentence in sentences]
    found = [(0, bare[0][1])] if bare and bare[0] else []
    unsaid, before, joint = False, 0, 0
    for statement in STATEMENT.finditer(answer):
        start = statement.start("listed") if statement["listed"] else statement.start()
        end = statement.end()
        letter = next(filter(None, statement.groups()))
        if found and NEXT.search(answer, before, start):
            bare = []
            break
        before = end
        said = answer[max(0, start - 200) : start]
        if found and (start < joint or REMARK.search(said) or WRONG_ONES.search(said + statement[0])):
            continue
        if UNSAID.search(said) or NOT_IT.match(answer, end):
            unsaid = True
            continue
        if statement["judged"] and (found or LINE.match(answer)) and ONLY_THEN.match(answer, end):
            continue
        more, list_end = _listed_below(answer, end)
        if more and set(more + letter) == set(options):
            continue  # all options: the question said again
        if more:
            found.append((list_end, letter + more))
            continue
        another = ANOTHER.match(answer, end)
        rest = answer[end : end + 2000].split("\n", 6)[:6]
        if "\n" in statement[0]:
            rest = [" ".join(rest[:2])]
        if (not another or ";" in another[0]) and _in_a_row(rest, letter[0]):
            continue  # options in a row, such as the question said again
        joint = another.end() if another else end
        found.append((joint, letter + "".join(LETTER.findall(another[0]) if another else "")))
    last = "".join(one[1] for one in takewhile(bool, reversed(bare)))
    if last and not (found and found[-1][0] == len(answer)):
        found.append((len(answer), last))
    if not found:
        return set() if unsaid else None
    end, letters = found[-1]
    chosen = set(re.findall("[A-J]", letters.upper()))
    other = any(set(filter(None, doubt.groups())) - chosen for doubt in CORRECTS.finditer(answer, end))
    return set() if other or TAKEN_BACK.search(answer, end) else chosen


def _in_a_row(lines: list[str], letter: str) -> bool:
    """The next option follows a stated letter: in its line, or below the first the others, their texts alone."""
    label = LABEL.search("\n".join(lines[:2])[:500])
    if label and label.start() < len(lines[0]):
        return ord(label[1]) == ord(letter) + 1
    items = [item.string[item.end() :] for item in takewhile(bool, map(LABEL.search, lines[1:]))]
    return (
        letter == "A" and bool(re.search(r"\w", lines[0])) and len(items) > 1 and not all(map(EXPLAINS.search, items))
    )


def _listed_below(answer: str, end: int) -> tuple[str, int]:
    """The letters of a list's further lines below a stated letter that ends at ``end``, and where the list ends.

    Letters alone, or options with their texts where the first stands in a line of its own too; lines that explain are
    none of it, unless the first does too.
    """
    own_line = not re.compile(r"[^\W\d]").search(answer, answer.rfind("\n", 0, end) + 1, end - 1)
    letters, place = "", answer.find("\n", end)
    explained = EXPLAINS.search(answer, end + 1, place if place >= 0 else end)
    while place >= 0:
        stop = answer.find("\n", place + 1)
        line = answer[place + 1 : stop if stop >= 0 else len(answer)]
        item = ITEM.fullmatch(line)
        if line.strip() and (not item or DENIES.search(line)):
            break
        if item and item["text"] and not (own_line and (explained or not EXPLAINS.search(item["text"]))):
            break
        if item:
            letters, end = letters + item[1], place + 1 + len(line)
        place = stop
    return letters, end


def _named(answer: str, sentences: list[str], letters: str) -> set[str]:
    """The option that the first or last line begins with, or the concluding sentence names; empty where they differ."""
    lines = [line for line in answer.splitlines() if line.strip()]
    labels = [label[1] or label[2] for line in lines if (label := LINE.match(line))]
    if len(set(labels)) > 1 and len(labels) == len(lines):
        return set(labels) if set(labels) != set(letters) else set()  # options only: some chosen, or all quoted
    found = set(labels) if len(set(labels)) == 1 and any(map(LINE.match, lines[:1] + lines[-1:])) else set()
    if any(len(set(LABEL.findall(line))) > 1 or JUDGED.match(line) for line in lines if LINE.match(line)):
        found = set()  # the options in one line, or an option found wrong
    last = sentences[-1] if sentences else ""
    named = {letter for name in NAMED.finditer(last) for letter in name.groups() if letter}
    plain = SETTLES.fullmatch(last) or (CONCLUDES.search(last) and not DENIES.search(last))
    if named and plain and not (len(set(labels)) > 1 and LINE.match(last)):
        found |= named | set(LABEL.findall(last))
    return found if len(found) == 1 and not TAKEN_BACK.search(answer) else set()
