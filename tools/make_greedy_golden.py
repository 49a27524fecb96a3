#!/usr/bin/env python3
"""Greedy answers of transformers in float32, 200 tokens from each of some families: Tests/Golden/greedy.json.

    python3 tools/make_greedy_golden.py

The checkpoints are those of make_families.py. Prompts are drawn until no step has two nearly equal logits, which sums in another
order could exchange, and the answer does not soon repeat itself.
"""
import json, tempfile

import numpy as np
import torch

import family_rule
from family_configs import FAMILIES
from make_families import OUT, draw, load

NAMES = ["llama", "gpt2", "mistral", "gemma2", "qwen3", "deepseek_v3", "mixtral", "lfm2"]
TOKENS, LEAST_GAP, LEAST_KINDS = 200, 1e-4, 12


def answer(model, prompt):
    ids = torch.tensor([prompt])
    ids = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=TOKENS, max_new_tokens=TOKENS, eos_token_id=None)
    logits = model(ids[:, :-1], use_cache=False).logits[0, len(prompt) - 1 :].double()
    top = logits.topk(2).values
    gap = float((top[:, 0] - top[:, 1]).min() / (logits.max() - logits.min()))
    return ids[0, len(prompt) :].tolist(), gap


torch.set_num_threads(1)
golden = {}
for name in NAMES:
    family = FAMILIES[name]()
    base = json.load(open(f"{OUT}/{name}.json"))
    with tempfile.TemporaryDirectory() as folder:
        model = load(base, family, folder + "/written")
        random = np.random.default_rng(family_rule.fnv1a64(name + " greedy"))
        vocabulary = base["config"].get("vocab_size") or base["config"]["text_config"]["vocab_size"]
        best = None
        for _ in range(8):
            prompt = draw(random, family, vocabulary, 12)
            ids, gap = answer(model, prompt)
            if gap > LEAST_GAP and (best is None or len(set(ids)) > len(set(best[1]))): best = (prompt, ids, gap)
            if best and len(set(best[1])) >= LEAST_KINDS: break
        if best is None: raise SystemExit(f"{name}: no prompt without a near tie")
    print(f"{name:14} {len(set(best[1]))} different tokens, least gap {best[2]:.1e} of the range", flush=True)
    golden[name] = {"prompt": best[0], "ids": best[1]}
with open(f"{OUT}/../greedy.json", "w") as file:
    file.write("{" + ",\n".join(f"{json.dumps(k)}:{json.dumps(v, separators=(',', ':'))}" for k, v in golden.items()) + "}\n")
