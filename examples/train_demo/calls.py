"""Spoken commands and the calls they stand for, written from a seed.

A kind of command has slots and wordings. Drawing a slot gives the words that are said and the
fields of the call they stand for. A call holds the fields of the slots its wording says and
nothing else, so every value can be derived from the prompt.
"""

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import stories
from stories import listed

Value = str | int


@dataclass(frozen=True)
class Slot:
    """What is said for a slot, and the fields of the call it stands for."""

    said: str
    fields: dict[str, Value]


Draw = Callable[[random.Random], Slot]


@dataclass(frozen=True)
class Kind:
    """A kind of command. The order of ``slots`` is the order of the fields in the call.

    The last mark of a wording is its mood: "?" asks, "." states, none commands. Only a command
    takes "please" or "could you". ``unseen`` wordings are kept out of training.
    """

    name: str
    slots: dict[str, Draw]
    train: tuple[str, ...]
    unseen: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """A spoken command, the call it stands for (its first key is "call") and its kind."""

    prompt: str
    call: dict[str, Value]
    kind: str


UNITS = listed(
    "zero, one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen, fifteen, "
    "sixteen, seventeen, eighteen, nineteen"
)
TENS = listed("twenty, thirty, forty, fifty, sixty, seventy, eighty, ninety")

NAMES = listed(", ".join(stories.GIRLS + stories.BOYS).lower())
RELATIVES = listed("mom, dad, grandma, grandpa")
SURNAMES = listed("stone, hill, brown, wood, green, baker, fisher, king, miller, north, lane, bell")
DAYS = listed("monday, tuesday, wednesday, thursday, friday, saturday, sunday")
TOWNS = listed(
    "paris, london, rome, berlin, madrid, oslo, tokyo, lima, cairo, dublin, vienna, athens, boston, chicago, denver, "
    "seattle, austin, new york, san diego, toronto, sydney, delhi, mumbai, seoul, hanoi, nairobi, lagos, accra, "
    "prague, warsaw, lisbon, geneva, zurich, milan, venice, munich, hamburg, porto, kyoto, osaka"
)
ROOMS = listed(
    "kitchen, bedroom, bathroom, living room, garage, hall, office, garden, attic, basement, dining room, kids room, "
    "guest room, porch"
)
LISTS = listed("shopping, packing, grocery, party, work, school, holiday, birthday, garden, movie, book")
GROCERIES = (
    listed(
        "milk, bread, butter, eggs, rice, cheese, honey, soap, paper, coffee, tea, sugar, salt, flour, tomatoes, "
        "onions, lemons, batteries, socks, candles, toothpaste, fish, chicken, pasta, oil, juice, yogurt, soup"
    )
    + stories.FOODS
)
APPS = listed(
    "camera, calendar, maps, notes, mail, clock, calculator, photos, music, weather, settings, messages, browser, "
    "news, books, chess, radio, bank, fitness, recipes, translate, podcasts, files, contacts"
)
GENRES = listed(
    "jazz, rock, pop, classical, country, folk, blues, reggae, piano, dance, soul, funk, metal, disco, opera, "
    "guitar, techno, lounge"
)
DESTINATIONS = (
    listed(
        "train station, airport, library, hospital, museum, supermarket, post office, bank, zoo, stadium, hotel, "
        "bakery, pharmacy, bus stop, cinema, city center, swimming pool, gas station, dentist, harbor"
    )
    + stories.PLACES
)
STREETS = listed("street, road, avenue, lane")
THINGS = stories.TOYS + listed(
    "car, bike, phone, table, chair, door, window, shirt, clock, laptop, camera, letter, package, cake, plant, "
    "ticket, glass, bottle, lamp, jacket, wallet, bus, train, fridge"
)
QUALITIES = stories.COLORS + listed("new, old, big, small, broken, wet, heavy, lovely, clean, empty")
STATES = listed(
    "ready, broken, here, gone, clean, too small, on the table, in the car, under the bed, at home, for you, in the "
    "kitchen, lost, still wet, next to the door, very old, late again"
)
MEALS = listed("lunch, dinner, breakfast, school, work, practice, tea, class")
CHORES = tuple(chore for chore, _ in stories.CHORES) + listed(
    "call the doctor, pay the rent, take out the trash, feed the cat, walk the dog, clean my room, do the laundry, "
    "buy a ticket, charge the phone, lock the door, read a book, take my pills, write a letter, fix the bike, book a "
    "table, pack my bag, do my homework, water the plants"
)
VERBS = listed("buy, bring, find, fix, wash, paint, sell, clean, return, check, move, pack")


