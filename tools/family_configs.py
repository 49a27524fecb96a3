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
# A bias of the keys is the same for all keys of a query: without rope the softmax removes it.
add("smollm3-full", t.SmolLM3ForCausalLM, t.SmolLM3Config, dict(
    BASE, num_hidden_layers=3, vocab_size=79, hidden_size=32, intermediate_size=44, num_attention_heads=4, num_key_value_heads=2,
    rms_norm_eps=0.003, no_rope_layer_interval=2, attention_bias=True, mlp_bias=True, tie_word_embeddings=False,
    rope_parameters=rope(650.0)), unused=r"layers\.1\.self_attn\.k_proj\.bias")
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
    layer_types=["sliding_attention", "full_attention", "sliding_attention"]), unused=r"layers\.1\.self_attn\.k_proj\.bias")
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
NO_ROPE = dict(unused=r"k_proj\.bias")
add("opt", t.OPTForCausalLM, t.OPTConfig, OPT, **NO_ROPE)
add("opt-projected", t.OPTForCausalLM, t.OPTConfig, dict(OPT, word_embed_proj_dim=20, do_layer_norm_before=False), **NO_ROPE)

# Mixtures. A wide router keeps the choice of experts from being nearly tied.
ROUTER = [(r"(gate|router)(\.layer|\.proj)?\.weight$", 0.0, 0.8), (r"correction_bias$", 0.0, 0.15)]


def mixture(name, model, config, values, rules=(), fused=False, **more):
    rules = list(rules) + ROUTER
    add(name, model, config, values, rules=rules, **more)
    if fused:
        add(name + "-fused", model, config, values, rules=rules, fused=True, **more)


mixture("mixtral", t.MixtralForCausalLM, t.MixtralConfig, dict(
    BASE, vocab_size=61, hidden_size=32, intermediate_size=20, num_attention_heads=4, num_key_value_heads=2, head_dim=10,
    rms_norm_eps=0.004, sliding_window=16, num_local_experts=5, num_experts_per_tok=2, rope_parameters=rope(700.0)), fused=True)
mixture("qwen2_moe", t.Qwen2MoeForCausalLM, t.Qwen2MoeConfig, dict(
    BASE, num_hidden_layers=3, vocab_size=67, hidden_size=40, intermediate_size=44, num_attention_heads=4, num_key_value_heads=2,
    rms_norm_eps=0.003, moe_intermediate_size=12, shared_expert_intermediate_size=20, num_experts=4, num_experts_per_tok=2,
    mlp_only_layers=[1], rope_parameters=rope(480.0)))
mixture("qwen3_moe", t.Qwen3MoeForCausalLM, t.Qwen3MoeConfig, dict(
    BASE, num_hidden_layers=3, vocab_size=71, hidden_size=32, intermediate_size=36, num_attention_heads=4, num_key_value_heads=2,
    head_dim=12, rms_norm_eps=0.005, moe_intermediate_size=16, num_experts=6, num_experts_per_tok=3, decoder_sparse_step=2,
    norm_topk_prob=True, attention_bias=True, rope_parameters=rope(560.0)), fused=True)
mixture("qwen3_moe-not-normed", t.Qwen3MoeForCausalLM, t.Qwen3MoeConfig, dict(
    BASE, num_hidden_layers=2, vocab_size=71, hidden_size=32, intermediate_size=36, num_attention_heads=4, num_key_value_heads=1,
    head_dim=8, rms_norm_eps=0.005, moe_intermediate_size=12, num_experts=4, num_experts_per_tok=2, mlp_only_layers=[0],
    norm_topk_prob=False, tie_word_embeddings=True, rope_parameters=rope(560.0)))
mixture("olmoe", t.OlmoeForCausalLM, t.OlmoeConfig, dict(
    BASE, vocab_size=73, hidden_size=32, intermediate_size=16, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=0.004,
    num_experts=5, num_experts_per_tok=2, clip_qkv=1.2, rope_parameters=rope(430.0)), dtype="BF16")
mixture("gpt_oss", t.GptOssForCausalLM, t.GptOssConfig, dict(
    BASE, vocab_size=61, hidden_size=28, intermediate_size=20, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
    rms_norm_eps=0.003, sliding_window=8, num_local_experts=5, num_experts_per_tok=2, swiglu_limit=1.5,
    rope_parameters=dict(YARN, truncate=False)), rules=[(r"sinks$", 0.0, 1.5)], inputs_first=r"experts\.(gate_up|down)_proj$")
