"""Short children's stories, written from a seed.

A story is an opening, the beats of one plot and a close. Every beat is drawn from several
phrasings; a phrasing holds choices, ``[big|small]``, and slots, ``{name}``, which are filled once
per story, so that a hero, an object or a place that was named early comes back unchanged later.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

Beat = tuple[str, ...]


def listed(text: str) -> tuple[str, ...]:
    """Split a list written with commas."""
    return tuple(text.split(", "))


# Every name has one pronoun, which the stories never change.
GIRLS = listed(
    "Lily, Mia, Anna, Emma, Ella, Rosa, Sara, Nora, Lucy, Maya, Zoe, Ruby, Clara, Alice, Ivy, Grace, Eva, Hana, "
    "Julia, Kate, Leila, Molly, Nina, Olivia, Penny, Rita, Sophie, Tina, Vera, Amy, Daisy, Jane, Lena, Mary, Sue, "
    "Amina, Priya, Yuki, Bella, Cora"
)
BOYS = listed(
    "Tom, Ben, Max, Sam, Leo, Jack, Noah, Oscar, Peter, Hugo, Adam, Carlos, David, Eli, Felix, George, Henry, Ivan, "
    "Jacob, Karl, Liam, Marco, Nick, Omar, Paul, Ravi, Simon, Theo, Victor, Walter, Tim, Luke, Daniel, Mateo, Jonas, "
    "Kofi, Kenji, Emil, Billy, Andy"
)
SHE_ANIMALS = listed(
    "Bibi, Coco, Dotty, Fern, Hazel, Honey, Luna, Maple, Misty, Nutmeg, Olive, Pearl, Poppy, Rosie, Sunny, Tilly, "
    "Willow, Bluebell, Clover, Pippa"
)
HE_ANIMALS = listed(
    "Finn, Bruno, Chip, Dusty, Ollie, Otto, Pip, Rusty, Scout, Toby, Ziggy, Benny, Biscuit, Buddy, Copper, Fuzzy, "
    "Moss, Pebble, Rolo, Sparky"
)

ANIMALS = listed(
    "fox, rabbit, bear, owl, mouse, squirrel, hedgehog, duck, frog, turtle, deer, badger, goat, lamb, pony, otter, "
    "cat, dog, bird, pig"
)
PETS = listed("dog, dog, dog, cat, cat, pony, rabbit, goat, duck, bird, mouse, turtle")  # dogs and cats more often
PEOPLE_ROLES = ("friend", "best friend", "cousin", "neighbor", "good friend")
FAMILY = listed("mother, father, grandma, grandpa, aunt, uncle, sister, brother")

TRAITS = listed(
    "little, brave, kind, clever, curious, shy, cheerful, gentle, young, happy, quiet, busy, funny, small, friendly, "
    "careful, playful, lonely"
)
COLORS = listed("red, blue, green, yellow, orange, purple, white, brown, pink, gray, golden, silver")
TOYS = listed(
    "kite, ball, book, drum, hat, scarf, boat, bell, lantern, key, cup, ring, doll, whistle, coat, umbrella, bag, "
    "train, flute, pencil, blanket, button, star, box"
)
FOODS = listed("apples, berries, pears, plums, nuts, cookies, cherries, carrots, buns, pancakes")
PLACES = listed(
    "river, park, forest, hill, pond, market, old bridge, garden, lake, meadow, farm, beach, old mill, school, big "
    "oak tree, waterfall, village square, apple orchard"
)
HOMES = (
    "in a small village",
    "in a little house by the sea",
    "on a small farm",
    "at the edge of the forest",
    "in a cozy house under an old tree",
    "near a tall green hill",
    "in a busy town",
    "beside a slow river",
    "in a tiny house with a red door",
    "at the end of a long road",
)
HOBBIES = (
    "climb trees",
    "sing songs",
    "look at the stars",
    "paint pictures",
    "count the clouds",
    "run in the grass",
    "collect shiny stones",
    "listen to stories",
    "splash in the rain",
    "watch the birds",
    "dance in the garden",
    "explore new places",
)
TIMES = (
    *["one day"] * 5,  # the start most people type
    "one sunny morning",
    "one warm afternoon",
    "one windy day",
    "one bright morning",
    "one cool spring day",
    "one quiet afternoon",
    "one summer day",
    "one fine morning",
    "one cloudy day",
    "early one morning",
)
FOLLOWING = ("soon", "before long", "after a while", "a little later")
HIDING_SPOTS = (
    "under a big leaf",
    "behind a gray rock",
    "inside a hollow log",
    "in the tall grass",
    "beside the path",
    "under an old bench",
    "next to a round bush",
    "between two stones",
)
GLAD = listed("happy, glad, pleased, delighted, joyful")
SAD = listed("sad, upset, unhappy")
GAMES = ("hide and seek", "tag", "catch", "pirates", "kings and queens", "jump rope")

# Groups whose members belong together: each row fills its slots at once.
FEARS = (  # fear, deed, did
    ("the dark", "walk through the dark cave", "walked through the dark cave"),
    ("high places", "cross the tall bridge", "crossed the tall bridge"),
    ("deep water", "swim across the pond", "swam across the pond"),
    ("loud sounds", "beat the big drum", "beat the big drum"),
    ("singing alone", "sing in the school show", "sang in the school show"),
    ("horses", "ride the gray horse", "rode the gray horse"),
    ("the tall slide", "go down the tall slide", "went down the tall slide"),
    ("bees", "pick the flowers near the bees", "picked the flowers near the bees"),
)
SKILLS = (  # skill, failure, did
    ("swim", "swallowed a lot of water", "swam all the way across the lake"),
    ("ride a bike", "fell into the soft grass", "rode down the road with no help"),
    ("whistle", "made no sound at all", "whistled a sweet little song"),
    ("bake bread", "burned the bread", "baked a warm and golden bread"),
    ("paint", "spilled the paint", "painted a lovely picture of the sea"),
    ("play the flute", "made a funny noise", "played a gentle song"),
    ("skate", "slipped and fell down", "skated in a big circle"),
    ("dance", "fell over {his} own feet", "danced without one wrong step"),
    ("juggle", "dropped every ball", "kept three balls in the air"),
)
PROJECTS = (  # project, parts, use
    ("treehouse", "boards and nails", "sat in it high above the ground"),
    ("raft", "logs and rope", "sailed it across the pond"),
    ("bridge", "flat stones", "walked over the stream with dry feet"),
    ("wagon", "wheels and wood", "rolled it down the hill"),
    ("tent", "sticks and a sheet", "slept in it under the stars"),
    ("swing", "rope and a board", "took turns until the sun went down"),
    ("bird house", "wood and glue", "watched two birds move in"),
    ("tower", "blocks and boxes", "put a little flag on top"),
)
TROUBLES = (  # trouble, tool, freed
    ("at the bottom of a deep hole", "rope", "pulled {friend} up"),
    ("at the top of a tall tree", "ladder", "carried {friend} down"),
    ("on a rock in the middle of the river", "wide board", "led {friend} across"),
    ("under a fallen branch", "strong stick", "lifted the branch and let {friend} out"),
    ("inside a muddy ditch", "long blanket", "helped {friend} climb out"),
    ("in a bush full of thorns", "pair of gloves", "pushed the thorns away and set {friend} free"),
)
CHORES = (  # chore, chore_done
    ("feed the hens", "fed the hens"),
    ("water the roses", "watered the roses"),
    ("pick the ripe beans", "picked the ripe beans"),
    ("sweep the kitchen", "swept the kitchen"),
    ("wash the windows", "washed the windows"),
    ("bring in the wood", "brought in the wood"),
    ("clean the barn", "cleaned the barn"),
    ("look after the baby", "looked after the baby"),
)
SHELTERS = ("small cave", "old barn", "hollow tree", "empty hut", "wooden shed", "stone tower")
GROWN = ("tall sunflower", "fat pumpkin", "sweet melon", "rose bush", "apple tree", "giant bean plant")
BROKEN = ("blue vase", "best cup", "round mirror", "teapot", "flower pot", "old lamp", "glass bowl")

# Openings that present the hero; the first beat then says when it happened.
PRESENTING = (
    "Once upon a time, there was a {trait} {kind} named {name}. {He} lived {home} with {his} {family}.",
    "Once upon a time there was a {trait} {kind} named {name} who lived {home}.",
    "Once upon a time, there was a {trait} {kind} named {name} who loved to {hobby}.",
    "Once upon a time, {home}, there lived a {trait} {kind} named {name}.",
    "Once upon a time, a {trait} {kind} named {name} lived {home}.",
    "There was once a {trait} {kind} named {name}. {He} lived {home} and loved to {hobby}.",
    "There once was a {trait} {kind} [called|named] {name}, who liked to {hobby}.",
    "{Home} there lived a {trait} {kind} named {name}. {He} loved to {hobby}.",
    "{Home}, there was a {trait} {kind} named {name}.",
    "Long ago, {home}, there lived a {trait} {kind} named {name}.",
    "{Name} was a {trait} {kind} who lived {home}. {He} liked to {hobby}.",
    "{Name} was a {trait} {kind}. {He} loved to {hobby} with {his} {family}.",
    "{Name} the {kind} lived {home} with {his} {family}.",
    "Every morning, {name} went to {place}. {He} was a {trait} {kind} who loved to {hobby}.",
    "Every day after breakfast, a {trait} {kind} named {name} liked to {hobby}.",
)
# Openings that start in the middle of the day the story tells about.
STARTING = (
    "{When}, a {trait} {kind} named {name} went outside to {hobby}.",
    "{When}, a {trait} {kind} named {name} was walking near {elsewhere}.",
    "{When}, {name} woke up early and ran outside. {He} was a {trait} {kind} who loved to {hobby}.",
    "{When}, {name} said goodbye to {his} {family} and left the house. {He} was a {trait} {kind}.",
    "It was a [lovely|quiet|bright] day {home}. A {trait} {kind} named {name} was ready to play.",
    "{Name} woke up with a big smile. {He} was a {trait} {kind} and {he} loved to {hobby}.",
)
JOINING = (
    "{He} did everything with {role}.",
    "{He} loved to play with {role}.",
    "{He} spent every day with {role}.",
    "{Role} was always with {him}.",
    "Nobody made {him} laugh like {role}.",
)
PRESENTING_PAIR = (
    "{Name} and {role} lived {home}. They [loved|liked] to {hobby}.",
    "Once upon a time, {name} and {role} lived {home}. They loved to {hobby}.",
    "{Name} and {role} did everything together. They lived {home}.",
    "There was once a {trait} {kind} named {name}. {Name} and {role} loved to {hobby}.",
)
STARTING_PAIR = (
    "{When}, {name} and {role} went outside to {hobby}.",
    "{When}, {name} and {role} were walking near {elsewhere}.",
    "{Name} and {role} [were playing|were sitting|took a walk] near {elsewhere}. It was a fine day.",
)
CLOSING = (
    "That night, {name} fell asleep with a smile.",
    "{Name} and {friend} stayed friends for ever.",
    "{Name} went home, and {his} {family} gave {him} a [big|warm] hug.",
    "When the stars came out, {name} was already asleep, warm and safe.",
    "{Name} never forgot that day.",
    "{Name} told {his} {family} all about it, and they both smiled.",
    "And from that day on, {name} and {friend} were always happy.",
    "The sun went down, and {name} and {friend} walked home [side by side|hand in hand].",
)


@dataclass(frozen=True)
class Plot:
    """The beats of one kind of story, in order, and the lessons it can end on."""

    name: str
    beats: tuple[Beat, ...]
    morals: Beat
    meets_friend: bool = False  # the friend enters in a beat, not in the opening


PLOTS = (
    Plot(
        "lost and found",
        (
            (
                "{Start}, {name} took {his} {thing} to {place}. It was a gift from {his} {family}.",
                "{Start}, {his} {family} gave {name} a {thing}. {Name} took it to {place} to play.",
                "{Start}, {name} went to {place} with {his} {thing}. {He} loved that {noun} very much.",
            ),
            (
                "But when it was time to go home, the {noun} was gone.",
                "{He} put the {noun} down to [rest|eat|drink], and then {he} could not find it.",
                "{He} ran and jumped and played, and then {he} saw that the {noun} was gone.",
            ),
            (
                '"Oh no, I lost my {thing}!" cried {name}. {He} felt very {sad}.',
                '"Where is my {noun}?" {name} asked. {He} was so {sad} that {he} [began to cry|sat down].',
                '{Name} was {sad}. "I can\'t go home without my {noun}," {he} said.',
            ),
            (
                '"Don\'t worry, I will help you," said {friend}. "Let us look together."',
                '{Friend} came close. "We will find it," {f_he} said.',
                '"Do not cry," said {friend}. "Two can look better than one."',
            ),
            (
                "They looked near the water and they looked behind every tree, but they found nothing.",
                "{Name} looked on the left and {friend} looked on the right. They asked a {animal},"
                " but the {animal} had not seen it.",
                "They walked back along the path, step by step, and they looked [up and down|everywhere].",
            ),
            (
                "Then {friend} saw something {color} {spot}. It was the {noun}!",
                "At last, {friend} looked {spot}, and there was the {thing}!",
                "Then {name} looked {spot} and saw something {color}. {He} had found the {noun}!",
            ),
            (
                '"Thank you, {friend}!" said {name}. {He} held the {thing} [close|tight] and danced with joy.',
                '{Name} hugged {friend}. "You are the best friend in the world," {he} said.',
                "{Name} was so {glad} that {he} jumped up and down. They laughed and danced.",
            ),
        ),
        (
            "{Name} learned that a good friend is worth more than a {noun}.",
            "After that day, {name} always took good care of {his} {thing}.",
            "{Name} learned that it is easier to look for things together.",
        ),
    ),
    Plot(
        "a new friend",
        (
            (
                "{Start}, {name} went to {place} with a bag of {food}.",
                "{Start}, {name} packed some {food} and walked to {place}.",
                "{Start}, {his} {family} gave {name} some {food}, and {he} took them to {place}.",
            ),
            (
                "There {he} saw {a_friend}. {F_he} sat alone and looked {sad}.",
                "Near the path sat {a_friend}, and {f_he} looked very {sad}.",
                "{He} heard someone [crying|sniffing] {spot}. It was {a_friend}.",
            ),
            (
                '"Hello, I am {name}. Why are you {sad}?" asked {name}.',
                '{Name} sat down beside {friend}. "What is wrong?" {he} asked.',
                '"Hello, my name is {name}," said {name}. "Are you all right?"',
            ),
            (
                '"I am new here and I have no friends," said {friend}.',
                '"Nobody wants to play with me," {friend} said in a small voice.',
                '"I just moved here, and I do not know anyone," said {friend}.',
            ),
            (
                "{Name} thought for a moment. Then {he} opened {his} bag and gave {friend} some {food}.",
                '"Would you like some {food}?" asked {name}. {Friend} nodded, and they ate together.',
                '"You can have half of my {food}," said {name}, and {friend} began to smile.',
            ),
            (
                "Then they played {game} near {place} until the sun went down.",
                "All afternoon {name} and {friend} played {game} and laughed.",
                "{Name} showed {friend} how to play {game}, and soon they were both laughing.",
            ),
            (
                '"Will you come back tomorrow?" asked {friend}. "Yes, I will," said {name}.',
                '"I am so {glad} that I met you," said {friend}. {Name} was {glad} too.',
                '"Now you have a friend," said {name}, and {friend} gave {him} a hug.',
            ),
        ),
        (
            "{Name} learned that a kind word can make a new friend.",
            "The next day, {name} and {friend} met at {place} again.",
            "And that is how {name} and {friend} became best friends.",
        ),
        meets_friend=True,
    ),
    Plot(
        "a brave rescue",
        (
            (
                "{Start}, {name} was on the way to {place} when {he} heard a cry.",
                '{Start}, near {place}, {name} heard a small voice. "Help! Help!" it called.',
                "{Start}, {name} took the path to {place}. Then {he} heard someone call for help.",
            ),
            (
                "{He} ran as fast as {he} could and found {a_friend}. {F_he} was stuck {trouble}.",
                "{He} followed the voice. There, {trouble}, was {a_friend}.",
                "It was {a_friend}, who was stuck {trouble}.",
            ),
            (
                '"Please help me, I can\'t get out," said {friend}. {F_he} was [cold|tired] and {sad}.',
                '"I have been here all day," cried {friend}. "Nobody heard me."',
                '"I am so afraid," said {friend}, and {f_his} voice was very small.',
            ),
            (
                '"Do not be afraid, I will get you out," said {name}.',
                '{Name} was afraid too, but {he} said, "Stay still. I will help you."',
                '"Wait here," said {name}. "I have an idea."',
            ),
            (
                "{Name} ran home and came back with a {tool}.",
                "{He} looked around and found a {tool} {spot}.",
                "{He} asked {his} {family} for a {tool} and ran back as fast as the wind.",
            ),
            (
                "It was hard work, but {name} did not give up. With the {tool}, {he} {freed}.",
                '"One, two, three!" called {name}. {He} used the {tool} and {freed}.',
                "Slowly and carefully, {name} used the {tool} and {freed}.",
            ),
            (
                '"You saved me!" said {friend}. "You are so brave, {name}!"',
                '{Friend} was free at last. "Thank you, {name}," {f_he} said with tears in {f_his} eyes.',
                '"I will never forget this," said {friend}, and {f_he} hugged {name} tight.',
            ),
        ),
        (
            "{Name} learned that you can be brave even when you are afraid.",
            "Soon everyone knew how brave {name} was.",
            "{Name} was {glad} that {he} had stopped to help.",
        ),
        meets_friend=True,
    ),
    Plot(
        "sharing",
        (
            (
                "{Start}, {name} got a big basket of {food} at the market.",
                "{Start}, {his} {family} gave {name} a big basket of {food}.",
                "{Start}, {name} carried a basket of {food} to {place}.",
            ),
            (
                '"These {food} are all mine," said {name}, and {he} hid the basket {spot}.',
                "{He} had never seen so many {food}. {He} wanted to keep them all.",
                '{Name} sat down with the {food}. "I will eat them all by myself," {he} said.',
            ),
            (
                '{Friend} came by. "May I have some {food}?" {f_he} asked. "I am so hungry."',
                '{Friend} looked at the {food}. "They smell so good," {f_he} said. "Can we share?"',
                "Then {friend} came and asked for some {food}.",
            ),
            (
                '"No, they are mine," said {name}. {Friend} walked away and looked {sad}.',
                '{Name} shook {his} head. "Find your own {food}," {he} said, and {friend} went away.',
                '"No," said {name}. {Friend} said nothing and went home.',
            ),
            (
                "{Name} ate and ate, but the {food} did not taste good any more. {He} felt {sad}.",
                "Now {name} was alone. It was no fun to eat the {food} with nobody to talk to.",
                "{Name} ate until {his} tummy hurt. {He} thought of {friend} and felt bad.",
            ),
            (
                '{He} took the basket and ran after {friend}. "I am sorry," said {name}. "Please have some."',
                '{Name} ran to {friend}. "I was wrong," {he} said. "Let us share the {food}."',
                "So {name} gave half of the {food} to {friend} and said sorry.",
            ),
            (
                "{Friend} smiled. They sat under a tree and ate the {food} together.",
                '"Thank you, {name}," said {friend}. They ate side by side and laughed.',
                "They shared the {food}, and this time they tasted sweet. {Name} was {glad}.",
            ),
        ),
        (
            "{Name} learned that good things taste better when you share them.",
            "From that day on, {name} always shared with {friend}.",
            "{Name} learned that a friend is better than a full basket.",
        ),
    ),
    Plot(
        "building",
        (
            (
                '{Start}, {name} had an idea. "Let us build a {project}!" {he} said to {friend}.',
                "{Start}, {name} and {friend} wanted to build a {project} near {place}.",
                '{Start}, {name} drew a picture of a {project}. "We can build it," {he} told {friend}.',
            ),
            (
                "They looked everywhere for {parts}. {His} {family} gave them a [hammer|big box].",
                "{Friend} found {parts} {spot}, and {name} carried them to {place}.",
                "They got {parts} from {his} {family} and started to work.",
            ),
            (
                "{Name} worked on one side and {friend} worked on the other side.",
                "{Name} and {friend} worked all morning. It was hard, but it was fun.",
                "{Friend} held the parts and {name} put them together.",
            ),
            (
                "But then the wind blew, and the {project} fell down with a [crash|bang].",
                "When it was almost done, the {project} [broke|fell down]. Crash!",
                "They were too fast, and the {project} broke into many pieces.",
            ),
            (
                '"It will never work," said {name}. {He} felt {sad} and kicked a stone.',
                '{Name} sat down, {sad} and tired. "I want to stop," {he} said.',
                '"Oh no, all our work is gone!" cried {name}.',
            ),
            (
                '"Let us try again," said {friend}. "This time we will go slowly."',
                '{Friend} put {f_his} hand on {name}. "We can do it if we try once more," {f_he} said.',
                '"We know how to do it better now," said {friend}, and {name} got up again.',
            ),
            (
                "They worked slowly and carefully, and at last the {project} was strong. They {use}.",
                "Step by step they built it again. The new {project} was even better, and they {use}.",
                "When the {project} was ready, {name} painted it {color}. Then they {use}.",
            ),
        ),
        (
            "{Name} learned that you should never give up.",
            "{Name} and {friend} were {glad} because they had made it together.",
            "The {project} stood there for many years, and {name} was {glad} each time {he} saw it.",
        ),
    ),
    Plot(
        "a promise kept",
        (
            (
                '{Start}, {his} {family} said, "{Name}, can you {chore} today?" "I promise," said {name}.',
                '{Start}, {name} made a promise to {his} {family}. "I will {chore} before dark," {he} said.',
                "{Start}, {his} {family} had to go to {place}. {Name} promised to {chore}.",
            ),
            (
                'Then {friend} came running. "Come and play {game} with me!" {f_he} called.',
                '"Come to {place}, we are playing {game}!" said {friend}.',
                "But {friend} wanted to go to {place} and play {game}.",
            ),
            (
                "{Name} wanted to play very much. {He} looked at {friend} and {he} looked at the sun.",
                "It sounded like so much fun. {Name} took one step, and then {he} stopped.",
                '"Only for a little while," thought {name}. But then {he} shook {his} head.',
            ),
            (
                '"I can\'t come now," said {name}. "I made a promise to my {family}."',
                '"First I have to {chore}," {name} told {friend}. "A promise is a promise."',
                '"I would like to," said {name}, "but I said that I would {chore}."',
            ),
            (
                "So {name} went to work. The sun was hot, but {he} did not stop.",
                "{Name} rolled up {his} sleeves and began.",
                "{Name} worked hard, and {he} sang a little song.",
            ),
            (
                '"Then I will help you," said {friend}. Together they {chore_done}.',
                "{Friend} watched for a while. Then {f_he} helped, and together they {chore_done}.",
                "{He} {chore_done} all alone, and {friend} waited near the gate.",
            ),
            (
                'When {his} {family} came home, all the work was done. "I can trust you, {name}," said {his} {family}.',
                "{His} {family} was so {glad} and gave {name} and {friend} some {food}.",
                '"Well done, {name}!" said {his} {family}. "Now you can go and play {game}."',
            ),
        ),
        (
            "{Name} learned that it feels good to keep a promise.",
            "Everyone knew that {name} always kept a promise.",
            "After that, {name} and {friend} played {game} until it was dark.",
        ),
    ),
    Plot(
        "a fear overcome",
        (
            (
                "{Name} had one secret. {He} was afraid of {fear}.",
                "But {name} was afraid of {fear}, and {he} did not want anyone to know.",
                "There was only one thing that {name} did not like. {He} was afraid of {fear}.",
            ),
            (
                '{Start}, {friend} said, "Let us {deed}!"',
                "{Start}, {friend} wanted to {deed} near {place}.",
                '{Start}, {friend} asked, "{Name}, will you {deed} with me?"',
            ),
            (
                "{Name} felt {his} heart beat fast, and {his} legs began to shake.",
                "{Name} looked at the ground and took a step back.",
                "{Name} wanted to run home and hide under the bed.",
            ),
            (
                '"I can\'t do it," {name} said in a small voice. "I am afraid of {fear}."',
                '"Please do not laugh," said {name}, "but I am afraid."',
                '"I am too afraid to {deed}," said {name}, and {he} looked at {his} feet.',
            ),
            (
                '{Friend} did not laugh. "I was afraid too," {f_he} said. "I will stay with you."',
                '"Everyone is afraid sometimes," said {friend}. "Hold on to me."',
                '"Then we will go slowly," said {friend}. "One step at a time."',
            ),
            (
                "{Name} took a deep breath and counted to three. Then {he} {did}.",
                "{Name} thought of {his} {family} and closed {his} eyes for a moment. Then {he} {did}.",
                "Step by step, with {friend} beside {him}, {name} {did}.",
            ),
            (
                '"I did it!" shouted {name}. {He} was so {glad} that {he} wanted to do it again.',
                '"You did it, {name}!" called {friend}, and they danced around.',
                '"It was not so bad," said {name}, and {friend} laughed.',
            ),
        ),
        (
            "{Name} was never afraid of {fear} again.",
            "{Name} learned that being brave means trying even when you are afraid.",
            "{Name} learned that fear grows small when a friend is near.",
        ),
    ),
    Plot(
        "a storm",
        (
            (
                "{Start}, {name} and {friend} went to {place} to eat some {food}.",
                "{Start}, {name} and {friend} were playing {game} near {place}.",
                "{Start}, {name} and {friend} walked to {place} with {his} {thing}.",
            ),
            (
                "Then the sky turned dark, and big drops of rain began to fall.",
                "All at once, black clouds came over the trees, and the wind blew hard.",
                "Then they heard thunder far away, and the sky turned gray.",
            ),
            (
                '"A storm is coming!" cried {name}. "We have to find a dry place."',
                '"I am afraid," said {friend}. "Stay close to me," said {name}.',
                '"We can\'t get home in this rain," said {friend}. {F_he} was {sad}.',
            ),
            (
                "{Name} saw a {shelter} not far away, and they ran inside.",
                "They ran and ran until {name} found a {shelter}. It was dark but dry.",
                "They held on to each other and ran to a {shelter}.",
            ),
            (
                "Inside they found a wet {animal} who was shaking. {Name} made room for it.",
                "The thunder was loud. {Name} told {friend} a story about a brave {animal}.",
                "To forget the thunder, {name} and {friend} sang a song about a {color} {animal}.",
            ),
            (
                "They waited and waited, and {friend} fell asleep. {Name} listened to the rain.",
                "{Friend} had some {food}, and they shared them in the {shelter}.",
                "Lightning lit up the {shelter}, but {name} was not afraid any more.",
            ),
            (
                "At last the rain stopped. {Name} looked out and saw a big rainbow over {place}.",
                "Then it was quiet. The sun came out, and {name} and {friend} jumped over the puddles.",
                "When the storm was over, {his} {family} came with an umbrella and took {name} and {friend} home.",
            ),
        ),
        (
            "{Name} learned that every storm comes to an end.",
            "{Name} learned that a storm is not so bad when you are not alone.",
            "{Name} and {friend} never forgot the {shelter} and the rainbow.",
        ),
    ),
    Plot(
        "a birthday surprise",
        (
            (
                "{Start}, {name} remembered that it was the birthday of {friend}.",
                '{Start}, {name} looked at the wall. "Today is the birthday of {friend}!" {he} said.',
                "{Start}, {name} had a secret. It was the birthday of {friend}, and {name} had a plan.",
            ),
            (
                "{He} wanted to give {friend} a {thing}, but {he} had no money.",
                "{He} wanted to make a surprise near {place}.",
                '"I will give {friend} a {thing}," {he} said to {his} {family}.',
            ),
            (
                "{His} {family} helped {name} bake a cake with {food} on top.",
                "{Name} made a {thing} with {his} own hands.",
                "{Name} worked all day to make a {thing}. {He} put it in a box with a {color} ribbon.",
            ),
            (
                '{Friend} came to the door. "Do you want to play?" {f_he} asked. "Not now," said'
                " {name}, and {friend} went away.",
                "{Friend} walked around alone. {F_he} thought that everyone forgot {f_his} birthday.",
                "All day nobody said a word about the birthday, and {friend} felt {sad}.",
            ),
            (
                'Then {name} called, "{Friend}, come to {place} with me!"',
                "In the evening, {name} took {friend} to {place}. {F_he} had to close {f_his} eyes.",
                'At last {name} said, "Come with me, {friend}. I want to show you something."',
            ),
            (
                '"Surprise!" shouted {name} and all the others. There was cake, and there were {food}.',
                '"Happy birthday, {friend}!" called {name}. {Color} lights were hanging in the trees.',
                "All the friends were there, and {name} began to sing a birthday song.",
            ),
            (
                '{Name} gave {friend} the {thing}. "I made it for you," {he} said.',
                '"You did not forget me!" said {friend}, and {f_he} hugged {name}.',
                '{Name} gave {friend} a little box. Inside was a {thing}. "I love it!" said {friend}.',
            ),
        ),
        (
            "{Friend} said that it was the best birthday ever, and {name} was {glad}.",
            "{Name} learned that the best gift is one made with love.",
            "They ate cake and played {game}, and {name} was as {glad} as {friend}.",
        ),
    ),
    Plot(
        "learning a skill",
        (
            (
                "More than anything, {name} wanted to learn how to {skill}.",
                "{Start}, {name} saw {friend} at {place}. {Friend} could {skill} very well.",
                '{Start}, {name} said to {his} {family}, "I want to learn how to {skill}."',
            ),
            (
                "{He} tried for the first time, but {he} {failure}.",
                "{Name} tried it alone near {place}. But {he} {failure}.",
                "It looked easy, but when {name} tried, {he} {failure}.",
            ),
            (
                '"I will never learn it," said {name}. {He} was {sad}.',
                "A {animal} saw it and laughed. {Name} felt {sad} and went away.",
                '{Name} sat down {spot}. "It is too hard for me," {he} said.',
            ),
            (
                '"Nobody can do it the first time," said {friend}. "I will show you how to {skill}."',
                '{Friend} sat down next to {name}. "Try a little every day," {f_he} said.',
                '"You must be patient," said {friend}. "Watch me and do the same."',
            ),
            (
                "So every day, {name} and {friend} went to {place} to practice.",
                "{Name} tried on Monday, and {he} tried on Tuesday. {Friend} helped {him} each time.",
                "{Name} practiced in the morning and in the evening, and {friend} never got tired.",
            ),
            (
                "It went a little better each day.",
                "Some days were good and some days were bad, but {name} did not stop.",
                "Again {he} {failure}, but this time {name} only laughed and tried once more.",
            ),
            (
                "Then, at last, {name} {did_skill}. {His} {family} clapped and cheered.",
                'And then it happened. {Name} {did_skill}! "I can {skill}!" {he} shouted.',
                '"Look at me!" called {name}, and {he} {did_skill}. {Friend} was very {glad}.',
            ),
        ),
        (
            "{Name} learned that practice makes you strong.",
            "{Name} learned that hard things get easy when you keep trying.",
            "Now {name} can {skill} as well as {friend}.",
        ),
    ),
    Plot(
        "a little seed",
        (
            (
                "{Start}, {name} found a tiny seed {spot}.",
                "{Start}, {his} {family} gave {name} a little {color} seed.",
                "{Start}, an old {animal} gave {name} one small seed near {place}.",
            ),
            (
                "{Name} dug a hole and put the seed into the soft ground.",
                "{Name} planted the seed in the garden and gave it some water.",
                '"I will plant it," said {name}. {He} put it in a {color} pot by the window.',
            ),
            (
                "{He} waited all day, but nothing came up. {Name} was {sad}.",
                "The next morning {name} ran to look, but there was only dirt.",
                "One day went by, and two, and three. Nothing happened.",
            ),
            (
                '"It will never grow," said {friend}. "Let us play {game}."',
                '"Maybe the seed is sleeping," said {friend}.',
                '{Friend} looked at the ground. "I do not see a thing," {f_he} said.',
            ),
            (
                '"We have to wait," said {name}. Every morning {he} gave the seed some water.',
                "But {name} did not give up. {He} came back each day and sang to the seed.",
                '"A seed needs time," said {his} {family}. So {name} waited and took good care of it.',
            ),
            (
                'Then, one morning, {name} saw a small green leaf. "Come and look, {friend}!" {he} called.',
                "After a warm rain, a little green leaf came out of the ground, and {name} laughed with joy.",
                "At last something green came up. {Name} ran to tell {friend}.",
            ),
            (
                "The leaf grew and grew until it was a {grown}. {Name} and {friend} danced around it.",
                "By the end of the summer, there was a {grown}, and {friend} could not believe it.",
                "It grew into a {grown}. {Name} was {glad} and showed it to everyone.",
            ),
        ),
        (
            "{Name} learned that good things take time.",
            "{Name} learned that it is good to be patient.",
            "Each spring after that, {name} and {friend} planted a new seed together.",
        ),
    ),
    Plot(
        "telling the truth",
        (
            (
                "{Start}, {name} and {friend} played with a {thing} inside the house.",
                "{Start}, {name} and {friend} played {game} in the kitchen.",
                "{Start}, {name} wanted to show {friend} how high {he} could jump in the kitchen.",
            ),
            (
                "Crash! {Name} bumped the table, and the {broken} fell down and broke.",
                "{Name} was too wild. The {broken} that {his} {family} loved fell and broke.",
                "{Name} turned around too fast, and the {broken} fell to the floor. Crash!",
            ),
            (
                '"Oh no," said {name}. "My {family} loves that {broken}."',
                '"What will we do now?" asked {friend}. {Name} was very {sad}.',
                "{Name} looked at the pieces, and {his} heart beat fast.",
            ),
            (
                "{He} wanted to carry the pieces outside and hide them {spot}.",
                '"I could say that the {animal} did it," {name} thought.',
                '"Maybe nobody will see it," {he} said, and {he} pushed the pieces under the bed.',
            ),
            (
                '"It is better to tell the truth," said {friend}. "I will go with you."',
                'But {friend} shook {f_his} head. "That would be a lie," {f_he} said.',
                "But {name} felt bad. {He} could not eat and {he} could not play.",
            ),
            (
                'So {name} went to {his} {family}. "I broke the {broken}," {he} said. "I am so sorry."',
                'At last {name} said, "It was me. I broke the {broken}, and I am sorry."',
                "{Name} took a deep breath and told {his} {family} the truth about the {broken}.",
            ),
            (
                '"Thank you for telling me, {name}," said {his} {family}. They fixed it with glue.',
                '{His} {family} was not angry. "The truth is worth more than a {broken}," said {his} {family}.',
                "{His} {family} gave {name} a hug, and {friend} helped them clean the floor.",
            ),
        ),
        (
            "{Name} felt light again and learned that it is best to tell the truth.",
            "From that day on, {name} always told the truth.",
            "{Name} was {glad} that {he} had been honest.",
        ),
    ),
)


@dataclass(frozen=True)
class Story:
    """A finished story, the name of its hero and the name of its plot."""

    text: str
    hero: str
    plot: str


class Slots(dict[str, str]):
    """Slot values; a slot asked for with a capital gives its value with a capital."""

    def __missing__(self, key: str) -> str:
        if key[0].islower():
            raise KeyError(key)
        value = self[key[0].lower() + key[1:]]
        # A value may start with a slot of its own, such as "{his} friend Tom".
        first = 1 if value.startswith("{") else 0
        return value[:first] + value[first].upper() + value[first + 1 :]


@dataclass(frozen=True)
class Character:
    """Someone in a story: a child (``kind`` girl or boy) or an animal."""

    name: str
    kind: str
    female: bool

    @property
    def is_child(self) -> bool:
        return self.kind in ("girl", "boy")


def expand(text: str, slots: Slots, rng: random.Random) -> str:
    """Choose among the ``[a|b]`` of a phrasing and fill its slots, also those inside values."""
    text = re.sub(r"\[([^]]*)\]", lambda match: rng.choice(match[1].split("|")), text)
    while "{" in text:
        text = text.format_map(slots)
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def draw_child(rng: random.Random) -> Character:
    """Draw a girl or a boy."""
    female = rng.random() < 0.5
    return Character(rng.choice(GIRLS if female else BOYS), "girl" if female else "boy", female)


def draw_animal(rng: random.Random, kinds: Sequence[str]) -> Character:
    """Draw an animal with a name, of one of the given kinds."""
    female = rng.random() < 0.5
    return Character(rng.choice(SHE_ANIMALS if female else HE_ANIMALS), rng.choice(kinds), female)


def draw_friend(rng: random.Random, hero: Character) -> Character:
    """Draw someone whose name and kind of animal are not the hero's."""
    while True:
        if hero.is_child and rng.random() < 0.4:
            friend = draw_child(rng)
        else:
            friend = draw_animal(rng, rng.choice((ANIMALS, PETS)) if hero.is_child else ANIMALS)
        if friend.name != hero.name and (friend.is_child or friend.kind != hero.kind):
            return friend


