# A model that trains in no time on the corpus of make-shards.

data_path = data
tokenizer_path = data/tokenizer.model
vocab_size = 64
num_layers = 2
model_dim = 16
num_heads = 2
num_kv_heads = 1
mlp_mult = 2
bigram_vocab_size = 16
bigram_dim = 8
xsa_last_n = 1
train_seq_len = 16
train_batch_tokens = 64
grad_micro_steps = 2
iterations = 4
warmup_steps = 0
warmdown_iters = 3
max_wallclock_seconds = 0
swa_every = 1
late_qat_threshold = 0.5
keep_max_numel = 64
eval_stride = 8
val_batch_size = 1024
precision = float32
