#!/usr/bin/env python3
"""Writes the golden values that the tests read, from the reference implementations: tokenizers and transformers of Hugging Face, and the masks' plain reference.

usage: make_golden.py [tokenizers] [logits] [masks] --shared FOLDER [--reference FILE] [--scratch FOLDER] [--out Tests/Golden]      (no name: all three)
"""
import argparse, importlib.util, json, random, sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / 'tools'))

# ------------------------------------------------------------------ texts that tokenizers stumble over

TRICKY = [
    '', ' ', '  ', '   ', '       ', '\n', '\n\n', '\n\n\n', '\r\n', '\r\n\r\n', '\t', '\t\t', ' \n', '\n ', ' \n ', '  \n  \n', '\r', 'a\rb', '\x0b\x0c',
    'a', ' a', 'a ', '  a', 'a  ', '   a   b    c   ', 'Hello world', ' Hello  world ', 'Hello\nworld', 'Hello\r\nworld\r\n', 'Hello \n world', 'Hello\n\n\n  world', '\tHello\t\tworld\t', 'a\n\n b', 'a \r\n b\n\r\nc',
    "It's I'm you're we've they'd he'll don't", "IT'S I'M YOU'RE WE'VE THEY'D HE'LL DON'T", "'s 't 're 've 'm 'll 'd", "'S'T'RE'VE'M'LL'D", "x's'll'dd '' 'sss rock'n'roll", "It’s they’ll ‘quoted’ “double”", "Mia's cat, the boys' dog",
    '1', '12', '123', '1234', '12345678901234567890', ' 1 12 123 1234', '3.14159', '1,000,000.50', '2024-02-29T12:34:56Z', '0x1F 1e-5 10%', 'a1b22c333d4444', '¹²³ ½ ⅷ Ⅳ ٣٤٥ १२३ ๑๒๓ 一二三', '$5 €10 £3',
    '.', '...', '.....', '!?', '?!?!', 'Wait... what?!', '(a)[b]{c}<d>', '"Hi," she said.', 'a,b;c:d', '--- *** ___ ===', 'a-b_c/d\\e', '#tag @user a@b.com', '«bonjour» „hallo“ ¿qué? ¡sí!', '— – ‐ …', '!\n?\r\n.',
    '你好，世界！', '今日は良い天気ですね。', '안녕하세요 세계', '你好world你好 world', '中文。\n第二行', '한글', 'ㄱㄴ ﾊﾛｰ ｆｕｌｌｗｉｄｔｈ　space',
    '😀', '😀😀', ' 😀 ', '👨‍👩‍👧‍👦', '👍🏽', '🇩🇪🇫🇷', '❤️', 'a😀b', '🏴󠁧󠁢󠁥󠁮󠁧󠁿',
    'café', 'cafe\u0301', 'Å Å A\u030a', 'ñ n\u0303', 'ﬁ ﬂ ﬀ', 'ẛ̣ ẛ\u0323', 'q\u0307\u0323 q\u0323\u0307', 'é́', '\u0301', ' \u0301a', 'Z͑ͫ̓ͪ̂ͫ̽', 'Straße STRASSE İstanbul ıI', 'ÀÉÎÕÜ àéîõü', 'Ǆ ǅ ǆ', 'ΑΣ ΟΔΟΣ ς', '각 각',
    'مرحبا بالعالم', 'שלום עולם', 'שָׁלוֹם', 'สวัสดีชาวโลก', 'नमस्ते दुनिया', 'Привет, мир!', 'Γειά σου Κόσμε', 'Xin chào thế giới', 'ქართული Հայերեն አማርኛ',
    'a\u00a0b', '\u00a0', '\u00a0\u00a0a', 'a\u2028b', 'a\u2029b', 'a\u3000b', 'a\u200bb', 'a\u200db\u200cc', '\ufeffa', 'a\u00adb', '\u2009\u200a\u202f', 'a\u0085b', '\u180e\u2060', 'a\u1680b', '\u200e\u200f',
    '\x00', 'a\x00b', '\x01\x02\x1f', '\x7f', '\x80\x9f', '\ufffd', 'a\ufffdb', '\ufffe\uffff', '\ue000\uf8ff', '\u07ff\u0800', '\ud7ff', '\U00010000', '\U0010ffff', '\U0001f600\u0000',
    '<s>', '</s>', '<s>Hello</s>', '<s> Hello </s>', ' <s> Hello', 'a<s>b', 'a <s> b', '<unk>', 'a<unk>b', '<|endoftext|>', 'a<|endoftext|>b', ' <|endoftext|> a', 'a <|endoftext|>', '<|im_start|>user\nhi<|im_end|>\n', '<|start_story|>Once<|end_story|>', '<|start_story|> Once <|end_story|> ', '<S> </S>', '< s >', '<s', '<|endoftext', '<0x0A>', '▁', '▁Hello▁world', 'Ġ Ċ', '##a </w>',
    '<left> a', 'a  <left>  b', '<right>  a', 'a  <right>  b', 'a <word> b', 'a<word>b', '<word>', 'x<word> y', 'éword <word>é', '<both>', 'a  <both>\n b', '<Plain>', '<plain> <PLAIN>', 'a<Plain>b <Plain>', '<café> <cafe\u0301> <CAFÉ>', '<left><right><word><both>', '<left><left> <right> <right>a', '_<word>_', '<word>.', 'prefix<pre><prefix>',
    'def f(x):\n    return x + 1  # add\n', 'if (a&&b) { c[0] += "d"; }', '\tfor i in range(10):\n\t\tprint(f"{i:>3}")\n', 'x=1;y  =  2;', '<div class="a">b</div>', 'https://www.example.com/a/b?c=d&e=%20f#g', 'C:\\Users\\mia\\file.txt', 'SELECT * FROM t WHERE a != 1;', '{"a": [1, 2.5, null]}', 'camelCase snake_case SCREAMING_CASE kebab-case',
    'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 'Donaudampfschifffahrtsgesellschaftskapitän', 'pneumonoultramicroscopicsilicovolcanoconiosis', 'abababababababab', 'the the the the', 'theTHEThe', 'hello' * 9,
    'Once upon a time there was a small village by the sea.', 'Mia had five apples. Ben gave Mia two more. How many apples did Mia have in the end?', 'The quick brown fox jumps over the lazy dog.', 'Now she had 7 plums.\n\nThe kite cost 35 cents.',
]
RANGES = [(0x20, 0x7e), (0x61, 0x7a), (0x09, 0x0d), (0x30, 0x39), (0xa0, 0xff), (0x100, 0x17f), (0x300, 0x36f), (0x370, 0x3ff), (0x400, 0x4ff), (0x590, 0x5ff), (0x600, 0x6ff), (0x900, 0x97f), (0x1100, 0x11ff),
          (0x1e00, 0x1eff), (0x2000, 0x206f), (0x2100, 0x218f), (0x3040, 0x30ff), (0x4e00, 0x4fff), (0xac00, 0xad00), (0xf900, 0xfaff), (0xfb00, 0xfb4f), (0xff00, 0xffef), (0x1d400, 0x1d4ff), (0x1f300, 0x1f64f)]

