#!/usr/bin/env python3
"""Writes Sources/Tokenizers/Normalize/UnicodeTables.swift: the Unicode data that neither the Swift library nor PCRE2 has.

The reference is asked itself, character by character (tokenizers 0.23.3; its regular expressions are Oniguruma's, Unicode 16):
- compatibility decompositions (NFKD where it differs from NFD);
- what Oniguruma counts to a property and PCRE2 10.42 (Unicode 14) does not.

    python3 tools/make_unicode_tables.py [--out FILE]        # needs tokenizers and libpcre2-8; takes two minutes
"""
import argparse, ctypes, ctypes.util
from pathlib import Path

CHARACTERS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
CATEGORIES = 'L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So Z Zs Zl Zp Cc Cf Co'.split()
BINARY = 'Alphabetic Uppercase Lowercase'.split()
SCRIPTS = 'Arabic Armenian Bengali Bopomofo Cyrillic Devanagari Ethiopic Georgian Greek Gujarati Gurmukhi Han Hangul Hebrew Hiragana Kannada Katakana Khmer Lao Latin Malayalam Mongolian Myanmar Sinhala Tamil Telugu Thai Tibetan'.split()

class PCRE2:
    UTF, UCP, NO_UTF_CHECK = 0x00080000, 0x00020000, 0x40000000

    def __init__(self):
        self.lib = lib = ctypes.CDLL(ctypes.util.find_library('pcre2-8') or 'libpcre2-8.so.0')
        lib.pcre2_compile_8.restype = lib.pcre2_match_data_create_8.restype = ctypes.c_void_p
        lib.pcre2_compile_8.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint32, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_size_t), ctypes.c_void_p]
        lib.pcre2_match_8.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_void_p]
        self.data = lib.pcre2_match_data_create_8(1, None)
        version = ctypes.create_string_buffer(64)
        lib.pcre2_config_8(10, version)                     # PCRE2_CONFIG_UNICODE_VERSION
        assert version.value == b'14.0.0', f'made for PCRE2 10.40 to 10.42 (Unicode 14), not Unicode {version.value}'

    def members(self, pattern):
        error, offset = ctypes.c_int(), ctypes.c_size_t()
        code = self.lib.pcre2_compile_8(pattern.encode(), len(pattern), self.UTF | self.UCP, error, offset, None)
        assert code, pattern
        return {c for c in CHARACTERS if self.lib.pcre2_match_8(code, (u := chr(c).encode()), len(u), 0, self.NO_UTF_CHECK, self.data, None) > 0}

def oniguruma(pattern):
    from tokenizers import Regex, pre_tokenizers
    split = pre_tokenizers.Split(Regex(pattern + '+'), 'removed')
    left = {ord(c) for part, _ in split.pre_tokenize_str(''.join(map(chr, CHARACTERS))) for c in part}
    return set(CHARACTERS) - left

def ranges(members):
    out = []
    for c in sorted(members):
        if out and out[-1][1] == c - 1: out[-1][1] = c
        else: out.append([c, c])
    return out

def missing():
    pcre, lines, without = PCRE2(), [], []
    for name in CATEGORIES + BINARY + SCRIPTS:
        there = pcre.members(rf'\p{{sc:{name}}}' if name in SCRIPTS else rf'\p{{{name}}}')
        wanted = oniguruma(rf'\p{{{name}}}')
        if there - wanted: without.append(f'{name} {ranges(there - wanted)}')
        if wanted - there: lines.append(f'{name}: ' + ' '.join(f'{a:X}-{b:X}' if a < b else f'{a:X}' for a, b in ranges(wanted - there)))
    print('in PCRE2 alone:', without)
    return lines

def compatibility():
    from tokenizers import normalizers
    nfd, nfkd = normalizers.NFD(), normalizers.NFKD()
    full = {c: [ord(x) for x in nfkd.normalize_str(chr(c))] for c in CHARACTERS if nfkd.normalize_str(chr(c)) != nfd.normalize_str(chr(c))}
    words, order, i = [], sorted(full), 0
    while i < len(order):
        first, target, best = order[i], full[order[i]], (1, 0)
        for place in range(len(target) + 1):                # which scalar of the target counts upwards along the run; none: the last number
            n = 1
            while full.get(first + n) == [x + n * (place == p) for p, x in enumerate(target)]: n += 1
            best = max(best, (n, place), key=lambda b: b[0])
        run = f'*{best[0]:X}@{best[1]:X}' if best[0] > 1 else ''
        words.append(f'{first:X}{run}=' + '.'.join(f'{x:X}' for x in target))
        i += best[0]
    return words

def wrapped(words, width=106):
    lines = ['']
    for word in words:
        if len(lines[-1]) + len(word) + 1 > width: lines.append('')
        lines[-1] += (' ' if lines[-1] else '') + word
    return lines

def literal(lines):
    return '\n'.join(['"""'] + ['    ' + line for line in lines] + ['    """'])

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--out', type=Path, default=Path(__file__).resolve().parents[1] / 'Sources/Tokenizers/Normalize/UnicodeTables.swift')
    a = p.parse_args()
    recent = [piece for line in missing() for piece in wrapped(line.split(' '))]
    a.out.write_text(f"""// Written by tools/make_unicode_tables.py from tokenizers 0.23.3; do not edit.

/// Unicode data that neither the Swift library nor PCRE2 has, as text that is read at first use.
enum UnicodeTables {{
  /// Characters that Oniguruma (Unicode 16) counts to a property and PCRE2 10.42 (Unicode 14) does not.
  static let recent: StaticString = {literal(recent)}

  /// Full compatibility decompositions: `FIRST=TARGET`, or `FIRST*COUNT@PLACE=TARGET` for a run of COUNT
  /// characters whose targets count upwards at scalar PLACE (past the end: the same target for all).
  static let compatibility: StaticString = {literal(wrapped(compatibility()))}
}}
""")
    print('wrote', a.out, a.out.stat().st_size, 'bytes')

if __name__ == '__main__':
    main()
