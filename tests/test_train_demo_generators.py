"""The text generators of the demo model: stories and spoken commands, both written from a seed."""

import json
import random
import re
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "train_demo"))

import calls
import stories

SHE, HE = {"she", "her"}, {"he", "him", "his"}
PRONOUN_OF = dict.fromkeys(stories.GIRLS + stories.SHE_ANIMALS, "she") | dict.fromkeys(
    stories.BOYS + stories.HE_ANIMALS, "he"
)


@cache
def sample_stories() -> tuple[stories.Story, ...]:
    rng = random.Random(1)
    return tuple(stories.write_story(rng) for _ in range(2000))


@cache
def sample_commands(wording: str) -> tuple[calls.Command, ...]:
    rng = random.Random(2)
    return tuple(calls.write_command(rng, wording) for _ in range(4000))


def words_of(text: str) -> list[str]:
    return re.findall(r"[A-Za-z']+", text)


# Stories


def test_the_same_seed_writes_the_same_story() -> None:
    assert [stories.write_story(random.Random(seed)) for seed in range(20)] == [
        stories.write_story(random.Random(seed)) for seed in range(20)
    ]


def test_no_two_stories_are_the_same() -> None:
    assert len({story.text for story in sample_stories()}) == len(sample_stories())


def test_stories_open_in_many_ways() -> None:
    assert len({tuple(story.text.split()[:6]) for story in sample_stories()}) > 800


def test_every_plot_is_told_about_equally_often() -> None:
    counts = Counter(story.plot for story in sample_stories())
    assert set(counts) == {plot.name for plot in stories.PLOTS}
    assert len(counts) >= 8
    assert min(counts.values()) > 0.5 * len(sample_stories()) / len(counts)


@pytest.mark.parametrize(
    "opening",
    [
        r"Once upon a time there was a \w+ girl named \w+",
        r"Once upon a time, there was a \w+ \w+ named \w+",
        r"One day, an? \w+ fox",
        r"\w+ and his dog",
        r"In a small village",
        r"Every morning",
        r"There was once",
        r"One sunny morning",
    ],
)
def test_a_common_prompt_is_the_opening_of_some_stories(opening: str) -> None:
    rng = random.Random(3)
    assert any(re.match(opening, stories.write_story(rng).text) for _ in range(5000))


def test_the_hero_is_in_the_opening_and_comes_back_until_the_end() -> None:
    for story in sample_stories():
        tellings = words_of(story.text)
        places = [index for index, word in enumerate(tellings) if word == story.hero]
        assert len(places) >= 4, story
        assert places[0] < 25, story
        assert places[-1] > len(tellings) - 30, story


def test_only_the_hero_and_one_friend_have_names() -> None:
    for story in sample_stories():
        named = set(words_of(story.text)) & set(PRONOUN_OF)
        assert story.hero in named
        assert len(named) <= 2, story


def test_pronouns_agree_with_the_characters() -> None:
    for story in sample_stories():
        named = set(words_of(story.text)) & set(PRONOUN_OF)
        allowed = set().union(*(SHE if PRONOUN_OF[name] == "she" else HE for name in named))
        used = {word.lower() for word in words_of(story.text)} & (SHE | HE)
        assert used <= allowed, story


@pytest.mark.parametrize(
    "telling",
    [
        r"named (\w+)\. (She|He) ",
        r"(\w+) (?:put|shook|closed) (her|his) ",
        r"said (\w+), and (she|he|her|his) ",
        r"(\w+) thought of (her|his) ",
        r"(\w+) walked around alone\. (She|He) ",
    ],
)
def test_a_pronoun_is_that_of_the_one_just_named(telling: str) -> None:
    found = [pair for story in sample_stories() for pair in re.findall(telling, story.text) if pair[0] in PRONOUN_OF]
    assert len(found) > 10
    for name, pronoun in found:
        assert pronoun.lower() in (SHE if PRONOUN_OF[name] == "she" else HE), (name, pronoun)


def test_a_friend_has_another_name_and_is_another_animal() -> None:
    rng = random.Random(6)
    for _ in range(5000):
        hero = stories.draw_animal(rng, stories.ANIMALS)
        friend = stories.draw_friend(rng, hero)
        assert friend.name != hero.name
        assert friend.kind != hero.kind


def test_the_family_is_the_hero_s() -> None:
    family = re.compile(rf"\b(his|her) (?:{'|'.join(stories.FAMILY)})\b", re.IGNORECASE)
    for story in sample_stories():
        owners = {owner.lower() for owner in family.findall(story.text)}
        assert owners <= {"her" if PRONOUN_OF[story.hero] == "she" else "his"}, story


