#!/usr/bin/env python3
"""Writes golden values of the tokenizers beside those of make_golden.py: Unigram, WordPiece and their parts, torture
texts, whole corpora, and folders without a tokenizer.json. The references are the libraries tokenizers and transformers.

    python3 tools/make_tokenizer_golden.py [parts] [models] [folders] --shared SHARED [--out Tests/Golden]

It needs tokenizers, transformers and sentencepiece. Training depends on chance: made again, the small tokenizers are
others, and so are all values that come from them. It writes:

tokenizers/NAME.json          small tokenizers
tokenizers-models.jsonl       tokenizer, text, ids, ids_special and decoded (of ids_special), one text a line
tokenizers-hashes.jsonl       tokenizer, text, count and hash of the ids of a whole text
tokenizers-parts.jsonl        the same for normalizers and pre-tokenizers
tokenizers-torture.json       texts that are hard to cut
tokenizers-folders/NAME/      folders with vocabulary files only
tokenizers-folders.jsonl      folder, text, ids, ids_special
"""

import argparse, base64, json, random, sys, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'tools'))
from make_golden import (
    ADDED,
    DEEPSEEK,
    RANGES,
    TRICKY,
    build,
    byte_level,
    metaspace,
    plain,
    random_texts,
    regex,
    sequence,
    template,
    trained,
)

# ------------------------------------------------------------------ texts


def corpus():
    from make_demo import text

    return text(99, 150_000).split('\n\n') + TRICKY * 4


def torture():
    """Texts of all planes, combining marks, emoji sequences, right to left, runs of white space."""
    rng = random.Random(11)
    emoji = ['👨‍👩‍👧‍👦', '👍🏽', '🇩🇪', '🇫', '❤️', '🏴󠁧󠁢󠁥󠁮󠁧󠁿', '\u200d', '\ufe0f', '🏽', '😀', 'a', ' ', '#️⃣']
    marks = [
        chr(c) for c in (*range(0x300, 0x370), *range(0x591, 0x5BE), *range(0x64B, 0x660), *range(0x93C, 0x94E), 0x1AB0, 0x20D0, 0xFE20)
    ]
    spaces = [' ', '  ', '\t', '\n', '\r\n', '\r', '\u00a0', '\u3000', '\u2003', '\u200b', '\u2028', '\x0b', '\x85', '▁', 'x', '.']
    rtl = [chr(c) for c in (*range(0x5D0, 0x5EB), *range(0x620, 0x64B), 0x200F, 0x202B, 0x202C, 0x61C)] + [' ', '1', '٣', '.']
    indic = [
        chr(c)
        for c in (*range(0x915, 0x93A), *range(0xE01, 0xE3B), *range(0x1100, 0x1113), *range(0x1161, 0x1176), *range(0x11A8, 0x11C3))
    ]
    indic += ['\u094d', '\u093f', '\u200d', '\u200c', '\u0e31', '\u0600', '\u06dd', '가']

    def planes():
        c = rng.choice([rng.randrange(0x110000), rng.randrange(0x20000), rng.randrange(0x3000)])
        return chr(c) if not 0xD800 <= c < 0xE000 else ' '

    kinds = [
        planes,
        lambda: chr(rng.randint(*rng.choice(RANGES))),
        lambda: rng.choice(emoji),
        lambda: rng.choice(spaces),
        lambda: rng.choice(rtl),
        lambda: rng.choice('aeionyAÉ') + rng.choice(marks) * rng.randrange(3),
        lambda: rng.choice(indic),
        lambda: rng.choice('ab c1.,\'"-##[]'),
    ]
    texts = []
    for n in range(64):
        kind = kinds[n % 8]
        texts.append(''.join((kind if n < 48 else rng.choice(kinds))() for _ in range(rng.choice([5, 30, 200]))))
    return texts + ['e' + '\u0301' * 200, ' ' * 500, '中' * 300, '\r\n' * 100]


