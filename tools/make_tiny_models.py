#!/usr/bin/env python3
"""Writes seeded tiny Llama checkpoints with the logits that transformers gives for them, in float32 on the CPU.

usage: make_tiny_models.py [Tests/Golden/tiny]      needs: torch transformers safetensors

Each folder covers what the sample models do not: rope scalings, biases, head_dim, one key head, f16 and bf16, tied heads, shards.
"""
import json, os, shutil, sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

BASE = dict(vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=256, bos_token_id=0, eos_token_id=1, tie_word_embeddings=False)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
VARIANTS = {
    "llama3-rope-biases": (dict(rope_theta=500.0, rope_scaling=LLAMA3, attention_bias=True, mlp_bias=True, head_dim=16), torch.float32, None),
    "linear-rope-f16-tied": (dict(rope_scaling=dict(rope_type="linear", factor=4.0), tie_word_embeddings=True, rms_norm_eps=1e-5), torch.float16, None),
    "one-key-head-bf16-sharded": (dict(num_key_value_heads=1, hidden_size=48, num_attention_heads=3, num_hidden_layers=3), torch.bfloat16, "20KB"),
}


def make(folder, name, changes, dtype, shard):
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**{**BASE, **changes}), dtype=torch.float32, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for key, value in model.named_parameters():
            # Biases and norms differ from 0 and 1, and blocks matter compared with the residual, so that no mistake can hide.
            if value.ndim == 1:
                value.add_(torch.randn(value.shape, generator=generator) * 0.1)
            elif "embed" not in key and "lm_head" not in key:
                value.copy_(torch.randn(value.shape, generator=generator) * value.shape[1] ** -0.5)
    model = model.to(dtype)
    path = f"{folder}/{name}"
    shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(path, **({"max_shard_size": shard} if shard else {}))
    os.remove(f"{path}/generation_config.json")
    ids = torch.randint(0, BASE["vocab_size"], (2, 150), generator=generator)
    # Loaded again, because .to(dtype) above has also rounded the rotary frequencies.
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = model(ids).logits[:, ::7].contiguous()
    save_file({"ids": ids.to(torch.int32), "logits": logits}, f"{path}/expected.safetensors")


if __name__ == "__main__":
    folder = sys.argv[1] if len(sys.argv) > 1 else "Tests/Golden/tiny"
    for name, (changes, dtype, shard) in VARIANTS.items():
        make(folder, name, changes, dtype, shard)
        print(name, sum(os.path.getsize(f"{folder}/{name}/{f}") for f in os.listdir(f"{folder}/{name}")), "bytes")
