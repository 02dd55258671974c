# Base model, benchmarks and records for repeat.sh and repeat_gpu.sh, which set: base and kind (the model's folder, and what
# scripts.train.bases calls it), development (items of each development set), cutoff (tokens of the longest record).
#
# DATA/raw:     medical_o1_demo_en.json (FreedomIntelligence/HuatuoGPT-o1), medical_o1_zh_alpaca.jsonl
#               (2025fall/qwen3-medical-finetune), delicate_r1_zh.jsonl
#               (lengbolengbo/QLoRA-Qwen3-medical-diagnosis-SFT), delicate_r1_zh_numbered.jsonl (SHIPKING110/SFT-)
# DATA/eval:    test items: medqa.jsonl medmcqa.jsonl pubmedqa.jsonl mmlu.jsonl mmlu-pro.jsonl (medagents-benchmark)
# DATA/eval_zh: medqa_zh.json cmexam.json
# DATA/dev:     MedQA's development items: medqa_us_dev_4opt.jsonl medqa_mainland_dev_4opt.jsonl
: "${DATA:?the folder of raw records and benchmark items}"
raw=$DATA/raw eval=$DATA/eval eval_zh=$DATA/eval_zh dev=$DATA/dev
PATH=$PWD/.venv/bin:$PATH
export PATH OMP_WAIT_POLICY=PASSIVE

echo "== 1. base model, benchmarks, records"
python -m scripts.train.bases "$kind" --out "$base"
python -m scripts.prepare.benchmarks medqa medmcqa pubmedqa mmlu_medical mmlu_pro_health medqa_zh cmexam \
  --out data/public --from "$eval/medqa.jsonl" "$eval/medmcqa.jsonl" "$eval/pubmedqa.jsonl" "$eval/mmlu.jsonl" \
  "$eval/mmlu-pro.jsonl" "$eval_zh/medqa_zh.json" "$eval_zh/cmexam.json"
python -m scripts.prepare.benchmarks medqa medqa_zh --out data/public_dev/whole \
  --from "$dev/medqa_us_dev_4opt.jsonl" "$dev/medqa_mainland_dev_4opt.jsonl"
for name in medqa medqa_zh; do
  head -n "$development" "data/public_dev/whole/$name.jsonl" > "data/public_dev/${name}_dev.jsonl"
done
mkdir -p data/real
# Without its 10 records on safety, and without the one instruction before all others: no later question has it.
grep -v red_team_safety "$raw/medical_o1_zh_alpaca.jsonl" |
  sed 's/^{"instruction": "[^"]*", /{/' > data/real/medical_o1_zh.jsonl
python -m scripts.prepare "$raw/medical_o1_demo_en.json" data/real/medical_o1_zh.jsonl "$raw/delicate_r1_zh.jsonl" \
  "$raw/delicate_r1_zh_numbered.jsonl" --columns Complex_CoT=think Response=answer \
  --thought-tags '<reasoning>' '</reasoning>' --template qwen --tokenizer "$base" --cutoff-len "$cutoff" \
  --out data/real --name real --benchmarks data/public/*.jsonl data/public_dev/whole/*.jsonl