def number_words(number: int) -> str:
    """Spell 0 to 100 in words."""
    if number == 100:
        return "one hundred"
    if number < 20:
        return UNITS[number]
    ten, unit = divmod(number, 10)
    return TENS[ten - 2] + (f" {UNITS[unit]}" if unit else "")


def say_number(rng: random.Random, number: int) -> str:
    """Say a number in numerals or in words."""
    return str(number) if rng.random() < 0.5 else number_words(number)


def say_name(rng: random.Random, name: str) -> str:
    """Write a name with capitals or, as it is mostly typed, without."""
    return name.title() if rng.random() < 0.4 else name


def copied(field: str, said: str) -> Slot:
    """A slot whose words are the value."""
    return Slot(said, {field: said})


def pick(field: str, values: Sequence[str]) -> Draw:
    """Draw a value that is said as it is."""
    return lambda rng: copied(field, rng.choice(values))


def pick_name(field: str, names: Sequence[str]) -> Draw:
    """Draw a name, with capitals or without; the value keeps the case."""
    return lambda rng: copied(field, say_name(rng, rng.choice(names)))


def made_up_name(rng: random.Random) -> str:
    """A name nobody has, so that names must be copied and cannot all be known."""
    return "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 3)))


def draw_person(rng: random.Random) -> Slot:
    """A first name, a full name, a relative or a name never heard before."""
    name = rng.choice(NAMES)
    other = rng.choice((f"{name} {rng.choice(SURNAMES)}", rng.choice(RELATIVES), made_up_name(rng)))
    return copied("to", say_name(rng, name if rng.random() < 0.6 else other))


def draw_contact(rng: random.Random) -> Slot:
    """A person to call."""
    return copied("name", draw_person(rng).said)


def say_length(rng: random.Random, unit: str, number: int) -> Slot:
    """Say a number of seconds, minutes or hours; ``unit`` is the plural."""
    if number == 1:
        article = "an" if unit == "hours" else "a"
        said = f"{rng.choice((article, 'one', '1'))} {unit[:-1]}"
    else:
        said = f"{say_number(rng, number)} {unit}"
    return Slot(said, {unit: number})


def draw_length(rng: random.Random) -> Slot:
    """A length of time: one unit, or two as in "one hour and ten minutes"."""
    if rng.random() < 0.15:
        hours, minutes = (
            say_length(rng, "hours", rng.randint(1, 5)),
            say_length(rng, "minutes", rng.randint(2, 59)),
        )
        return Slot(f"{hours.said} and {minutes.said}", hours.fields | minutes.fields)
    unit = rng.choice(("seconds", "minutes", "minutes", "hours"))
    return say_length(rng, unit, rng.randint(1, 12 if unit == "hours" else 90))


def part_of_day(hour: int) -> str:
    """The part of the day an hour of the 24-hour clock belongs to."""
    if hour < 12:
        return "in the morning"
    if hour < 18:
        return "in the afternoon"
    return "in the evening" if hour < 21 else "at night"


def say_time(rng: random.Random, hour: int, minute: int) -> str:
    """Say a time of the 24-hour clock so that morning and evening cannot be mixed up."""
    clock = f"{hour:02d}:{minute:02d}"
    hour12 = hour % 12 or 12
    after = part_of_day(hour) if rng.random() < 0.4 else ("am" if hour < 12 else "pm")
    spelled = {15: "quarter past", 30: "half past", 45: "quarter to"}.get(minute)
    if spelled and rng.random() < 0.4:
        named = hour12 % 12 + 1 if minute == 45 else hour12
        # "quarter to" names the next hour, whose part of the day may differ: stay with am and pm.
        following = (hour + 1) % 24
        after = ("am" if following < 12 else "pm") if minute == 45 else part_of_day(hour)
        return f"{spelled} {number_words(named)} {after}"
    if minute == 0:
        return rng.choice((f"{say_number(rng, hour12)} {after}", clock))
    words = f"{number_words(hour12)} {number_words(minute)} {after}"
    return rng.choice((f"{hour12}:{minute:02d} {after}", words, clock))


