# The whole record in miniature: the published architecture, narrower, on the King James Bible; a minute or two of training
# on two cores. Bounded by steps, so that a seed gives the same bytes again.

data_path = ../data/bible-kjv
tokenizer_path = ../data/bible-kjv/tokenizer.model
vocab_size = 1024

# All of the published parts: U-net skips, smear gate, bigrams, XSA on the last layers, grouped-query attention.
num_layers = 11
xsa_last_n = 4
model_dim = 96
num_heads = 6
num_kv_heads = 3
mlp_mult = 3.0
bigram_vocab_size = 2048
bigram_dim = 32
tie_embeddings = 1

train_seq_len = 256
train_batch_tokens = 8192
grad_micro_steps = 2
iterations = 140
warmup_steps = 2
warmdown_iters = 70
max_wallclock_seconds = 0           # a clock would make the number of steps depend on the machine

# Time constants shrink with the number of steps, which is 140 here and about 6,000 in the published runs.
muon_momentum_warmup_steps = 60
ema_enabled = 1
ema_decay = 0.95
swa_enabled = 1
swa_every = 3
late_qat_threshold = 0.15
source = ema

# The published threshold, 65,536, would leave the quantiser nothing to do at this width.
keep_max_numel = 4096

eval_stride = 64
precision = float32
val_loss_every = 20
train_log_every = 5
