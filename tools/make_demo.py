#!/usr/bin/env python3
"""Makes the demo model: a seeded grammar of small stories, a tokenizer and a small Llama trained on them, and texts to prune and measure it with.

A story has two to four threads (who has what, where something is, how many are left, ...). Their sentences are mixed, small talk comes in between, and
questions about them are asked and answered later in the same story; so a model that reads well can answer, and one that was pruned badly cannot.

usage: make_demo.py [--out demo] [--steps N] [--threads N]      (about 45 minutes of CPU time)
"""
import argparse, json, math, random, re, time
from collections import namedtuple
from pathlib import Path

# ------------------------------------------------------------------ words

GIRLS = "Ada Anna Bella Cara Clara Daisy Edith Ella Emma Eva Fay Flora Grace Greta Hanna Ida Iris Ivy Jane June Kate Lena Lily Lucy Mary Mia Mona Nina Nora Olive Rosa Ruth Sara Tess Vera Zoe".split()
BOYS = "Adam Alan Anton Ben Bruno Carl Colin Dan Eli Emil Felix Finn Fred Gus Hans Hugo Ian Jack Jon Karl Leo Luke Mark Max Ned Noah Oscar Otto Paul Peter Ralph Sam Theo Tim Tom Will".split()
PLACES = """in the kitchen|in the garden|in the barn|in the library|in the cellar|in the forest|in the school|in the village|in the bakery|in the workshop|in the attic|in the stable|in the valley|in the orchard|in the museum|in the tower
at the market|at the lake|at the river|at the station|at the harbour|at the mill|at the farm|at the well|at the bridge|at the beach|at the theatre|at the bakery door|on the hill|on the roof|on the island|on the meadow""".replace('\n', '|').split('|')
SPOTS = """under the bench|under the bed|under the old tree|under the stairs|behind the door|behind the clock|behind the curtain|behind the stove|on the table|on the shelf|on the windowsill|on the chair|next to the lamp|next to the gate|next to the oven
in the basket|in the drawer|in the wooden box|in the cupboard|in the bucket|in the cart|in the blue bag|near the fence|near the fireplace""".replace('\n', '|').split('|')
TOYS = "ball kite boat drum doll hat scarf coat cup bowl book map bell ring lamp rope flute ladder mirror pencil hammer blanket basket lantern whistle umbrella wheel puppet trumpet candle".split()
COLOURS = "red blue green yellow white black brown grey purple orange pink silver golden".split()
FOOD = "apple plum pear nut carrot cookie lemon cherry bun pancake radish fig egg onion turnip".split()
THINGS = "button stone coin shell stamp feather marble card nail stick ribbon brick leaf bead cork".split()
PETS = "cat dog pony rabbit parrot goat mouse turtle donkey hen fox duck".split()
PET_NAMES = "Pepper Milo Biscuit Shadow Button Clover Ginger Pickle Rusty Snowy Misty Bramble Hazel Pebble Tiger Nutmeg Cocoa Patch Sunny Dusty Velvet Maple Pip Storm Widget Acorn Barley Cricket Domino Echo".split()
JOBS = "baker|miller|teacher|doctor|farmer|sailor|painter|carpenter|gardener|tailor|fisherman|blacksmith|shepherd|musician|postman|potter|weaver|cook|clockmaker|beekeeper".split('|')
LIKES = "soup|bread|honey|cheese|rice|jam|pie|porridge|cake|fish|beans|corn|butter|milk|tea|pudding|grapes|melon|noodles|mushrooms".split('|')
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
SEASONS = {'rain': "The rain fell (all morning|without end|softly on the roofs)|Because of the rain the (paths|streets|fields) were (wet|muddy)|(Everyone|Nearly everyone) stayed dry under (an umbrella|the trees)|The rain (drummed on|ran down) the (windows|roof)",
           'snow': "Snow lay on the (roofs|fences|fields)|It was so cold that the (pond|river) (froze|was frozen)|The children (made|built) a (snowman|castle of snow)|White flakes (danced|fell) (in the air|on the road)",
           'sun': "The sun was (warm|bright) and the sky was (blue|clear)|It was so hot that (the dog|the cat|nobody) (slept|wanted to run)|The bees (hummed|flew) (in the clover|from flower to flower)|Everyone looked for (some shade|a cool drink)",
           'wind': "The wind (shook|bent) the (trees|branches)|The wind (blew|carried) (a hat|some leaves) (over the wall|down the street)|The gate (banged|creaked) in the wind|It was a good day (for kites|to fly a kite)",
           'fog': "Nobody could see (the hill|the other side of the river) in the fog|The fog (was thick|crept through the streets)|(A bell rang|An owl called) somewhere in the fog|The lamps were lit because of the fog"}