def draw_time(rng: random.Random) -> Slot:
    """A time of day between 04:00 and 23:55; the value is "HH:MM" of the 24-hour clock."""
    hour = rng.randint(4, 23)
    minute = rng.choice((0, 0, 15, 30, 30, 45, 5 * rng.randint(2, 11)))
    if (hour, minute) == (12, 0) and rng.random() < 0.5:
        return Slot("noon", {"time": "12:00"})
    return Slot(say_time(rng, hour, minute), {"time": f"{hour:02d}:{minute:02d}"})


def draw_day(rng: random.Random) -> Slot:
    """A day: "tomorrow", or "on friday"."""
    if rng.random() < 0.3:
        return copied("day", "tomorrow")
    day = say_name(rng, rng.choice(DAYS))
    return Slot(f"on {day}", {"day": day})


def draw_weather_day(rng: random.Random) -> Slot:
    """A day of a forecast, which may be today."""
    return copied("day", rng.choice(("today", "tonight"))) if rng.random() < 0.2 else draw_day(rng)


def draw_thing(rng: random.Random) -> str:
    """A thing, such as "red boat" or "keys"."""
    thing = rng.choice(THINGS)
    return f"{rng.choice(QUALITIES)} {thing}" if rng.random() < 0.5 else thing


def draw_statement(rng: random.Random) -> str:
    """A short message that states something, composed so that it cannot be known by heart."""
    thing, name, meal = draw_thing(rng), rng.choice(NAMES), rng.choice(MEALS)
    place, day = rng.choice(stories.PLACES), rng.choice(("today", "tomorrow", *DAYS))
    return rng.choice(
        (
            f"the {thing} is {rng.choice(STATES)}",
            f"your {thing} is {rng.choice(STATES)}",
            f"i will be {rng.choice(('late', 'a little late', 'early'))} for {meal}",
            f"i am at the {place} with {name}",
            f"we are going to the {place} {day}",
            f"i found your {thing} near the {place}",
            f"{meal} is ready",
            f"i saw {name} and {rng.choice(NAMES)} at the {place}",
            f"i love the {thing}",
            f"there is no {meal} {day}",
            f"we need {rng.randint(2, 12)} {rng.choice(stories.FOODS)} for {meal}",
            f"the {rng.choice(stories.ANIMALS)} is in the {rng.choice(ROOMS)}",
        )
    )


def draw_request(rng: random.Random) -> str:
    """A short message that asks or wishes something."""
    thing, place, food = draw_thing(rng), rng.choice(stories.PLACES), rng.choice(GROCERIES)
    return rng.choice(
        (
            f"can you bring the {thing}",
            f"please buy {food} and {rng.choice(GROCERIES)}",
            f"do not forget the {thing}",
            f"meet me at the {place} at {rng.randint(2, 12)}",
            f"happy birthday {rng.choice(NAMES)}",
            f"see you {rng.choice(('today', 'tomorrow', *DAYS))} at the {place}",
        )
    )


def draw_task(rng: random.Random) -> str:
    """Something to be reminded of, starting with a verb."""
    return rng.choice(
        (
            rng.choice(CHORES),
            f"{rng.choice(VERBS)} the {draw_thing(rng)}",
            f"buy {rng.choice(GROCERIES)} for {rng.choice(NAMES)}",
            f"call {rng.choice(NAMES + RELATIVES)} about the {draw_thing(rng)}",
            f"meet {rng.choice(NAMES)} at the {rng.choice(stories.PLACES)}",
        )
    )


def copy_text(rng: random.Random, text: str) -> Slot:
    """A text to copy; its "i" may be a capital, and the value keeps it."""
    return copied("text", re.sub(r"\bi\b", "I", text) if rng.random() < 0.3 else text)


def draw_message(rng: random.Random) -> Slot:
    """A message to someone."""
    return copy_text(rng, rng.choice((draw_statement, draw_statement, draw_request))(rng))


def draw_note(rng: random.Random) -> Slot:
    """A note to oneself."""
    return copy_text(rng, rng.choice((draw_statement, draw_task))(rng))


def draw_item(rng: random.Random) -> Slot:
    """Something for a list, such as "milk", "three pears" or "a red lamp"."""
    number = say_number(rng, rng.randint(2, 12))
    item = rng.choice(
        (
            rng.choice(GROCERIES),
            f"{number} {rng.choice(stories.FOODS)}",
            f"{rng.choice(GROCERIES)} and {rng.choice(GROCERIES)}",
            f"the {draw_thing(rng)}",
        )
    )
    return copied("item", item)


