"""Near-duplicate questions: rensa's MinHash and LSH find candidates, whole sets of features decide.

Two questions are near-duplicates where they share most of their features, unless they differ in only one or two
places and one of these carries the meaning: a number, a side, a drug, what is asked. Then both are kept.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

from rensa import RMinHash, RMinHashLSH

from scripts.prepare.text import is_han

if TYPE_CHECKING:
    from scripts.prepare.judge import Row

# 64 bands of 4 values find a pair of similarity 0.5 with probability 0.98; in four rounds, so that only a quarter of
# the tables is in memory at a time.
ROUNDS, VALUES, BANDS = 4, 64, 16
SLACK = 0.12  # four standard errors of the sketches' estimate, below which a candidate is not worth verifying
WORDS = 0.1  # higher threshold for words: an edit breaks one of them, but two pairs of neighbouring characters
PLACES = 3  # where two questions differ in more places than this, one is a rewording of the other ...
DEMAND = 6  # ... unless a run of as many new tokens asks for something more
# Words too common to tell two English questions apart.
STOP_WORDS = frozenset(
    "a about after all also an and any are as at be been before best but by can could did do does due during each "  # noqa: SIM905
    "for from given had has have he her him his how if in into is it its likely may might more most no not of on or "
    "other over patient she should so some such than that the their them then there these they this to was were what "
    "when where which while who whom why will with would year old s man woman following".split()
)
# Words and characters that make another question of one in which they change.
MEANING_EN = re.compile(
    r"\d+|[ivx]{1,4}|one|two|three|four|five|six|seven|eight|nine|ten|twice|once|half|double|no|not|without|never|except|"
    r"left|right|bilateral|unilateral|upper|lower|anterior|posterior|medial|lateral|proximal|distal|inner|outer|dorsal|"
    r"ventral|superior|inferior|(?:fe)?males?|(?:wo)?m[ae]n|boys?|girls?|infants?|child(?:ren)?|adults?|neonates?|elderly|"
    r"pregnan\w+|before|after|during|first|second|third|next|most|least|best|worst|initial|acute|chronic|high|low|"
    r"increased?|decreased?|higher|lower|years?|months?|weeks?|days?|hours?|minutes?|mild|moderate|severe|early|late|hyper\w+|hypo\w+|"
    r"what|which|how|why|when|who|diagnos\w+|treat\w*|therap\w+|manag\w+|caus\w+|mechanis\w+|complicat\w+|prognos\w+|"
    r"prevent\w*|risks?|dos\w+|tests?|side|effects?|contraindicat\w+|indicat\w+|pathogen\w*|organisms?|symptoms?|signs?|"
    r"drugs?|medications?|surg\w+|explain|"
    r"\w+(?:illin|mycin|micin|cycline|oxacin|azole|azine|vir|statin|pril|sartan|olol|dipine|zosin|pam|lam|barbital|"
    r"tidine|prazole|setron|triptan|gliptin|gliflozin|glitazone|formin|zide|semide|thiazide|parin|arin|xaban|gatran|"
    r"grel|mab|nib|cept|caine|curium|phylline|terol|sone|solone|lone|nide|profen|coxib|fenac|oxetine|pramine|triptyline|"
    r"idone|apine|lukast|dronate|relin|tide|ximab|zumab|platin|rubicin|taxel|trexate|mustine|feron|mide|pine|nazole|"
    r"quine|oxin|arone|cillin|penem|cef\w*|sulin|phrine|pressin|tocin|gesterone|estradiol|spirone|dopa|giline|zepine|"
    r"toin|proate|lamide|etine|aline|oxone|done|phine|codone|tanyl|ramol|aminophen|spirin)|cef\w+|sulfa\w+|lithium|"
    r"codeine|morphine|digoxin|insulin|aspirin|ibuprofen|steroids?|vitamin|iron|potassium|sodium|calcium|magnesium"
)
# Long words without an everyday ending are most often names of drugs, diseases and germs.
NAME = re.compile(r"(?!\w+(?:ing|ly|ed|[ai]ble|ous|ful|ive|[ea]nt|al|ions?|ments?|ness|ity|ers?|ors?|ies)$)[a-z]{8,}")
MEANING_ZH = re.compile(
    r"[一二三四五六七八九十百岁月两半双左右上下前后内外男女婴孕不无非未否除急慢高低升降增减轻重早晚近远]|什么|如何|怎|哪|为何|为什么|是否|"
    r"诊断|治疗|病因|原因|机制|检查|并发|处理|预防|护理|剂量|用量|预后|鉴别|表现|症状|首选|禁忌|适应|分析|解释|说明|手术|用药|药物|"
    r"地平|他汀|利福|格列|达格|替尼|沙坦|普利|列汀|西林|辛伐|依那|司匹|"
    r"[素唑林酮胺嗪啶酯钠钾钙镁铁锌韦汀坦芬莫拉呋噻吡哌咪喹苯氯氟碘霉菌普萘洛沙卡托曲泼甲丙乙丁孢磺汤丸散胶囊]|"
    r"[肝胆脾胃肾心肺脑肠胰脉骨肌腺瘤癌炎血]"
)
NEGATION_EN = re.compile(r"no|not|without|never|except")
NEGATION_ZH = re.compile(r"无|不伴|未见")
# Words that ask the same, so that "which drug" and "what drug" are no two questions.
SAME_EN = re.compile(r"(?<= )which(?= )|^which(?= )")
SAME_ZH = re.compile(r"[何哪] [种项些个]")
# Words and characters that ask, and those of a further demand.
ASK_EN = re.compile(r"what|which|how|why|when|explain|describe|name|list|compare")
ASK_ZH = re.compile(r"什么|何|怎|哪|是否|吗|多少|请")
DEMAND_EN = re.compile(r"what|which|how|why|when|should|explain|describe|name|list|compare|also|additionally|including")
DEMAND_ZH = re.compile(
    r"什么|如何|怎|哪|为何|是否|吗|呢|请|以及|特别|另外|此外|并且|而且|还|影响|作用|意义|区别|不同|关系|说明|分析"
)


class Duplicates(NamedTuple):
    """``matched``: place of a dropped record → (place of the one kept for it, similarity of the two, 0-1);
    ``linked``: pairs of places of records that are alike, dropped or both kept, so they belong in one split."""

    matched: dict[int, tuple[int, float]]
    linked: list[tuple[int, int]]


def features(parts: Sequence[str]) -> list[str]:
    """What near-duplicates share: pairs of neighbouring tokens from a Chinese character on, and other tokens that are
    no stop words. Both survive reordered sentences."""
    pairs = zip_longest(parts, parts[1:], fillvalue="")
    found = [one + other if is_han(one) else one for one, other in pairs]
    return [feature for feature in found if feature not in STOP_WORDS] or found


def sketch(parts: Sequence[str], seed: int) -> list[RMinHash]:
    """The MinHash sketches of a question's features, one for each round."""
    found, own = [], features(parts)
    for number in range(ROUNDS):
        minhash = RMinHash(VALUES, seed + number)
        minhash.update(own)
        found.append(minhash)
    return found


