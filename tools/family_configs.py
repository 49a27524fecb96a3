"""Tiny configurations of the families in Tests/Golden/families, odd on purpose.

Head sizes that are not width / heads, grouped keys, windows shorter than the texts, epsilons that matter, multipliers away from
their defaults: what one family does differently from another must show in its logits.
"""

import copy

import transformers as t

FAMILIES = {}




def add(name, model, config, values, **more):
    """Registers a family by its classes and the values of its configuration."""
    FAMILIES[name] = lambda: {"model": model, "config": config(**copy.deepcopy(values)), **more}


def like(name, source, change, **more):
    """Registers a golden with the values of another, stored in another way."""
    FAMILIES[name] = lambda: {"like": source, "change": change, **more}


def rope(theta, **more):
    return {"rope_type": "default", "rope_theta": theta, **more}


# No special tokens within a vocabulary this small.
PLAIN = dict(pad_token_id=None, bos_token_id=None, eos_token_id=None)
BASE = dict(PLAIN, max_position_embeddings=512, num_hidden_layers=2)

LLAMA = dict(
    BASE, vocab_size=71, hidden_size=36, intermediate_size=60, num_attention_heads=6, num_key_value_heads=2, head_dim=10,
    rms_norm_eps=0.004, rope_parameters=rope(700.0))
YARN = dict(rope_type="yarn", rope_theta=900.0, factor=4.0, original_max_position_embeddings=128, beta_fast=8.0, beta_slow=1.0)
LLAMA3 = dict(
    rope_type="llama3", rope_theta=400.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=64)

add("llama", t.LlamaForCausalLM, t.LlamaConfig, LLAMA)
add("llama-llama3-biases", t.LlamaForCausalLM, t.LlamaConfig, dict(
    LLAMA, vocab_size=67, attention_bias=True, mlp_bias=True, tie_word_embeddings=True, rope_parameters=LLAMA3))
add("llama-yarn", t.LlamaForCausalLM, t.LlamaConfig, dict(LLAMA, head_dim=12, rope_parameters=YARN))
add("llama-yarn-factor", t.LlamaForCausalLM, t.LlamaConfig, dict(
    LLAMA, head_dim=12, rope_parameters=dict(YARN, attention_factor=1.3, truncate=False)))
add("llama-dynamic", t.LlamaForCausalLM, t.LlamaConfig, dict(
    LLAMA, max_position_embeddings=64, rope_parameters=dict(rope_type="dynamic", rope_theta=700.0, factor=3.0)))
add("llama-linear", t.LlamaForCausalLM, t.LlamaConfig, dict(
    LLAMA, head_dim=None, hidden_size=48, rope_parameters=dict(rope_type="linear", rope_theta=300.0, factor=2.5)))
add("mistral", t.MistralForCausalLM, t.MistralConfig, dict(
    BASE, vocab_size=73, hidden_size=40, intermediate_size=52, num_attention_heads=5, num_key_value_heads=1, head_dim=12,
    rms_norm_eps=0.003, sliding_window=8, rope_parameters=rope(800.0)), dtype="BF16")
add("ministral", t.MinistralForCausalLM, t.MinistralConfig, dict(
    BASE, num_hidden_layers=3, vocab_size=79, hidden_size=32, intermediate_size=44, num_attention_heads=6, num_key_value_heads=3,
    head_dim=6, rms_norm_eps=0.005, sliding_window=16, rope_parameters=rope(500.0),
    layer_types=["sliding_attention", "full_attention", "sliding_attention"]))
QWEN2 = dict(
    BASE, num_hidden_layers=3, vocab_size=83, hidden_size=40, intermediate_size=56, num_attention_heads=4, num_key_value_heads=2,
    rms_norm_eps=0.002, use_sliding_window=True, sliding_window=8, max_window_layers=1, rope_parameters=rope(600.0))
add("qwen2", t.Qwen2ForCausalLM, t.Qwen2Config, QWEN2)
add("qwen2-full", t.Qwen2ForCausalLM, t.Qwen2Config, dict(
    QWEN2, num_hidden_layers=2, use_sliding_window=False, tie_word_embeddings=True))
add("qwen3", t.Qwen3ForCausalLM, t.Qwen3Config, dict(
    BASE, num_hidden_layers=3, vocab_size=61, hidden_size=28, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2,
    head_dim=14, attention_bias=True, rms_norm_eps=0.006, use_sliding_window=True, sliding_window=16, max_window_layers=2,
    rope_parameters=rope(550.0)))