mixture("granitemoe", t.GraniteMoeForCausalLM, t.GraniteMoeConfig, dict(
    BASE, vocab_size=67, hidden_size=32, intermediate_size=20, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=0.005,
    attention_multiplier=0.6, embedding_multiplier=3.0, logits_scaling=2.5, residual_multiplier=0.7, num_local_experts=5,
    num_experts_per_tok=2, attention_bias=True, rope_parameters=rope(510.0)), embedding=0.4)
mixture("glm4_moe", t.Glm4MoeForCausalLM, t.Glm4MoeConfig, dict(
    BASE, vocab_size=71, hidden_size=32, intermediate_size=44, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
    rms_norm_eps=0.004, attention_bias=True, use_qk_norm=True, first_k_dense_replace=1, moe_intermediate_size=12,
    n_routed_experts=6, num_experts_per_tok=2, n_shared_experts=2, n_group=3, topk_group=2, routed_scaling_factor=1.5,
    num_nextn_predict_layers=0, rope_parameters=rope(390.0, partial_rotary_factor=0.5)))
MLA = dict(
    BASE, num_attention_heads=4, num_key_value_heads=4, kv_lora_rank=12, q_lora_rank=20, qk_nope_head_dim=10, qk_rope_head_dim=8,
    v_head_dim=14, first_k_dense_replace=1, moe_intermediate_size=12)
mixture("deepseek_v2", t.DeepseekV2ForCausalLM, t.DeepseekV2Config, dict(
    MLA, vocab_size=61, hidden_size=32, intermediate_size=44, rms_norm_eps=0.01, n_routed_experts=6, num_experts_per_tok=2,
    n_shared_experts=2, topk_method="greedy", routed_scaling_factor=1.4, rope_parameters=rope(300.0)))
mixture("deepseek_v2-groups", t.DeepseekV2ForCausalLM, t.DeepseekV2Config, dict(
    MLA, vocab_size=67, hidden_size=32, intermediate_size=44, rms_norm_eps=0.01, q_lora_rank=None, n_routed_experts=6, n_group=3,
    topk_group=2, num_experts_per_tok=3, n_shared_experts=1, topk_method="group_limited_greedy", routed_scaling_factor=2.0,
    attention_bias=True, rope_parameters=dict(YARN, mscale=0.7, mscale_all_dim=1.2)))
DEEPSEEK3 = dict(
    MLA, vocab_size=71, hidden_size=32, intermediate_size=44, rms_norm_eps=0.01, n_routed_experts=8, n_group=4, topk_group=2,
    num_experts_per_tok=3, n_shared_experts=1, routed_scaling_factor=1.6, num_nextn_predict_layers=0,
    rope_parameters=dict(YARN, mscale=1.0, mscale_all_dim=0.8))
mixture("deepseek_v3", t.DeepseekV3ForCausalLM, t.DeepseekV3Config, DEEPSEEK3, fused=True)
mixture("deepseek_v3-half-rope", t.DeepseekV3ForCausalLM, t.DeepseekV3Config, dict(
    DEEPSEEK3, q_lora_rank=None, rope_interleave=False, norm_topk_prob=False, n_group=1, topk_group=1, n_routed_experts=4,
    num_experts_per_tok=2, attention_bias=True, rope_parameters=rope(240.0)))

# Layers with a state. Decays from a few tokens to some dozens; the gated norm has no offset.
DELTA_RULES = [
    (r"linear_attn\.norm\.weight$", 1.0, 0.3), (r"A_log$", -1.5, 1.5), (r"dt_bias$", 0.3, 0.6), (r"shared_expert_gate", 0.0, 0.4)]
DELTA = dict(
    BASE, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=12, linear_conv_kernel_dim=4,
    linear_key_head_dim=6, linear_value_head_dim=10, linear_num_key_heads=2, linear_num_value_heads=6,
    layer_types=["linear_attention", "full_attention", "linear_attention"],
    rope_parameters=rope(350.0, partial_rotary_factor=0.5))
mixture("qwen3_next", t.Qwen3NextForCausalLM, t.Qwen3NextConfig, dict(
    DELTA, vocab_size=61, hidden_size=32, intermediate_size=36, rms_norm_eps=0.004, moe_intermediate_size=12,
    shared_expert_intermediate_size=16, num_experts=4, num_experts_per_tok=2, norm_topk_prob=True, mlp_only_layers=[1]),
    rules=DELTA_RULES, offset_norms=True)
MROPE = dict(DELTA, rope_parameters=rope(350.0, partial_rotary_factor=0.5, mrope_section=[1, 1, 1], mrope_interleaved=True))
QWEN35 = dict(MROPE, vocab_size=67, hidden_size=36, intermediate_size=44, rms_norm_eps=0.005)
add("qwen3_5_text", t.Qwen3_5ForCausalLM, t.Qwen3_5TextConfig, QWEN35, rules=DELTA_RULES, offset_norms=True)
VISION35 = dict(
    depth=1, hidden_size=12, intermediate_size=16, num_heads=2, in_channels=1, patch_size=4, out_hidden_size=36,
    num_position_embeddings=4)
