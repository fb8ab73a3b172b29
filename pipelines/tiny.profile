# Seconds from corpus to submission, for tests: every stage has something to do, and nothing is learnt.

data_path = ../data/bible-kjv
tokenizer_path = ../data/bible-kjv/tokenizer.model
vocab_size = 1024

num_layers = 3
xsa_last_n = 1
model_dim = 32
num_heads = 4
num_kv_heads = 2
mlp_mult = 2.0
bigram_vocab_size = 128
bigram_dim = 16
tie_embeddings = 1

train_seq_len = 128
train_batch_tokens = 1024
grad_micro_steps = 2
iterations = 20
warmup_steps = 1
warmdown_iters = 15
max_wallclock_seconds = 0

muon_momentum_warmup_steps = 10
ema_enabled = 1
ema_decay = 0.8
swa_enabled = 1
swa_every = 2
late_qat_threshold = 0.3
source = ema

keep_max_numel = 256

eval_stride = 64
precision = float32
val_loss_every = 0
train_log_every = 5
