#!/bin/sh
# A 0.5B run on 160 real records, from raw records to the report, on a CPU with 2 cores; never run to its end. From the
# project's root, after `make setup`:
#
#   DATA=DIR sh docs/results/repeat.sh
#
# records.sh says what DATA holds. What is finished is kept: the same command goes on after a stop. repeat_gpu.sh does the
# same with 1.5 billion weights.
set -eu
base=saves/qwen_coder_0.5b kind=real development=40 cutoff=640  # 4-bit weights made bfloat16: not the published ones
. docs/results/records.sh
for count in 40 160; do  # five eighths of them Chinese, as a laptop can train them within half an hour
  folder=data/real_n$count
  mkdir -p "$folder"
  cp data/real/dataset_info.json data/real/real_val.jsonl "$folder"
  { grep '"lang": *"zh"' data/real/real_test.jsonl | head -n 38  # as many held out as a laptop scores in minutes
    grep '"lang": *"en"' data/real/real_test.jsonl | head -n 23; } > "$folder/real_test.jsonl"
  { grep '"lang": *"zh"' data/real/real_train.jsonl | head -n $((count * 5 / 8))
    grep '"lang": *"en"' data/real/real_train.jsonl | head -n $((count * 3 / 8)); } > "$folder/real_train.jsonl"
done

echo "== 2. training, perplexity of the held-out records"
for count in 160 40; do
  python -m scripts.train examples/qlora_cpu.yaml dataset_dir="data/real_n$count" dataset=real_train \
    output_dir="saves/real_n$count" max_steps="$count" learning_rate=5e-4  # each record once; the study's rate
  python -m scripts.evaluate perplexity --adapter "saves/real_n$count" --out "results/real_n$count"
done

echo "== 3. the public benchmarks, once; the base model's form is chosen on development items"
python -m scripts.evaluate --adapter saves/real_n160 --out results/real_n160 --only accuracy format answers controls \
  --budget 128 --answer-tokens 48 --limit 60 \
  --development data/public_dev/medqa_dev.jsonl data/public_dev/medqa_zh_dev.jsonl \
  --benchmarks data/public/medqa.jsonl data/public/medqa_zh.jsonl
python -m scripts.evaluate report results/real_n160