WEATHER = {'rain': "rainy", 'snow': "snowy", 'sun': "sunny", 'wind': "windy", 'fog': "foggy"}
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty".split()

OPEN = """(Once upon a time|Long ago|A few years ago|Last (spring|summer|autumn|winter)) there was a (small|quiet|strange|busy|lovely|poor|rich) (town|village|street|house|farm) (by the sea|near the mountains|at the edge of the forest|behind the hills|far from the city).
It was a (quiet|long|busy|strange|happy) (morning|afternoon|evening|day).
It was (early|late) (in the morning|in the afternoon|in the evening|at night) when (the story began|it all began|the (bell|clock) rang).
(This|Here) is a (short|little|true|funny) story about {a} and {b}.
{a} and {b} were (good|old|best|close) friends.
{a}, {b} and {c} (met|came together|sat down) (by the fire|after breakfast|at noon|before school).
{a} woke up (early|late) and (opened the window|put on warm shoes|heard a strange sound|had a good idea)."""
FILL = """The (old|young|tired|cheerful|clever|lazy) (dog|cat|crow|horse|sparrow|goose|squirrel) (sat|slept|waited|watched|sang) (by the road|near the fire|on the wall|in the grass|beside the door).
A (small|large|lonely|loud|white) (cloud|bird|boat|cart|train) (passed|moved|drifted) (slowly|quickly|quietly) (over the (town|water|fields)|along the (road|shore|river)).
"What a (nice|strange|long|funny|terrible) day," said {a}.
"(Hello|Good morning|Good evening|Nice to see you), {b}," said {a}. "(How are you|Did you sleep well|Are you hungry|Have you seen the (moon|new house|horses))?"
"I am (happy|tired|hungry|cold|ready|a little sad)," said {b}.
{a} (laughed|smiled|nodded|sighed|whistled) and {b} (looked away|laughed too|said nothing|began to sing|waved).
{a} told {b} (a secret|a joke|a long story|about a dream|about the (stars|sea|king)).
{b} (listened|thought about it|did not believe it|shook hands with {c}|asked {c} for help).
They (talked|walked|worked|played|sang) (for an hour|until noon|all day|a little while|together).
(Somewhere|Far away|Outside|Upstairs) (a door|a window|an old clock|a wheel) (opened|creaked|fell|made a noise).
The (church|school|kitchen|tall) clock (struck|showed) ({n}|half past {n}).
(Nobody|Everybody|Hardly anybody) (knew|noticed|remembered) (why|it|what had happened).
{c} (was late|came by|ran home|lost a shoe|drank some water|read a letter) and (nobody minded|{a} was glad|{b} (wondered why|shrugged)).
The (soup|bread|tea|grass|air|wood) (smelled|was) (wonderful|fresh|sweet|a bit odd).
(First|Then|Later|After that|Soon) they (washed the dishes|swept the floor|fed the hens|lit a candle|mended the fence|cut the grass)."""
CLOSE = """(In the evening|At last|In the end|When the stars came out) (everyone|they all) (went home|went to bed|was tired|sat by the fire).
(That was|It had been) a (good|long|fine|strange) day.
And {a} (slept|dreamed) (well|until morning|of the sea|of a (golden|silver|purple) (bird|ship|horse)).
The end.
"(See you tomorrow|Good night|Goodbye), {b}," said {a}."""
OPEN, FILL, CLOSE = (t.split('\n') for t in (OPEN, FILL, CLOSE))

