# openai/parameter-golf pull request 1855 (1.0611 bits per byte), as its command and its script have it: every technique and every quirk.
# docs/field-1855.md says what its numbers were compared with, and what the entry gets wrong.

published_quirks = 1
published_entry = 1855

data_path = ../data/datasets/fineweb10B_sp8192_lossless_caps_caseops_v1_reserved
tokenizer_path = ../data/tokenizers/fineweb_8192_bpe_lossless_caps_caseops_v1_reserved.model
vocab_size = 8192

num_layers = 11
model_dim = 512
num_heads = 8
num_kv_heads = 4
mlp_mult = 4.0
mlp_negative_slope = 0.5
tie_embeddings = 1
rope_base = 10000
rope_dims = 16
logit_softcap = 30
qk_gain_init = 5.0
tied_embed_init_std = 0.005
ln_scale = 1
xsa_last_n = 11
bigram_vocab_size = 0
smear = 0
smear_gate_enabled = 1
gate_window = 12
sparse_attn_gate_enabled = 1
sparse_attn_gate_scale = 0.5
skip_gates_enabled = 1
num_loops = 2
loop_start = 3
loop_end = 5
enable_looping_at = 0.35
parallel_start_layer = 8
parallel_final_lane = mean
seed = 42

packed_documents = 1                # one row of documents per micro-batch; attention stays inside a document
train_batch_tokens = 786432
train_seq_len = 2048
grad_micro_steps = 8
iterations = 20000                  # the clock ends a run long before
warmup_steps = 20
max_wallclock_seconds = 600
gptq_reserve_seconds = 0.5          # published; calibration takes about 5 s, so training data is in use after 600 s
warmdown_frac = 0.85
warmdown_iters = 0
min_lr = 0.1

tied_embed_lr = 0.03
matrix_lr = 0.026
scalar_lr = 0.02
muon_momentum = 0.97
muon_momentum_warmup_start = 0.92
muon_momentum_warmup_steps = 1500
muon_backend_steps = 5
muon_orthogonalize = polar_express
muon_row_normalize = 1
muon_weight_decay = 0.095
embed_wd = 0.085
adam_wd = 0.02
beta1 = 0.9
beta2 = 0.99
adam_eps = 1e-8
grad_clip_norm = 0.3

ema_enabled = 1
ema_decay = 0.9965
ema_from_init = 1
swa_enabled = 0
late_qat_threshold = 0
source = ema

quantiser = gptq_sdclip
keep_max_numel = 65536
fp16_keep_name_patterns =           # the embedding is quantised
control_tensor_name_patterns = attn_scale,mlp_scale,resid_mix,q_gain,skip_weight,skip_gate,parallel_,smear,attn_gate_w
matrix_bits = 6
embed_bits = 7
mlp_clip_sigmas = 11.5
attn_clip_sigmas = 13.0
embed_clip_sigmas = 14.0
gated_attn_quant_gate = 1
gptq_calibration_batches = 16
lqer_enabled = 1
lqer_rank = 4
lqer_top_k = 3
lqer_asym_enabled = 1
lqer_asym_group = 64
lqer_factor_bits = 4

eval_seq_len = 2048
eval_stride = 0                     # no sliding windows in this entry
method = ttt                        # adapters learn from each document while it is scored: on a CPU; METHOD=sliding scores without
ttt_lora_rank = 80
ttt_lora_alpha = 144
ttt_lora_lr = 1e-4
ttt_beta1 = 0
ttt_beta2 = 0.99
ttt_weight_decay = 0.5
ttt_warm_start_a = 1
ttt_batch_size = 64
ttt_chunk_size = 48
ttt_eval_seq_len = 2048
phased_ttt_num_phases = 3
phased_ttt_prefix_docs = 2500
global_ttt_chunk_tokens = 32768
global_ttt_batch_seqs = 32
global_ttt_lr = 0.001
global_ttt_momentum = 0.9
global_ttt_grad_clip = 1
val_batch_size = 524288
precision = bfloat16
val_loss_every = 0
train_log_every = 500