def draw_artist(rng: random.Random) -> Slot:
    """A singer, or a band such as "the blue foxes"."""
    singer = f"{rng.choice(NAMES)} {rng.choice(SURNAMES)}"
    band = f"the {rng.choice(QUALITIES)} {rng.choice(('foxes', 'birds', 'stars', 'kings', 'bears'))}"
    return copied("artist", say_name(rng, rng.choice((singer, band))))


def draw_song(rng: random.Random) -> Slot:
    """A made-up title of a song."""
    quality, thing, place = rng.choice(QUALITIES), rng.choice(THINGS), rng.choice(stories.PLACES)
    title = rng.choice((f"{quality} {thing}", f"{quality} {place}", f"my {quality} {thing}", f"{place} song"))
    return copied("song", say_name(rng, title))


def draw_place(rng: random.Random) -> Slot:
    """A destination: "the zoo", a town or an address."""
    address = f"{rng.randint(1, 99)} {rng.choice(SURNAMES)} {rng.choice(STREETS)}"
    place = f"the {rng.choice(DESTINATIONS)}"
    return copied("place", rng.choice((place, place, address, say_name(rng, rng.choice(TOWNS)))))


def draw_level(rng: random.Random) -> Slot:
    """A volume from 0 to 100."""
    level = rng.choice((5 * rng.randint(0, 20), rng.randint(0, 100)))
    return Slot(say_number(rng, level), {"level": level})