# Embeddings are multiplied by the root of the width: their spread makes up for it.
GEMMA = dict(offset_norms=True, embedding=0.2)
add("gemma", t.GemmaForCausalLM, t.GemmaConfig, dict(
    BASE, vocab_size=67, hidden_size=32, intermediate_size=52, num_attention_heads=4, num_key_value_heads=1, head_dim=10,
    rms_norm_eps=0.004, rope_parameters=rope(650.0)), **GEMMA)
add("gemma2", t.Gemma2ForCausalLM, t.Gemma2Config, dict(
    BASE, vocab_size=71, hidden_size=36, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=14,
    rms_norm_eps=0.003, query_pre_attn_scalar=7, sliding_window=8, attn_logit_softcapping=1.5, final_logit_softcapping=2.5,
    rope_parameters=rope(450.0)), dtype="BF16", **GEMMA)
GEMMA3 = dict(
    BASE, num_hidden_layers=3, vocab_size=73, hidden_size=32, intermediate_size=44, num_attention_heads=4, num_key_value_heads=2,
    head_dim=10, rms_norm_eps=0.005, query_pre_attn_scalar=6, sliding_window=8, final_logit_softcapping=None,
    layer_types=["sliding_attention", "full_attention", "sliding_attention"], rope_parameters=dict(
        sliding_attention=rope(90.0), full_attention=dict(rope_type="linear", rope_theta=3000.0, factor=4.0)))
add("gemma3_text", t.Gemma3ForCausalLM, t.Gemma3TextConfig, GEMMA3, **GEMMA)
add("gemma3_text-capped", t.Gemma3ForCausalLM, t.Gemma3TextConfig, dict(GEMMA3, final_logit_softcapping=3.0), **GEMMA)
add("gemma3", t.Gemma3ForConditionalGeneration, t.Gemma3Config, dict(
    text_config=GEMMA3, vision_config=dict(
        hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4,
        num_channels=1), mm_tokens_per_image=4, image_token_index=2, boi_token_index=1, eoi_token_index=3), **GEMMA,
    unused="vision|projector")

PHI = dict(
    BASE, vocab_size=61, hidden_size=48, intermediate_size=60, num_attention_heads=4, num_key_value_heads=2, layer_norm_eps=0.004,
    rope_parameters=rope(500.0, partial_rotary_factor=0.5))
add("phi", t.PhiForCausalLM, t.PhiConfig, PHI)
add("phi-qk-norm", t.PhiForCausalLM, t.PhiConfig, dict(PHI, qk_layernorm=True))
PHI3 = dict(
    BASE, vocab_size=67, hidden_size=48, intermediate_size=52, num_attention_heads=6, num_key_value_heads=2, rms_norm_eps=0.003,
    original_max_position_embeddings=512)
add("phi3", t.Phi3ForCausalLM, t.Phi3Config, dict(PHI3, sliding_window=16, rope_parameters=rope(350.0, partial_rotary_factor=0.75)))
add("phi3-longrope", t.Phi3ForCausalLM, t.Phi3Config, dict(
    PHI3, original_max_position_embeddings=64, rope_parameters=dict(
        rope_type="longrope", rope_theta=350.0, short_factor=[1.0, 1.2, 1.5], long_factor=[1.1, 2.5, 5.0],
        partial_rotary_factor=0.75)))

add("olmo2", t.Olmo2ForCausalLM, t.Olmo2Config, dict(
    BASE, vocab_size=71, hidden_size=40, intermediate_size=52, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=0.005,
    attention_bias=True, rope_parameters=rope(480.0)))
add("olmo3", t.Olmo3ForCausalLM, t.Olmo3Config, dict(
    BASE, num_hidden_layers=4, vocab_size=61, hidden_size=32, intermediate_size=36, num_attention_heads=4, num_key_value_heads=2,
    rms_norm_eps=0.004, sliding_window=8, rope_parameters=dict(sliding_attention=rope(900.0), full_attention=YARN)))
add("smollm3", t.SmolLM3ForCausalLM, t.SmolLM3Config, dict(
    BASE, num_hidden_layers=3, vocab_size=79, hidden_size=32, intermediate_size=44, num_attention_heads=4, num_key_value_heads=1,
    rms_norm_eps=0.003, no_rope_layers=[1, 0, 1], use_sliding_window=True, sliding_window=16, rope_parameters=rope(650.0)))