def random_texts(n, seed=5):
    rng = random.Random(seed)
    return [''.join(chr(rng.randint(*rng.choice(RANGES))) for _ in range(rng.randint(1, 4))) for _ in range(n)]

# ------------------------------------------------------------------ small tokenizers for what published ones leave out

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = '|'.join([r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?", r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                  r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
DEEPSEEK = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

def regex(pattern, behavior='Isolated', invert=False):
    return dict(type='Split', pattern=dict(Regex=pattern), behavior=behavior, invert=invert)

def plain(pattern, behavior='Isolated', invert=False):
    return dict(type='Split', pattern=dict(String=pattern), behavior=behavior, invert=invert)

def sequence(kind, *parts):
    return dict(type='Sequence', **{kind: list(parts)})

def byte_level(use_regex=False, prefix=False):
    return dict(type='ByteLevel', add_prefix_space=prefix, trim_offsets=True, use_regex=use_regex)

def metaspace(scheme, split):
    return dict(type='Metaspace', replacement='▁', prepend_scheme=scheme, split=split)

def added(content, special=False, normalized=False, lstrip=False, rstrip=False, single_word=False):
    return dict(id=None, content=content, single_word=single_word, lstrip=lstrip, rstrip=rstrip, normalized=normalized, special=special)

ADDED = [added('<s>', special=True), added('</s>', special=True), added('<left>', special=True, lstrip=True), added('<right>', special=True, rstrip=True), added('<word>', special=True, single_word=True),
         added('<both>', lstrip=True, rstrip=True), added('<Plain>', normalized=True), added('<café>', normalized=True), added('<pre>'), added('<prefix>', normalized=True)]

def template(*before, after=()):
    """a post-processor that puts these tokens around the text; ids are filled in by build()"""
    item = lambda t, n: dict(SpecialToken=dict(id=t, type_id=n))
    part = lambda s, n: [*(item(t, n) for t in before), dict(Sequence=dict(id=s, type_id=n)), *(item(t, n) for t in after)]
    return dict(type='TemplateProcessing', single=part('A', 0), pair=part('A', 0) + part('B', 1), special_tokens={t: dict(id=t, ids=[], tokens=[t]) for t in (*before, *after)})

def trained(corpus, pre=None, normalizer=None, vocab=500, alphabet=(), longest=10, **model):
    """vocabulary and merges of a BPE trained behind this pre-tokenizer"""
    from tokenizers import Tokenizer, models, trainers
    base = json.loads(Tokenizer(models.BPE(**{k: v for k, v in model.items() if k in ('unk_token', 'continuing_subword_prefix', 'end_of_word_suffix')})).to_str())
    base.update(pre_tokenizer=pre, normalizer=normalizer)
    t = Tokenizer.from_str(json.dumps(base))
    extra = {k: v for k, v in model.items() if k in ('continuing_subword_prefix', 'end_of_word_suffix')}
    t.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=list(alphabet), max_token_length=longest, show_progress=False,
                                                      special_tokens=[model['unk_token']] if 'unk_token' in model else [], **extra))
    m = json.loads(t.to_str())['model']
    return m['vocab'], m['merges']