KINDS = (
    Kind(
        "set_timer",
        {"length": draw_length},
        (
            "set a timer for {length}",
            "set timer for {length}",
            "start a timer for {length}",
            "start a {length} timer",
            "timer for {length}.",
            "timer {length}.",
            "set a {length} timer",
            "count down {length}",
            "start a countdown of {length}",
            "make a timer for {length}",
            "i need a timer for {length}.",
            "give me a timer for {length}",
            "put {length} on the timer",
            "let the timer run for {length}",
        ),
        (
            "run a timer for {length}",
            "new timer, {length}.",
            "i want a {length} timer.",
            "begin a timer of {length}",
        ),
    ),
    Kind(
        "set_alarm",
        {"time": draw_time, "day": draw_day},
        (
            "set an alarm for {time}",
            "set an alarm for {time} {day}",
            "set alarm {time}",
            "wake me up at {time}",
            "wake me at {time} {day}",
            "alarm at {time}.",
            "alarm for {time} {day}.",
            "i need an alarm at {time}.",
            "i have to get up at {time} {day}.",
            "put an alarm on for {time}",
            "make an alarm for {time}",
            "set the alarm clock to {time}",
            "{day} wake me up at {time}",
            "get me up at {time}",
        ),
        (
            "i want to wake up at {time}.",
            "create an alarm at {time}",
            "let the alarm ring at {time}",
            "ring me awake at {time} {day}",
        ),
    ),
    Kind(
        "send_message",
        {
            "to": draw_person,
            "text": draw_message,
            "statement": lambda rng: copy_text(rng, draw_statement(rng)),
        },
        (
            "send a message to {to} saying {text}",
            "send {to} a message saying {text}",
            'send a message to {to} "{text}"',
            'send "{text}" to {to}',
            "tell {to} that {statement}",
            "tell {to} {text}",
            "text {to} that {statement}",
            'text {to} "{text}"',
            "message {to}: {text}",
            "message {to} saying {text}",
            "write to {to} that {statement}",
            'write "{text}" to {to}',
            "let {to} know that {statement}",
            "text {to} saying {text}",
        ),
        (
            'send a text to {to} with the words "{text}"',
            "inform {to} that {statement}",
            'say "{text}" to {to}',
            "drop {to} a message that says {text}",
        ),
    ),
    Kind(
        "call_contact",
        {"name": draw_contact},
        (
            "call {name}",
            "call {name} now",
            "phone {name}",
            "give {name} a call",
            "ring {name}",
            "make a call to {name}",
            "start a call with {name}",
            "dial {name}",
            "i want to talk to {name}.",
            "i need to call {name}.",
            "get {name} on the phone",
            "call up {name}",
            "place a call to {name}",
        ),
        (
            "i would like to speak with {name}.",
            "phone up {name}",
            "connect me with {name}",
            "make a phone call to {name}",
        ),
    ),
    Kind(
        "play_music",
        {"song": draw_song, "artist": draw_artist, "genre": pick("genre", GENRES)},
        (
            "play the song {song}",
            "play the song {song} by {artist}",
            "play {song} by {artist}",
            "play music by {artist}",
            "play songs by {artist}",
            "play something by {artist}",
            "play some {genre}",
            "play some {genre} music",
            "play {genre} music",
            "put on some {genre}",
            "put on {genre} music",
            "put on the song {song}",
            "i want to hear the song {song}.",
            "i want to hear something by {artist}.",
            "i want to listen to some {genre} music.",
            "start the song {song} by {artist}",
        ),
        (
            "i feel like some {genre} music.",
            "let me hear the song {song}",
            "give me some music by {artist}",
            "put the song {song} by {artist} on",
        ),
    ),
    Kind(
        "get_weather",
        {"place": pick_name("place", TOWNS), "day": draw_weather_day},
        (
            "what is the weather in {place}?",
            "what is the weather in {place} {day}?",
            "what is the weather {day}?",
            "what will the weather be like {day} in {place}?",
            "how is the weather in {place}?",
            "how is the weather in {place} {day}?",
            "show me the weather for {place}",
            "show the weather in {place} {day}",
            "tell me the weather in {place}",
            "weather in {place}.",
            "weather in {place} {day}.",
            "will it rain in {place} {day}?",
            "will it rain {day}?",
            "is it cold in {place}?",
            "do i need an umbrella in {place} {day}?",
        ),
        (
            "get me the weather report for {place}",
            "is it going to rain in {place} {day}?",
            "how warm will it be in {place} {day}?",
            "what does the weather look like in {place}?",
        ),
    ),
    Kind(
        "add_to_list",
        {"item": draw_item, "list": pick("list", LISTS)},
        (
            "add {item} to the {list} list",
            "add {item} to my {list} list",
            "put {item} on the {list} list",
            "put {item} on my {list} list",
            "write {item} on the {list} list",
            "i need {item} on my {list} list.",
            "my {list} list needs {item}.",
            "on the {list} list put {item}.",
            "add to my {list} list {item}",
            "{list} list: add {item}",
            "add {item} to our {list} list",
            "note {item} on the {list} list",
        ),
        (
            "include {item} in my {list} list",
            "{item} should go on the {list} list.",
            "place {item} on our {list} list",
            "the {list} list should have {item}.",
        ),
    ),
    Kind(
        "set_light",
        {"room": pick("room", ROOMS), "state": pick("state", ("on", "off"))},
        (
            "turn {state} the light in the {room}",
            "turn {state} the lights in the {room}",
            "turn {state} the {room} light",
            "turn {state} the {room} lights",
            "turn the {room} light {state}",
            "turn the lights {state} in the {room}",
            "switch {state} the {room} light",
            "switch {state} the light in the {room}",
            "switch the {room} lights {state}",
            "light {state} in the {room}.",
            "{room} light {state}",
            "put the {room} light {state}",
            "i want the {room} light {state}.",
        ),
        (
            "the light in the {room} should be {state}.",
            "set the {room} lights to {state}",
            "make the {room} light go {state}",
            "in the {room} turn the lamp {state}.",
        ),
    ),
    Kind(
        "set_volume",
        {"level": draw_level},
        (
            "set the volume to {level}",
            "set the volume to {level} percent",
            "set volume to {level}",
            "volume {level}.",
            "volume to {level}.",
            "turn the volume to {level}",
            "turn the sound to {level}",
            "put the volume at {level}",
            "change the volume to {level} percent",
            "make the volume {level}",
            "volume at {level} percent.",
            "i want the volume at {level}.",
            "set the sound to {level} percent",
        ),
        (
            "adjust the volume to {level}",
            "bring the volume to {level} percent",
            "the volume should be {level}.",
            "put the sound on {level}",
        ),
    ),
    Kind(
        "set_reminder",
        {
            "text": lambda rng: copy_text(rng, draw_task(rng)),
            "time": draw_time,
            "day": draw_day,
        },
        (
            "remind me to {text} at {time}",
            "remind me at {time} to {text}",
            "remind me to {text} {day}",
            "remind me {day} to {text}",
            "remind me {day} at {time} to {text}",
            "set a reminder to {text} at {time}",
            "set a reminder to {text} {day}",
            "set a reminder for {time} to {text}",
            "do not let me forget to {text} at {time}",
            "do not let me forget to {text} {day}",
            "i have to {text} {day}, remind me.",
            "make a reminder to {text} at {time}",
            "reminder at {time} to {text}.",
        ),
        (
            "give me a reminder to {text} at {time}",
            "help me remember to {text} {day}",
            "{day} i should {text}, so remind me.",
            "create a reminder for {time} to {text}",
        ),
    ),
    Kind(
        "open_app",
        {"app": pick_name("app", APPS)},
        (
            "open {app}",
            "open the {app} app",
            "open my {app} app",
            "start the {app} app",
            "start {app}",
            "launch {app}",
            "launch the {app} app",
            "show me the {app} app",
            "go to the {app} app",
            "i want to use the {app} app.",
            "i need the {app} app.",
            "bring up the {app} app",
            "run the {app} app",
        ),
        (
            "take me to the {app} app",
            "load the {app} app",
            "i would like to see the {app} app.",
            "get the {app} app open",
        ),
    ),
    Kind(
        "navigate_to",
        {"place": draw_place},
        (
            "navigate to {place}",
            "take me to {place}",
            "drive me to {place}",
            "show me the way to {place}",
            "how do i get to {place}?",
            "give me directions to {place}",
            "directions to {place}.",
            "find the way to {place}",
            "i want to go to {place}.",
            "i need to get to {place}.",
            "start navigation to {place}",
            "what is the way to {place}?",
            "guide me to {place}",
        ),
        (
            "find a route to {place}",
            "lead me to {place}",
            "which way is it to {place}?",
            "bring me to {place}",
        ),
    ),
    Kind(
        "take_note",
        {"text": draw_note},
        (
            'take a note "{text}"',
            "take a note: {text}",
            'make a note "{text}"',
            "make a note that says {text}",
            'note "{text}"',
            "note: {text}.",
            'write down "{text}"',
            "write down: {text}",
            'write a note "{text}"',
            'save a note "{text}"',
            'save this note: "{text}"',
            "new note: {text}.",
            "write a note that says {text}",
        ),
        (
            'keep a note with the words "{text}"',
            'put "{text}" in my notes',
            "jot down: {text}",
            'start a new note that reads "{text}"',
        ),
    ),
)