# ------------------------------------------------------------------ the grammar

Question = namedtuple('Question', 'kind ask lead answer wrong')   # "ask lead answer": the text; wrong: other answers of the same kind
Thread = namedtuple('Thread', 'sentences questions')

def say(rng, template, **words):
    """picks one of every (a|b|c), innermost first, then fills in the {words}"""
    while '(' in template:
        template = re.sub(r'\(([^()]*)\)', lambda m: rng.choice(m[1].split('|')), template)
    return template.format(**words) if words else template

def town(rng):
    return rng.choice("Oak Ash Elm Stone Mill River Bell Fern Glen High King North Rose Sand West Wood Hare Fox Lake Marsh".split()) + rng.choice("ford ton field bury wick ham dale mouth bridge port stead wood".split())

def plural(noun):
    return {'leaf': 'leaves', 'cherry': 'cherries', 'radish': 'radishes'}.get(noun, noun + 's')

class Cast:
    """the people of one story and what they may use; nothing is handed out twice, so no two facts collide"""
    def __init__(self, rng):
        self.rng = rng
        self.people = rng.sample(GIRLS + BOYS, 4)
        self.digits = rng.random() < 0.3
        self.pools = {name: rng.sample(words, len(words)) for name, words in
                      dict(places=PLACES, spots=SPOTS, toys=TOYS, colours=COLOURS, food=FOOD, things=THINGS, pets=PETS, pet_names=PET_NAMES, jobs=JOBS, likes=LIKES, days=DAYS).items()}
    def take(self, pool):
        return self.pools[pool].pop()
    def two(self):
        return self.rng.sample(self.people, 2)
    def she(self, name):
        return 'she' if name in GIRLS else 'he'
    def count(self, n, noun):
        return f"{n if self.digits else NUMBERS[n]} {noun if n == 1 else plural(noun)}"
    def say(self, template, **words):
        s = say(self.rng, template, **words)
        return s[0].upper() + s[1:]
    def others(self, answer, near, far):
        """three wrong answers: first those that occur in the story, then any"""
        near = [x for x in dict.fromkeys(near) if x != answer]
        far = [x for x in dict.fromkeys(far) if x != answer and x not in near]
        return (self.rng.sample(near, len(near)) + self.rng.sample(far, min(3, len(far))))[:3]

def counting(s):
    rng = s.rng
    eats = rng.random() < 0.5
    noun = s.take('food' if eats else 'things')
    (a, b), n = s.two(), rng.randint(2, 9)
    seen = [n]
    out = [s.say("{a} (had|picked up|brought|bought) {n}.", a=a, n=s.count(n, noun))]
    for _ in range(rng.choice((1, 1, 1, 2))):
        if n <= 2 or (rng.random() < 0.6 and n < 14):
            k = rng.randint(1, 5); n += k
            line = "({b} gave {a} {k} (more|too)|{a} found {k} more|{b} (brought|handed) {a} {k} more|(Then|Later) {a} got {k} more from {b})."
        else:
            k = rng.randint(1, min(5, n - 1)); n -= k
            line = "({a} gave {k} to {b}|{a} lost {k} on the way|{b} took {k} away|(Then|Later) {a} dropped {k} in the river" + ("|{a} ate {k}|{b} ate {k})." if eats else ").")
        seen += [k, n]
        out.append(s.say(line, a=a, b=b, k=k if s.digits else NUMBERS[k]))
        if rng.random() < 0.4:
            out[-1] += s.say(" (Now|So|Then) {she} had {n}.", she=s.she(a), n=s.count(n, noun))
    wrong = s.others(n, [x for x in seen if x > 0], [x for x in (n + 1, n - 1, n + 2, n + 3) if x > 0])
    return Thread(out, [Question('count', f"How many {plural(noun)} did {a} have in the end?", f"{a} had", s.count(n, noun) + '.', [s.count(x, noun) + '.' for x in wrong])])