def build(vocab, merges, pre=None, normalizer=None, post=None, added=(), **model):
    """the JSON of a tokenizer.json from its parts; added tokens get the ids after the vocabulary"""
    ids = dict(vocab)
    tokens = []
    for t in added:
        ids.setdefault(t['content'], len(ids))
        tokens.append(dict(t, id=ids[t['content']]))
    def fill(p):
        if p and p['type'] == 'Sequence': return dict(p, processors=[fill(x) for x in p['processors']])
        if p and p['type'] == 'TemplateProcessing': return dict(p, special_tokens={k: dict(v, ids=[ids[k]]) for k, v in p['special_tokens'].items()})
        if p and p['type'] == 'RobertaProcessing': return dict(p, cls=['<s>', ids['<s>']], sep=['</s>', ids['</s>']])
        return p
    bpe = dict(type='BPE', dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None, fuse_unk=False, byte_fallback=False, ignore_merges=False)
    return dict(version='1.0', truncation=None, padding=None, added_tokens=tokens, normalizer=normalizer, pre_tokenizer=pre, post_processor=fill(post), decoder=None, model=dict(bpe, **model, vocab=vocab, merges=merges))

def with_bytes(vocab, missing=()):
    """the vocabulary with <0x00> to <0xFF> right after the unknown token"""
    tokens = ['<unk>'] + [f'<0x{b:02X}>' for b in range(256) if b not in missing]
    return {t: i for i, t in enumerate(dict.fromkeys(tokens + list(vocab)))}