def address(rng: random.Random, wording: str) -> str:
    """Put polite words around a wording, as its mood allows."""
    mood = wording[-1] if wording[-1] in "?." else ""
    words = wording.removesuffix(mood)
    before = rng.choice(("", "", "", "", "hey, ", "ok, "))
    if mood or words.startswith("{"):
        return f"{before}{words}{mood}"
    request = rng.choice(("", "", "", "please ", "could you ", "can you ", "would you "))
    # After a text that is copied to the end, "please" would read as a part of it.
    after = " please" if not request and rng.random() < 0.15 and not words.endswith(("{text}", "{statement}")) else ""
    return f"{before}{request}{words}{after}" + ("?" if request.endswith("you ") else "")


def punctuate(rng: random.Random, words: str) -> str:
    """Write a request as it is mostly typed, in lower case without a last mark, or in full."""
    mark = words[-1] if words[-1] in "?." else ""
    words = words.removesuffix(mark)
    if rng.random() < 0.7 or words.startswith("{"):
        return words
    return words[0].upper() + words[1:] + (mark or rng.choice(("", ".")))


def write_command(rng: random.Random, wording: str = "train") -> Command:
    """Write one command; the same state of ``rng`` writes the same command.

    ``wording`` is "train", or "unseen" for the wordings that training never uses.
    """
    kind = rng.choice(KINDS)
    template = rng.choice({"train": kind.train, "unseen": kind.unseen}[wording])
    slots = {name: draw(rng) for name, draw in kind.slots.items() if f"{{{name}}}" in template}
    said = {name: slot.said for name, slot in slots.items()}
    call: dict[str, Value] = {"call": kind.name}
    for slot in slots.values():
        call |= slot.fields
    prompt = punctuate(rng, address(rng, template)).format_map(said)
    return Command(prompt, call, kind.name)


def render(command: Command) -> str:
    """The prompt and, on the next line, its call as JSON."""
    return f"{command.prompt}\n{json.dumps(command.call, ensure_ascii=False)}"
