# beyond with ten minutes of training on two quiet cores in place of half a minute, wider, in an artifact as large: docs/lab-notebook.md, "Adapters per
# document, and ten minutes".

data_path = ../data/bible-kjv-4096  # the same text in four times the vocabulary: a third more of it in a token
tokenizer_path = ../data/bible-kjv-4096/tokenizer.model
vocab_size = 4096

# All of the published parts: U-net skips, smear gate, bigrams, XSA on the last layers, grouped-query attention.
num_layers = 6
xsa_last_n = 4
model_dim = 128
num_heads = 8
num_kv_heads = 4
mlp_mult = 3.0
bigram_vocab_size = 2048
bigram_dim = 32
tie_embeddings = 1

train_seq_len = 256
train_batch_tokens = 2048           # a quarter of a batch
data_order = shuffled               # read in order, a batch is neighbouring chapters of one book
grad_micro_steps = 1
iterations = 6000
warmup_steps = 2
warmdown_iters = 3600
max_wallclock_seconds = 0           # a clock would make the number of steps depend on the machine

muon_momentum_warmup_steps = 1500   # as published, in as many steps
muon_weight_decay = 0.5             # so many passes over so little text are learnt by heart without it
embed_wd = 0.1
ema_enabled = 1
ema_decay = 0.98
swa_enabled = 0
late_qat_threshold = 0              # costs steps, and gave nothing at this length
source = ema

# The published threshold, 65,536, would leave the quantiser nothing to do at this width.
keep_max_numel = 4096
fp16_keep_name_patterns =           # the embedding too
quantiser = gptq
target_bytes = 1060000              # with the code: no larger than cpu-demo's

eval_stride = 64
# Each document of the validation text is scored 24 targets at a time, and low-rank adapters learn from each piece once it is scored. The
# next document begins without them.
method = ttt
ttt_lora_rank = 8
ttt_lora_lr = 0.0005                # of weights that decay has kept small
ttt_chunk_size = 24
ttt_eval_seq_len = 256
precision = float32
val_loss_every = 500
train_log_every = 50