def small_tokenizers():
    """name -> tokenizer.json; all trained on the demo's grammar and on the tricky texts"""
    from make_demo import text
    from tokenizers.pre_tokenizers import ByteLevel
    stories = text(99, 150_000).split('\n\n')
    corpus = stories + TRICKY * 4
    western = stories + [t for t in TRICKY if all(' ' <= c < '\u0250' for c in t)] * 4 + ['你好，世界！ 😀'] * 4        # leaves other writings unknown
    out = {}

    # byte-level, as in newer families; every third merge removed, so that whole words are in the vocabulary without a way to them
    for name, pattern in dict(llama3=LLAMA3, o200k=O200K).items():
        pre = sequence('pretokenizers', regex(pattern), byte_level())
        vocab, merges = trained(corpus, pre, vocab=620, alphabet=ByteLevel.alphabet())
        merges = [m for i, m in enumerate(merges) if i % 3 != 2]
        post = sequence('processors', dict(type='ByteLevel', add_prefix_space=True, trim_offsets=False, use_regex=True), template('<s>'))
        out[name] = build(vocab, merges, pre, post=post, added=ADDED, ignore_merges=True)
        if name == 'llama3': out['llama3-merges'] = build(vocab, merges, pre, post=post, added=ADDED)
    pre = sequence('pretokenizers', regex(r'\p{N}{1,3}'), regex('[一-龥\u3040-ゟ゠-ヿ]+'), regex(DEEPSEEK), byte_level())
    out['deepseek'] = build(*trained(corpus, pre, vocab=520, alphabet=ByteLevel.alphabet()), pre, post=template('<s>', after=['</s>']), added=ADDED)
    pre = byte_level(use_regex=True, prefix=True)
    roberta = dict(type='RobertaProcessing', sep=None, cls=None, trim_offsets=True, add_prefix_space=True)
    out['roberta'] = build(*trained(corpus, pre, vocab=520, alphabet=ByteLevel.alphabet()), pre, post=roberta, added=ADDED)

    # SentencePiece style; characters outside the vocabulary become bytes or <unk>
    for scheme, split, fallback, fuse in (('first', True, True, True), ('first', False, False, True), ('always', True, False, False), ('always', False, True, True), ('never', True, True, False), ('never', False, False, True)):
        pre = metaspace(scheme, split)
        vocab, merges = trained(western, pre, vocab=400, unk_token='<unk>')
        name = f"metaspace-{scheme}{'-split' if split else ''}{'-bytes' if fallback else ''}{'-fused' if fuse else ''}"
        out[name] = build(with_bytes(vocab) if fallback else vocab, merges, pre, post=template('<s>'), added=ADDED, unk_token='<unk>', byte_fallback=fallback, fuse_unk=fuse)
    vocab, merges = trained(western, metaspace('first', True), vocab=400, unk_token='<unk>')
    out['bytes-missing'] = build(with_bytes(vocab, missing=(0x80, 0x98, 0xc3)), merges, metaspace('first', True), unk_token='<unk>', byte_fallback=True, fuse_unk=True)
    space = dict(type='Replace', pattern=dict(String=' '), content='▁')
    vocab, merges = trained(western, plain(' ', 'MergedWithPrevious'), space, vocab=400, unk_token='<unk>')
    out['gemma'] = build(with_bytes(vocab), merges, plain(' ', 'MergedWithPrevious'), space, post=template('<s>'), added=ADDED, unk_token='<unk>', byte_fallback=True, fuse_unk=True)

    # one byte-level vocabulary whose merges run over spaces, digits and punctuation, behind different normalizers and pre-tokenizers: the ids show where they cut
    vocab, merges = trained(corpus + ['12 123 1234', 'a1b22 c3', '9a 10b 11c-12', 'a-b-c', "it's (so) ..", 'a  b', 'A, B, C'] * 40, byte_level(), vocab=640, alphabet=ByteLevel.alphabet(), longest=6)
    out['uncut'] = build(vocab, merges, byte_level(), added=ADDED)
    simple = lambda kind, **options: dict(type=kind, **options)
    normalizers = dict(nfc=[simple('NFC')], nfd=[simple('NFD')], nfkc=[simple('NFKC')], nfkd=[simple('NFKD')], lower=[simple('NFD'), simple('StripAccents'), simple('Lowercase')], accents=[simple('StripAccents')],
                       strip=[simple('Strip', strip_left=True, strip_right=True), simple('Prepend', prepend='▁')], left=[simple('Strip', strip_left=True, strip_right=False), simple('Lowercase')],
                       replace=[simple('Replace', pattern=dict(String='  '), content=' '), simple('Replace', pattern=dict(Regex=r'\s*\n\s*'), content=' / '), simple('Replace', pattern=dict(Regex=r'[0-9]'), content='#'), simple('NFKC')],
                       prepend=[simple('Prepend', prepend='x '), simple('Replace', pattern=dict(String=' '), content='_'), simple('Replace', pattern=dict(Regex='(a|e)+'), content='')])
    for name, parts in normalizers.items():
        out[f'normalizer-{name}'] = build(vocab, merges, byte_level(), sequence('normalizers', *parts), added=ADDED)
    pres = {'digits-individual': simple('Digits', individual_digits=True), 'digits-runs': simple('Digits', individual_digits=False), 'whitespace': simple('Whitespace'), 'whitespace-split': simple('WhitespaceSplit'),
            'punctuation-isolated': simple('Punctuation', behavior='Isolated'), 'punctuation-contiguous': simple('Punctuation', behavior='Contiguous'), 'punctuation-removed': simple('Punctuation', behavior='Removed'),
            'string-next': plain(' ', 'MergedWithNext'), 'string-removed': plain('  ', 'Removed')}
    for behavior in ('Removed', 'Isolated', 'MergedWithPrevious', 'MergedWithNext', 'Contiguous'):
        for invert in (False, True):
            pres[f"split-{behavior.lower()}{'-inverted' if invert else ''}"] = regex(r'\s|[0-9]|-', behavior, invert)
    for name, pre in pres.items():
        out[f'pre-{name}'] = build(vocab, merges, sequence('pretokenizers', pre, byte_level()), added=ADDED)

    # marks on word parts and word ends, unknown characters
    for name, fuse, model in (('prefix', False, dict(continuing_subword_prefix='##')), ('suffix', True, dict(end_of_word_suffix='</w>')), ('both', False, dict(continuing_subword_prefix='##', end_of_word_suffix='</w>'))):
        model = dict(unk_token='<unk>', **model)
        out[f'word-{name}'] = build(*trained(western, simple('Whitespace'), vocab=420, longest=14, **model), simple('Whitespace'), added=ADDED, fuse_unk=fuse, **model)
    vocab, merges = trained(western, simple('WhitespaceSplit'), vocab=400)
    out['unknown-dropped'] = build(vocab, merges, simple('WhitespaceSplit'), added=ADDED)
    return out

