#!/usr/bin/env python3
"""Tokens a second of one text by espalier, torch (transformers, bf16) and llama.cpp (bf16 and q8_0), by turns on this machine.

usage: compare_decoders.py PROGRAM MODEL [COMPACT] [--tokens 100] [--threads 2] [--turns 3] [--work FOLDER]

PROGRAM is espalier, MODEL a dense Llama checkpoint in bf16, COMPACT the same packed. llama.cpp is that of llama-cpp-python; its files are
written by the converter that is part of this script, for Llama checkpoints only. Every number is the best of its turns.
"""
import argparse, json, pathlib, subprocess, sys, tempfile, time

PROMPT = "Once upon a time"


def espalier(program, folder, tokens, threads):
    command = [program, "generate", folder, "--prompt", PROMPT, "--max-tokens", str(tokens), "--threads", str(threads), "--json"]
    return lambda: json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["answer"]["tokensPerSecond"]


def by_torch(folder, tokens, threads):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids

    def run():
        with torch.inference_mode():
            state = model(ids, use_cache=True)
            next_id = state.logits[:, -1:].argmax(-1)
            start = time.perf_counter()
            for _ in range(tokens - 1):
                state = model(next_id, past_key_values=state.past_key_values, use_cache=True)
                next_id = state.logits[:, -1:].argmax(-1)
            return (tokens - 1) / (time.perf_counter() - start)

    return run


def by_llama(path, tokens, threads):
    from llama_cpp import Llama

    model = Llama(str(path), n_threads=threads, n_ctx=tokens + 64, verbose=False)

    def run():
        model.reset()
        model.eval(model.tokenize(PROMPT.encode()))
        start = time.perf_counter()
        for _ in range(tokens - 1): model.eval([model.sample(temp=0.0)])
        return (tokens - 1) / (time.perf_counter() - start)

    return run


def write_gguf(folder, path, kind):
    """A Llama checkpoint for llama.cpp; the tokenizer is reduced to its vocabulary."""
    import gguf, numpy as np, torch
    from safetensors.torch import load_file

    config = json.load(open(f"{folder}/config.json"))
    tensors = {}
    for file in sorted(pathlib.Path(folder).glob("*.safetensors")): tensors.update(load_file(file))
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or {}
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(config.get("rope_theta") or rope.get("rope_theta", 10000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    tokenizer = json.load(open(f"{folder}/tokenizer.json"))
    words = {i: t for t, i in tokenizer["model"]["vocab"].items()}
    words.update({t["id"]: t["content"] for t in tokenizer.get("added_tokens", [])})
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([words.get(i, f"<unused {i}>") for i in range(config["vocab_size"])])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]])
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
             "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
             "post_attention_layernorm": "ffn_norm"}
    quantized = getattr(gguf.GGMLQuantizationType, kind)
    for name, tensor in tensors.items():
        parts = name.split(".")
        if name.startswith("model.layers."):
            target = f"blk.{parts[2]}.{names['.'.join(parts[3:-1])]}.weight"
        else:
            target = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}[name]
        values = tensor.float().numpy()
        if "q_proj" in name or "k_proj" in name:
            # llama.cpp rotates neighbours, these checkpoints halves.
            count = heads if "q_proj" in name else groups
            values = values.reshape(count, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        if values.ndim == 1:
            writer.add_tensor(target, values.astype(np.float32))
        else:
            writer.add_tensor(target, gguf.quants.quantize(np.ascontiguousarray(values), quantized), raw_dtype=quantized)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


parser = argparse.ArgumentParser()
parser.add_argument("program")
parser.add_argument("model")
parser.add_argument("compact", nargs="?")
parser.add_argument("--tokens", type=int, default=100)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--turns", type=int, default=3)
parser.add_argument("--work")
arguments = parser.parse_args()
with tempfile.TemporaryDirectory(dir=arguments.work) as work:
    runs = {"espalier, dense": espalier(arguments.program, arguments.model, arguments.tokens, arguments.threads)}
    if arguments.compact: runs["espalier, compact"] = espalier(arguments.program, arguments.compact, arguments.tokens, arguments.threads)
    for name, make in [("torch bf16", lambda: by_torch(arguments.model, arguments.tokens, arguments.threads))] + [
        (f"llama.cpp {kind}", lambda kind=kind: (write_gguf(arguments.model, f"{work}/{kind}.gguf", kind), by_llama(f"{work}/{kind}.gguf", arguments.tokens, arguments.threads))[1])
        for kind in ("BF16", "Q8_0")
    ]:
        try:
            runs[name] = make()
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    best = dict.fromkeys(runs, 0.0)
    for _ in range(arguments.turns):
        for name, run in runs.items(): best[name] = max(best[name], run())
for name, rate in best.items(): print(f"{name:20} {rate:8.1f} tokens/s")