def walking(s):
    a, b = s.two()
    spots = [s.take('places') for _ in range(3)]
    where = spots[0]
    the = lambda p: p.split(' ', 1)[1]
    out = [s.say("({a} (was|stood|waited) {p}|{a} (went|walked|ran|hurried) to {q}).", a=a, p=where, q=the(where))]
    if s.rng.random() < 0.5:
        where = spots[1]
        out.append(s.say("(Then|Later|After a while) {a} (went|walked|ran) to {q}( with a friend| because it was time| again|).", a=a, q=the(where)))
    if s.rng.random() < 0.6:
        out.insert(s.rng.randint(0, len(out)), s.say("{b} (was|stayed|worked) {p}.", b=b, p=spots[2]))
        qs = [Question('place', f"Where was {b}?", f"{b} was", spots[2] + '.', [x + '.' for x in s.others(spots[2], spots, PLACES)])]
    else: qs = []
    return Thread(out, qs + [Question('place', f"Where was {a} in the end?", f"{a} was", where + '.', [x + '.' for x in s.others(where, spots, PLACES)])])

def hiding(s):
    a, b = s.two()
    things = [f"{s.take('colours')} {s.take('toys')}" for _ in range(2)]
    spots = [s.take('spots') for _ in range(2)]
    out = [s.say("{a} (put|hid|left|forgot) the {t} {p}.", a=x, t=t, p=p) for x, t, p in zip((a, b), things, spots)]
    extra = s.take('spots')
    if s.rng.random() < 0.3:
        out.append(s.say("(Then|Later) {b} moved the {t}( and put it|: now it was) {p}.", b=b, t=things[0], p=extra)); spots.append(spots[0]); spots[0] = extra
    return Thread(out, [Question('spot', f"Where was the {t}?", f"The {t} was", p + '.', [x + '.' for x in s.others(p, spots, SPOTS)]) for t, p in zip(things, spots)])

def holding(s):
    toy, n = s.take('toys'), s.rng.choice((2, 3))
    people, colours = s.rng.sample(s.people, n), [s.take('colours') for _ in range(n)]
    an = lambda c: 'an' if c[0] in 'aeiou' else 'a'
    out = [s.say("({a} (had|owned|carried|brought) {an} {c} {t}|{a}'s {t} was {c}|The {c} {t} belonged to {a}).", a=a, an=an(c), c=c, t=toy) for a, c in zip(people, colours)]
    who = [Question('holder', f"Who had the {c} {toy}?", f"The {c} {toy} belonged to", a + '.', [x + '.' for x in s.others(a, s.people, GIRLS + BOYS)]) for a, c in zip(people, colours)]
    what = [Question('colour', f"What colour was {a}'s {toy}?", f"{a}'s {toy} was", c + '.', [x + '.' for x in s.others(c, colours, COLOURS)]) for a, c in zip(people, colours)]
    return Thread(out, s.rng.sample(who + what, n))

def giving(s):
    t = f"{s.take('colours')} {s.take('toys')}"
    chain = s.rng.sample(s.people, s.rng.choice((2, 2, 3)))
    out = [s.say("{a} (found|made|bought|won) (a very nice|an old|a shiny) {t}.", a=chain[0], t=t)]
    for a, b in zip(chain, chain[1:]):
        out.append(s.say("({a} (gave|handed|lent|sold) the {t} to {b}|{b} (got|took|borrowed) the {t} from {a}).", a=a, b=b, t=t))
    return Thread(out, [Question('receiver', f"Who had the {t} in the end?", f"The {t} went to", chain[-1] + '.', [x + '.' for x in s.others(chain[-1], s.people, GIRLS + BOYS)])])

def pets(s):
    people, names = s.two(), [s.take('pet_names') for _ in range(2)]
    kinds = [s.take('pets') for _ in range(2)]
    out = [s.say("({a} had a {k} (called|named) {n}|{a}'s {k} was called {n}).", a=a, k=k, n=n) for a, k, n in zip(people, kinds, names)]
    if s.rng.random() < 0.4: out.append(s.say("{n} the {k} was (hungry|fast|very old|afraid of the dark|fond of milk).", n=names[0], k=kinds[0]))
    return Thread(out, [Question('pet', f"What was the name of {a}'s {k}?", f"{a}'s {k} was called", n + '.', [x + '.' for x in s.others(n, names, PET_NAMES)]) for a, k, n in zip(people, kinds, names)])

