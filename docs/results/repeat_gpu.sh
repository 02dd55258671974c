#!/bin/sh
# A 1.5B model on all real records, two seeds, a learning curve, public benchmarks, on one NVIDIA GPU with 24 GB; only its
# preparing has run. From the project's root, after `make setup setup-vllm`:
#
#   DATA=DIR sh docs/results/repeat_gpu.sh
#
# records.sh says what DATA holds. LIMIT: items of each test benchmark (1000). What is finished is kept: the same command
# goes on after a stop.
set -eu
LIMIT=${LIMIT:-1000}
base=saves/qwen_coder_1.5b kind=real-1.5b development=300 cutoff=2048  # not the published weights, as in repeat.sh
export TORCH_CUDNN_SDPA_DEPRIORITIZED=1
. docs/results/records.sh
tests="data/public/medqa.jsonl data/public/medmcqa.jsonl data/public/medqa_zh.jsonl data/public/cmexam.jsonl"
questions="data/public_dev/medqa_dev.jsonl data/public_dev/medqa_zh_dev.jsonl"
for count in 100 400; do
  mkdir -p "data/real_n$count"
  cp data/real/dataset_info.json data/real/real_val.jsonl data/real/real_test.jsonl "data/real_n$count"
  shuf -n "$count" --random-source=data/real/real_train.jsonl data/real/real_train.jsonl \
    > "data/real_n$count/real_train.jsonl"
done

echo "== 2. training: the run, another seed, fewer records"
train() {  # DATA SEED RUN
  python -m scripts.train yamls/qlora.yaml model_name_or_path="$base" template=qwen dataset_dir="data/$1" \
    dataset=real_train eval_dataset=real_val per_device_train_batch_size=16 gradient_accumulation_steps=1 \
    learning_rate=5e-4 num_train_epochs=2 logging_steps=5 seed="$2" output_dir="saves/$3"
  python -m scripts.evaluate perplexity --adapter "saves/$3" --out "results/$3"
}
train real 42 real
train real 7 real_seed7
train real_n100 42 real_n100
train real_n400 42 real_n400

echo "== 3. development questions: each run, the base model in both forms"
for run in real real_seed7 real_n100 real_n400; do
  python -m scripts.evaluate --engine vllm --adapter "saves/$run" --out "results/${run}_dev" --only accuracy \
    --budget 512 1024 --answer-tokens 256 --limit 300 --development $questions --benchmarks $questions
done

echo "== 4. the public benchmarks, once"
python -m scripts.evaluate --engine vllm --adapter saves/real --out results/real \
  --only accuracy instructions format answers controls \
  --budget 512 1024 --answer-tokens 256 --limit "$LIMIT" --development $questions --benchmarks $tests
python -m scripts.evaluate report results/real