def every():
    """Every character between two letters; of the large blocks of equal characters some only."""
    out = []
    for c in range(0x110000):
        if 0xD800 <= c < 0xE000:
            continue
        thin = (
            0x3400 <= c < 0xA000
            or 0xAC00 <= c < 0xD7A4
            or 0xE000 <= c < 0xF900
            or 0x17000 <= c < 0x18D00
            or c >= 0x20000
            and not 0xE0000 <= c < 0xE0200
        )
        if not thin or c % 61 == 0:
            out.append('a' + chr(c) + 'b')
    return ' '.join(out)


def beginnings():
    """Texts that begin with one of many characters, with a mark on it and without."""
    return [chr(c) + ('\u0301,b. c' if c % 2 else ',b. c') for c in range(0, 0x10000, 13) if not 0xD800 <= c < 0xE000]


def long_word():
    """A thousandth of a megabyte without a space."""
    rng = random.Random(12)
    return ''.join(rng.choice('etaoinshrdlu') for _ in range(1009))


def fnv(batches):
    """FNV-1a over 64 bits, id by id, with the number of ids after each text; and how many ids there are."""
    h, n = 0xCBF29CE484222325, 0
    for ids in batches:
        for i in (*ids, len(ids)):
            h = ((h ^ i) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
        n += len(ids)
    return dict(count=n, hash=f'{h:016x}')


# ------------------------------------------------------------------ small tokenizers


def charsmap(rules):
    """the table that SentencePiece makes of rules (text -> text)"""
    import sentencepiece

    with tempfile.TemporaryDirectory() as folder:
        code = lambda s: ' '.join(f'{ord(c):X}' for c in s)
        (Path(folder) / 'rules.tsv').write_text(''.join(f'{code(a)}\t{code(b)}\n' for a, b in rules.items()))
        (Path(folder) / 'text').write_text('the cat sat on the mat\n' * 20)
        sentencepiece.SentencePieceTrainer.train(
            input=f'{folder}/text',
            model_prefix=f'{folder}/m',
            vocab_size=16,
            hard_vocab_limit=False,
            normalization_rule_tsv=f'{folder}/rules.tsv',
            minloglevel=2,
        )
        model = (Path(folder) / 'm.model').read_bytes()
    return dict(type='Precompiled', precompiled_charsmap=base64.b64encode(member(member(model, 3), 2)).decode())


def member(message, number):
    """the bytes of a member of a protobuf message: normalizer_spec is 3, precompiled_charsmap in it 2"""

    def varint(i):
        n = shift = 0
        while True:
            n |= (message[i] & 127) << shift
            shift += 7
            i += 1
            if message[i - 1] < 128:
                return n, i

    i = 0
    while i < len(message):
        tag, i = varint(i)
        if tag & 7 == 2:
            n, i = varint(i)
            if tag >> 3 == number:
                return message[i : i + n]
            i += n
        elif tag & 7 == 0:
            _, i = varint(i)
        else:
            i += 4 if tag & 7 == 5 else 8


def kompatibel():
    """a small part of NFKC as SentencePiece has it, with white space and marks"""
    import unicodedata

    rules = {c: ' ' for c in '\t\n\r\u00a0\u3000\u2003\u2028\u200b'} | {'\r\n': ' ', '\u200d': '', '\ufeff': '', '\x01': '', '\x7f': ''}
    for c in [
        *range(0xA0, 0x180),
        *range(0x1E00, 0x1F00),
        *range(0x2100, 0x2190),
        *range(0x2460, 0x2474),
        *range(0x3300, 0x3358),
        *range(0xFB00, 0xFB07),
        *range(0xFF01, 0xFF5F),
        0xFDFA,
    ]:
        k = unicodedata.normalize('NFKC', chr(c))
        if k != chr(c):
            rules.setdefault(chr(c), k)
        d = unicodedata.normalize('NFD', chr(c))
        if len(d) == 2 and k == chr(c):
            rules.setdefault(d, chr(c))
    return charsmap(rules)


CLUSTERS = {'a': 'Z', 'क': 'K', '\u1100': 'H', '가': 'G', '\u0600': 'P', '👍': 'T', '\u200d': 'J', '\r': 'R', 'é': 'E', ' ': '_'}


def unigram_vocabulary(pieces, pre, normalizer=None, size=400):
    from tokenizers import Tokenizer, models, trainers

    base = json.loads(Tokenizer(models.Unigram()).to_str())
    base.update(pre_tokenizer=pre, normalizer=normalizer)
    t = Tokenizer.from_str(json.dumps(base))
    t.train_from_iterator(
        pieces,
        trainers.UnigramTrainer(vocab_size=size, special_tokens=['<unk>'], unk_token='<unk>', show_progress=False, max_piece_length=12),
    )
    return json.loads(t.to_str())['model']['vocab']


def tokenizer(model, pre=None, normalizer=None, post=None, decoder=None, added=()):
    vocab = model['vocab'] if isinstance(model['vocab'], dict) else {t: i for i, (t, _) in enumerate(model['vocab'])}
    out = build(vocab, [], pre, normalizer, post, added)
    return dict(out, model=model, decoder=decoder)


def small():
    from tokenizers import Tokenizer, models, trainers

    texts = corpus()
    western = [t for t in texts if all(c <= 'ɏ' for c in t)]
    out = {}
    unigram = lambda vocab, unk=0, **more: dict(type='Unigram', unk_id=unk, vocab=vocab, **more)
    split = sequence('pretokenizers', dict(type='WhitespaceSplit'), metaspace('always', True))
    spaces = dict(type='Metaspace', replacement='▁', prepend_scheme='always', split=True)
    kompat = kompatibel()
    out['unigram-t5'] = tokenizer(
        unigram(unigram_vocabulary(western, split, kompat)), split, kompat, template(after=['</s>']), spaces, ADDED
    )
    albert = sequence(
        'normalizers',
        dict(type='Replace', pattern=dict(String='``'), content='"'),
        dict(type='NFKD'),
        dict(type='StripAccents'),
        dict(type='Lowercase'),
        kompat,
        dict(type='Replace', pattern=dict(Regex=' {2,}'), content=' '),
    )
    around = template('[CLS]', after=['[SEP]'])
    special = [dict(ADDED[0], content=c) for c in ('[CLS]', '[SEP]')]
    out['unigram-albert'] = tokenizer(
        unigram(unigram_vocabulary(western, metaspace('always', True), albert), byte_fallback=False),
        metaspace('always', True),
        albert,
        around,
        spaces,
        special,
    )
    whole = sequence('normalizers', dict(type='Prepend', prepend='▁'), dict(type='Replace', pattern=dict(String=' '), content='▁'))
    vocab = unigram_vocabulary(western, metaspace('always', True), size=500)
    low = min(s for _, s in vocab)
    fallback = [['<unk>', 0.0]] + [[f'<0x{b:02X}>', 0.0] for b in range(256)] + [v for v in vocab if v[0] != '<unk>']
    decoder = sequence(
        'decoders',
        dict(type='Replace', pattern=dict(String='▁'), content=' '),
        dict(type='ByteFallback'),
        dict(type='Fuse'),
        dict(type='Strip', content=' ', start=1, stop=0),
    )
    out['unigram-bytes'] = tokenizer(unigram(fallback, byte_fallback=True), None, whole, template('<s>'), decoder, ADDED)
    out['unigram-first'] = tokenizer(unigram(vocab), metaspace('first', False), added=ADDED)
    out['unigram-marks'] = tokenizer(
        unigram(vocab + [['é\u0301x', low - 40.0], ['aé', -3.0], ['abc', -1.5], ['abc', -2.5], ['', -1.0]]),
        None,
        charsmap(CLUSTERS | {'Z': 'a'}),
    )
    rng = random.Random(3)
    ties = [['?', -9.0]] + [
        [a + b + c, -float(len(a + b + c) + rng.randrange(-1, 2))]
        for a in 'abc'
        for b in ('', *'abc')
        for c in ('', *'abc')
        if a + b + c != 'c'
    ]
    out['unigram-ties'] = tokenizer(unigram(ties))

    def pieces(pre, normalizer, size=500, **options):
        base = json.loads(Tokenizer(models.WordPiece(unk_token='[UNK]')).to_str())
        base.update(pre_tokenizer=pre, normalizer=normalizer)
        t = Tokenizer.from_str(json.dumps(base))
        t.train_from_iterator(
            western, trainers.WordPieceTrainer(vocab_size=size, special_tokens=['[UNK]'], show_progress=False, **options)
        )
        return json.loads(t.to_str())['model']['vocab']

    bert = lambda **options: dict(
        dict(type='BertNormalizer', clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True), **options
    )
    words = dict(type='BertPreTokenizer')
    piece = lambda vocab, prefix='##', longest=100: dict(
        type='WordPiece', unk_token='[UNK]', continuing_subword_prefix=prefix, max_input_chars_per_word=longest, vocab=vocab
    )
    joined = dict(type='WordPiece', prefix='##', cleanup=True)
    out['wordpiece-bert'] = tokenizer(piece(pieces(words, bert())), words, bert(), around, joined, special)
    cased = bert(clean_text=False, handle_chinese_chars=False, lowercase=False)
    surround = dict(type='BertProcessing', sep=['[SEP]', 501], cls=['[CLS]', 500])
    out['wordpiece-cased'] = tokenizer(
        piece(pieces(words, cased), longest=7), words, cased, surround, dict(joined, cleanup=False), special
    )
    out['wordpiece-bare'] = tokenizer(
        piece(pieces(dict(type='Whitespace'), None, 300, continuing_subword_prefix='')),
        dict(type='Whitespace'),
        decoder=dict(joined, prefix=''),
    )
    out['wordpiece-bare']['model']['continuing_subword_prefix'] = ''
    vocab, merges = trained(western, dict(type='Whitespace'), vocab=400, end_of_word_suffix='</w>', unk_token='<unk>')
    out['bpe-word-ends'] = build(vocab, merges, dict(type='Whitespace'), end_of_word_suffix='</w>', unk_token='<unk>')
    out['bpe-word-ends']['decoder'] = dict(type='BPEDecoder', suffix='</w>')
    return out


def parts():
    """normalizers and pre-tokenizers: their work shows in the ids of byte_tokenizer()"""
    bert = lambda a, b, c, d: dict(type='BertNormalizer', clean_text=a, handle_chinese_chars=b, strip_accents=c, lowercase=d)
    normalizers = [dict(type=t) for t in ('NFC', 'NFD', 'NFKC', 'NFKD', 'Lowercase', 'StripAccents', 'Nmt')]
    normalizers += [
        bert(True, False, False, False),
        bert(False, True, False, False),
        bert(False, False, True, False),
        bert(True, True, None, True),
        charsmap(CLUSTERS),
        kompatibel(),
    ]
    pres = [dict(type=t) for t in ('Whitespace', 'WhitespaceSplit', 'BertPreTokenizer')] + [
        dict(type='Punctuation', behavior='Isolated'),
        dict(type='Digits', individual_digits=True),
    ]
    pres += (
        [dict(type='CharDelimiterSplit', delimiter=d) for d in ('a', ' ', 'é')]
        + [dict(type='FixedLength', length=n) for n in (1, 5)]
        + [metaspace('always', True)]
    )
    pres += [sequence('pretokenizers', *p) if len(p) > 1 else p[0] for p in family_patterns()]
    return [('normalizer', p) for p in normalizers] + [('pre_tokenizer', p) for p in pres]


def family_patterns():
    """how families of models split a text"""
    digits, contraction = dict(type='Digits', individual_digits=True), "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    upper, lower, spaces = r'[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]', r'[\p{Ll}\p{Lm}\p{Lo}\p{M}]', r'|\s*[\r\n]+|\s+(?!\S)|\s+'
    word, sign = r'[^\r\n\p{L}\p{N}]?', r'| ?[^\s\p{L}\p{N}]+[\r\n/]*'
    cased = f'{word}{upper}*{lower}+|{word}{upper}+{lower}*'
    han, no_han = r'[\p{Han}]+', lambda c: c[:-1] + r'&&[^\p{Han}]]'
    kimi = (
        f'{han}|{word}{no_han(upper)}*{no_han(lower)}+{contraction}?|{word}{no_han(upper)}+{no_han(lower)}*{contraction}?'
        + r'|\p{N}{1,3}'
        + sign
        + spaces
    )
    letters = 'A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴ'
    return [
        [
            regex(contraction + r'|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*' + spaces)
        ],  # llama 3, olmo 2, glm 4, stablelm 2, smollm 3, lfm 2
        [regex(contraction + r'|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*' + spaces)],  # qwen 2, qwen 3
        [regex(contraction + r'|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*' + spaces)],  # qwen 3.5
        [regex(contraction + r'|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+' + spaces)],  # seed-oss
        [
            regex(f'{word}{upper}*{lower}+{contraction}?|{word}{upper}+{lower}*{contraction}?' + r'|\p{N}{1,3}' + sign + spaces)
        ],  # gpt-oss, phi 4 mini
        [regex(cased + r'|\p{N}' + sign + spaces)],  # mistral's tekken, apertus, nemotron
        [
            regex(r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+")
        ],  # phi 4, dbrx
        [
            regex(
                r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?+\p{L}+"
                r"|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
            )
        ],  # bailing
        [regex(kimi)],  # kimi
        [regex(' ?[^(\\s|[.,!?…。，、।۔،])]+')],  # bloom
        [
            dict(type='Punctuation', behavior='Contiguous'),
            byte_level(True),
            dict(type='Digits', individual_digits=False),
            regex('[0-9][0-9][0-9]'),
        ],  # falcon
        [digits, byte_level(True)],  # starcoder 2, granite, cohere 2, smollm
        [
            regex('[\r\n]'),
            regex(f'\\s?[{letters}]+'),
            regex(r'\s?[!-/:-~！-／：-～‘-‟　-。]+'),
            regex(r'\s+$'),
            regex('[一-龥ࠀ-一가-퟿]+'),
            digits,
        ],  # deepseek
        [regex(r'\p{N}{1,3}'), regex('[一-龥぀-ゟ゠-ヿ]+'), regex(DEEPSEEK)],  # deepseek 3, hunyuan
        [regex(r' ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+', 'Removed', True)],  # stablelm, exaone
        [plain(' ', 'MergedWithPrevious')],
        [plain(' ', 'MergedWithNext')],  # gemma
    ]


EVERY = {'NFKC', 'StripAccents', 'Lowercase', 'BertNormalizer', 'Precompiled', 'Punctuation', 'Whitespace'}


# Whether a piece begins with the first character of the text, which Metaspace asks, shows behind a normalizer.
FIRST = sequence('pretokenizers', regex('[,. ]'), metaspace('first', True))


def byte_tokenizer(kind, part, split=None):
    """a model with a token for each byte, and another for each byte that ends a word"""
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate([*alphabet, *(c + '|' for c in alphabet)])}
    split = part if kind == 'pre_tokenizer' else split
    pre = sequence('pretokenizers', split, byte_level()) if split else byte_level()
    return build(vocab, [], pre, part if kind == 'normalizer' else None, end_of_word_suffix='|')


# ------------------------------------------------------------------ folders


def folders(out):
    """small folders of every family that has no tokenizer.json"""
    from tokenizers.pre_tokenizers import ByteLevel

    texts = corpus()
    vocab, merges = trained(texts, byte_level(use_regex=True), vocab=420, alphabet=ByteLevel.alphabet())
    merges = '#version: 0.2\n' + ''.join(' '.join(m) + '\n' for m in merges)
    token = lambda content, **more: dict(
        dict(content=content, lstrip=False, rstrip=False, normalized=True, single_word=False, special=True), **more
    )
    named = lambda content, **more: dict({k: v for k, v in token(content, **more).items() if k != 'special'}, __type='AddedToken')

    def byte_pair(name, *specials, model_type=None, **files):
        ids = {t: i for i, t in enumerate([*specials, *vocab])}
        write(name, model_type, {'vocab.json': ids, 'merges.txt': merges}, files)

    def write(name, model_type, vocabulary, files):
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        if model_type:
            files['config'] = dict(model_type=model_type)
        for file, content in (vocabulary | {f'{k}.json': v for k, v in files.items()}).items():
            (folder / file).write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=1))

    end = '<|endoftext|>'
    byte_pair('gpt2', end, model_type='gpt2')
    byte_pair(
        'gpt2-space',
        end,
        tokenizer_config=dict(tokenizer_class='GPT2Tokenizer', add_prefix_space=True),
        added_tokens={'<extra>': 421, '<more>': 422},
    )
    byte_pair(
        'gptj',
        end,
        model_type='gptj',
        tokenizer_config=dict(
            tokenizer_class='GPT2Tokenizer', bos_token=named(end), eos_token=named(end), unk_token=named(end), add_prefix_space=False
        ),
        special_tokens_map=dict(bos_token=end, eos_token=end, unk_token=end),
        added_tokens={'<|extratoken_1|>': 421, '<|extratoken_2|>': 422},
    )
    byte_pair(
        'opt',
        '<s>',
        '<pad>',
        '</s>',
        '<unk>',
        model_type='opt',
        special_tokens_map=dict(bos_token=token('</s>'), eos_token=token('</s>'), unk_token=token('</s>'), pad_token=token('<pad>')),
        tokenizer_config=dict(
            tokenizer_class='GPT2Tokenizer',
            add_bos_token=True,
            add_prefix_space=False,
            errors='replace',
            bos_token=named('</s>'),
            eos_token=named('</s>'),
            unk_token=named('</s>'),
            pad_token=named('<pad>'),
        ),
    )
    byte_pair(
        'opt-plain',
        '<s>',
        '<pad>',
        '</s>',
        '<unk>',
        model_type='opt',
        special_tokens_map=dict(bos_token='</s>', eos_token='</s>', unk_token='</s>', pad_token='<pad>'),
    )
    byte_pair(
        'phi',
        end,
        model_type='phi',
        tokenizer_config=dict(
            tokenizer_class='CodeGenTokenizer',
            add_prefix_space=False,
            bos_token=end,
            eos_token=end,
            unk_token=end,
            added_tokens_decoder={
                '0': token(end, normalized=False),
                '421': token('                ', special=False),
                '422': token('  \t', special=False, normalized=False),
            },
        ),
    )
    byte_pair(
        'starcoder2',
        end,
        '<fim_prefix>',
        model_type='starcoder2',
        tokenizer_config=dict(
            tokenizer_class='GPT2Tokenizer',
            vocab_size=49152,
            bos_token=end,
            eos_token=end,
            unk_token=end,
            additional_special_tokens=[end, '<fim_prefix>'],
        ),
        special_tokens_map=dict(additional_special_tokens=[end, '<fim_prefix>'], bos_token=end, eos_token=end, unk_token=end),
    )
    byte_pair(
        'gpt-neox',
        end,
        '<|padding|>',
        model_type='gpt_neox',
        tokenizer_config=dict(tokenizer_class='GPTNeoXTokenizer', bos_token=end, eos_token=end, unk_token=end, add_prefix_space=False),
    )
    byte_pair('roberta', '<s>', '<pad>', '</s>', '<unk>', '<mask>', model_type='roberta')
    byte_pair(
        'bart',
        '<s>',
        '<pad>',
        '</s>',
        '<unk>',
        '<mask>',
        model_type='bart',
        tokenizer_config=dict(tokenizer_class='BartTokenizer', add_prefix_space=True, mask_token=named('<mask>', lstrip=True)),
    )
    chat = ['<|im_start|>', '<|im_end|>']
    byte_pair(
        'qwen2',
        model_type='qwen2',
        added_tokens={end: 420, **{t: 421 + i for i, t in enumerate(chat)}},
        special_tokens_map=dict(
            additional_special_tokens=chat, eos_token=token('<|im_end|>', normalized=False), pad_token=token(end, normalized=False)
        ),
        tokenizer_config=dict(
            tokenizer_class='Qwen2Tokenizer',
            add_prefix_space=False,
            bos_token=None,
            eos_token='<|im_end|>',
            pad_token=end,
            unk_token=None,
            additional_special_tokens=chat,
            added_tokens_decoder={str(420 + i): token(t, normalized=False) for i, t in enumerate([end, *chat])},
        ),
    )
    byte_pair(
        'qwen3',
        model_type='qwen3',
        tokenizer_config=dict(
            tokenizer_class='Qwen2Tokenizer',
            add_bos_token=False,
            bos_token=None,
            eos_token='<|im_end|>',
            pad_token=end,
            unk_token=None,
            errors='replace',
            split_special_tokens=False,
            added_tokens_decoder={
                str(420 + i): token(t, normalized=False, special=i < 3) for i, t in enumerate([end, *chat, '<think>', '</think>'])
            },
        ),
    )
    byte_pair(
        'qwen2-legacy',
        model_type='qwen2',
        added_tokens={end: 420, **{t: 421 + i for i, t in enumerate([*chat, '<new>'])}},
        special_tokens_map=dict(additional_special_tokens=chat, eos_token='<|im_end|>', pad_token=end),
    )
    byte_pair(
        'qwen3-roles',
        model_type='qwen3',
        tokenizer_config=dict(
            tokenizer_class='Qwen2TokenizerFast',
            add_bos_token=True,
            bos_token='<|im_start|>',
            eos_token='<|im_end|>',
            add_eos_token=True,
            image_token='<image>',
            extra_special_tokens=['<extra>', '<|im_end|>'],
        ),
    )
    byte_pair('qwen2-plain', end, *chat, model_type='qwen2')
    words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
    pieces = [t for t in json.loads((out.parent / 'tokenizers/wordpiece-cased.json').read_text())['model']['vocab'] if t != '[UNK]']
    lines = '\n'.join(words + pieces) + '\n'
    write('bert', 'bert', {'vocab.txt': lines}, dict(tokenizer_config=dict(do_lower_case=True)))
    write(
        'bert-cased',
        'bert',
        {'vocab.txt': lines},
        dict(
            tokenizer_config=dict(
                tokenizer_class='BertTokenizer', do_lower_case=False, tokenize_chinese_chars=False, strip_accents=True, never_split=None
            )
        ),
    )
    write('bert-plain', 'bert', {'vocab.txt': lines.replace('\n', '\r\n')}, {})
    write(
        'distilbert',
        'distilbert',
        {'vocab.txt': lines},
        dict(
            special_tokens_map=dict(cls_token='[CLS]', sep_token='[SEP]', unk_token='[UNK]', mask_token='[MASK]', pad_token='[PAD]'),
            added_tokens={'[new]': 505},
        ),
    )


