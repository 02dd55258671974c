#!/bin/sh
# The trials behind the demo's learning rate and steps: on development records, never on its test split. One NVIDIA GPU, a
# few minutes. From the project's root, after `make demo` (whose prepared records and base model it takes):
#
#   sh docs/results/demo/settings.sh > settings.json
set -eu
PATH=$PWD/.venv/bin:$PATH
mkdir -p data/demo_dev
cp data/demo/dataset_info.json data/demo_dev
python - <<'PY'
import pathlib
import random

rows = pathlib.Path("data/demo/demo_train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
random.Random(1).shuffle(rows)
for name, part in (("train", rows[:62]), ("test", rows[62:])):
    pathlib.Path(f"data/demo_dev/demo_{name}.jsonl").write_text("".join(part), encoding="utf-8")
PY
runs=""
for trial in 1e-3_28 1e-3_40 1e-3_56 1e-3_80 5e-4_40 5e-4_56 5e-4_80 3e-4_56 2e-3_28 2e-3_40; do
  run=t_$trial
  runs="$runs $run"
  python -m scripts.train examples/qlora_cpu.yaml use_cpu=false dataset_dir=data/demo_dev output_dir="saves/$run" \
    max_steps="${trial#*_}" learning_rate="${trial%_*}" >&2
  python -m scripts.evaluate --adapter "saves/$run" --out "results/$run" --only perplexity format \
    --budget 448 --answer-tokens 256 --sampling r1 --limit 25 >&2
done
python docs/results/study.py $runs