def pronouns(character: Character, prefix: str) -> dict[str, str]:
    """The pronoun slots of a character."""
    forms = ("she", "her", "her") if character.female else ("he", "him", "his")
    return dict(zip((prefix + "he", prefix + "him", prefix + "his"), forms, strict=True))


def friend_role(rng: random.Random, hero: Character, friend: Character) -> str:
    """What a friend known from the start is called, such as "his dog Max"."""
    if friend.is_child:
        return f"{{his}} {rng.choice(PEOPLE_ROLES)} {friend.name}"
    if hero.is_child and friend.kind in PETS:
        return f"{{his}} {friend.kind} {friend.name}"
    return f"{{his}} friend {friend.name} the {friend.kind}"


def draw_slots(rng: random.Random, hero: Character, friend: Character) -> Slots:
    """Fill every slot of a story once."""
    color, noun = rng.choice(COLORS), rng.choice(TOYS)
    place, elsewhere = rng.sample(PLACES, 2)
    slots = Slots(
        name=hero.name,
        kind=hero.kind,
        friend=friend.name,
        a_friend=f"a {rng.choice(TRAITS)} {friend.kind} named {friend.name}",
        role=friend_role(rng, hero, friend),
        animal=rng.choice([kind for kind in ANIMALS if kind not in (hero.kind, friend.kind)]),
        color=color,
        noun=noun,
        thing=f"{color} {noun}",
        place=f"the {place}",
        elsewhere=f"the {elsewhere}",
    )
    slots |= pronouns(hero, "") | pronouns(friend, "f_")
    for slot, values in SINGLE_SLOTS.items():
        slots[slot] = rng.choice(values)
    for names, rows in GROUPED_SLOTS.items():
        slots |= zip(names, rng.choice(rows), strict=True)
    return slots