@lru_cache(maxsize=1 << 10)
def _set(key: str) -> frozenset[str]:
    return frozenset(features(key.split(" ")))


def needed(size: int, threshold: float) -> float:
    """The similarity that ``size`` features need: short questions differ in one word that matters."""
    return threshold if size >= 12 else min(max(0.9, threshold), threshold + 0.05 * (12 - size))


def alike(one: Row, other: Row, threshold: float) -> float:
    """Jaccard similarity of the features of two records' questions, 0 where it is too little for near-duplicates."""
    threshold += WORDS if "en" in (one.lang, other.lang) else 0
    pairs = zip(one.sketches, other.sketches, strict=True)
    if sum(a.jaccard(b) for a, b in pairs) / ROUNDS < threshold - SLACK:
        return 0
    left, right = _set(one.key), _set(other.key)
    shared = len(left & right)
    found = shared / max(1, len(left) + len(right) - shared)
    return found if found >= needed(min(len(left), len(right)), threshold) else 0


def changes(one: Sequence[str], other: Sequence[str]) -> Iterator[list[str]]:
    """Runs of tokens of ``one`` that are new beside ``other``: it holds them less often, and not between the same ones.

    Sentences that only moved are no change.
    """
    more, theirs = Counter(one) - Counter(other), set(zip(["", *other], [*other, ""], strict=True))
    run: list[str] = []
    for before, token, after in zip(["", *one], one, [*one[1:], ""], strict=False):
        if more[token] and not {(before, token), (token, after)} <= theirs:
            run.append(token)
        elif run:
            yield run
            run = []
    if run:
        yield run


