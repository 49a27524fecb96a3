#!/usr/bin/env python3
"""Compares the greedy answers of `espalier generate` with those of transformers in float32, token by token.

usage: check_generate.py PROGRAM FOLDER... [--tokens 200] [--prompt TEXT]... [--threads N]

Prints for each folder how many tokens agree, and if not all, how close the two likeliest logits of transformers were at the first
difference: sums in another order can only exchange what is nearly equal. Needs torch and transformers.
"""
import argparse, json, subprocess, sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = ["The capital of France is", "Once upon a time", "def fibonacci(n):", "1, 2, 3, 4,", "Dear Sir or Madam,"]


def compare(program, folder, prompt, count, threads):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    command = [program, "generate", folder, "--prompt", prompt, "--max-tokens", str(count), "--json"]
    answer = json.loads(subprocess.run(command + (["--threads", threads] if threads else []), check=True, capture_output=True).stdout)
    tokens = answer["tokens"]
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    # Greedy tokens are those that are the likeliest after all before them, so one pass over prompt and answer tells.
    with torch.no_grad(): logits = model(torch.cat([ids, torch.tensor([tokens])], 1)).logits[0, ids.shape[1] - 1 :]
    expected = logits.argmax(-1).tolist()
    same = next((i for i, (a, b) in enumerate(zip(tokens, expected)) if a != b), len(tokens))
    if same == len(tokens):
        ends = model.generation_config.eos_token_id
        ended = answer["ending"] != "endOfText" or expected[-1] in (ends if isinstance(ends, list) else [ends])
        return f"{len(tokens)} tokens, all the same" + ("" if ended else ", but it should not end there"), ended
    top = logits[same].topk(2).values
    gap = float(top[0] - top[1]) / float(logits[same].max() - logits[same].min())
    return f"the first {same} of {len(tokens)} tokens are the same; there the two likeliest are {gap:.1e} of the logits' range apart", False


parser = argparse.ArgumentParser()
parser.add_argument("program")
parser.add_argument("folders", nargs="+")
parser.add_argument("--tokens", type=int, default=200)
parser.add_argument("--prompt", action="append")
parser.add_argument("--threads")
arguments = parser.parse_args()
alike = True
for folder in arguments.folders:
    for prompt in arguments.prompt or PROMPTS:
        text, same = compare(arguments.program, folder, prompt, arguments.tokens, arguments.threads)
        alike = alike and same
        print(f"{folder} {prompt!r}: {text}", flush=True)
sys.exit(0 if alike else 1)