def test_a_stands_before_consonants_and_an_before_vowels() -> None:
    for story in sample_stories():
        assert not re.search(r"\b[Aa] [aeiouAEIOU]", story.text), story
        assert not re.search(r"\b[Aa]n [^aeiouAEIOU]", story.text), story
    # The rule goes by letters, which holds only without words like "hour" and "useful".
    articles = {noun for story in sample_stories() for noun in re.findall(r"\ban? (\w+)", story.text)}
    assert not [word for word in articles if re.match(r"(hour|honest|heir|uni|use|eu|one)", word)]


def test_a_story_is_90_to_200_words_long() -> None:
    lengths = [len(story.text.split()) for story in sample_stories()]
    assert min(lengths) >= 90
    assert max(lengths) <= 200


def test_a_story_is_one_clean_line() -> None:
    for story in sample_stories():
        assert not re.search(r"[{}\[\]|\n]|  | [,.!?]|\.\.|,,", story.text), story
        assert story.text == story.text.strip()
        assert story.text[0].isupper()
        assert story.text[-1] == "."
        assert story.text.count('"') % 2 == 0, story
        assert not re.search(r"[.!?] [a-z]", story.text), story


def test_the_words_are_few_enough_for_a_tiny_model() -> None:
    vocabulary = {word.lower() for story in sample_stories() for word in words_of(story.text) if word not in PRONOUN_OF}
    assert 500 <= len(vocabulary) <= 900


def test_a_thing_keeps_its_color() -> None:
    colored = re.compile(rf"\b({'|'.join(stories.COLORS)}) ({'|'.join(stories.TOYS)})\b")
    for story in sample_stories():
        seen: dict[str, str] = {}
        for color, noun in colored.findall(story.text):
            assert seen.setdefault(noun, color) == color, story


def test_a_slot_without_a_value_is_an_error() -> None:
    with pytest.raises(KeyError):
        stories.expand("{nobody}", stories.Slots(name="Lily"), random.Random(0))


# Commands


def test_the_same_seed_writes_the_same_command() -> None:
    assert [calls.write_command(random.Random(seed)) for seed in range(50)] == [
        calls.write_command(random.Random(seed)) for seed in range(50)
    ]


def test_an_unknown_wording_is_an_error() -> None:
    with pytest.raises(KeyError):
        calls.write_command(random.Random(0), "spoken")


@pytest.mark.parametrize("kind", calls.KINDS, ids=lambda kind: kind.name)
def test_a_kind_has_many_wordings_and_unseen_ones_of_its_own(kind: calls.Kind) -> None:
    train, unseen = ({re.sub(r"[.?]$", "", words) for words in side} for side in (kind.train, kind.unseen))
    assert len(train) == len(kind.train) >= 12
    assert len(unseen) == len(kind.unseen) >= 4
    assert not train & unseen
    said = set(re.findall(r"{(\w+)}", " ".join(kind.train + kind.unseen)))
    assert said == set(kind.slots)


def test_every_kind_is_written_in_both_wordings() -> None:
    names = {kind.name for kind in calls.KINDS}
    assert len(names) == len(calls.KINDS) >= 10
    for wording in ("train", "unseen"):
        assert {command.kind for command in sample_commands(wording)} == names


def test_unseen_prompts_are_never_written_for_training() -> None:
    seen = {command.prompt.lower().rstrip(".?") for command in sample_commands("train")}
    assert not seen & {command.prompt.lower().rstrip(".?") for command in sample_commands("unseen")}


def test_most_prompts_are_written_once() -> None:
    prompts = [command.prompt for command in sample_commands("train")]
    assert len(set(prompts)) > 0.9 * len(prompts)


@pytest.mark.parametrize("wording", ["train", "unseen"])
def test_a_command_is_rendered_as_its_prompt_and_one_line_of_json(wording: str) -> None:
    for command in sample_commands(wording):
        prompt, line = calls.render(command).split("\n")
        assert prompt == command.prompt
        assert prompt == prompt.strip()
        assert not re.search(r"[{}]|  | [,.!?:]", prompt), prompt
        assert json.loads(line) == command.call
        assert line == json.dumps(command.call, ensure_ascii=False)
        assert next(iter(command.call.items())) == ("call", command.kind)
        assert len(prompt) + len(line) < 200


def test_the_keys_of_a_call_come_in_one_order() -> None:
    for kind in calls.KINDS:
        orders = {tuple(command.call) for command in sample_commands("train") if command.kind == kind.name}
        longest = {key: index for order in sorted(orders, key=len) for index, key in enumerate(order)}
        for order in orders:
            assert list(order) == sorted(order, key=lambda key: (key != "call", longest[key])), (kind.name, order)