SINGLE_SLOTS: dict[str, Sequence[str]] = {
    "trait": TRAITS,
    "home": HOMES,
    "hobby": HOBBIES,
    "family": FAMILY,
    "food": FOODS,
    "spot": HIDING_SPOTS,
    "when": TIMES,
    "glad": GLAD,
    "sad": SAD,
    "game": GAMES,
    "shelter": SHELTERS,
    "grown": GROWN,
    "broken": BROKEN,
}
GROUPED_SLOTS: dict[tuple[str, ...], Sequence[tuple[str, ...]]] = {
    ("fear", "deed", "did"): FEARS,
    ("skill", "failure", "did_skill"): SKILLS,
    ("project", "parts", "use"): PROJECTS,
    ("trouble", "tool", "freed"): TROUBLES,
    ("chore", "chore_done"): CHORES,
}


def draw_opening(rng: random.Random, plot: Plot, slots: Slots) -> list[str]:
    """Draw the opening phrasings, and set the slot that starts the first beat."""
    presenting = rng.random() < 0.6
    slots["start"] = slots["when"] if presenting else rng.choice(FOLLOWING)
    if not plot.meets_friend and rng.random() < 0.35:
        return [rng.choice(PRESENTING_PAIR if presenting else STARTING_PAIR)]
    opening = rng.choice(PRESENTING if presenting else STARTING)
    return [opening] if plot.meets_friend else [opening, rng.choice(JOINING)]


def draw_close(rng: random.Random, plot: Plot) -> list[str]:
    """Draw a lesson, a calm close, or both."""
    moral, closing = rng.choice(plot.morals), rng.choice(CLOSING)
    return rng.choice(([moral], [closing], [moral, closing]))


def write_story(rng: random.Random) -> Story:
    """Write one story; the same state of ``rng`` writes the same story."""
    plot = rng.choice(PLOTS)
    hero = draw_child(rng) if rng.random() < 0.65 else draw_animal(rng, ANIMALS)
    slots = draw_slots(rng, hero, draw_friend(rng, hero))
    phrasings = [
        *draw_opening(rng, plot, slots),
        *(rng.choice(beat) for beat in plot.beats),
        *draw_close(rng, plot),
    ]
    text = " ".join(expand(phrasing, slots, rng) for phrasing in phrasings)
    return Story(text, hero.name, plot.name)