def prices(s):
    toys = [s.take('toys') for _ in range(2)]
    costs = s.rng.sample(range(11, 99), 2)
    out = [s.say("(The|In the shop the) {t} (cost|cost|was sold for) {c} cents.", t=t, c=c) for t, c in zip(toys, costs)]
    return Thread(out, [Question('price', f"How much did the {t} cost?", f"The {t} cost", f"{c} cents.", [f"{x} cents." for x in s.others(c, costs, s.rng.sample(range(11, 99), 5))]) for t, c in zip(toys, costs)])

def liking(s):
    people, dishes = s.rng.sample(s.people, 3), [s.take('likes') for _ in range(3)]
    out = [s.say("{a} (liked|loved|wanted|ate) {d} (best|more than anything).", a=a, d=d) for a, d in zip(people, dishes)][:s.rng.choice((2, 3))]
    return Thread(out, [Question('dish', f"What did {a} like best?", f"{a} liked", d + '.', [x + '.' for x in s.others(d, dishes, LIKES)]) for a, d, _ in zip(people, dishes, out)])

def living(s):
    people, jobs, towns = s.two(), [s.take('jobs') for _ in range(2)], [town(s.rng) for _ in range(2)]
    out = [s.say("{a} was a {j} (and lived in|and lived in|from|in) {t}.", a=a, j=j, t=t) for a, j, t in zip(people, jobs, towns)]
    job = [Question('job', f"What was the work of {a}?", f"{a} was a", j + '.', [x + '.' for x in s.others(j, jobs, JOBS)]) for a, j in zip(people, jobs)]
    home = [Question('town', f"Where did {a} live?", f"{a} lived in", t + '.', [x + '.' for x in s.others(t, towns, [town(s.rng) for _ in range(5)])]) for a, t in zip(people, towns)]
    return Thread(out, s.rng.sample(job + home, 2))

def planning(s):
    (a, b), p, d, e = s.two(), s.take('places'), s.take('days'), s.take('days')
    p = p.split(' ', 1)[1]
    out = [s.say("On {d} {a} (went|wanted to go|travelled) to {p} with {b}.", a=a, b=b, d=d, p=p)]
    if s.rng.random() < 0.5: out.append(s.say("On {e} (they|{a} and {b}) (stayed at home|had to work|rested).", a=a, b=b, e=e))
    return Thread(out, [Question('day', f"On which day did {a} go to {p}?", "It was on", d + '.', [x + '.' for x in s.others(d, [d, e], DAYS)]),
                        Question('friend', f"Who went to {p} with {a}?", f"{a} went to {p} with", b + '.', [x + '.' for x in s.others(b, s.people, GIRLS + BOYS)])])

THREADS = [counting, counting, walking, hiding, holding, giving, pets, prices, liking, living, planning]

def story(rng, kind=None):
    """one story as text; with `kind`, its text up to an open question of that kind, and the question"""
    while True:
        s = Cast(rng)
        makers = rng.sample(THREADS, rng.choice((1, 2, 2, 3, 3, 4)))
        threads = [m(s) for m in dict.fromkeys(makers)]
        asked = [q for t in threads for q in t.questions if q.kind == kind]
        if kind is None or asked: break
    names = dict(zip('abcd', s.people), n=NUMBERS[rng.randint(1, 12)])
    weather = rng.choice(list(SEASONS))
    small_talk = lambda: s.say(rng.choice(FILL), **names) if rng.random() < 0.75 else s.say('(' + SEASONS[weather] + ').')
    lines = [s.say(x, **names) for x in rng.sample(OPEN, rng.choice((0, 1, 1, 2)))]
    if rng.random() < 0.6: lines.append(say(rng, f"It was (a {WEATHER[weather]} day|{WEATHER[weather]} (in the morning|all day|everywhere)|{WEATHER[weather]})."))
    queues, late = [list(t.sentences) for t in threads], []
    while any(queues):
        i = rng.choice([i for i, q in enumerate(queues) if q])
        lines.append(queues[i].pop(0))
        if rng.random() < 0.3: lines.append(small_talk())
        if not queues[i]:
            qs = rng.sample(threads[i].questions, len(threads[i].questions))
            if kind is None and rng.random() < 0.3: lines.append(answered(qs.pop()))
            late += qs
    if kind is None:
        lines += [answered(q) for q in rng.sample(late, min(len(late), rng.randint(1, 4)))]
        if rng.random() < 0.5: lines += [s.say(rng.choice(CLOSE), **names)]
        return ' '.join(lines)
    q = rng.choice(asked)
    return ' '.join(lines + [q.ask, q.lead]), q