add("smollm3-full", t.SmolLM3ForCausalLM, t.SmolLM3Config, dict(
    BASE, num_hidden_layers=3, vocab_size=79, hidden_size=32, intermediate_size=44, num_attention_heads=4, num_key_value_heads=2,
    rms_norm_eps=0.003, no_rope_layer_interval=2, attention_bias=True, mlp_bias=True, tie_word_embeddings=False,
    rope_parameters=rope(650.0)))
add("granite", t.GraniteForCausalLM, t.GraniteConfig, dict(
    BASE, vocab_size=67, hidden_size=36, intermediate_size=52, num_attention_heads=6, num_key_value_heads=3, rms_norm_eps=0.006,
    attention_multiplier=0.7, embedding_multiplier=3.0, logits_scaling=2.5, residual_multiplier=0.6, attention_bias=True,
    mlp_bias=True, rope_parameters=rope(420.0)), embedding=0.4)
add("glm4", t.Glm4ForCausalLM, t.Glm4Config, dict(
    BASE, vocab_size=73, hidden_size=32, intermediate_size=44, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
    rms_norm_eps=0.004, attention_bias=True, rope_parameters=rope(300.0, partial_rotary_factor=0.5)))
add("cohere2", t.Cohere2ForCausalLM, t.Cohere2Config, dict(
    BASE, num_hidden_layers=3, vocab_size=83, hidden_size=40, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2,
    layer_norm_eps=0.005, sliding_window=8, logit_scale=0.4, attention_bias=True, rope_parameters=rope(380.0),
    layer_types=["sliding_attention", "full_attention", "sliding_attention"]))
add("starcoder2", t.Starcoder2ForCausalLM, t.Starcoder2Config, dict(
    BASE, vocab_size=61, hidden_size=36, intermediate_size=64, num_attention_heads=6, num_key_value_heads=2, norm_epsilon=0.004,
    sliding_window=16, rope_parameters=rope(560.0)))
STABLELM = dict(
    BASE, vocab_size=71, hidden_size=48, intermediate_size=52, num_attention_heads=4, num_key_value_heads=2, layer_norm_eps=0.003,
    use_qkv_bias=True, rope_parameters=rope(250.0, partial_rotary_factor=0.34))
add("stablelm", t.StableLmForCausalLM, t.StableLmConfig, STABLELM)
add("stablelm-parallel", t.StableLmForCausalLM, t.StableLmConfig, dict(STABLELM, use_parallel_residual=True, use_qkv_bias=False))
add("stablelm-qk-norm", t.StableLmForCausalLM, t.StableLmConfig, dict(STABLELM, qk_layernorm=True, tie_word_embeddings=True))
add("ernie4_5", t.Ernie4_5ForCausalLM, t.Ernie4_5Config, dict(
    BASE, vocab_size=73, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
    rms_norm_eps=0.005, use_bias=True, rope_parameters=rope(520.0)))
add("seed_oss", t.SeedOssForCausalLM, t.SeedOssConfig, dict(
    BASE, vocab_size=67, hidden_size=28, intermediate_size=44, num_attention_heads=4, num_key_value_heads=2, head_dim=10,
    rms_norm_eps=0.004, attention_bias=True, attention_out_bias=True, mlp_bias=True, rope_parameters=rope(610.0)))
EXAONE4 = dict(
    BASE, num_hidden_layers=4, vocab_size=61, hidden_size=32, intermediate_size=36, num_attention_heads=4, num_key_value_heads=2,
    rms_norm_eps=0.003, sliding_window=8, sliding_window_pattern=4, rope_parameters=rope(470.0))
add("exaone4", t.Exaone4ForCausalLM, t.Exaone4Config, EXAONE4)
add("exaone4-full", t.Exaone4ForCausalLM, t.Exaone4Config, dict(
    EXAONE4, num_hidden_layers=2, sliding_window=None, layer_types=["full_attention"] * 2, tie_word_embeddings=True))
add("hunyuan_v1_dense", t.HunYuanDenseV1ForCausalLM, t.HunYuanDenseV1Config, dict(
    BASE, vocab_size=71, hidden_size=32, intermediate_size=52, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
    rms_norm_eps=0.005, attention_bias=True, tie_word_embeddings=True,
    rope_parameters=dict(rope_type="dynamic", rope_theta=90.0, alpha=7.0, factor=1.0, beta_fast=32, beta_slow=1)))
add("nemotron", t.NemotronForCausalLM, t.NemotronConfig, dict(
    BASE, vocab_size=67, hidden_size=36, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
    norm_eps=0.004, attention_bias=True, mlp_bias=True, rope_parameters=rope(330.0, partial_rotary_factor=0.5)), offset_norms=True)