# ------------------------------------------------------------------ a tokenizer that is published in parts

def qwen2(folder, scratch):
    from transformers import AutoTokenizer
    AutoTokenizer.from_pretrained(folder).save_pretrained(scratch / 'qwen2')
    return scratch / 'qwen2' / 'tokenizer.json'

def tokenizers_golden(a):
    from tokenizers import Tokenizer
    data = a.shared / 'data'
    files = {str(p.relative_to(data)): p for p in [data / 'models/stories260K/tokenizer.json', data / 'models/tinystories-656K/tokenizer.json', data / 'tokenizers/gpt2/tokenizer.json', data / 'tokenizers/gpt-neox-20b/tokenizer.json']}
    if a.scratch: files['qwen2'] = qwen2(data / 'tokenizers/qwen2', a.scratch)
    if (ROOT / 'demo/tokenizer.json').exists(): files['demo'] = ROOT / 'demo/tokenizer.json'
    (a.out / 'tokenizers').mkdir(parents=True, exist_ok=True)
    for name, parts in small_tokenizers().items():
        files[f'golden/{name}'] = p = a.out / 'tokenizers' / f'{name}.json'
        p.write_text(json.dumps(parts, ensure_ascii=False, separators=(',', ':')))
    texts = list(dict.fromkeys(TRICKY + random_texts(24)))
    uncut = Tokenizer.from_file(str(files['golden/uncut']))
    lines = 0
    with open(a.out / 'tokenizers.jsonl', 'w') as f:
        for key, path in files.items():
            t = Tokenizer.from_file(str(path)); t.no_padding(); t.no_truncation()
            rows = [(text, *(t.encode(text, add_special_tokens=x).ids for x in (False, True))) for text in texts]
            if key.startswith('golden/'): rows = [r for r in rows if len(r[0]) < 34]
            if key.startswith(('golden/normalizer-', 'golden/pre-')):             # of these only what they change, and not all of it
                rows = [r for r in rows if r[1] != uncut.encode(r[0], add_special_tokens=False).ids]
                rows = rows[::1 + len(rows) // 80]
            for text, ids, special in rows:
                f.write(json.dumps(dict(tokenizer=key, text=text, ids=ids, ids_special=special), separators=(',', ':')) + '\n'); lines += 1
    print('tokenizers', len(files), 'texts', len(texts), 'lines', lines, 'bytes', (a.out / 'tokenizers.jsonl').stat().st_size)

# ------------------------------------------------------------------ logits and masks

ROWS = [0, 1, 63, 127, 255, 256, 400, 511]

def logits_golden(a):
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM
    stories = a.shared / 'data/text/tinystories/tinystories_val.txt'
    for name, folder, text in (('demo', ROOT / 'demo', ROOT / 'demo/heldout.txt'), ('tinystories-656K', a.shared / 'data/models/tinystories-656K', stories), ('stories260K', a.shared / 'data/models/stories260K', stories)):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation='eager').eval()
        ids = Tokenizer.from_file(str(folder / 'tokenizer.json')).encode(text.read_text()[:20000]).ids
        tensors = {}
        for n in (1, 2, 17, 512):
            part = ids[:n] if n == 512 else ids[n:2 * n]
            with torch.no_grad(): logits = model(torch.tensor([part]), use_cache=False).logits[0]
            tensors[f'ids.{n}'] = torch.tensor(part, dtype=torch.int32)
            if n == 512: tensors['rows.512'] = torch.tensor(ROWS, dtype=torch.int32); logits = logits[ROWS]
            tensors[f'logits.{n}'] = logits.contiguous()
        path = a.out / f'{name}-logits.safetensors'
        save_file(tensors, path); path.chmod(0o644)
        print('wrote', f'{name}-logits.safetensors')