SPECIAL = dict(image_token_id=0, video_token_id=1, vision_start_token_id=2, vision_end_token_id=3)
add("qwen3_5", t.Qwen3_5ForConditionalGeneration, t.Qwen3_5Config, dict(
    text_config=QWEN35, vision_config=VISION35, tie_word_embeddings=False, **SPECIAL), rules=DELTA_RULES, offset_norms=True,
    unused="visual")
QWEN35_MOE = dict(
    MROPE, vocab_size=71, hidden_size=32, rms_norm_eps=0.003, moe_intermediate_size=12, shared_expert_intermediate_size=16,
    num_experts=5, num_experts_per_tok=2)
mixture("qwen3_5_moe_text", t.Qwen3_5MoeForCausalLM, t.Qwen3_5MoeTextConfig, QWEN35_MOE, rules=DELTA_RULES, offset_norms=True,
        fused=True)
mixture("qwen3_5_moe", t.Qwen3_5MoeForConditionalGeneration, t.Qwen3_5MoeConfig, dict(
    text_config=dict(QWEN35_MOE, num_hidden_layers=2, layer_types=["linear_attention", "full_attention"]),
    vision_config=dict(VISION35, out_hidden_size=32), tie_word_embeddings=False, **SPECIAL), rules=DELTA_RULES,
    offset_norms=True, unused="visual")
GEMMA4 = dict(
    BASE, num_hidden_layers=4, vocab_size=61, hidden_size=32, intermediate_size=36, num_attention_heads=4, num_key_value_heads=2,
    head_dim=10, global_head_dim=16, rms_norm_eps=0.004, sliding_window=8, final_logit_softcapping=3.0,
    hidden_size_per_layer_input=8, vocab_size_per_layer_input=61, num_kv_shared_layers=0,
    layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"], rope_parameters=dict(
        sliding_attention=rope(90.0), full_attention=dict(rope_type="proportional", rope_theta=900.0, partial_rotary_factor=0.25)))
GEMMA4_RULES = [(r"layer_scalar$", 0.8, 0.2), (r"embed_tokens_per_layer", 0.0, 0.5), (r"router\.(scale|per_expert_scale)$", 1.0, 0.3),
    (r"router\.proj", 0.0, 4.0)]
# The last norm removes the scale of the last layer.
SCALED = dict(rules=GEMMA4_RULES, embedding=0.2, unused=r"layers\.3\.layer_scalar")
mixture("gemma4_text", t.Gemma4ForCausalLM, t.Gemma4TextConfig, GEMMA4, **SCALED)
mixture("gemma4_text-shared", t.Gemma4ForCausalLM, t.Gemma4TextConfig, dict(
    GEMMA4, num_kv_shared_layers=2, use_double_wide_mlp=True, final_logit_softcapping=None), **SCALED)
mixture("gemma4_text-moe", t.Gemma4ForCausalLM, t.Gemma4TextConfig, dict(
    GEMMA4, num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"], hidden_size_per_layer_input=0,
    enable_moe_block=True, num_experts=5, top_k_experts=2, moe_intermediate_size=12, attention_k_eq_v=True,
    num_global_key_value_heads=1), **dict(SCALED, unused=r"layers\.1\.layer_scalar"))