def answered(q):
    return f"{q.ask} {q.lead} {q.answer}"

def text(seed, size):
    """stories, a blank line between them"""
    rng, out, n = random.Random(seed), [], 0
    while n < size:
        out.append(story(rng)); n += len(out[-1]) + 2
    return '\n\n'.join(out) + '\n'

def questions(seed, n):
    rng = random.Random(seed)
    kinds = "count place spot holder colour receiver pet price dish job town day friend".split()
    gold = [i % 4 for i in range(n)]; rng.shuffle(gold)
    for i in range(n):
        query, q = story(rng, kinds[i % len(kinds)])
        choices = list(q.wrong); choices.insert(gold[i], q.answer)
        assert len(set(choices)) == 4, choices
        yield dict(query=query, choices=choices, gold=gold[i])

# ------------------------------------------------------------------ tokenizer and model

BOS, EOS, WINDOW = '<s>', '</s>', 256

def train_tokenizer(sample, vocab):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(sample, trainers.BpeTrainer(vocab_size=vocab, special_tokens=[BOS, EOS], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    t.post_processor = processors.TemplateProcessing(single=f'{BOS} $A', pair=f'{BOS} $A {BOS}:1 $B:1', special_tokens=[(BOS, t.token_to_id(BOS))])
    return t

def training_stream(tokenizer, seed, tokens):
    """documents of one to five stories, each from <s> to </s>"""
    import torch
    rng, eos, stream = random.Random(seed), tokenizer.token_to_id(EOS), []
    while len(stream) < tokens:
        documents = ['\n\n'.join(story(rng) for _ in range(rng.randint(1, 5))) for _ in range(1000)]
        for e in tokenizer.encode_batch(documents): stream += e.ids + [eos]
    return torch.tensor(stream[:tokens], dtype=torch.int16)

def batches(stream, a):
    """what the model is trained on, step by step: first short passages over and over, which teaches it to look back, then the stories"""
    import torch
    rng = random.Random(a.seed)
    for _ in range(a.echo_steps):
        rows = torch.empty(2 * a.batch, WINDOW // 4 + 1, dtype=torch.int16)
        for row in rows:
            start, n = rng.randrange(len(stream) - 64), rng.randint(12, 24)
            row.copy_(stream[start:start + n].repeat(6)[:len(row)])
        yield rows
    windows = stream[:len(stream) // (WINDOW + 1) * (WINDOW + 1)].view(-1, WINDOW + 1)
    windows = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(a.seed))]
    yield from windows.split(a.batch)

def new_model(a, vocab):
    from transformers import LlamaConfig, LlamaForCausalLM
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab, hidden_size=a.hidden, intermediate_size=a.intermediate, num_hidden_layers=a.blocks, num_attention_heads=a.heads, num_key_value_heads=a.kv_heads,
                                        max_position_embeddings=512, rms_norm_eps=1e-5, rope_parameters=dict(rope_type='default', rope_theta=10000.0), tie_word_embeddings=True, bos_token_id=0, eos_token_id=1))

