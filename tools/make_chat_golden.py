#!/usr/bin/env python3
"""Renders chats with the templates that `espalier generate --messages` knows: Tests/Golden/chat.json, by transformers.

usage: make_chat_golden.py FOLDER    (NAME.jinja files, the chat templates of published models, which are not part of this repository)
"""
import hashlib, json, pathlib, sys

from transformers.utils import chat_template_utils

DATE = "05 Mar 2026"
CHATS = [
    [{"role": "user", "content": "Hello"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Why? "}],
    [{"role": "user", "content": "1"}, {"role": "assistant", "content": "  2 "}, {"role": "user", "content": "3\n4"}],
    [{"role": "system", "content": "S"}, {"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}, {"role": "user", "content": "3"}],
    [{"role": "user", "content": "1"}, {"role": "user", "content": "2"}],
    [{"role": "assistant", "content": "1"}],
]


def rendered(template, chat):
    compiled = chat_template_utils._compile_jinja_template(template)
    try:
        return compiled.render(messages=chat, bos_token="<B>", eos_token="<E>", add_generation_prompt=True, tools=None, strftime_now=lambda _: DATE)
    except Exception:
        return None


golden = []
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.jinja")):
    template = path.read_text()
    # As ChatTemplate does: a line break in a string may be written as one, or as an escape.
    digest = hashlib.sha256(template.replace("\\n", "\n").rstrip("\n").encode()).hexdigest()
    golden.append({"name": path.stem, "sha256": digest, "prompts": [rendered(template, chat) for chat in CHATS]})
out = {"bos": "<B>", "eos": "<E>", "date": DATE, "chats": CHATS, "templates": golden}
pathlib.Path(__file__, "../../Tests/Golden/chat.json").resolve().write_text(json.dumps(out, indent=1, ensure_ascii=False) + "\n")