add("apertus", t.ApertusForCausalLM, t.ApertusConfig, dict(
    BASE, vocab_size=73, hidden_size=40, intermediate_size=52, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=0.003,
    attention_bias=True, rope_parameters=LLAMA3), rules=[
        (r"alpha_[pn]$", 0.3, 0.3), (r"act_fn\.beta$", 0.5, 0.1), (r"act_fn\.eps$", -1e-6, 0.0)])

FALCON = dict(
    PLAIN, max_position_embeddings=512, num_hidden_layers=2, vocab_size=61, hidden_size=48, num_attention_heads=6,
    ffn_hidden_size=64, layer_norm_epsilon=0.004, rope_parameters=rope(440.0))
add("falcon", t.FalconForCausalLM, t.FalconConfig, dict(FALCON, new_decoder_architecture=True, num_kv_heads=2))
add("falcon-one-norm", t.FalconForCausalLM, t.FalconConfig, dict(
    FALCON, new_decoder_architecture=True, num_kv_heads=3, num_ln_in_parallel_attn=1, tie_word_embeddings=False, bias=True))
add("falcon-multi-query", t.FalconForCausalLM, t.FalconConfig, dict(FALCON, multi_query=True, parallel_attn=True))
# The eager attention adds the alibi twice.
add("falcon-alibi", t.FalconForCausalLM, t.FalconConfig, dict(
    FALCON, alibi=True, multi_query=False, parallel_attn=False, bias=True), attention="sdpa")
BLOOM = dict(PLAIN, n_layer=2, vocab_size=67, hidden_size=36, n_head=6, layer_norm_epsilon=0.005)
add("bloom", t.BloomForCausalLM, t.BloomConfig, BLOOM)
add("bloom-post-norm", t.BloomForCausalLM, t.BloomConfig, dict(BLOOM, n_head=3, apply_residual_connection_post_layernorm=True))
CONV1D = dict(inputs_first=r"c_attn|c_proj|c_fc")
GPT2 = dict(PLAIN, n_layer=3, vocab_size=71, n_embd=36, n_head=3, n_inner=52, n_positions=320, layer_norm_epsilon=0.003)
add("gpt2", t.GPT2LMHeadModel, t.GPT2Config, GPT2, **CONV1D)
add("gpt2-scales", t.GPT2LMHeadModel, t.GPT2Config, dict(
    GPT2, scale_attn_by_inverse_layer_idx=True, n_inner=None, n_embd=24, tie_word_embeddings=False), **CONV1D)
add("gpt2-no-scale", t.GPT2LMHeadModel, t.GPT2Config, dict(GPT2, n_layer=2, scale_attn_weights=False), **CONV1D)
add("gptj", t.GPTJForCausalLM, t.GPTJConfig, dict(
    PLAIN, n_layer=2, vocab_size=73, n_embd=40, n_head=4, n_inner=52, n_positions=320, rotary_dim=6, layer_norm_epsilon=0.004))
add("gpt_neo", t.GPTNeoForCausalLM, t.GPTNeoConfig, dict(
    PLAIN, num_layers=3, vocab_size=67, hidden_size=36, num_heads=3, intermediate_size=52, max_position_embeddings=320,
    window_size=8, attention_types=[[["global", "local"], 1], [["local"], 1]], layer_norm_epsilon=0.005))
NEOX = dict(
    BASE, vocab_size=61, hidden_size=48, intermediate_size=60, num_attention_heads=4, layer_norm_eps=0.004,
    rope_parameters=rope(360.0, partial_rotary_factor=0.5))
add("gpt_neox", t.GPTNeoXForCausalLM, t.GPTNeoXConfig, NEOX)
add("gpt_neox-sequential", t.GPTNeoXForCausalLM, t.GPTNeoXConfig, dict(
    NEOX, use_parallel_residual=False, attention_bias=False, tie_word_embeddings=True))
OPT = dict(
    pad_token_id=1, bos_token_id=2, eos_token_id=2, num_hidden_layers=2, vocab_size=71, hidden_size=36, ffn_dim=52,
    num_attention_heads=3, max_position_embeddings=320)
# A bias of the keys is the same for all keys of a query, so that without rope the softmax removes it.
NO_ROPE = dict(unused=r"k_proj\.bias")
add("opt", t.OPTForCausalLM, t.OPTConfig, OPT, **NO_ROPE)
add("opt-projected", t.OPTForCausalLM, t.OPTConfig, dict(OPT, word_embed_proj_dim=20, do_layer_norm_before=False), **NO_ROPE)
