#!/bin/sh
# A 0.5B run on 160 real records, from raw records to the report, on a CPU with 2 cores; never run to its end. From the
# project's root, after `make setup`:
#
#   DATA=DIR sh docs/results/repeat.sh
#
# DATA/raw:     medical_o1_demo_en.json (FreedomIntelligence/HuatuoGPT-o1), medical_o1_zh_alpaca.jsonl
#               (2025fall/qwen3-medical-finetune), delicate_r1_zh.jsonl
#               (lengbolengbo/QLoRA-Qwen3-medical-diagnosis-SFT), delicate_r1_zh_numbered.jsonl (SHIPKING110/SFT-)
# DATA/eval:    test items: medqa.jsonl medmcqa.jsonl pubmedqa.jsonl mmlu.jsonl mmlu-pro.jsonl (medagents-benchmark)
# DATA/eval_zh: medqa_zh.json cmexam.json
# DATA/dev:     MedQA's development items: medqa_us_dev_4opt.jsonl medqa_mainland_dev_4opt.jsonl
# What is finished is kept: the same command goes on after a stop. repeat_gpu.sh does the same with 1.5 billion weights.
set -eu
: "${DATA:?the folder of raw records and benchmark items}"
raw=$DATA/raw eval=$DATA/eval eval_zh=$DATA/eval_zh dev=$DATA/dev
PATH=$PWD/.venv/bin:$PATH
export PATH OMP_WAIT_POLICY=PASSIVE
base=saves/qwen_coder_0.5b  # 4-bit weights made bfloat16: not the published ones

echo "== 1. base model, benchmarks, records"
python -m scripts.train.bases real --out "$base"
python -m scripts.prepare.benchmarks medqa medmcqa pubmedqa mmlu_medical mmlu_pro_health medqa_zh cmexam \
  --out data/public --from "$eval/medqa.jsonl" "$eval/medmcqa.jsonl" "$eval/pubmedqa.jsonl" "$eval/mmlu.jsonl" \
  "$eval/mmlu-pro.jsonl" "$eval_zh/medqa_zh.json" "$eval_zh/cmexam.json"
python -m scripts.prepare.benchmarks medqa medqa_zh --out data/public_dev/whole \
  --from "$dev/medqa_us_dev_4opt.jsonl" "$dev/medqa_mainland_dev_4opt.jsonl"
for name in medqa medqa_zh; do
  head -n 40 "data/public_dev/whole/$name.jsonl" > "data/public_dev/${name}_dev.jsonl"
done
mkdir -p data/real
# Without its 10 records on safety, and without the one instruction before all others: no later question has it.
grep -v red_team_safety "$raw/medical_o1_zh_alpaca.jsonl" |
  sed 's/^{"instruction": "[^"]*", /{/' > data/real/medical_o1_zh.jsonl
python -m scripts.prepare "$raw/medical_o1_demo_en.json" data/real/medical_o1_zh.jsonl "$raw/delicate_r1_zh.jsonl" \
  "$raw/delicate_r1_zh_numbered.jsonl" --columns Complex_CoT=think Response=answer \
  --thought-tags '<reasoning>' '</reasoning>' --template qwen --tokenizer "$base" --cutoff-len 640 \
  --out data/real --name real --benchmarks data/public/*.jsonl data/public_dev/whole/*.jsonl
for count in 40 160; do  # five eighths of them Chinese, as a laptop can train them within half an hour
  folder=data/real_n$count
  mkdir -p "$folder"
  cp data/real/dataset_info.json data/real/real_val.jsonl data/real/real_test.jsonl "$folder"
  { grep '"lang": *"zh"' data/real/real_train.jsonl | head -n $((count * 5 / 8))
    grep '"lang": *"en"' data/real/real_train.jsonl | head -n $((count * 3 / 8)); } > "$folder/real_train.jsonl"
done

echo "== 2. training, perplexity of the held-out records"
for count in 160 40; do
  python -m scripts.train examples/qlora_cpu.yaml dataset_dir="data/real_n$count" dataset=real_train \
    output_dir="saves/real_n$count" --keep
  python -m scripts.evaluate perplexity --adapter "saves/real_n$count" --out "results/real_n$count"
done

echo "== 3. the public benchmarks, once; the base model's form is chosen on development items"
python -m scripts.evaluate --adapter saves/real_n160 --out results/real_n160 --only accuracy format answers controls \
  --budget 192 --answer-tokens 64 --limit 60 \
  --development data/public_dev/medqa_dev.jsonl data/public_dev/medqa_zh_dev.jsonl \
  --benchmarks data/public/medqa.jsonl data/public/medqa_zh.jsonl
python -m scripts.evaluate report results/real_n160
