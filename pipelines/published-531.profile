# The published entry, "11L + XSA4 + EMA + Late QAT + GPTQ-lite", as its script is written: every setting and every quirk, late QAT
# acting as its title claims, the SWA average overriding the EMA.

published_quirks = 1
source = swa                        # the second load wins
fp16_keep_name_patterns = tok_emb,blocks.8.attn.c_k   # the second is left over from a model of nine layers
reset_at_bos = 0

data_path = ../data/datasets/fineweb10B_sp1024
tokenizer_path = ../data/tokenizers/fineweb_1024_bpe.model
vocab_size = 1024

num_layers = 11
model_dim = 512
num_heads = 8
num_kv_heads = 4
mlp_mult = 3.0
tie_embeddings = 1
rope_base = 10000
logit_softcap = 30
bigram_vocab_size = 10240
bigram_dim = 128
xsa_last_n = 4
qk_gain_init = 1.5
tied_embed_init_std = 0.005

train_batch_tokens = 786432
train_seq_len = 2048
grad_micro_steps = 8
iterations = 20000                  # the clock ends a run long before
warmup_steps = 20
warmdown_iters = 3000
max_wallclock_seconds = 600

tied_embed_lr = 0.03
matrix_lr = 0.02
scalar_lr = 0.02
muon_momentum = 0.99
muon_momentum_warmup_start = 0.92
muon_momentum_warmup_steps = 1500
muon_backend_steps = 5
muon_weight_decay = 0.04
beta1 = 0.9
beta2 = 0.95
adam_eps = 1e-8
weight_decay = 0.01
grad_clip_norm = 0.3

ema_enabled = 1
ema_decay = 0.997
swa_enabled = 1
swa_start_frac = 0.4
swa_every = 50
late_qat_threshold = 0.15

keep_max_numel = 65536
control_tensor_name_patterns = attn_scale,mlp_scale,resid_mix,q_gain,skip_weight,smear,bigram.scale

eval_stride = 64
eval_batch_seqs = 32
val_batch_size = 524288
precision = bfloat16
val_loss_every = 500
train_log_every = 100