# ------------------------------------------------------------------ writing


def parts_golden(a):
    from tokenizers import Tokenizer

    hard = torture()
    (a.out / 'tokenizers-torture.json').write_text(json.dumps(hard))
    with open(a.out / 'tokenizers-parts.jsonl', 'w') as f:
        for kind, part in parts():
            t = Tokenizer.from_str(json.dumps(byte_tokenizer(kind, part)))
            for name, texts in dict(every=[every()], torture=hard).items():
                if name == 'torture' or part['type'] in EVERY:
                    line(f, kind=kind, part=part, text=name, **fnv(ids(t, texts)))
            if kind == 'normalizer':
                t = Tokenizer.from_str(json.dumps(byte_tokenizer(kind, part, FIRST)))
                line(f, kind='first', part=part, text='beginnings', **fnv(ids(t, beginnings())))


def models_golden(a):
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    data = a.shared / 'data'
    published = ['models/stories260K', 'models/tinystories-656K', 'tokenizers/gpt2', 'tokenizers/gpt-neox-20b', 'tokenizers/bert-uncased']
    files = {f'{k}/tokenizer.json': data / k / 'tokenizer.json' for k in published}
    with open(a.out / 'tokenizers-models.jsonl', 'w') as f:
        for name, whole in small().items():
            files[f'golden/{name}'] = path = a.out / 'tokenizers' / f'{name}.json'
            path.write_text(json.dumps(whole, ensure_ascii=False, separators=(',', ':')))
            t = Tokenizer.from_file(str(path))
            texts = [x for x in TEXTS if len(x) < 40]
            if name in ('unigram-ties', 'unigram-marks'):
                texts += [''.join(random.Random(n).choices('abcx', k=1 + n)) for n in range(60)]
            for text in texts:
                plain_ids, special = (t.encode(text, add_special_tokens=x).ids for x in (False, True))
                line(
                    f,
                    tokenizer=f'golden/{name}',
                    text=text,
                    ids=plain_ids,
                    ids_special=special,
                    decoded=t.decode(special, skip_special_tokens=False),
                )
    hard, long = torture(), long_word()
    loaded = {k: Tokenizer.from_file(str(v)) for k, v in files.items()}
    loaded['qwen2'] = AutoTokenizer.from_pretrained(data / 'tokenizers/qwen2').backend_tokenizer
    with open(a.out / 'tokenizers-hashes.jsonl', 'w') as f:
        for key, t in loaded.items():
            t.no_padding()
            t.no_truncation()
            line(f, tokenizer=key, text='torture', **fnv(ids(t, hard)))
            line(f, tokenizer=key, text='long', repeated=long, **fnv(ids(t, [long * 1000])))
            for path in ('wikitext-2-raw/wiki.test.raw', 'c4/c4.txt', 'tinystories/tinystories_val.txt'):
                text = (data / 'text' / path).read_bytes()
                for part in (text[: text.rindex(b'\n', 0, 100_000) + 1], text):
                    line(f, tokenizer=key, text=f'text/{path}', bytes=len(part), **fnv(ids(t, [part.decode()])))


