#!/bin/sh
# The run of real_1.5b/: a 1.5B model on 1,513 real records, a second seed, a learning curve, public benchmarks. One NVIDIA
# GPU with 24 GB. From the project's root, after `make setup setup-vllm`:
#
#   DATA=DIR sh docs/results/repeat.sh
#
# What is finished is kept: the same command goes on after a stop. DATA holds:
#   raw/      medical_o1_demo_en.json (FreedomIntelligence/HuatuoGPT-o1), medical_o1_zh_alpaca.jsonl
#             (2025fall/qwen3-medical-finetune), delicate_r1_zh.jsonl (lengbolengbo/QLoRA-Qwen3-medical-diagnosis-SFT),
#             delicate_r1_zh_numbered.jsonl (SHIPKING110/SFT-)
#   eval/     test items: medqa.jsonl medmcqa.jsonl pubmedqa.jsonl mmlu.jsonl mmlu-pro.jsonl (medagents-benchmark)
#   eval_zh/  medqa_zh.json cmexam.json
#   dev/      MedQA's development items: medqa_us_dev_4opt.jsonl medqa_mainland_dev_4opt.jsonl
#
# The kept files were made by these commands with two differences, both for time: four trainings ran at once, and one vLLM
# served all runs (--engine server), started as `scripts/evaluate/vllm.py` starts it.
set -eu
: "${DATA:?the folder of raw records and benchmark items}"
raw=$DATA/raw eval=$DATA/eval eval_zh=$DATA/eval_zh dev=$DATA/dev
base=saves/qwen_coder_1.5b
PATH=$PWD/.venv/bin:$PATH
export PATH OMP_WAIT_POLICY=PASSIVE TORCH_CUDNN_SDPA_DEPRIORITIZED=1

echo "== 1. base model, benchmarks, records"
python -m scripts.train.bases real-1.5b --out "$base"
python -m scripts.prepare.benchmarks medqa medmcqa pubmedqa mmlu_medical mmlu_pro_health medqa_zh cmexam \
  --out data/public --from "$eval/medqa.jsonl" "$eval/medmcqa.jsonl" "$eval/pubmedqa.jsonl" "$eval/mmlu.jsonl" \
  "$eval/mmlu-pro.jsonl" "$eval_zh/medqa_zh.json" "$eval_zh/cmexam.json"
python -m scripts.prepare.benchmarks medqa medqa_zh --out data/public_dev/whole \
  --from "$dev/medqa_us_dev_4opt.jsonl" "$dev/medqa_mainland_dev_4opt.jsonl"
for name in medqa medqa_zh; do
  head -n 300 "data/public_dev/whole/$name.jsonl" > "data/public_dev/${name}_dev.jsonl"
done
mkdir -p data/real
# Without its 10 records on safety, and without the one instruction before all others: no later question has it.
grep -v red_team_safety "$raw/medical_o1_zh_alpaca.jsonl" |
  sed 's/^{"instruction": "[^"]*", /{/' > data/real/medical_o1_zh.jsonl
python -m scripts.prepare "$raw/medical_o1_demo_en.json" data/real/medical_o1_zh.jsonl "$raw/delicate_r1_zh.jsonl" \
  "$raw/delicate_r1_zh_numbered.jsonl" --columns Complex_CoT=think Response=answer \
  --thought-tags '<reasoning>' '</reasoning>' --template qwen --tokenizer "$base" \
  --out data/real --name real --benchmarks data/public/*.jsonl data/public_dev/whole/*.jsonl
for count in 100 400; do
  mkdir -p "data/real_n$count"
  cp data/real/dataset_info.json data/real/real_val.jsonl data/real/real_test.jsonl "data/real_n$count"
  shuf -n "$count" --random-source=data/real/real_train.jsonl data/real/real_train.jsonl \
    > "data/real_n$count/real_train.jsonl"
done

echo "== 2. training, perplexity of 167 held-out records"
train() {  # DATA SEED RATE RUN
  python -m scripts.train yamls/qlora.yaml model_name_or_path="$base" template=qwen dataset_dir="data/$1" \
    dataset=real_train eval_dataset=real_val per_device_train_batch_size=16 gradient_accumulation_steps=1 \
    learning_rate="$3" num_train_epochs=2 logging_steps=5 seed="$2" output_dir="saves/$4"
  python -m scripts.evaluate perplexity --adapter "saves/$4" --out "results/$4"
}
train real 42 5e-4 real
train real 7 5e-4 real_seed7
train real 42 2e-4 real_lr2e-4
train real_n400 42 5e-4 real_n400
train real_n100 42 5e-4 real_n100

echo "== 3. development questions: runs, and the base model in both forms"
questions="data/public_dev/medqa_dev.jsonl data/public_dev/medqa_zh_dev.jsonl"
for run in real real_seed7 real_n400 real_n100; do
  python -m scripts.evaluate --engine vllm --adapter "saves/$run" --out "results/${run}_dev" --only accuracy \
    --budget 512 1024 --answer-tokens 256 --limit 300 --development $questions --benchmarks $questions
done
python docs/results/study.py real real_seed7 real_lr2e-4 real_n400 real_n100 > results/study.json

echo "== 4. the public benchmarks, once"
python -m scripts.evaluate --engine vllm --adapter saves/real --out results/real \
  --only accuracy instructions format answers controls \
  --budget 512 1024 --answer-tokens 256 --limit 1273 --development $questions \
  --benchmarks data/public/medqa.jsonl data/public/medqa_zh.jsonl data/public/medmcqa.jsonl data/public/cmexam.jsonl