@pytest.mark.parametrize("wording", ["train", "unseen"])
def test_text_values_are_copied_from_the_prompt(wording: str) -> None:
    for command in sample_commands(wording):
        for key, value in command.call.items():
            if isinstance(value, str) and key not in ("call", "time"):
                assert re.search(rf"(?<!\w){re.escape(value)}(?!\w)", command.prompt), command


ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
NUMBER = r"((?:\d+|an?|(?:{words})(?: (?:{words}))?))".format(words="|".join([*ONES, *TENS, "hundred"]))


def read_number(said: str) -> int:
    """Read a number back, independently of how the generator spells it."""
    if said.isdigit():
        return int(said)
    values = {word: number for number, word in enumerate(ONES)} | {word: 10 * ten for ten, word in enumerate(TENS, 2)}
    values |= {"a": 1, "an": 1}
    return 100 if said == "one hundred" else sum(values[word] for word in said.split())


@pytest.mark.parametrize("wording", ["train", "unseen"])
def test_lengths_and_levels_are_the_numbers_said(wording: str) -> None:
    checked = 0
    for command in sample_commands(wording):
        for unit in {"hours", "minutes", "seconds"} & set(command.call):
            match = re.search(rf"\b{NUMBER} {unit}?\b", command.prompt)
            assert match, command
            assert read_number(match[1]) == command.call[unit], command
            checked += 1
        if "level" in command.call:
            match = re.search(rf"\b{NUMBER}(?: percent| on)?(?: please)?[.?]?$", command.prompt)
            assert match, command
            assert read_number(match[1]) == command.call["level"], command
            checked += 1
    assert checked > 200


def read_time(said: str) -> str:
    """Read a time back as "HH:MM", independently of how the generator says it."""
    if said == "noon":
        return "12:00"
    if re.fullmatch(r"\d\d:\d\d", said):
        return said
    after_noon = re.search(r"pm|afternoon|evening|night", said) is not None
    clock = re.sub(r" (am|pm|in the \w+|at night)$", "", said)
    quarters = re.match(r"(half past|quarter past|quarter to) (.+)", clock)
    if quarters:
        minutes = {"half past": 30, "quarter past": 15, "quarter to": -15}[quarters[1]]
        hour = read_number(quarters[2])
    elif ":" in clock:
        hour, minutes = map(int, clock.split(":"))
    else:
        first, _, rest = clock.partition(" ")
        hour, minutes = read_number(first), read_number(rest) if rest else 0
    total = (60 * (hour % 12 + (12 if after_noon else 0)) + minutes) % (24 * 60)
    return f"{total // 60:02d}:{total % 60:02d}"


@pytest.mark.parametrize("hour", range(4, 24))
def test_a_time_of_day_can_be_read_back_from_what_is_said(hour: int) -> None:
    rng = random.Random(hour)
    for minute in (0, *range(10, 60, 5)):
        for _ in range(12):
            said = calls.say_time(rng, hour, minute)
            assert read_time(said) == f"{hour:02d}:{minute:02d}", said


@pytest.mark.parametrize(
    ("said", "time"),
    [("half past seven in the morning", "07:30"), ("7:30 am", "07:30"), ("six pm", "18:00"), ("noon", "12:00")],
)
def test_a_time_said_in_a_common_way_is_written(said: str, time: str) -> None:
    rng = random.Random(4)
    drawn = {(slot.said, slot.fields["time"]) for slot in (calls.draw_time(rng) for _ in range(5000))}
    assert (said, time) in drawn


def test_a_drawn_time_is_the_time_said() -> None:
    rng = random.Random(5)
    for _ in range(1000):
        slot = calls.draw_time(rng)
        assert slot.fields == {"time": read_time(slot.said)}


def test_a_call_holds_a_time_exactly_when_its_prompt_says_one() -> None:
    clock = re.compile(r"\d:\d\d|\b(am|pm|noon)\b|\b(in the (morning|afternoon|evening)|at night)\b")
    for command in sample_commands("train"):
        around_text = command.prompt.replace(str(command.call.get("text", "")), "")
        assert ("time" in command.call) == (clock.search(around_text) is not None), command


def test_please_never_follows_a_text_that_runs_to_the_end() -> None:
    for command in sample_commands("train"):
        if "text" in command.call and command.prompt.lower().rstrip(".?").endswith(" please"):
            assert not command.prompt.rstrip(".?").removesuffix(" please").endswith(str(command.call["text"])), command