def folders_golden(a):
    from transformers import AutoTokenizer

    out = a.out / 'tokenizers-folders'
    folders(out)
    texts = [x for x in TEXTS if len(x) < 60][::3]
    texts += [
        '<extra> <more><extra>',
        'a                 b  \tc',
        '<fim_prefix>x',
        'a <mask> b',
        '<think>x</think>',
        '[CLS] a [MASK] b[new]',
        '<|padding|>',
        '<|extratoken_1|> x',
        '<new><image>a',
        'Café naïve 你好',
    ]
    with open(a.out / 'tokenizers-folders.jsonl', 'w') as f:
        for name in [*sorted(x.name for x in out.iterdir()), 'tokenizers/gpt2', 'tokenizers/qwen2', 'tokenizers/bert-uncased']:
            path = a.shared / 'data' / name if '/' in name else out / name
            with tempfile.TemporaryDirectory() as bare:  # without the tokenizer.json that some have
                for x in path.iterdir():
                    if x.name != 'tokenizer.json':
                        (Path(bare) / x.name).write_bytes(x.read_bytes())
                if name == 'tokenizers/gpt2':
                    (Path(bare) / 'config.json').write_text('{"model_type": "gpt2"}')
                t = AutoTokenizer.from_pretrained(bare)
            for text in texts:
                plain_ids, special = (t(text, add_special_tokens=x)['input_ids'] for x in (False, True))
                line(f, folder=name, text=text, ids=plain_ids, ids_special=special)


TEXTS = list(dict.fromkeys(TRICKY + random_texts(24)))


def ids(t, texts):
    return (t.encode(x, add_special_tokens=True).ids for x in texts)


def line(file, **members):
    file.write(json.dumps(members, separators=(',', ':')) + '\n')


def main():
    makers = dict(parts=parts_golden, models=models_golden, folders=folders_golden)
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', nargs='*', choices=[*makers, []], help='default: all')
    p.add_argument('--shared', type=Path, required=True, help='folder with data/models, data/tokenizers, data/text')
    p.add_argument('--out', type=Path, default=ROOT / 'Tests/Golden')
    a = p.parse_args()
    for name, make in makers.items():
        if not a.what or name in a.what:
            make(a)


if __name__ == '__main__':
    main()