def masks_golden(a):
    spec = importlib.util.spec_from_file_location('reference', a.reference)
    reference = importlib.util.module_from_spec(spec); spec.loader.exec_module(reference)
    reference.golden(a.out / 'masks.safetensors')
    (a.out / 'masks.safetensors').chmod(0o644)

README = """# Golden values

Written by `tools/make_golden.py` from the reference implementations, for the tests to compare with. To write them again:

    python3 tools/make_golden.py --shared SHARED --reference SHARED/reference/reference.py --scratch FOLDER

| file | from | holds |
|---|---|---|
| `tokenizers.jsonl` | tokenizers {tokenizers} | `tokenizer`, `text`, `ids` and `ids_special` (without and with the post-processor's tokens), one text per line. `tokenizer` is a path under `SHARED/data`, `qwen2` (the file that transformers makes from vocabulary and merges, written to `--scratch`), `demo` or `golden/NAME` |
| `tokenizers/NAME.json` | tokenizers {tokenizers} | small tokenizers with features that the published ones lack, trained on text of the demo's grammar and on the test texts themselves |
| `tokenizers-models.jsonl`, `tokenizers-parts.jsonl`, `tokenizers-hashes.jsonl`, `tokenizers-torture.json`, `tokenizers-folders.jsonl`, `tokenizers-folders/` | tokenizers 0.23.3, transformers 5.24.0, by `tools/make_tokenizer_golden.py` | Unigram and WordPiece, single normalizers and pre-tokenizers, whole texts by the hash of their ids, and folders without a `tokenizer.json`; the script describes each |
| `demo-logits.safetensors`, `tinystories-656K-logits.safetensors`, `stories260K-logits.safetensors` | transformers {transformers}, torch {torch} | float32 logits (eager attention, weights upcast) for 1, 2, 17 and 512 tokens: `ids.N`, `logits.N`; of the 512 only the positions in `rows.512` |
| `masks.safetensors` | the plain reference, torch {torch}, float64 | four seeded layers `a` to `d`: `W`, `X`, `G`; scores, masks before and after 1-swaps, losses, swaps per row for three warm-starts; the relaxed and rounded Frank-Wolfe mask |
| `updates.safetensors` | plain numpy, float64, by `tools/make_update_golden.py` | small layers with the weights and masks of SparseGPT, a ridge fit on a mask, ADMM and DSnoT as published |
"""

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', nargs='*', metavar='tokenizers|logits|masks')
    p.add_argument('--shared', type=Path, required=True, help='folder with data/models, data/tokenizers, data/text')
    p.add_argument('--reference', type=Path, help='the plain reference of mask selection (default: SHARED/reference/reference.py)')
    p.add_argument('--scratch', type=Path, help='where the qwen2 tokenizer.json goes')
    p.add_argument('--out', type=Path, default=ROOT / 'Tests/Golden')
    a = p.parse_args()
    makers = dict(tokenizers=tokenizers_golden, logits=logits_golden, masks=masks_golden)
    if unknown := set(a.what) - set(makers): p.error(f"no such golden values: {', '.join(sorted(unknown))}")
    a.reference = a.reference or a.shared / 'reference/reference.py'
    a.out.mkdir(parents=True, exist_ok=True)
    for name, make in makers.items():
        if not a.what or name in a.what: make(a)
    import tokenizers, torch, transformers
    (a.out / 'README.md').write_text(README.format(tokenizers=tokenizers.__version__, transformers=transformers.__version__, torch=torch.__version__.split('+')[0]))

if __name__ == '__main__':
    main()