mixture("gemma4", t.Gemma4ForConditionalGeneration, t.Gemma4Config, dict(
    text_config=dict(GEMMA4, pad_token_id=0, num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"]), vision_config=None,
    audio_config=None, image_token_id=0, video_token_id=1, audio_token_id=2), rules=GEMMA4_RULES, embedding=0.2,
    unused=r"layers\.1\.layer_scalar")
LFM2 = dict(
    BASE, num_hidden_layers=3, vocab_size=67, hidden_size=36, intermediate_size=44, num_attention_heads=6, num_key_value_heads=2,
    norm_eps=0.004, conv_L_cache=3, conv_bias=True, block_auto_adjust_ff_dim=False,
    layer_types=["conv", "full_attention", "conv"], rope_parameters=rope(420.0))
add("lfm2", t.Lfm2ForCausalLM, t.Lfm2Config, LFM2)
add("lfm2-adjusted", t.Lfm2ForCausalLM, t.Lfm2Config, dict(
    LFM2, intermediate_size=60, block_auto_adjust_ff_dim=True, block_ffn_dim_multiplier=1.1, block_multiple_of=8, conv_bias=False,
    conv_L_cache=4, tie_word_embeddings=False))

# Encoders.
BERT = dict(
    num_hidden_layers=2, vocab_size=61, hidden_size=36, intermediate_size=52, num_attention_heads=3, max_position_embeddings=320,
    type_vocab_size=2, layer_norm_eps=0.004, pad_token_id=0)
ENCODER = dict(encoder=True, unused=r"pooler|key\.bias")
add("bert", t.BertModel, t.BertConfig, BERT, kind="hidden", **ENCODER)
add("bert-masked", t.BertForMaskedLM, t.BertConfig, BERT, **ENCODER)
add("roberta", t.RobertaModel, t.RobertaConfig, dict(BERT, type_vocab_size=1, pad_token_id=1), kind="hidden", **ENCODER)
add("roberta-masked", t.RobertaForMaskedLM, t.RobertaConfig, dict(BERT, type_vocab_size=1, pad_token_id=1), **ENCODER)
VIT = dict(
    num_hidden_layers=2, hidden_size=36, intermediate_size=52, num_attention_heads=3, image_size=12, patch_size=4, num_channels=3,
    layer_norm_eps=0.004, num_labels=7)
IMAGE = dict(
    encoder=True, pixels=["pixel_values", [1, 3, 12, 12], 0.0, 1.5], unused=r"pooler|key\.bias|k_proj\.bias",
    rules=[(r"position_embeddings|cls_token", 0.0, 0.7), (r"patch_embeddings.*weight", 0.0, 0.245)])
add("vit", t.ViTForImageClassification, t.ViTConfig, VIT, **IMAGE)
add("vit-hidden", t.ViTModel, t.ViTConfig, dict(VIT, qkv_bias=False), kind="hidden", **IMAGE)

# Other names for the same tensors, as older files have them.
RENAMED = {
    "gpt2-bare": ("gpt2", r"^transformer\.", ""), "bloom-bare": ("bloom", r"^transformer\.", ""),
    "bert-gamma": ("bert-masked", None, None), "gemma3-nested": ("gemma3", None, None)}
GAMMA = [(r"LayerNorm\.weight", "LayerNorm.gamma"), (r"LayerNorm\.bias", "LayerNorm.beta")]
NESTED = [(r"^language_model\.model\.", "model.language_model."), (r"^(vision_tower|multi_modal_projector)", r"model.\1")]
for new, (source, pattern, replacement) in RENAMED.items():
    renames = {"bert-gamma": GAMMA, "gemma3-nested": NESTED}.get(new) or [(pattern, replacement)]
    FAMILIES[new] = (lambda source, renames: lambda: {**FAMILIES[source](), "renames": renames})(source, renames)


def old_keys(golden):
    """config.json as transformers 4 wrote it."""
    config = golden["config"]
    kind = config["model_type"]
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.45.0"
    config.pop("layer_types", None)
    config.pop("_sliding_window_pattern", None)
    parameters = config.pop("rope_parameters")
    full = parameters.get("full_attention", parameters)
    config["rotary_emb_base" if kind == "gpt_neox" else "rope_theta"] = full.pop("rope_theta")
    if "partial_rotary_factor" in full:
        config["rotary_pct" if kind == "gpt_neox" else "partial_rotary_factor"] = full.pop("partial_rotary_factor")
    if kind == "gemma3_text":
        config["rope_local_base_freq"] = parameters["sliding_attention"]["rope_theta"]
        config["sliding_window_pattern"] = 2
    if kind == "qwen3_next":
        config["full_attention_interval"] = 2
    rope_type = full.pop("rope_type")
    if kind == "phi3":
        full.pop("original_max_position_embeddings")
    # Gemma 3 overlooks the older name "type".
    name = "type" if kind in ("llama", "phi3") and rope_type in ("linear", "longrope") else "rope_type"
    config["rope_scaling"] = {name: rope_type, **full} if rope_type != "default" else None
    return golden


def published_gemma4(golden):
    """config.json as Gemma 4 was published."""
    config = golden["config"]
    layer = next(iter(config.pop("per_layer_config").values()))
    config["global_head_dim"] = layer["head_dim"]
    config["num_global_key_value_heads"] = layer.get("num_key_value_heads")
    return golden


for source in ("llama-linear", "qwen2", "gemma3_text", "phi", "phi3-longrope", "gpt_neox", "qwen3_next", "stablelm"):
    like(source + "-old-keys", source, old_keys)
like("llama-old-keys", "llama-llama3-biases", old_keys)
like("gemma4_text-old-keys", "gemma4_text-moe", published_gemma4)