def matches(run: list[str], words: re.Pattern, characters: re.Pattern) -> bool:
    """Whether a run of tokens holds one of the words, or of the Chinese characters."""
    han = "".join(token for token in run if is_han(token))
    return bool(characters.search(han)) or any(words.fullmatch(token) for token in run if not is_han(token))


def names_something(run: list[str]) -> bool:
    """Whether a changed run of tokens looks like a name: a long word, or two Chinese characters and more."""
    return any(map(NAME.fullmatch, run)) or sum(map(is_han, run)) >= 2


def asks(parts: list[str]) -> int:
    """How many words of a question ask for something."""
    han = len(ASK_ZH.findall("".join(token for token in parts if is_han(token))))
    return han + sum(ASK_EN.fullmatch(token) is not None for token in parts)


def other_question(one: str, other: str) -> bool:
    """Whether two similar questions (tokens with spaces) differ in few places, one of which carries the meaning, or
    one asks for something more."""
    left, right = (SAME_EN.sub("what", SAME_ZH.sub("什 么", key)).split(" ") for key in (one, other))
    sides = [list(changes(left, right)), list(changes(right, left))]
    runs = [run for side in sides for run in side]
    if any(len(run) >= DEMAND and matches(run, DEMAND_EN, DEMAND_ZH) for run in runs):
        return True
    new = [sum(map(len, side)) for side in sides]
    if max(new) > 3 * min(new) and asks(left) != asks(right) and (max(new) >= DEMAND or not min(new)):
        return True
    if max(map(len, sides)) > PLACES:
        return False
    if any(matches(run, NEGATION_EN, NEGATION_ZH) for run in runs):
        return True
    # One meaning in the place of another, or one more; what an edit merely drops makes no other question.
    told = [any(matches(run, MEANING_EN, MEANING_ZH) for run in side) for side in sides]
    named = [any(map(names_something, side)) for side in sides]
    return all(one or other for one, other in zip(told, named, strict=True)) or (any(told) and not all(sides))


def find(records: Sequence[Row], threshold: float) -> Duplicates:
    """Exact and near-duplicates among records: of each group the best is kept.

    Records come best first, and those that are alike to an earlier one are not searched for again, so a group of any
    size costs no more than its records and leaves one.
    """
    order = sorted(range(len(records)), key=lambda place: (records[place].quality, -place), reverse=True)
    first: dict[str, int] = {}
    exact = {place: kept for place in order if (kept := first.setdefault(records[place].key, place)) != place}
    linked = [(kept, place) for place, kept in exact.items()]
    better: dict[int, dict[int, float]] = {}  # place → better records → similarity, 0 for another question
    for round_ in range(ROUNDS):
        lsh = RMinHashLSH(threshold, VALUES, BANDS)
        for place in first.values():
            record, same = records[place], better.setdefault(place, {})
            candidates = sorted(lsh.query(record.sketches[round_]))
            for other in candidates:
                if other not in same and (found := alike(record, records[other], threshold)):
                    linked.append((other, place))
                    same[other] = 0 if other_question(record.key, records[other].key) else found
            if not any(same.get(other) for other in candidates):
                lsh.insert(place, record.sketches[round_])
    matched: dict[int, tuple[int, float]] = {}
    for place in first.values():
        kept = [(found, -other) for other, found in better[place].items() if found and other not in matched]
        if kept:
            found, other = max(kept)
            matched[place] = (-other, found)
    matched |= {place: matched.get(kept, (kept, 1.0)) for place, kept in exact.items()}
    return Duplicates(matched, linked)