class Muon:
    """momentum whose steps are made orthogonal (five Newton-Schulz iterations in float32, equal shapes together)"""
    def __init__(self, matrices, momentum=0.95, decay=0.1):
        import torch
        self.momentum, self.decay = momentum, decay
        self.groups = [[p for p in matrices if p.shape == shape] for shape in dict.fromkeys(p.shape for p in matrices)]
        self.memory = [torch.zeros(len(g), *g[0].shape) for g in self.groups]
    def step(self, lr):
        import torch
        with torch.no_grad():
            for group, m in zip(self.groups, self.memory):
                g = torch.stack([p.grad for p in group])
                m.lerp_(g, 1 - self.momentum)
                x = g.lerp(m, self.momentum)
                tall = x.shape[1] > x.shape[2]
                if tall: x = x.mT
                x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
                for _ in range(5):
                    s = x @ x.mT
                    x = 3.4445 * x + (-4.775 * s + 2.0315 * s @ s) @ x
                if tall: x = x.mT
                x = x * (0.2 * max(x.shape[1:]) ** 0.5)                       # as large as a step of Adam
                for p, d in zip(group, x): p.mul_(1 - lr * self.decay).sub_(d, alpha=lr)

def train(model, stream, a):
    """Muon for the matrices of the blocks, AdamW for the rest, a short warm-up, then a cosine to zero"""
    import torch
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and 'layers' in n]
    rest = [p for n, p in model.named_parameters() if not (p.dim() == 2 and 'layers' in n)]
    muon = Muon(matrices)
    opt = torch.optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    start, mean, last = time.perf_counter(), None, a.echo_steps + a.steps
    for step, ids in enumerate(batches(stream, a)):
        ids = ids.long()
        lr = a.lr * min((step + 1) / 40, 0.5 * (1 + math.cos(math.pi * step / last)))
        for g in opt.param_groups: g['lr'] = lr * 0.5
        logits = model(ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step(); muon.step(lr)
        model.zero_grad()
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if step % 100 == 99: print(f'step {step + 1}/{last}  loss {mean:.4f}  {time.perf_counter() - start:.0f} s', flush=True)

# ------------------------------------------------------------------ measures

def perplexity(model, tokenizer, text, window=WINDOW):
    """window perplexity: tokenized once with special tokens, windows side by side, the remainder dropped"""
    import torch
    ids = torch.tensor(tokenizer.encode(text).ids)
    losses = []
    with torch.no_grad():
        for w in ids[:len(ids) // window * window].view(-1, window):
            logits = model(w[None], use_cache=False).logits[0].float()
            losses.append(torch.nn.functional.cross_entropy(logits[:-1], w[1:]).item())
    return math.exp(sum(losses) / len(losses))

def accuracy(model, tokenizer, rows):
    """share of questions whose gold choice has the largest sum of log-probabilities"""
    import torch
    right = 0
    with torch.no_grad():
        for row in rows:
            context = len(tokenizer.encode(row['query']).ids)
            full = [tokenizer.encode(f"{row['query']} {c}").ids for c in row['choices']]
            batch = torch.zeros(4, max(map(len, full)), dtype=torch.long)
            for b, ids in zip(batch, full): b[:len(ids)] = torch.tensor(ids)
            logp = model(batch, use_cache=False).logits.float().log_softmax(-1)
            score = [logp[i, range(context - 1, len(ids) - 1), ids[context:]].sum().item() for i, ids in enumerate(full)]
            right += score.index(max(score)) == row['gold']
    return right / len(rows)

# ------------------------------------------------------------------ all of it

README = """# The demo model

A small Llama ({parameters:.2f} M parameters, {blocks} blocks of width {hidden}, {heads} heads over {kv_heads} key-value heads, MLP {intermediate}, tied embeddings, bf16) that reads little stories
and answers questions about them, with texts to prune and to measure it. Small enough to be pruned in seconds, and good enough at its one task that a bad mask shows.

| file | what it is |
|---|---|
| `config.json`, `model.safetensors`, `generation_config.json` | the checkpoint, in the layout of Hugging Face transformers |
| `tokenizer.json`, `tokenizer_config.json` | byte-level BPE, {vocab} tokens, `<s>` before every text |
| `calibration.txt` | {calibration} bytes of stories, to calibrate with |
| `heldout.txt` | {heldout} bytes of other stories, to measure perplexity with |
| `questions.jsonl` | {questions} questions with four answers each: `query`, `choices`, `gold` (a space goes between query and choice; guessing gets 25 %) |

Dense, in float32: **perplexity {ppl:.4f}** on `heldout.txt` (tokenized once with `<s>`, windows of {window} tokens side by side, exp of the mean of the windows' mean cross-entropies),
**accuracy {acc:.2f} %** on `questions.jsonl` (largest sum of log-probabilities of the answer's tokens).

Training, calibration, heldout and questions come from one seeded grammar of stories with four different seeds. Made by

    python3 tools/make_demo.py

in {minutes:.0f} minutes of CPU time on {threads} threads ({echo_steps} steps on short repeated passages, {steps} steps of {batch} windows of {window} tokens, each seen once; torch {torch}, transformers {transformers}, tokenizers {tokenizers}).
Another version of torch or another CPU gives slightly different weights, hence slightly different numbers.

Everything in this folder was made by this project with that script; no text, weights or vocabulary came from elsewhere. It has the license of the project.
"""

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--out', type=Path, default=Path(__file__).parent.parent / 'demo')
    p.add_argument('--seed', type=int, default=20261121)
    p.add_argument('--threads', type=int, default=2)
    for name, value in dict(echo_steps=800, steps=2800, batch=8, vocab=1536, hidden=192, intermediate=512, blocks=5, heads=6, kv_heads=2, questions=312).items():
        p.add_argument('--' + name.replace('_', '-'), type=int, default=value)
    p.add_argument('--lr', type=float, default=4e-3)
    a = p.parse_args()
    import tokenizers, torch, transformers
    torch.set_num_threads(a.threads); torch.manual_seed(a.seed)
    began = time.perf_counter()
    a.out.mkdir(parents=True, exist_ok=True)

    tokenizer = train_tokenizer(text(a.seed, 2_000_000).split('\n\n'), a.vocab)
    tokenizer.save(str(a.out / 'tokenizer.json'))
    config = dict(tokenizer_class='PreTrainedTokenizerFast', bos_token=BOS, eos_token=EOS, model_max_length=512, clean_up_tokenization_spaces=False)
    (a.out / 'tokenizer_config.json').write_text(json.dumps(config, indent=2) + '\n')
    (a.out / 'calibration.txt').write_text(text(a.seed + 1, 400_000))
    heldout = text(a.seed + 2, 120_000)
    (a.out / 'heldout.txt').write_text(heldout)
    rows = list(questions(a.seed + 3, a.questions))
    (a.out / 'questions.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in rows))

    model = new_model(a, tokenizer.get_vocab_size())
    stream = training_stream(tokenizer, a.seed + 4, a.steps * a.batch * (WINDOW + 1))
    print(f'{model.num_parameters()} parameters, {len(stream)} tokens after {time.perf_counter() - began:.0f} s', flush=True)
    train(model, stream, a)
    model.to(torch.bfloat16).save_pretrained(a.out)
    (a.out / 'model.safetensors').chmod(0o644)

    model = transformers.LlamaForCausalLM.from_pretrained(a.out, dtype=torch.float32).eval()
    facts = dict(vars(a), parameters=model.num_parameters() / 1e6, ppl=perplexity(model, tokenizer, heldout), acc=100 * accuracy(model, tokenizer, rows), calibration=(a.out / 'calibration.txt').stat().st_size,
                 heldout=(a.out / 'heldout.txt').stat().st_size, window=WINDOW, minutes=time.process_time() / 60, torch=torch.__version__.split('+')[0], transformers=transformers.__version__, tokenizers=tokenizers.__version__)
    (a.out / 'README.md').write_text(README.format(**facts))
    print({k: facts[k] for k in ('parameters', 'ppl', 'acc', 'minutes')})

if __name__ == '__main__':
    main()
